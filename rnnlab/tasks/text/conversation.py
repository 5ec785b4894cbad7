"""Conversation: read the last utterances of a conversation, write the reply."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partialmethod
from typing import Any

from torch import Tensor, nn

from rnnlab.interface import InputError, Metric
from rnnlab.tasks._writing import Writer
from rnnlab.tasks.base import check_least
from rnnlab.tasks.text._chatterbot import read_chatterbot
from rnnlab.tasks.text._exchange import Exchange
from rnnlab.tasks.text._simulated import read_simulated, score_acts, spaced, spoken
from rnnlab.tasks.text._small_talk import LANGUAGES, small_talk
from rnnlab.tasks.text.base import LONGEST, Pair, TextToText, assigned
from rnnlab.vocabulary import tidy

CORPORA = ("small_talk", "chatterbot", "simulated")
SEPARATOR = " | "
"""What stands between two utterances of a source; every vocabulary has a token for it."""
_HELD_OUT = {"small_talk": 500, "chatterbot": 0}
"""Default sizes of the validation set and of the test set."""
_METRICS = {
    "small_talk": {
        "exact": Metric("of the replies right", "higher"),
        "recall": Metric("of the replies about earlier turns right", "higher"),
    },
    "chatterbot": {"exact": Metric("of the replies in the corpus", "higher")},
    "simulated": {
        "act_f1": Metric("F1 of acts", "higher"),
        "slot_f1": Metric("F1 of acts with slot and value", "higher"),
        "joint": Metric("of the replies with all acts right", "higher"),
        "bleu": Metric("BLEU of the utterance", "higher"),
    },
}
_MONITORED = {"small_talk": "exact", "chatterbot": "exact", "simulated": "act_f1"}


class Conversation(TextToText):
    """Reply in a conversation.

        source   my name is ada. | nice to meet you, ada. | what is my name?
        target   Your name is Ada.

    The source is the conversation so far, in lower case; source and target have one vocabulary. The corpora:

    - ``small_talk``: generated, in English and Korean: greetings, additions, and questions about the name and the home
      that the user has said one or two exchanges earlier;
    - ``chatterbot``: the conversations of the package chatterbot-corpus, in many languages; each utterance is the reply
      to the previous ones, and repeated exchanges are kept once;
    - ``simulated``: dialogues about cinema tickets in English (sim-M of Shah et al., 2018, arXiv:1801.04871), with its
      own splits: 384, 120 and 264 dialogues. The target is the acts of the system, sorted, and then its utterance:
      ``REQUEST(date) REQUEST(time) || when ?``.

    ``small_talk`` assigns exchanges to splits by the whole conversation so far; an utterance without a variable part
    that begins a conversation, such as "Hello!", is always in training. ``chatterbot`` assigns them by source. Both
    orders depend on the text only.

    Metrics of ``small_talk``: ``exact``, and ``recall``, the same for the replies that repeat something said earlier.
    Of ``chatterbot``: ``exact``, the fraction of the replies that the corpus has for the same source. Of ``simulated``:
    ``act_f1``, ``slot_f1`` and ``joint`` (see `rnnlab.tasks.text._simulated.score_acts`), and ``bleu``, the BLEU of
    sacrebleu for the utterances. Without a validation set, the only metric is the loss.

    Args:
        seed, data_root: see `TextToText`.
        corpus: ``small_talk``, ``chatterbot`` or ``simulated``.
        languages: languages of ``small_talk`` (english, korean) or ``chatterbot``; not for ``simulated``.
        turns: largest number of utterances of a source.
        max_length: largest number of characters of an utterance; exchanges with a longer one are left out, not of
            ``simulated``; 0 for no limit.
        eval_size: number of exchanges of the validation set, and of the test set, not for ``simulated``; 0 to train on
            all exchanges; null: 500 for ``small_talk`` and 0 for ``chatterbot``.
        vocabulary, vocabulary_size, min_count, batch_size, beam_size, longest_output: see `TextToText`.

    Raises:
        InputError: the corpus cannot be read, or does not have the languages.
    """

    shares_vocabulary = True
    usage = "chat run={run}"

    def __init__(
        self,
        seed: int = 0,
        data_root: str = "data",
        *,
        corpus: str = "small_talk",
        languages: list[str] = ("english", "korean"),
        turns: int = 5,
        max_length: int = 100,
        eval_size: int | None = None,
        **shared: Any,
    ) -> None:
        super().__init__(seed, data_root, **shared)
        if corpus not in CORPORA:
            raise InputError(f"task.corpus={corpus!r} is not one of {', '.join(CORPORA)}")
        check_least(1, turns=turns)
        check_least(0, max_length=max_length, eval_size=eval_size or 0)
        languages = tuple(languages)
        if not languages or len(set(languages)) < len(languages):
            raise InputError(f"task.languages={list(languages)} must be different languages, for example [english]")
        if corpus == "small_talk" and not set(languages) <= set(LANGUAGES):
            raise InputError(f"task.languages={list(languages)}: the corpus small_talk has {', '.join(LANGUAGES)}")
        if corpus == "simulated" and eval_size is not None:
            raise InputError(
                f"task.eval_size={eval_size}: the corpus simulated has its own splits; omit task.eval_size"
            )
        self.corpus, self.languages, self.turns, self.max_length = corpus, languages, turns, max_length
        self.eval_size = _HELD_OUT.get(corpus) if eval_size is None else eval_size
        self.metrics = {"loss": Metric("nats per token")}
        if self.eval_size == 0:
            self.splits, self.monitor = ("train",), "loss"
        else:
            self.monitor = _MONITORED[corpus]
            self.metrics |= _METRICS[corpus]
        self.broken = 0

    __init__ = partialmethod(__init__, vocabulary="character")

    @cached_property
    def exchanges(self) -> dict[str, list[Exchange]]:
        """The exchanges of each split."""
        if self.corpus == "simulated":
            return read_simulated(self.data_root)
        if self.corpus == "chatterbot":
            found, self.broken = read_chatterbot(self.languages)
            return self._split(self._short(list(dict.fromkeys(found))), self._source)
        return self._split(self._short(small_talk(self.languages)), lambda exchange: SEPARATOR.join(exchange.history))

    def _source(self, exchange: Exchange) -> str:
        return joined(exchange.history, self.turns)

    def _short(self, exchanges: list[Exchange]) -> list[Exchange]:
        """The exchanges whose reply and last ``turns`` utterances have at most ``max_length`` characters each."""
        if not self.max_length:
            return exchanges

        def longest(one: Exchange) -> int:
            return max(map(len, (self.spoken(one.reply), *one.history[-self.turns :])))

        return [one for one in exchanges if longest(one) <= self.max_length]

    def _split(self, exchanges: list[Exchange], key: Callable[[Exchange], str]) -> dict[str, list[Exchange]]:
        """Assign exchanges to splits by ``key``; validation and test have one exchange for each key."""
        if not self.eval_size:
            return {"train": exchanges}
        keys = {key(one): one.is_fixed for one in exchanges}
        free = (name for name, is_fixed in keys.items() if not is_fixed)
        return assigned(exchanges, key, free, self.eval_size, self.corpus)

    def read(self) -> dict[str, list[Pair]]:  # noqa: D102
        return {
            split: [Pair(self._source(one), one.reply) for one in exchanges]
            for split, exchanges in self.exchanges.items()
        }

    @cached_property
    def _replies(self) -> dict[str, set[str]]:
        """All replies of the corpus to each source."""
        found = defaultdict(set)
        for pairs in self.pairs.values():
            for pair in pairs:
                found[pair.source].add(tidy(pair.target))
        return found

    def _score(self, split: str, texts: Sequence[str]) -> dict[str, float]:
        """The metrics of ``texts`` as the replies of a split."""
        pairs = self.pairs[split]
        if self.corpus == "simulated":
            from sacrebleu.metrics import BLEU

            utterances, references = (
                [spoken(text) for text in side] for side in (texts, [pair.target for pair in pairs])
            )
            bleu = BLEU().corpus_score(utterances, [references]).score
            return {**score_acts(texts, [pair.target for pair in pairs]), "bleu": bleu}
        if self.corpus == "chatterbot":
            right = [text in self._replies[pair.source] for text, pair in zip(texts, pairs, strict=True)]
            return {"exact": sum(right) / len(right)}
        right = [text == tidy(pair.target) for text, pair in zip(texts, pairs, strict=True)]
        recalled = [one for one, exchange in zip(right, self.exchanges[split], strict=True) if exchange.recalls]
        return {"exact": sum(right) / len(right), "recall": sum(recalled) / max(1, len(recalled))}

    def judge(self, split: str, written: list[Tensor]) -> dict[str, float]:
        """The metrics of the replies, see the class."""
        return self._score(split, self.texts(written))

    def baselines(self, split: str) -> dict[str, dict[str, float]]:
        """Baselines ``unigram``, token frequencies in training, and ``most frequent``, always the same reply.

        The reply is the most frequent of the training set; for ``simulated``, it is the most frequent reply with the
        most frequent acts.
        """
        unigram = {"loss": self.unigram_loss(split)}
        if split == "train":
            return {"unigram": unigram}
        replies = [tidy(pair.target) for pair in self.pairs["train"]]
        if self.corpus == "simulated":
            acts = Counter(reply.partition("||")[0] for reply in replies).most_common(1)[0][0]
            replies = [reply for reply in replies if reply.partition("||")[0] == acts]
        reply = Counter(replies).most_common(1)[0][0]
        return {"unigram": unigram, "most frequent": self._score(split, [reply] * self.count(split))}

    def examples(self) -> list[Pair]:
        """Some pairs, spread over the validation set, or over the training set if there is no other."""
        pairs = self.pairs[self.splits[:2][-1]]
        return pairs[:: -(-len(pairs) // 5)]

    @property
    def default_prompt(self) -> str:
        """The source of the first of the `examples`."""
        return self.examples()[0].source

    def describe(self) -> list[str]:
        """The sizes, the broken entries of the corpus, and the evaluated sources that are also in training."""
        lines = super().describe()
        if self.broken:
            lines.append(f"data: {self.broken} broken entries of the corpus are left out")
        trained = {pair.source for pair in self.pairs["train"]}
        for split in self.splits[1:]:
            both = sum(pair.source in trained for pair in self.pairs[split])
            if both:
                lines.append(f"data: {both} of the {self.count(split)} sources of {split} are also in training")
        return lines

    def encode_source(self, text: str) -> Tensor:
        """The tokens of a source in lower case; see `TextToText`."""
        return super().encode_source(text.lower())

    def heard(self, line: str) -> str:
        """A line of a user in the form of the corpus, without separators."""
        line = line.replace(SEPARATOR.strip(), " ")
        return spaced(line) if self.corpus == "simulated" else tidy(line)

    def spoken(self, reply: str) -> str:
        """The utterance of a reply, without the acts of ``simulated``."""
        return spoken(reply) if self.corpus == "simulated" else reply

    def speaker(  # noqa: D102
        self, model: nn.Module, temperature: float, top_k: int, seed: int, beam_size: int = 1
    ) -> Dialogue:
        return Dialogue(self, model, temperature, top_k, seed, beam_size)


class Dialogue(Writer):
    """A conversation with a trained model.

    Args:
        task: the task of the model.
        model: model in evaluation mode.
        temperature, top_k: see `rnnlab.heads.Head.draw`.
        seed: seed for sampling; each reply has its own seed, derived from this one.
        beam_size: beam size; 1 samples, or is greedy at temperature 0.

    history: the utterances so far, of both sides.
    """

    def __init__(
        self, task: Conversation, model: nn.Module, temperature: float, top_k: int, seed: int, beam_size: int = 1
    ) -> None:
        super().__init__(task, model, temperature, top_k, seed)
        self.seed, self.beam_size = seed, beam_size
        self.history: list[str] = []
        self._replies = 0

    def reply(self, line: str, length: int) -> Iterator[str]:
        """Reply to a line with at most ``length`` tokens; an empty line has an empty reply and is not kept.

        Raises:
            InputError: the line is too long, or all of its tokens are unknown; the conversation is unchanged.
        """
        heard = self.task.heard(line)
        if len(self.task.encode_source(heard)) == 1:  # only END
            yield ""
            return
        history = [*self.history, heard]
        while len(self.task.vocabularies[0].encode(joined(history, self.task.turns))) > LONGEST:
            del history[0]
        source = joined(history, self.task.turns)
        if self.beam_size > 1:
            tokens = self.task.encode_source(source)
            text = self.task.texts(self.task.write(self.model, [tokens], self.beam_size, length))[0]
        else:
            self.options["seeds"] = [(self.seed + self._replies) % 2**63]
            text = "".join(self.generate(source, length))
        self._replies += 1
        self.history = [*history, self.task.spoken(text)][-self.task.turns :]
        yield text


def joined(utterances: Sequence[str], turns: int) -> str:
    """The source of a conversation: its last ``turns`` utterances in lower case, without separators of their own."""
    return SEPARATOR.join(text.lower().replace(SEPARATOR.strip(), " ") for text in utterances[-turns:])

"""Base class of tasks that describe a picture or a video in words."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from rnnlab import generation
from rnnlab.formats.picture import frames_of
from rnnlab.heads import Categorical
from rnnlab.interface import Batch, Images, InputError, Metric, Sample, Tokens
from rnnlab.tasks._predicting import Answers
from rnnlab.tasks._writing import Writer, started, teacher_forced
from rnnlab.tasks.base import EVALUATION_SEED, Finite, check_least
from rnnlab.tasks.captions import _show
from rnnlab.vocabulary import END, Vocabulary, learn, restored, tidy

HELD_OUT = ("captions", "scenes")
"""What is in one split only. ``captions``: no caption is in two splits. ``scenes``: a caption may be in several splits,
but the same shapes at the same positions are not."""
SHOWN = 4
"""Number of pictures of a sample."""
_ALIGNED = 8
"""Number of frames to which videos are reduced to compare their pixels."""


class Example(NamedTuple):
    """A picture or a video, uint8 ``[S, 3, H, W]``, and its caption."""

    frames: Tensor
    caption: str


class Captioning(Answers, Finite):
    """Look at a picture or at the frames of a video, then write a caption.

        source   the pixels, from 0 to 1
        inputs   START a  red circle above a ...
        targets  a red circle above a blue ... END

    Subclasses define `source` and `read` or `generated`. Generated examples are drawn anew for each training step, from
    the seed and the step; the validation and test sets are fixed.

    Metrics of the written captions: ``exact``, the fraction that equals the true caption, and ``bleu``, the corpus BLEU
    of sacrebleu (Post, 2018, arXiv:1804.08771). Two baselines show what these numbers are worth:

    - ``nearest`` in `baselines` is the caption of the nearest of the training pictures, by the Euclidean distance of
      the pixels. Generated data has no finite training set; a fixed set of ``pool`` training pictures replaces it.
    - ``exact_shuffled`` and ``bleu_shuffled`` are the scores of the same model with the pictures shuffled: each picture
      is replaced by another one of the split. The caption that a model writes depends on its picture only. So this
      score does not need to write anything again: it compares what the model wrote for each picture with the true
      caption of another picture (`shuffled`). A model that ignores its pictures has the same scores with and without
      shuffling.

    Args:
        seed: seed of the training batches.
        data_root: directory of the public data sets.
        vocabulary: tokens of the captions: ``word``, ``character`` or ``bpe``; see `rnnlab.vocabulary`.
        min_count: how often a token must occur in the training captions.
        batch_size: number of examples per batch.
        beam_size: beam size in evaluation; 1 is greedy.
        longest_output: largest number of tokens that the model writes.
        held_out: for generated examples, what is in one split only: ``captions`` or ``scenes``, see `HELD_OUT`.
        eval_size: for generated examples, the number in the validation set and in the test set, at least 2.
        pool: for generated examples, the number of training examples of the baseline ``nearest``; also those from
            which the vocabulary is learned.
    """

    metrics = {
        "loss": Metric("nats per token"),
        "exact": Metric("of the captions written exactly", "higher"),
        "bleu": Metric("BLEU", "higher"),
        "exact_shuffled": Metric("of the captions written exactly, with shuffled pictures", "higher"),
        "bleu_shuffled": Metric("BLEU with shuffled pictures", "higher"),
    }
    monitor = "bleu"
    end = END
    source: Images

    def __init__(
        self,
        seed: int = 0,
        data_root: str = "data",
        *,
        vocabulary: str = "word",
        min_count: int = 1,
        batch_size: int = 64,
        beam_size: int = 1,
        longest_output: int = 40,
        held_out: str = "captions",
        eval_size: int = 500,
        pool: int = 2000,
    ) -> None:
        super().__init__(seed, data_root)
        check_least(
            1, min_count=min_count, batch_size=batch_size, beam_size=beam_size, longest_output=longest_output, pool=pool
        )
        check_least(2, eval_size=eval_size)
        if held_out not in HELD_OUT:
            raise InputError(f"task.held_out={held_out!r} is not one of {', '.join(HELD_OUT)}")
        self.vocabulary, self.min_count = vocabulary, min_count
        self.batch_size, self.beam_size, self.longest_output = batch_size, beam_size, longest_output
        self.held_out, self.eval_size, self.pool = held_out, eval_size, pool
        self._nearest: dict[str, list[str]] = {}

    def read(self) -> dict[str, list[Example]]:
        """All examples of each split of a corpus of files.

        Raises:
            InputError: the files cannot be read.
        """
        raise NotImplementedError

    def generated(self, split: str, generator: torch.Generator) -> Iterator[Example] | None:
        """An endless sequence of random examples of a split; None for a corpus of files."""
        return None

    @cached_property
    def is_generated(self) -> bool:
        """Whether examples are generated."""
        return self.generated("train", torch.Generator()) is not None

    @cached_property
    def examples(self) -> dict[str, list[Example]]:
        """The examples of each split; for generated ones, ``train`` has the examples of the baseline ``nearest``."""
        if not self.is_generated:
            return self.read()
        sizes = {"train": self.pool, "valid": self.eval_size, "test": self.eval_size}
        return {
            split: list(islice(self.generated(split, self.generator(f"fixed {split}", 0)), size))
            for split, size in sizes.items()
        }

    @cached_property
    def words(self) -> Vocabulary:
        """The vocabulary, learned from the training captions."""
        return learn(
            self.vocabulary, [one.caption for one in self.examples["train"]], min_count=self.min_count, size=8000
        )

    @property
    def input(self) -> Tokens:  # noqa: D102
        return Tokens(len(self.words))

    @property
    def head(self) -> Categorical:  # noqa: D102
        return Categorical(len(self.words))

    def count(self, split: str) -> int:  # noqa: D102
        return len(self.examples[split])

    def drawn(self, split: str, step: int) -> list[Example]:
        """The examples of a batch."""
        if split == "train" and self.is_generated:
            return list(islice(self.generated(split, self.generator(split, step)), self.batch_size))
        return [self.examples[split][index] for index in self.chosen(split, step).tolist()]

    def batch(self, split: str, step: int) -> Batch:  # noqa: D102
        found = self.drawn(split, step)
        targets = [torch.tensor([*self.words.encode(one.caption), END]) for one in found]
        return teacher_forced(targets, **self.pixels([one.frames for one in found]))

    def pixels(self, videos: Sequence[Tensor]) -> dict[str, Tensor]:
        """The source of a batch, from 0 to 1, and for videos the number of frames."""
        source = pad_sequence(list(videos)).float() / 255
        if self.source.single:
            return {"source": source}
        return {"source": source, "source_lengths": torch.tensor([len(video) for video in videos])}

    def steps_to_write(self, split: str) -> int:  # noqa: D102
        return self.longest_output

    def evaluated(self, split: str) -> list[Example]:
        """The examples of an evaluation of a split, in batch order."""
        if split != "train":
            return self.examples[split]
        return [one for step in range(self.num_batches(split)) for one in self.drawn(split, step)]

    def texts(self, written: Iterable[Tensor]) -> list[str]:
        """The texts of generated sequences of tokens."""
        return [self.words.decode(tokens.tolist()) for tokens in written]

    def references(self, split: str) -> list[str]:
        """The true captions of an evaluation of a split."""
        return [tidy(one.caption) for one in self.evaluated(split)]

    def judge(self, split: str, written: list[Tensor]) -> dict[str, float]:
        """Exact match and BLEU, with the true pictures and with shuffled pictures; see the class."""
        texts, references = self.texts(written), self.references(split)
        others = [references[other] for other in shuffled(len(references))]
        return scores(texts, references) | {f"{name}_shuffled": v for name, v in scores(texts, others).items()}

    def transcripts(self, split: str, written: list[Tensor]) -> dict[str, str]:
        """The true captions, the model's captions and those of the nearest pictures, and BLEU with its signature."""
        texts, references = self.texts(written), self.references(split)
        columns = {"references": references, "hypotheses": texts, "nearest": self.nearest(split)}
        files = {f"{name}.txt": "".join(f"{tidy(line)}\n" for line in lines) for name, lines in columns.items()}
        metric = _bleu()
        return files | {"scores.txt": f"{metric.corpus_score(texts, [references])} {metric.get_signature()}\n"}

    def baselines(self, split: str) -> dict[str, dict[str, float]]:
        """Baselines ``most frequent`` (the most frequent training caption) and ``nearest``, see the class.

        The training set has no baseline ``nearest``: the nearest picture would be the picture itself.
        """
        references = self.references(split)
        common = Counter(tidy(one.caption) for one in self.examples["train"]).most_common(1)[0][0]
        found = {"most frequent": scores([common] * len(references), references)}
        return found if split == "train" else found | {"nearest": scores(self.nearest(split), references)}

    def nearest(self, split: str) -> list[str]:
        """The caption of the nearest training picture for each picture of an evaluation of a split."""
        if split not in self._nearest:
            known = _aligned(self.examples["train"])
            asked = _aligned(self.evaluated(split))
            places = [torch.cdist(part, known).argmin(1) for part in asked.split(64)]
            self._nearest[split] = [tidy(self.examples["train"][place].caption) for place in torch.cat(places).tolist()]
        return self._nearest[split]

    @torch.inference_mode()
    def captions(self, model: nn.Module, videos: Sequence[Tensor]) -> list[Tensor]:
        """The tokens that a trained model writes for pictures or videos, greedily or by beam search.

        Args:
            model: model in evaluation mode.
            videos: uint8 ``[S, 3, H, W]`` each.
        """
        given = started(model, len(videos), self.pixels(videos))
        options = {"steps": self.longest_output, "end": END, "beam_size": self.beam_size}
        return generation.write(model, self.head, **given, **options)

    def answer(self, model: nn.Module, given: Sequence[str]) -> list[str]:
        """The caption of each of some picture files, see `asked`."""
        parts = (given[start : start + self.batch_size] for start in range(0, len(given), self.batch_size))
        return [text for part in parts for text in self.texts(self.captions(model, list(map(self.asked, part))))]

    def source_of(self, prompt: str) -> dict[str, Tensor]:
        """The source of a batch of one picture file, see `asked`."""
        return self.pixels([self.asked(prompt)])

    def sample(self, model: nn.Module) -> list[Sample]:
        """Some examples of the validation set with what the model writes, and where attention looked."""
        examples = self.examples["valid"]
        shown = examples[:: -(-len(examples) // SHOWN)]
        written = self.captions(model, [one.frames for one in shown])
        texts = self.texts(written)
        lines = [f"true:    {tidy(one.caption)}\nwritten: {text}" for one, text in zip(shown, texts, strict=True)]
        return [Sample("\n\n".join(lines)), *self.pictures(model, [one.frames for one in shown], written, lines)]

    @torch.inference_mode()
    def pictures(self, model: nn.Module, videos: list[Tensor], written: list[Tensor], lines: list[str]) -> list[Sample]:
        """A PNG of the attention weights, and for videos a GIF, as far as matplotlib and Pillow are installed."""
        ended = [torch.cat([tokens, torch.tensor([END])]) for tokens in written]
        batch = teacher_forced(ended, **self.pixels(videos)).to(next(model.parameters()).device)
        weights = model.attention_weights(batch)
        seen: list[Tensor | None] = [None] * len(ended)
        if weights is not None:
            seen = [weights[: len(one), n].float().cpu() for n, one in enumerate(ended)]
        if weights is not None and not self.source.single:
            seen = [one[:, : len(video)] for one, video in zip(seen, videos, strict=True)]  # without padding
        labels = [self.words.spell(one.tolist()) for one in ended]
        return _show.samples(videos, seen, labels, lines)

    def generate(
        self, model: nn.Module, prompt: str, length: int, temperature: float, top_k: int, seed: int
    ) -> list[Sample]:
        """The caption of the picture file ``prompt``, and where attention looked; see `rnnlab.tasks.Task`."""
        video = self.asked(prompt)
        text = "".join(self.speaker(model, temperature, top_k, seed).generate(prompt, length))
        written = torch.tensor(self.words.encode(text), dtype=torch.int64)
        return [Sample(text or "(empty)"), *self.pictures(model, [video], [written], [f"written: {text}"])]

    def asked(self, prompt: str) -> Tensor:
        """The picture file ``prompt``; the first of the validation set if it is empty.

        Raises:
            InputError: the file cannot be read.
        """
        most = 1 if self.source.single else 100
        return frames_of(prompt, *self.source.shape[1:], most) if prompt else self.examples["valid"][0].frames

    def speaker(self, model: nn.Module, temperature: float, top_k: int, seed: int) -> Writer:  # noqa: D102
        return Writer(self, model, temperature, top_k, seed)

    def describe(self) -> list[str]:
        """The size of the splits and of the vocabulary, and sacrebleu's signature."""
        sizes = ", ".join(f"{split} {self.count(split):,}" for split in self.splits)
        drawn = "; train counts the pictures of the baseline nearest" if self.is_generated else ""
        metric = _bleu()
        metric.corpus_score(["a"], [["a"]])  # the signature is complete only after a score
        return [
            f"data: captions of {sizes}{drawn}; {self.vocabulary} vocabulary of {len(self.words):,} tokens",
            f"bleu: {metric.get_signature()}",
        ]

    def memory(self) -> dict[str, Any]:
        """The vocabulary."""
        return {"words": self.words.memory()}

    def restore(self, memory: dict[str, Any]) -> None:  # noqa: D102
        self.words = restored(memory["words"])

    def data_digest(self) -> str:
        """SHA-256 of all examples."""
        digest = hashlib.sha256()
        for split, examples in self.examples.items():
            for one in examples:
                digest.update(f"{split}\t{one.caption}\t{list(one.frames.shape)}\n".encode())
                digest.update(one.frames.numpy().tobytes())
        return digest.hexdigest()

    def spell(self, inputs: Tensor) -> list[str]:
        """The words of a caption."""
        return self.words.spell(inputs.tolist())


def shuffled(count: int) -> list[int]:
    """For each of ``count`` pictures the number of another one: a fixed random cycle through all of them."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(EVALUATION_SEED)).tolist()
    following = dict(zip(order, [*order[1:], *order[:1]], strict=True))
    return [following[place] for place in range(count)]


def scores(texts: list[str], references: list[str]) -> dict[str, float]:
    """The fraction of texts that equal their references, and the corpus BLEU."""
    same = sum(text == reference for text, reference in zip(texts, references, strict=True))
    return {"exact": same / len(references), "bleu": _bleu().corpus_score(texts, [references]).score}


def _bleu() -> Any:
    from sacrebleu.metrics import BLEU

    return BLEU()


def _aligned(examples: list[Example]) -> Tensor:
    """The pixels of each example, of evenly spaced frames of a video: float ``[N, pixels]``."""
    rows = []
    for one in examples:
        last = len(one.frames) - 1
        chosen = torch.linspace(0, last, _ALIGNED).round().long() if last else torch.zeros(1, dtype=torch.int64)
        rows.append(one.frames[chosen].flatten())
    return torch.stack(rows).float() / 255

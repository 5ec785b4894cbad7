"""Translation: read a sentence in one language, write it in another."""

from __future__ import annotations

import gzip
import zipfile
import zlib
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from rnnlab.data import PublicFile, locate, read_lines
from rnnlab.interface import InputError, Metric
from rnnlab.tasks.base import check_least
from rnnlab.tasks.text import _numbers
from rnnlab.tasks.text.base import Pair, TextToText, assigned, hashed, one_line
from rnnlab.vocabulary import tidy, words

FRENCH = PublicFile(
    path="tatoeba/fra-eng.zip",
    url="https://raw.githubusercontent.com/genimind/seq2seq/master/fra-eng.zip",
    sha256="16c4f7d0df9e7c5e6c54cdb0447f3f4a18a55052ff5e2e0b27dd4a06c0e49d04",
)
KOREAN = PublicFile(
    path="tatoeba/kor.txt",
    url="https://raw.githubusercontent.com/nate-koser/kor-eng-translator/master/kor.txt",
    sha256="3988edfd32c892ccf4450772bc3a5906ebfcf3c8648f56012df204ddf27b8280",
)
_RAW = "https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw"
_MULTI30K = {
    "train.cs": "a65adb8b32e3bc664f21ecba7a6e7f6950fd1f405e135f7c312faabdb6255077",
    "train.de": "726e39b2fa9eb9ffb6dc763fb35a179f80fae06ffc5d28b6ace5faa883de28a6",
    "train.en": "d79cfa999dd4c51d2cb42499b6796d5a882c3a8a961923c25a898c90f8bbd56f",
    "train.fr": "622e75069e9f4c577425c4f277116ce66e63a2401c0a2312d90073cb12379a3c",
    "val.cs": "b63226e05c4bd5dd6a42897d74b86a1b9d2c31498252c572b1ea7f7996927fcc",
    "val.de": "f0cba2f995189cf5770f29a8a9a537a3ad3f51657ad873405082ff6863a5e75a",
    "val.en": "14f7d25ddd868909a9213e361768460edcacdd6ab9d1e77b92560dc10c10dc28",
    "val.fr": "ca3106f1a72390591d25f6c45cb4cd39dec4cd3f123e099748a3ce5256c160e9",
    "test_2016_flickr.cs": "200a4a74cc9560f051924abb9803be008d1908d77f747e9141aeb86dfd2797f1",
    "test_2016_flickr.de": "9204244e408ccb38d2a55cfcd344df15005fc42a07a6e55ca6c52b6ababb8cc8",
    "test_2016_flickr.en": "611d361c6334bc7246101d48097c13cf5c4413c5befc793cc629934359d532d9",
    "test_2016_flickr.fr": "6d326e188d259fb1d04ac19eae3af956559b3a0b93d7635e56c90987c40c8b90",
}
CORPORA = ("numbers", "tatoeba", "multi30k")
NUMBERS = ((0, 1_000, 1_000), (1_000, 10_000, 4_000), (10_000, 100_000, 8_000), (100_000, 1_000_000, 9_000))
"""The corpus ``numbers``: how many numbers are chosen from each range, evenly spread, so that small ones occur too."""


class Translation(TextToText):
    """Translate sentences.

    The corpora:

    - ``numbers``: the words of 22,000 numbers from 0 to 999,999, generated, in English, French, German and Korean;
    - ``tatoeba``: sentences of the Tatoeba project in English and French (``fra-eng.zip``, 142,787 pairs) or English
      and Korean (``kor.txt``, 3,798 pairs), as published by manythings.org;
    - ``multi30k``: captions of photographs in English, German, French and Czech (Elliott et al., 2016,
      arXiv:1605.00459), with its own splits: 29,000, 1,014 and 1,000 (test 2016) sentences;
    - the path of a UTF-8 file with a source and a target per line, separated by a tab, or of a file with one source
      per line, with ``target`` the file of the targets.

    Except for ``multi30k``, sentences are assigned to splits by their source, in an order that depends on the source
    only. A training pair is removed if its target is also in the validation or test set, and a validation pair if its
    target is in the test set: no source and no target is in two splits. Validation and test keep one target,
    the first, of each source.

    BLEU (Papineni et al., 2002) and chrF (Popović, 2015) are those of sacrebleu (Post, 2018, arXiv:1804.08771): cased,
    detokenised, with tokenizer 13a, or character by character for Korean targets.

    Args:
        seed, data_root, vocabulary, vocabulary_size, min_count, batch_size, beam_size, longest_output: see
            `TextToText`.
        corpus: ``numbers``, ``tatoeba``, ``multi30k``, or the path of a file.
        target: path of the file of the targets, if the corpus is a file with one source per line; otherwise empty.
        languages: source language and target language; for files they only select the tokenizer of BLEU.
        max_length: largest number of words and punctuation marks of a source and of a target; longer pairs are left
            out; 0 for no limit.
        eval_size: number of sources of the validation set and of the test set, not for ``multi30k``.

    Raises:
        InputError: a file cannot be read, or the corpus does not have the languages.
    """

    metrics = {
        **TextToText.metrics,
        "bleu": Metric("BLEU", "higher"),
        "chrf": Metric("chrF", "higher"),
    }
    monitor = "bleu"

    def __init__(
        self,
        seed: int = 0,
        data_root: str = "data",
        *,
        corpus: str = "numbers",
        target: str = "",
        languages: list[str] = ("fr", "en"),
        max_length: int = 0,
        eval_size: int = 1000,
        **shared: Any,
    ) -> None:
        super().__init__(seed, data_root, **shared)
        check_least(0, max_length=max_length)
        check_least(1, eval_size=eval_size)
        self.corpus, self.target, self.max_length, self.eval_size = corpus, target, max_length, eval_size
        if len(languages) != 2 or languages[0] == languages[1]:
            raise InputError(f"task.languages={list(languages)} must be two languages, for example [fr, en]")
        self.languages = tuple(languages)
        known = {
            "numbers": [{*_numbers.LANGUAGES}],
            "tatoeba": [{"en", "fr"}, {"en", "ko"}],
            "multi30k": [{"cs", "de", "en", "fr"}],
        }.get(corpus)
        if known and not any(set(languages) <= group for group in known):
            choices = " or ".join(", ".join(sorted(group)) for group in known)
            raise InputError(f"task.languages={list(languages)}: the corpus {corpus} has {choices}")
        if target and corpus in CORPORA:
            raise InputError(f"task.target={target!r} needs task.corpus=FILE, but the corpus is {corpus}")

    def read(self) -> dict[str, list[Pair]]:  # noqa: D102
        if self.corpus == "multi30k":
            names = {"train": "train", "valid": "val", "test": "test_2016_flickr"}
            return {split: self._short(self._multi30k(name)) for split, name in names.items()}
        return self._split(self._short(self._all()))

    def _all(self) -> list[Pair]:
        """All pairs of a corpus without splits."""
        if self.corpus == "numbers":
            source, target = (_numbers.LANGUAGES[language] for language in self.languages)
            return [Pair(source(number), target(number)) for number in _chosen_numbers()]
        if self.corpus == "tatoeba":
            other = "ko" if "ko" in self.languages else "fr"
            pairs = self._french() if other == "fr" else _columns(read_lines(locate(KOREAN, self.data_root)), "kor.txt")
            return pairs if self.languages[0] == "en" else [Pair(target, source) for source, target in pairs]
        path = Path(self.corpus).expanduser()
        if not path.is_file():
            raise InputError(
                f"task.corpus={self.corpus!r} is neither a file nor one of {', '.join(CORPORA)}; give the path of a "
                "UTF-8 file"
            )
        if not self.target:
            return _columns(read_lines(path), str(path))
        return _aligned(path, Path(self.target).expanduser())

    def _french(self) -> list[Pair]:
        path = locate(FRENCH, self.data_root)
        try:
            with zipfile.ZipFile(path) as archive:
                return _columns(archive.read("fra.txt").decode("utf-8").split("\n"), "fra.txt")
        except (KeyError, zipfile.BadZipFile) as error:
            raise InputError(f"{path} is no archive, or has no fra.txt; download {FRENCH.url}") from error

    def _multi30k(self, name: str) -> list[Pair]:
        lines = []
        for language in self.languages:
            key = f"{name}.{language}"
            file = PublicFile(f"multi30k/data/task1/raw/{key}.gz", f"{_RAW}/{key}.gz", _MULTI30K[key])
            try:
                lines.append(gzip.decompress(locate(file, self.data_root).read_bytes()).decode("utf-8").splitlines())
            except (OSError, EOFError, zlib.error) as error:
                raise InputError(f"{file.path} cannot be decompressed ({error}); download {file.url}") from error
        return [Pair(*pair) for pair in zip(*lines, strict=True)]

    def _short(self, pairs: list[Pair]) -> list[Pair]:
        """The pairs whose source and target have at most ``max_length`` words and punctuation marks."""
        if not self.max_length:
            return pairs
        return [pair for pair in pairs if max(len(words(text)) for text in pair) <= self.max_length]

    def _split(self, pairs: list[Pair]) -> dict[str, list[Pair]]:
        """Assign pairs to splits by source; see the class."""
        found = assigned(pairs, lambda pair: pair.source, (pair.source for pair in pairs), self.eval_size, self.corpus)
        held: set[str] = set()
        for split in ("test", "valid", "train"):
            found[split] = [pair for pair in found[split] if pair.target not in held]
            held |= {pair.target for pair in found[split]}
        if not (found["train"] and found["valid"]):
            raise InputError(f"the corpus {self.corpus!r} has too few different targets; give a larger corpus")
        return found

    @cached_property
    def _scores(self) -> dict[str, Any]:
        """The metrics of sacrebleu."""
        from sacrebleu.metrics import BLEU, CHRF

        return {"bleu": BLEU(tokenize="char" if self.languages[1] == "ko" else "13a"), "chrf": CHRF()}

    def baselines(self, split: str) -> dict[str, dict[str, float]]:
        """``unigram``: the frequencies of tokens in training; ``copy``: the source as the translation."""
        unigram = {"unigram": {"loss": self.unigram_loss(split)}}
        if split == "train":
            return unigram
        return unigram | {"copy": self._compared(split, [one_line(pair.source) for pair in self.pairs[split]])}

    def _compared(self, split: str, texts: list[str]) -> dict[str, float]:
        """Exact match, BLEU and chrF of ``texts`` as translations."""
        references = [one_line(pair.target) for pair in self.pairs[split]]
        values = {name: metric.corpus_score(texts, [references]).score for name, metric in self._scores.items()}
        same = sum(tidy(text) == tidy(reference) for text, reference in zip(texts, references, strict=True))
        return {"exact": same / len(texts), **values}

    def judge(self, split: str, written: list[Tensor]) -> dict[str, float]:
        """Exact match, BLEU and chrF of the translations."""
        return self._compared(split, self.texts(written))

    def transcripts(self, split: str, written: list[Tensor]) -> dict[str, str]:
        """The texts, and the scores with sacrebleu's signatures."""
        texts, references = self.texts(written), [one_line(pair.target) for pair in self.pairs[split]]
        lines = [
            f"{metric.corpus_score(texts, [references])} {metric.get_signature()}\n" for metric in self._scores.values()
        ]
        return {**super().transcripts(split, written), "scores.txt": "".join(lines)}

    def describe(self) -> list[str]:
        """The sizes, sacrebleu's signatures, and for Multi30k the test sentences that are also in training."""
        lines = super().describe()
        for name, metric in self._scores.items():
            metric.corpus_score(["a"], [["a"]])  # the signature is complete only after a score
            lines.append(f"{name}: {metric.get_signature()}")
        if self.corpus == "multi30k":
            trained = {pair.source for pair in self.pairs["train"]}
            both = sum(pair.source in trained for pair in self.pairs["test"])
            lines.append(f"data: {both} of the {self.count('test')} test sources are also in the training set")
        return lines


def _chosen_numbers() -> list[int]:
    """The numbers of the corpus ``numbers``: one from each of equal parts of every range of `NUMBERS`."""
    chosen = []
    for first, end, count in NUMBERS:
        width = (end - first) // count
        chosen += [first + width * place + hashed(f"{first + place}") % width for place in range(count)]
    return chosen


def _columns(lines: list[str], name: str) -> list[Pair]:
    """The pairs of lines with a source and a target per line, separated by a tab; further columns are not read."""
    pairs = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        columns = line.split("\t")
        if len(columns) < 2 or not (columns[0].strip() and columns[1].strip()):
            raise InputError(f"{name}, line {number} has no source and target separated by a tab: {line[:60]!r}")
        pairs.append(Pair(columns[0], columns[1]))
    return pairs


def _aligned(source: Path, target: Path) -> list[Pair]:
    """The pairs of two files with one text per line; a pair with an empty text is left out."""
    lines = [read_lines(path) for path in (source, target)]
    if len(lines[0]) != len(lines[1]):
        raise InputError(
            f"{source} has {len(lines[0])} lines, {target} has {len(lines[1])}; line n of one must translate line n "
            "of the other"
        )
    return [Pair(*pair) for pair in zip(*lines, strict=True) if all(text.strip() for text in pair)]

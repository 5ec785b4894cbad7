"""Polyphonic music: predict the keys of a piano that sound in the next frame."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from functools import cached_property
from math import isfinite

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from rnnlab.formats.midi import KEYS, LOWEST
from rnnlab.generation import generate
from rnnlab.heads import Bernoulli
from rnnlab.heads.base import precise
from rnnlab.interface import Batch, InputError, Mean, Metric, Sample, Vectors, places_of
from rnnlab.tasks.base import Finite, check_least
from rnnlab.tasks.music import _chorales, _corpora, _show
from rnnlab.tasks.music._corpora import PUBLIC

NOT_SCORED = float("nan")
"""The target of a frame that is not scored."""


class PolyphonicMusic(Finite):
    """Predict the next frame of a piano roll (Boulanger-Lewandowski et al., 2012, arXiv:1206.6392).

    A frame has one bit for each of the 88 keys; the head has 88 independent bits. With three keys:

        inputs   000  101  101  011
        targets  101  101  011  001

    The first input is silence. ``loss`` is the negative log-likelihood of a frame in nats, summed over the keys. The
    literature predicts frames 2 to T of a piece from frames 1 to T-1, and divides the sum over all pieces by the number
    of predicted frames (the code of Bai et al., 2018, arXiv:1803.01271). Evaluation does the same. Training also scores
    the first frame, so that generation can begin with silence. Further metrics:

    - ``loss_all``: also counts the first frame of each piece.
    - ``loss_piece``: the mean over the pieces of the mean over frames 2 to T.
    - ``accuracy``: TP / (TP + FP + FN), summed over frames 2 to T of all pieces (Bay et al., 2009), for the keys whose
      probability is above 0.5.
    - ``expected_accuracy``: the same with the expected TP, FP and FN of keys drawn from the model.

    Args:
        seed: seed of the order and the transpositions of the training pieces.
        data_root: directory of the public data sets.
        corpus: ``generated``, a name in `rnnlab.tasks.music._corpora.PUBLIC`, or the path of a file, see there.
        seq_len: number of frames of a training sequence; longer training pieces are divided. Validation and test pieces
            are not divided.
        transpose: training shifts each sequence by a random number of semitones, at most this number up or down; 0: no
            transposition. Sequences that would leave the keyboard are shifted less.
        batch_size: number of sequences per batch.
        tempo: quarter notes per minute of generated files.
        frames_per_quarter: number of frames of a quarter note; null: that of the corpus, 1 for a user's file.

    Raises:
        InputError: an option is not valid, or the files are missing or damaged.
    """

    input = Vectors(KEYS)
    head = Bernoulli(KEYS)
    metrics = {
        "loss": Metric("nats per frame"),
        "loss_all": Metric("nats per frame"),
        "loss_piece": Metric("nats per frame"),
        "accuracy": Metric("of the keys", "higher"),
        "expected_accuracy": Metric("of the keys", "higher"),
    }
    usage = "generate run={run} length=64 out=music"

    def __init__(
        self,
        seed: int = 0,
        data_root: str = "data",
        *,
        corpus: str = "generated",
        seq_len: int = 200,
        transpose: int = 0,
        batch_size: int = 16,
        tempo: float = 100.0,
        frames_per_quarter: int | None = None,
    ) -> None:
        super().__init__(seed, data_root)
        check_least(1, batch_size=batch_size)
        check_least(2, seq_len=seq_len)
        check_least(0, transpose=transpose)
        if not (isfinite(tempo) and 10 <= tempo <= 1000):
            raise InputError(f"task.tempo={tempo} must be from 10 to 1000 quarter notes per minute")
        if frames_per_quarter is None:
            frames_per_quarter = PUBLIC[corpus].frames_per_quarter if corpus in PUBLIC else 1
        if not 1 <= frames_per_quarter <= 64:
            raise InputError(f"task.frames_per_quarter={frames_per_quarter} must be from 1 to 64")
        self.corpus, self.seq_len, self.transpose, self.batch_size = corpus, seq_len, transpose, batch_size
        self.grid = _show.Grid(frames_per_quarter, tempo)

    @cached_property
    def pieces(self) -> dict[str, list[Tensor]]:
        """The pieces of each split, bool ``[T, 88]`` each."""
        return _chorales.corpus() if self.corpus == "generated" else _corpora.read(self.corpus, self.data_root)

    @cached_property
    def sequences(self) -> dict[str, list[Tensor]]:
        """Sequences of frames ``[1 + T, 88]``: the frame before the first one, which is silence for a whole piece."""
        found = {}
        for split, pieces in self.pieces.items():
            begun = [torch.cat([torch.zeros(1, KEYS, dtype=torch.bool), piece]) for piece in pieces]
            length = self.seq_len if split == "train" else max(map(len, pieces))
            found[split] = [one[at : at + length + 1] for one in begun for at in range(0, len(one) - 1, length)]
        return found

    def count(self, split: str) -> int:  # noqa: D102
        return len(self.sequences[split])

    def batch(self, split: str, step: int) -> Batch:  # noqa: D102
        found = [self.sequences[split][index] for index in self.chosen(split, step).tolist()]
        if split == "train" and self.transpose:
            generator = self.generator(split, -1 - step)  # the order of the sequences uses the numbers from 0 on
            found = [shifted(one, self.transpose, generator) for one in found]
        inputs = pad_sequence([one[:-1].float() for one in found])
        targets = pad_sequence([one[1:].float() for one in found], padding_value=NOT_SCORED)
        if split != "train":
            targets[0] = NOT_SCORED
        return Batch(inputs, targets, torch.tensor([len(one) - 1 for one in found]))

    def measure(self, outputs: Tensor, batch: Batch) -> dict[str, Mean]:
        """The metrics of the class other than ``loss``."""
        outputs, targets = precise(outputs), batch.targets.clone()
        targets[0] = targets[0].where(~targets[0].isnan(), batch.inputs[1 % len(batch.inputs)])
        scored = ~targets.isnan().any(-1)  # [T, B]
        truth = targets.nan_to_num(0.0).to(outputs.dtype)
        nats = -self.head.log_density(outputs, truth) * scored
        later, lengths = nats[1:].sum(0), scored[1:].sum(0)
        places = places_of(batch.lengths, len(outputs), first=1)
        y, p = (tensor.flatten(0, 1)[places] for tensor in (truth, outputs))  # [frames, 88]
        p = p.sigmoid()
        return {
            "loss_all": Mean(nats.sum(), scored.sum()),
            "loss_piece": Mean((later / lengths.clamp(min=1)).sum(), (lengths > 0).sum()),
            "accuracy": frame_accuracy((p > 0.5).to(p.dtype), y),
            "expected_accuracy": frame_accuracy(p, y),
        }

    def baselines(self, split: str) -> dict[str, dict[str, float]]:
        """Two baselines with probabilities from the training set, one or two for each key.

        ``frequencies``: the fraction of frames in which the key sounds. ``repeat``: the fraction of frames in which it
        sounds after it has sounded, and after it has not. Half a frame is added to each count, so that no probability
        is 0 or 1.
        """
        pieces = self.pieces["train"]
        before, after = (torch.cat([one[part] for one in pieces]) for part in (slice(-1), slice(1, None)))
        always = torch.ones(1, dtype=torch.bool)
        frequency = _log_odds(torch.cat(pieces), always)
        stay, enter = _log_odds(after, before), _log_odds(after, ~before)
        return {
            "frequencies": self._scores(split, lambda inputs: frequency.expand_as(inputs)),
            "repeat": self._scores(split, lambda inputs: torch.where(inputs > 0, stay, enter)),
        }

    def _scores(self, split: str, predict: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """The metrics of a function from inputs to outputs."""
        sums = dict.fromkeys(self.metrics, (0.0, 0.0))
        for step in range(self.num_batches(split)):
            batch = self.batch(split, step)
            outputs = predict(batch.inputs)
            for name, (total, count) in {"loss": self.loss(outputs, batch), **self.measure(outputs, batch)}.items():
                sums[name] = sums[name][0] + float(total), sums[name][1] + float(count)
        return {name: total / count for name, (total, count) in sums.items()}

    def sample(self, model: nn.Module) -> list[Sample]:
        """32 quarter notes, generated from silence: MIDI, WAV and PNG, if the packages are installed."""
        roll = self.continued(model, _none(), 32 * self.grid.frames_per_quarter, 1.0, 0, 0)
        return _show.samples(roll, 0, self.grid, complete=False)

    def generate(
        self, model: nn.Module, prompt: str, length: int, temperature: float, top_k: int, seed: int
    ) -> list[Sample]:
        """MIDI, WAV and PNG of a continuation of ``prompt`` by ``length`` frames; see `given` and `rnnlab.tasks.Task`.

        Raises:
            InputError: the prompt is not valid, there is no frame, or a package is not installed.
        """
        given = self.given(prompt)
        if not len(given) + length:
            raise InputError("length=0 without prompt= gives no music; length must be at least 1")
        roll = self.continued(model, given, length, temperature, top_k, seed)
        return _show.samples(roll, len(given), self.grid, complete=True)

    def continued(
        self, model: nn.Module, given: Tensor, length: int, temperature: float, top_k: int, seed: int
    ) -> Tensor:
        """``given``, bool ``[P, 88]``, and ``length`` generated frames: bool ``[P + length, 88]``."""
        prompt = torch.cat([torch.zeros(1, KEYS), given.float()]).unsqueeze(1)
        options = {"temperature": temperature, "top_k": top_k, "seeds": [seed]}
        drawn = [frame.bool() for frame in generate(model, self.head, prompt, steps=length, **options)]
        return torch.cat([given, *drawn])

    def given(self, prompt: str) -> Tensor:
        """The frames that ``prompt`` gives to the model, bool ``[P, 88]``.

        - Empty: no frames; the music begins after silence.
        - ``test:3``: the first frames of piece 3 of the test set (the first piece is 0): 16 quarter notes, or half of
          a shorter piece. ``test:3:20`` gives 20 frames. ``train`` and ``valid`` are the other splits.
        - Otherwise, all frames of a MIDI file, at ``frames_per_quarter``.

        Raises:
            InputError: the prompt is none of these, there is no such piece or frame, or the file cannot be read.
        """
        if not prompt:
            return _none()
        named = re.fullmatch(r"(train|valid|test):(\d+)(?::(\d+))?", prompt)
        if named is None:
            return _show.read_midi(prompt, self.grid)
        split, number, frames = named.groups()
        pieces = self.pieces[split]
        if int(number) >= len(pieces):
            raise InputError(f"prompt={prompt}: the pieces of {split} are 0 to {len(pieces) - 1}; give one of these")
        piece = pieces[int(number)]
        count = int(frames) if frames else min(16 * self.grid.frames_per_quarter, len(piece) // 2)
        if not 1 <= count <= len(piece):
            raise InputError(f"prompt={prompt}: the piece has {len(piece)} frames; give 1 to {len(piece)} of them")
        return piece[:count]

    def describe(self) -> list[str]:
        """The number of pieces and frames of each split, the keys, and the length of a frame."""
        sizes = [
            f"{split} {len(pieces):,} pieces of {sum(map(len, pieces)):,} frames"
            for split, pieces in self.pieces.items()
        ]
        together = torch.cat([piece for pieces in self.pieces.values() for piece in pieces])
        used = together.any(0).nonzero().flatten().tolist() or [0]
        return [
            f"data: {self.corpus}: {', '.join(sizes)}; {self.grid.frames_per_quarter} frames per quarter note",
            f"data: notes {used[0] + LOWEST} to {used[-1] + LOWEST} (MIDI numbers), "
            f"{together.sum() / len(together):.2f} at a time",
        ]

    def data_digest(self) -> str:
        """SHA-256 of all pieces."""
        digest = hashlib.sha256()
        for split, pieces in self.pieces.items():
            for piece in pieces:
                digest.update(f"{split} {len(piece)}\n".encode())
                digest.update(piece.numpy().tobytes())
        return digest.hexdigest()


def frame_accuracy(played: Tensor, truth: Tensor) -> Mean:
    """TP / (TP + FP + FN) of frames (Bay et al., 2009), pooled over frames.

    Args:
        played: 0 and 1, or the probability of each key, ``[frames, 88]``; probabilities give expected counts.
        truth: 0 and 1, ``[frames, 88]``.
    """
    hits = played * truth
    either = (played + truth - hits).sum()
    return Mean(hits.sum(), either.clamp(min=torch.finfo(played.dtype).tiny))  # silent frames have no keys to count


def shifted(sequence: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """A sequence of frames ``[T, 88]``, shifted by a random number of semitones within the keyboard.

    Args:
        sequence: bool ``[T, 88]``.
        most: largest shift, up or down.
        generator: random number generator.
    """
    used = sequence.any(0).nonzero().flatten().tolist() or [0, KEYS - 1]
    lowest, highest = max(-most, -used[0]), min(most, KEYS - 1 - used[-1])
    by = int(torch.randint(lowest, highest + 1, (), generator=generator))
    return sequence.roll(by, dims=1)  # the keys that wrap around are silent


def _log_odds(frames: Tensor, where: Tensor) -> Tensor:
    """Log-odds that each key sounds, ``[88]``, in the ``frames [N, 88]`` selected by ``where [N, 88]`` (broadcast)."""
    where = where.expand_as(frames)
    on, total = (frames & where).sum(0), where.sum(0)
    return ((on + 0.5) / (total - on + 0.5)).log()


def _none() -> Tensor:
    return torch.zeros(0, KEYS, dtype=torch.bool)

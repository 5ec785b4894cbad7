"""Drawings and handwriting as offsets of a pen: a density of each next point."""

from __future__ import annotations

import hashlib
import warnings
from functools import cached_property
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from rnnlab import generation
from rnnlab.data import PublicFile, read_public
from rnnlab.heads import Mixture
from rnnlab.interface import Batch, InputError, Mean, Metric, Sample, Vectors
from rnnlab.tasks.base import EVALUATION_SEED, Finite, check_least
from rnnlab.tasks.drawing import _npz, _show
from rnnlab.tasks.drawing._digits import digits

OMNIGLOT = PublicFile(
    path="sketch-rnn-datasets/omniglot.npz",
    url="https://raw.githubusercontent.com/hardmaru/sketch-rnn-datasets/0ac2a46b42a7a72c74003ae344767a4a7a8ff286/omniglot/omniglot.npz",
    sha256="bd5277621a8c577919491dfa729a59a8b5c216cff9e4fda9cef532db29f120c7",
)
ENDED = 2
"""State of the pen after the last point; 0 if the pen stays down, 1 if it is lifted."""
TOGETHER = 16
"""Number of batches within which training sorts the drawings by length, which saves padding."""
SHOWN = 16
"""Number of drawings that ``rnnlab generate`` writes."""
_FITTED = 10_000
"""Number of training points to which the mixtures of `Strokes.baselines` are fitted."""


class Pen(Mixture):
    """The distribution of the next offset of a pen, as a mixture density, and of the state of the pen after it.

    Inputs and targets are in units of ``scale``. The density is in units of the data: with x = z scale in two
    dimensions, log p(x) = log p(z) - 2 log(scale). Offsets are integers, so `draw` rounds them.

    The outputs are relative to ``start``, the parameters of a density without a network: with its means μ, standard
    deviations σ, and outputs m and d, the means are μ + σ m and the standard deviations σ exp(d); outputs are added to
    the other parameters. Components that are a hundred times narrower than others thus have gradients of the same size.

    Args:
        scale: root mean square of the offsets of the training set, in units of the data.
        start: parameters of a `Mixture`, ``[features]``; the density of outputs of 0.
    """

    def __init__(self, scale: float, start: Tensor) -> None:
        super().__init__(2, (len(start) - 2) // 6, pen=2)
        self.scale, self.start = scale, super()._parts(start)

    def _parts(self, outputs: Tensor) -> Any:
        parts = super()._parts(outputs)
        start = [part.to(outputs, non_blocking=True) for part in self.start]
        changed = type(parts)(*(part + change for part, change in zip(start, parts, strict=True)))
        return changed._replace(mean=start[1] + start[2].exp() * parts.mean)

    def log_density(self, outputs: Tensor, targets: Tensor) -> Tensor:  # noqa: D102
        return super().log_density(outputs, targets) - 2 * log(self.scale)

    def draw(self, outputs: Tensor, temperature: float, top_k: int, generator: torch.Generator) -> Tensor:  # noqa: D102
        offsets, state = super().draw(outputs, temperature, top_k, generator).split([2, 1], -1)
        return torch.cat([(offsets * self.scale).round() / self.scale, state], -1)


class Strokes(Finite):
    """Predict the next point of a drawing (Graves, 2013, arXiv:1308.0850; Ha and Eck, 2017, arXiv:1704.03477).

    A drawing is a sequence of points (dx, dy, s): the offset from the previous point, to the right and down, and the
    state s of the pen after the point: 0 down, 1 lifted, 2 if the drawing ends. A horizontal line and a dash below it:

        inputs    0 0 0    9 0 0    9 0 1   -9 5 0      the start, then the points so far
        targets   9 0 0    9 0 1   -9 5 0    9 0 2

    The loss is the negative log-likelihood of offset and state in nats per point, in units of the data; it includes the
    end of the drawing. The data are integers, on which a density has no upper bound. Therefore targets (not inputs) are
    dequantised: noise, uniform in a square of side 1, is added to each offset, new in each batch of training and fixed
    in evaluation. By Jensen's inequality, the mean log-density of the noisy offsets is at most the log-probability that
    the model assigns to the integers, P(x) = ∫ p(x + u) du over this square (Theis et al., 2016, arXiv:1511.01844). So
    the loss is an upper bound of the nats of the integers, and cannot be negative in expectation. Generation rounds
    drawn offsets to integers, which draws from P.

    Metrics: ``drawing``, the sum of the loss over a drawing, and ``pen``, the part of the loss that is due to the state
    of the pen. Baselines are the same density without a network, fitted to the training points: ``one Gaussian`` and
    ``mixture``, with as many components as the model; both have the frequencies of the states.

    Args:
        seed: seed of the order of the training drawings and of their noise.
        data_root: directory of the public data sets.
        corpus: ``generated`` for digits that are generated, ``omniglot``, or the path of an NPZ file of sketch-rnn
            with the members train, valid and test.
        components: number of components of the mixture density.
        batch_size: number of drawings per batch.
        train_size: number of generated training drawings.
        eval_size: number of generated drawings in validation and in test.

    Raises:
        InputError: an option is not valid, or a file is missing, damaged or not valid.
    """

    metrics = {
        "loss": Metric("nats per point"),
        "drawing": Metric("nats per drawing"),
        "pen": Metric("nats per point, of the state of the pen"),
    }
    input = Vectors(3)
    usage = "generate run={run} length=200 out=drawings"

    def __init__(
        self,
        seed: int = 0,
        data_root: str = "data",
        *,
        corpus: str = "generated",
        components: int = 20,
        batch_size: int = 64,
        train_size: int = 5000,
        eval_size: int = 500,
    ) -> None:
        super().__init__(seed, data_root)
        check_least(1, components=components, batch_size=batch_size, train_size=train_size, eval_size=eval_size)
        if corpus not in ("generated", "omniglot") and not Path(corpus).expanduser().is_file():
            raise InputError(f"task.corpus={corpus!r} must be generated, omniglot or the path of an NPZ file")
        self.corpus, self.components, self.batch_size = corpus, components, batch_size
        self.sizes = {"train": train_size, "valid": eval_size, "test": eval_size}

    @cached_property
    def parts(self) -> dict[str, list[Tensor]]:
        """The drawings of each split, int32 ``[N, 3]``: offsets and the state of the pen after each point."""
        if self.corpus == "generated":
            found = {
                split: _npz.checked(digits(size, np.random.default_rng([EVALUATION_SEED, number])), split)
                for number, (split, size) in enumerate(self.sizes.items())
            }
        elif self.corpus == "omniglot":
            found = _npz.read(read_public(OMNIGLOT, self.data_root), OMNIGLOT.path)
        else:
            found = _npz.read(Path(self.corpus).expanduser().read_bytes(), self.corpus)
        for drawing in (drawing for drawings in found.values() for drawing in drawings):
            drawing[-1, 2] = ENDED
        return {split: [torch.from_numpy(drawing) for drawing in drawings] for split, drawings in found.items()}

    @cached_property
    def scale(self) -> float:
        """Root mean square of the offsets of the training set."""
        scale = float(torch.cat(self.parts["train"])[:, :2].double().square().mean().sqrt())
        if scale == 0:
            raise InputError("all offsets of the training drawings are 0; give drawings with lines")
        return scale

    @property
    def head(self) -> Pen:  # noqa: D102
        return Pen(self.scale, self.start)

    @cached_property
    def start(self) -> Tensor:
        """The parameters of the baseline ``mixture``, float64 ``[features]``."""
        return self._fitted(self.components)

    def count(self, split: str) -> int:  # noqa: D102
        return len(self.parts[split])

    @cached_property
    def _sizes(self) -> Tensor:
        return torch.tensor([len(drawing) for drawing in self.parts["train"]])

    def chosen(self, split: str, step: int) -> Tensor:
        """Indices of the drawings of a batch, int64 ``[B]``; drawings of similar length in training."""
        if split != "train":
            return super().chosen(split, step)
        batches = self.num_batches(split)
        epoch, place = divmod(step, batches)
        generator = self.generator(split, epoch)
        size = min(self.batch_size, self.count(split))
        order = torch.randperm(self.count(split), generator=generator)[: batches * size]
        pools = [pool[self._sizes[pool].argsort(stable=True)] for pool in order.split(TOGETHER * size)]
        return torch.cat(pools).view(batches, size)[torch.randperm(batches, generator=generator)[place]]

    def batch(self, split: str, step: int) -> Batch:
        """Inputs and dequantised targets ``[T, B, 3]``, in units of `scale`; targets are NaN after the last point."""
        drawings = [self.parts[split][index] for index in self.chosen(split, step).tolist()]
        lengths = torch.tensor([len(drawing) for drawing in drawings])
        points = pad_sequence(drawings).float()
        noise = torch.rand(*points.shape[:2], 2, generator=self.generator(split, step)) - 0.5
        offsets, states = points.split([2, 1], -1)
        inputs = torch.cat([torch.zeros_like(points[:1]), self._scaled(points)[:-1]])
        targets = torch.cat([(offsets + noise) / self.scale, states], -1)
        targets[torch.arange(len(points)).unsqueeze(1) >= lengths] = torch.nan
        return Batch(inputs, targets, lengths, lengths)

    def _scaled(self, points: Tensor) -> Tensor:
        return points / torch.tensor([self.scale, self.scale, 1.0])

    def measure(self, outputs: Tensor, batch: Batch) -> dict[str, Mean]:
        """The loss of a drawing, and the part of the loss that is due to the state of the pen."""
        total, count = self.loss(outputs, batch)
        scored = ~batch.targets.isnan().any(-1)
        pen = self.head.log_pen(outputs, batch.targets.nan_to_num(0.0))
        return {"drawing": Mean(total, batch.batch_size), "pen": Mean(-torch.where(scored, pen, 0.0).sum(), count)}

    def _fitted(self, components: int) -> Tensor:
        """The parameters of a density of the training points that does not depend on the points so far."""
        points = torch.cat(self.parts["train"]).double()
        if components > len(points):
            raise InputError(
                f"task.components={components} must be at most the {len(points)} points of the training set"
            )
        generator = torch.Generator().manual_seed(EVALUATION_SEED)
        drawn = points[torch.randperm(len(points), generator=generator)[:_FITTED], :2]
        noisy = (drawn + torch.rand(drawn.shape, generator=generator, dtype=torch.float64) - 0.5) / self.scale
        # One more of each state, so that a state that never occurs has a finite logarithm.
        states = torch.bincount(points[:, 2].long(), minlength=3) + 1.0
        return torch.cat([_mixture(noisy, components), (states[1:] / states[0]).log()])

    def baselines(self, split: str) -> dict[str, dict[str, float]]:
        """``one Gaussian`` and ``mixture``: densities of offset and state that do not depend on the points so far."""
        heads = {"one Gaussian": Pen(self.scale, self._fitted(1)), "mixture": self.head}
        found = {name: torch.zeros(2, dtype=torch.float64) for name in heads}
        points = drawings = 0
        for step in range(self.num_batches(split)):
            batch = self.batch(split, step)
            targets = batch.targets[~batch.targets.isnan().any(-1)].double()
            points, drawings = points + len(targets), drawings + batch.batch_size
            for name, head in heads.items():
                zeros = targets.new_zeros(len(targets), head.features)
                found[name] -= torch.stack([part(zeros, targets).sum() for part in (head.log_density, head.log_pen)])
        return {
            name: {"loss": float(loss) / points, "drawing": float(loss) / drawings, "pen": float(pen) / points}
            for name, (loss, pen) in found.items()
        }

    def draw(
        self, model: nn.Module, given: Tensor, count: int, length: int, temperature: float, top_k: int, seed: int
    ) -> list[np.ndarray]:
        """Let a model complete drawings.

        Args:
            model: model in evaluation mode.
            given: first points of each drawing, ``[N, 3]`` in units of the data; N may be 0.
            count: number of drawings.
            length: largest number of points that are drawn; a drawing ends earlier if the model ends it.
            temperature: see `rnnlab.heads.Head.draw`.
            top_k: see `rnnlab.heads.Head.draw`.
            seed: seed for sampling; each drawing has its own.

        Returns:
            int64 ``[N, 3]`` each, with the given points, in units of the data.
        """
        prompt = torch.cat([torch.zeros(1, 3), self._scaled(given.float())]).unsqueeze(1).repeat(1, count, 1)
        steps, ended = [prompt[1:]], torch.zeros(count, dtype=torch.bool)
        seeds = [(seed * count + number) % 2**63 for number in range(count)]
        options = {"temperature": temperature, "top_k": top_k, "seeds": seeds}
        for drawn in generation.generate(model, self.head, prompt, steps=length, **options):
            steps.append(drawn.unsqueeze(0))
            ended |= drawn[:, 2] == ENDED
            if ended.all():
                break
        points = torch.cat(steps) * torch.tensor([self.scale, self.scale, 1.0])
        ends = [(one[:, 2] == ENDED).nonzero().flatten().tolist() for one in points.unbind(1)]
        return [
            one[: end[0] + 1 if end else len(one)].round().long().numpy()
            for one, end in zip(points.unbind(1), ends, strict=True)
        ]

    def sample(self, model: nn.Module) -> list[Sample]:
        """Eight drawings at temperature 0.5."""
        return _show.pictures(self.draw(model, torch.zeros(0, 3), 8, 100, 0.5, 0, 0))

    def generate(
        self, model: nn.Module, prompt: str, length: int, temperature: float, top_k: int, seed: int
    ) -> list[Sample]:
        """Sixteen drawings, or completions of the beginning of a test drawing, whose number is the prompt.

        The beginning is the first stroke, or the first half of the points of a drawing with one stroke.
        """
        if not length:
            raise InputError("length=0 draws no points; give length=1 or more")
        given = torch.zeros(0, 3) if not prompt else self._beginning(prompt)
        drawings = self.draw(model, given, SHOWN, length, temperature, top_k, seed)
        text = "\n\n".join("\n".join(f"{x} {y} {s}" for x, y, s in drawing) for drawing in drawings)
        return [*_show.pictures(drawings, len(given)), Sample(text)]

    def _beginning(self, prompt: str) -> Tensor:
        drawings = self.parts["test"]
        if not (prompt.isascii() and prompt.isdigit() and int(prompt) < len(drawings)):
            raise InputError(
                f"prompt={prompt!r} must be the number of a test drawing, 0 to {len(drawings) - 1}, or empty"
            )
        drawing = drawings[int(prompt)]
        first = int(drawing[:, 2].ne(0).nonzero()[0]) + 1
        return drawing[: first if first < len(drawing) else len(drawing) // 2]

    def memory(self) -> dict[str, Any]:  # noqa: D102
        return {"scale": self.scale, "start": self.start}

    def restore(self, memory: dict[str, Any]) -> None:  # noqa: D102
        self.scale, self.start = memory["scale"], memory["start"]

    def describe(self) -> list[str]:
        """Numbers of drawings and points, and the largest offset."""
        if self.corpus == "generated":
            return []
        counts = ", ".join(f"{len(drawings)} {split}" for split, drawings in self.parts.items())
        points = torch.cat([drawing for drawings in self.parts.values() for drawing in drawings])
        return [
            f"{counts} drawings with {len(points)} points, offsets up to {int(points[:, :2].abs().max())}, "
            f"in units of {self.scale:.4g}"
        ]

    def data_digest(self) -> str:
        """SHA-256 of all drawings."""
        digest = hashlib.sha256()
        for split, drawings in self.parts.items():
            digest.update(f"{split}\t{[len(drawing) for drawing in drawings]}\n".encode())
            digest.update(torch.cat(drawings).numpy().tobytes())
        return digest.hexdigest()


def _mixture(points: Tensor, components: int) -> Tensor:
    """The outputs, without the pen, with which `Mixture` is the mixture that EM fits to ``points [N, 2]``."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture  # takes a second to import

    fitted = GaussianMixture(components, reg_covar=1e-8, max_iter=200, random_state=0)
    with warnings.catch_warnings():  # a mixture before convergence is a baseline too
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted.fit(points.numpy())
    deviations = np.sqrt(np.diagonal(fitted.covariances_, axis1=1, axis2=2))
    slant = np.arctanh(fitted.covariances_[:, 0, 1] / deviations.prod(1))
    parts = (np.log(fitted.weights_), fitted.means_.ravel(), np.log(deviations).ravel(), slant)
    return torch.from_numpy(np.concatenate(parts))

"""Motion of a skeleton: predict and generate dance and walking."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rnnlab import generation
from rnnlab.formats import bvh
from rnnlab.formats.skeleton import Motion as Clip
from rnnlab.formats.skeleton import joint_positions
from rnnlab.heads import Gaussian, Mixture
from rnnlab.interface import Batch, InputError, Metric, Sample, Vectors
from rnnlab.report.skeletons import figure_animation
from rnnlab.tasks.base import Task, check_least
from rnnlab.tasks.motion import _deepmimic, _files, _generated
from rnnlab.tasks.motion._clips import FRAME_TIME, Corpus
from rnnlab.tasks.motion._features import Frame, frames_of, walked
from rnnlab.tasks.motion._layout import Layout
from rnnlab.tasks.motion._rotations import angle_of

HORIZONS = {80: 2, 160: 4, 320: 8, 400: 10}
"""Milliseconds after the last given frame, and the same in frames."""
AHEAD = max(HORIZONS.values())
MOST_WINDOWS = 32
"""Largest number of windows of a part in an evaluation."""
GIVEN, WRITTEN = 25, 75
"""Frames of a clip that a model reads before it generates, and frames that a sample generates."""


class Motion(Task):
    """Predict the next frame of a moving figure from the frames so far, at 25 frames per second.

    An input is a frame: the rotation of each joint as six numbers (Zhou et al., 2019, arXiv:1812.07035), the upward
    direction in the frame of the root, the height of the root, and the last step. A target is the step to the next
    frame: a rotation vector for each joint and the movement of the root, in the frame of the root. Both are
    standardised. Prediction of steps follows Martinez, Black and Romero (2017, arXiv:1705.02445).

        inputs   frame 0   frame 1   frame 2
        targets  0 to 1    1 to 2    2 to 3

    Evaluation gives a model ``seed_frames`` frames and generates the next 10 at temperature 0. ``angle_MS`` is the
    angle between the predicted and the true rotation of a joint relative to its parent (geodesic distance, not a
    distance of Euler angles), in degrees, averaged over all joints that move except the root and over all windows,
    MS milliseconds after the last given frame. ``ratio`` is the largest ratio of these four numbers to those of the
    baseline ``zero velocity``, which repeats the last given frame.

    A training window is a random part of a training clip. The probability of a clip is proportional to the square root
    of its number of frames. Random rotations disturb the poses of training inputs, and the targets lead back to the
    undisturbed next frame, so that a model learns to correct its own errors.

    Args:
        seed: seed of the training windows.
        data_root: directory of the public data sets.
        corpus: ``generated``, ``deepmimic``, ``cmu_amc``, ``cmu_bvh``, or the path of a folder of BVH files, or of AMC
            files and their ASF file, with one skeleton; its clips are split in time.
        held_out: test set: ``clips`` for other clips, or later parts of clips, of the actions in training; ``actions``
            for actions that are not in training.
        seed_frames: number of frames that a model reads in an evaluation before it generates.
        seq_len: largest number of steps of a training window.
        noise: standard deviation of the random rotations of training inputs about each axis, in radians.
        mirror: whether training also uses the mirror image of each training clip.
        components: number of components of the distribution of a step: 1 for normal distributions, more for a mixture.
        batch_size: number of windows per batch.

    Raises:
        InputError: the corpus cannot be read, or an option is not valid.
    """

    metrics = {
        "loss": Metric("nats per step"),
        **{f"angle_{ms}": Metric(f"degrees after {ms} ms") for ms in HORIZONS},
        "ratio": Metric("of zero velocity, worst horizon"),
    }
    monitor = "ratio"
    usage = "generate run={run} length=100 out=FOLDER"

    def __init__(
        self,
        seed: int = 0,
        data_root: str = "data",
        *,
        corpus: str = "generated",
        held_out: str = "clips",
        seed_frames: int = 10,
        seq_len: int = 50,
        noise: float = 0.01,
        mirror: bool = True,
        components: int = 1,
        batch_size: int = 32,
    ) -> None:
        super().__init__(seed, data_root)
        check_least(1, seed_frames=seed_frames, seq_len=seq_len, components=components, batch_size=batch_size)
        if held_out not in ("clips", "actions"):
            raise InputError(f"task.held_out={held_out!r} must be clips or actions")
        if not 0 <= noise <= 1:
            raise InputError(f"task.noise={noise} must be from 0 to 1, in radians")
        self.corpus, self.held_out, self.seq_len, self.noise = corpus, held_out, seq_len, noise
        self.mirror = mirror
        self.prompt_steps, self.components, self.batch_size = seed_frames, components, batch_size

    @cached_property
    def data(self) -> Corpus:
        """The clips."""
        if self.corpus in ("generated", "deepmimic"):
            found = _generated.corpus() if self.corpus == "generated" else _deepmimic.read(self.data_root)
        else:
            found = _files.read(self.corpus, self.data_root)
        found = found.with_mirror_images() if self.mirror else found
        return found.tested_on("test" if self.held_out == "clips" else "unseen")

    @cached_property
    def tensors(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Rotations ``[N, J, 3, 3]`` and root positions ``[N, 3]`` of each clip in single precision."""
        return {
            name: (torch.from_numpy(clip.rotations).float(), torch.from_numpy(clip.positions).float())
            for name, clip in self.data.clips.items()
        }

    @cached_property
    def windows(self) -> dict[str, list[tuple[str, int]]]:
        """The clip and the first frame of each evaluation window."""
        found: dict[str, list[tuple[str, int]]] = {"valid": [], "test": []}
        for part in self.data.parts:
            frames = self.data.frames(part)
            last = len(frames) - self.prompt_steps - AHEAD
            if part.split in found and last >= 0:
                starts = np.linspace(0, last, min(MOST_WINDOWS, last + 1)).round().astype(int)
                found[part.split] += [(part.clip, frames.start + int(start)) for start in starts]
        for split, windows in found.items():
            if not windows:
                raise InputError(
                    f"the {split} part of corpus {self.corpus!r} is shorter than a window of "
                    f"{self.prompt_steps + AHEAD} frames; lower task.seed_frames, or give longer clips"
                )
        return found

    @cached_property
    def layout(self) -> Layout:
        """The skeleton, and the scales of the training frames."""
        spans = self.trained.items()
        motions = (tuple(one[frames.start : frames.stop] for one in self.tensors[clip]) for clip, frames in spans)
        return Layout.measured(next(iter(self.data.clips.values())).skeleton, motions)

    @cached_property
    def trained(self) -> dict[str, range]:
        """The frames of each training clip of two or more frames."""
        spans = {part.clip: self.data.frames(part) for part in self.data.parts if part.split == "train"}
        return {clip: frames for clip, frames in spans.items() if len(frames) > 1}

    @property
    def input(self) -> Vectors:  # noqa: D102
        return Vectors(len(self.layout.mean))

    @property
    def head(self) -> Gaussian | Mixture:  # noqa: D102
        size = len(self.layout.moving)
        return Gaussian(size) if self.components == 1 else Mixture(size, self.components)

    def num_batches(self, split: str) -> int:  # noqa: D102
        if split != "train":
            return -(-len(self.windows[split]) // self.batch_size)
        return -(-sum(map(len, self.trained.values())) // (self.seq_len * self.batch_size))

    def batch(self, split: str, step: int) -> Batch:
        """Windows of frames, with the step after each frame; a short clip is padded."""
        noise = None
        if split == "train":
            chosen, lengths, noise = self._drawn(step)
        else:
            chosen = self.windows[split][step * self.batch_size : (step + 1) * self.batch_size]
            lengths = torch.full((len(chosen),), self.prompt_steps + AHEAD - 1)
        most = int(lengths.max())
        index = torch.arange(most + 1).unsqueeze(1).minimum(lengths)
        rotations, positions = (
            torch.stack([self.tensors[clip][kind][start + index[:, b]] for b, (clip, start) in enumerate(chosen)], 1)
            for kind in (0, 1)
        )
        frame, steps = frames_of(rotations, positions, noise)
        targets = self.layout.targets(steps)
        targets[torch.arange(most).unsqueeze(1) >= lengths] = torch.nan
        return Batch(self.layout.inputs(frame), targets, lengths)

    def _drawn(self, step: int) -> tuple[list[tuple[str, int]], Tensor, Tensor]:
        """Clips and first frames of training windows, their lengths, and the rotation vectors that disturb them."""
        generator = self.generator("train", step)
        spans = list(self.trained.items())
        weights = torch.tensor([len(frames) for _, frames in spans]).sqrt()
        numbers = torch.multinomial(weights, self.batch_size, replacement=True, generator=generator).tolist()
        lengths = torch.tensor([min(self.seq_len, len(spans[number][1]) - 1) for number in numbers])
        places = torch.rand(self.batch_size, generator=generator).tolist()
        chosen = []
        for number, length, place in zip(numbers, lengths.tolist(), places, strict=True):
            clip, frames = spans[number]
            chosen.append((clip, frames.start + int(place * (len(frames) - length))))
        shape = (int(lengths.max()), self.batch_size, self.layout.joints, 3)
        return chosen, lengths, self.noise * self.layout.turning * torch.randn(shape, generator=generator)

    def advance(self, inputs: Tensor, drawn: Tensor) -> Tensor:
        """The next frame after a predicted step; its rotations are orthonormal."""
        return self.layout.advance(inputs, drawn)

    def steps_to_write(self, split: str) -> int:  # noqa: D102
        return AHEAD if split != "train" else 0

    def judge(self, split: str, written: list[Tensor]) -> dict[str, float]:
        """The mean angle at each horizon, and the largest ratio to the baseline ``zero velocity``."""
        return self._scores(split, self.layout.frame(torch.stack(written)).rotations)

    def baselines(self, split: str) -> dict[str, dict[str, float]]:
        """Three baselines.

        ``independent``: each coordinate of a step has a normal distribution with mean 0 and its root mean square in
        training. In evaluation also ``zero velocity``, the last given frame, and ``constant velocity``, the last given
        step, repeated.
        """
        total = count = 0.0
        for step in range(self.num_batches(split)):
            batch = self.batch(split, step)
            nats, scored = self.loss(torch.zeros(*batch.targets.shape[:2], self.head.features), batch)
            total, count = total + float(nats), count + float(scored)
        found = {"independent": {"loss": total / count}}
        if split == "train":
            return found
        return found | {
            f"{name} velocity": self._scores(split, self.simple(split, moves))
            for name, moves in (("zero", False), ("constant", True))
        }

    def simple(self, split: str, moves: bool) -> Tensor:
        """Rotations ``[N, 10, J - 1, 3, 3]`` of a baseline: with the last given step, or without motion."""
        frames, _ = frames_of(*self._true(split))
        frame = Frame(*(part[self.prompt_steps - 1] for part in frames))
        step = torch.cat([frame.turns.flatten(-2), frame.move], -1) * moves
        found = []
        for _ in range(AHEAD):
            frame = frame.stepped(step)
            found.append(frame.rotations)
        return torch.stack(found, 1)

    def angles(self, split: str, rotations: Tensor) -> Tensor:
        """Angles in degrees between predicted and true rotations of the joints that move, ``[N, 10, joints]``.

        Args:
            split: ``valid`` or ``test``.
            rotations: predicted rotations, ``[N, 10, J - 1, 3, 3]``.
        """
        joints = self.layout.turning[1:].any(1)
        true = self._true(split)[0][self.prompt_steps :, :, 1:].transpose(0, 1)
        return angle_of((true.transpose(-1, -2) @ rotations)[:, :, joints]) * 180 / torch.pi

    def _true(self, split: str) -> tuple[Tensor, Tensor]:
        """Rotations ``[S, N, J, 3, 3]`` and root positions ``[S, N, 3]`` of the N evaluation windows of S frames."""
        count = self.prompt_steps + AHEAD
        found = [[one[start : start + count] for one in self.tensors[clip]] for clip, start in self.windows[split]]
        return tuple(torch.stack(parts, 1) for parts in zip(*found, strict=True))

    def _scores(self, split: str, rotations: Tensor) -> dict[str, float]:
        at = [steps - 1 for steps in HORIZONS.values()]
        found = self.angles(split, rotations)[:, at].mean((0, 2))
        still = self.angles(split, self.simple(split, moves=False))[:, at].mean((0, 2))
        angles = {f"angle_{ms}": value for ms, value in zip(HORIZONS, found.tolist(), strict=True)}
        return {**angles, "ratio": float((found / still).max())}

    def transcripts(self, split: str, written: list[Tensor]) -> dict[str, str]:
        """A table of the angles of each action, with those of the baselines."""
        actions = {part.clip: part.action for part in self.data.parts}
        owners = np.array([actions[clip] for clip, _ in self.windows[split]])
        predicted = {
            "model": self.layout.frame(torch.stack(written)).rotations,
            "zero velocity": self.simple(split, moves=False),
            "constant velocity": self.simple(split, moves=True),
        }
        lines = ["\t".join(["action", "windows", "prediction", *(f"{ms} ms" for ms in HORIZONS)])]
        angles = {name: self.angles(split, rotations).mean(-1) for name, rotations in predicted.items()}
        for action in dict.fromkeys(owners):
            chosen = torch.from_numpy(owners == action)
            for name, found in angles.items():
                means = [f"{found[chosen, steps - 1].mean():.2f}" for steps in HORIZONS.values()]
                lines.append("\t".join([action, str(int(chosen.sum())), name, *means]))
        return {"angles.txt": "\n".join(lines) + "\n"}

    def sample(self, model: nn.Module) -> list[Sample]:
        """Three seconds that the model generates at temperature 0, after the start of a validation clip."""
        part = next(part for part in self.data.parts if part.split == "valid")
        start = self.data.frames(part).start
        return self._samples(model, self._cut(self.data.clips[part.clip], start, start + GIVEN), WRITTEN, 0.0, 0, 0)

    def generate(
        self, model: nn.Module, prompt: str, length: int, temperature: float, top_k: int, seed: int
    ) -> list[Sample]:
        """A BVH file and an animation: the prompt, then ``length`` generated frames.

        Args:
            model: model in evaluation mode.
            prompt: name of a clip, of which the first second is used, or path of a BVH file with the same joints; by
                default, the first clip of the validation set.
            length: number of frames, at 25 per second.
            temperature: see `rnnlab.heads.Head.draw`.
            top_k: must be 0.
            seed: seed for sampling.

        Raises:
            InputError: the prompt is neither, or Pillow is not installed.
        """
        if prompt.removesuffix(".gz").endswith(".bvh"):
            given = self._given(Path(prompt).expanduser())
        else:
            name = prompt or next(part.clip for part in self.data.parts if part.split == "valid")
            if name not in self.data.clips:
                raise InputError(
                    f"prompt={prompt!r} is neither the path of a .bvh file nor one of the clips "
                    f"{', '.join(self.data.clips)}"
                )
            given = self._cut(self.data.clips[name], 0, GIVEN)
        samples = self._samples(model, given, length, temperature, top_k, seed)
        if len(samples) < 2:
            raise InputError("an animation needs Pillow, which is not installed; pip install 'rnnlab[media]'")
        return samples

    def _given(self, path: Path) -> Clip:
        """The motion of the user's BVH file, with the joints in the order of the skeleton."""
        if not path.is_file():
            raise InputError(f"prompt={str(path)!r} is not a file; give the path of a .bvh file")
        clip, skeleton = _files.at_rate(_files.read_motion(path)), self.layout.skeleton
        if clip.skeleton.tree != skeleton.tree:
            raise InputError(
                f"{path} has the joints {', '.join(clip.skeleton.names)}; expected {', '.join(skeleton.names)}, "
                "with the parents of the training data"
            )
        if len(clip.positions) < 2:
            raise InputError(f"{path} has {len(clip.positions)} frame at 25 per second; give two or more")
        order = [clip.skeleton.names.index(name) for name in skeleton.names]
        return Clip(skeleton, clip.rotations[:, order], clip.positions, FRAME_TIME)

    def _cut(self, clip: Clip, start: int, stop: int) -> Clip:
        return Clip(clip.skeleton, clip.rotations[start:stop], clip.positions[start:stop], FRAME_TIME)

    def _samples(
        self, model: nn.Module, given: Clip, length: int, temperature: float, top_k: int, seed: int
    ) -> list[Sample]:
        """A BVH file, and an animation if Pillow is installed."""
        whole = self.continued(model, given, length, temperature, top_k, seed)
        found = [Sample(bvh.write(whole), ".bvh")]
        animation = figure_animation(*joint_positions(whole), len(given.positions), FRAME_TIME)
        return [*found, Sample(animation, ".gif")] if animation else found

    def continued(
        self, model: nn.Module, given: Clip, length: int, temperature: float = 0.0, top_k: int = 0, seed: int = 0
    ) -> Clip:
        """The motion ``given``, followed by ``length`` generated frames; see `rnnlab.tasks.Task.generate`."""
        rotations, positions = torch.from_numpy(given.rotations).float(), torch.from_numpy(given.positions).float()
        # The last frame has no next step: it is repeated, and the step after it is not used.
        frame, _ = frames_of(*(torch.cat([one, one[-1:]]) for one in (rotations, positions)))
        prompt = self.layout.inputs(frame).unsqueeze(1)
        draws = {"temperature": temperature, "top_k": top_k, "seeds": [seed]}
        written = list(generation.generate(model, self.head, prompt, steps=length, advance=self.advance, **draws))
        if not written:
            return given
        more = [one.numpy() for one in walked(self.layout.frame(torch.cat(written)), given)]
        both = [np.concatenate(pair) for pair in zip((given.rotations, given.positions), more, strict=True)]
        return Clip(given.skeleton, *both, FRAME_TIME)

    def describe(self) -> list[str]:
        """The clips and frames of each split."""
        lines = [f"{len(self.layout.skeleton.names)} joints, {len(self.layout.moving)} coordinates move"]
        for split in self.splits:
            parts = [part for part in self.data.parts if part.split == split]
            actions = ", ".join(dict.fromkeys(part.action for part in parts))
            frames = sum(len(self.data.frames(part)) for part in parts)
            lines.append(f"{split}: {len(parts)} clips, {frames * FRAME_TIME:.1f} s: {actions}")
        return lines

    def memory(self) -> dict[str, Any]:
        """The layout."""
        return self.layout.memory()

    def restore(self, memory: dict[str, Any]) -> None:  # noqa: D102
        self.layout = Layout.restored(memory)

    def data_digest(self) -> str:
        """SHA-256 of the clips and of the split."""
        digest = hashlib.sha256(repr(self.data.parts).encode())
        for name, clip in self.data.clips.items():
            digest.update(f"{name} {clip.skeleton.tree}".encode())
            for array in (clip.skeleton.offsets, clip.rotations, clip.positions):
                digest.update((array.round(6) + 0.0).tobytes())  # 0.0 has no sign
        return digest.hexdigest()

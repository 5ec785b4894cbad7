"""A task from outside of the shape "alignment unknown": read frames, write the digits they spell, with CTC."""

import torch
from torch import Tensor

from rnnlab.heads import CTC
from rnnlab.interface import Batch, InputError, Mean, Metric, Vectors
from rnnlab.tasks import Task


class SpelledDigits(Task):
    """Frames of random digit strings; each digit lasts 1 to 3 frames, with 1 or 2 frames of silence after it.

    inputs   one frame a step, one feature a digit, with noise
    targets  the digits, ``[L, B]``, with no word on where in the frames they lie
    """

    metrics = {"loss": Metric("nats per digit"), "digit_errors": Metric("wrong digits per digit")}

    def __init__(
        self, seed: int = 0, data_root: str = "data", *, digits: int = 4, batch_size: int = 32, noise: float = 0.1
    ) -> None:
        super().__init__(seed, data_root)
        if digits < 1:
            raise InputError(f"task.digits={digits} must be at least 1")
        self.digits, self.batch_size, self.noise = digits, batch_size, noise
        self.input = Vectors(10)
        self.head = CTC(10)

    def num_batches(self, split: str) -> int:
        return 2

    def batch(self, split: str, step: int) -> Batch:
        draw = self.generator(split, step)
        labels = torch.randint(10, (self.digits, self.batch_size), generator=draw)
        target_lengths = torch.randint(1, self.digits + 1, (self.batch_size,), generator=draw)
        spoken = torch.randint(1, 4, labels.shape, generator=draw)
        silent = torch.randint(1, 3, labels.shape, generator=draw)
        inputs = self.noise * torch.randn(5 * self.digits, self.batch_size, 10, generator=draw)
        lengths = torch.zeros(self.batch_size, dtype=torch.int64)
        for row in range(self.batch_size):
            t = 0
            for place in range(int(target_lengths[row])):
                inputs[t : t + int(spoken[place, row]), row, labels[place, row]] += 1
                t += int(spoken[place, row] + silent[place, row])
            lengths[row] = t
        return Batch(inputs[: int(lengths.max())], labels, lengths, target_lengths)

    def measure(self, outputs: Tensor, batch: Batch) -> dict[str, Mean]:
        errors = 0
        for row, said in enumerate(self.head.decode(outputs, batch.lengths)):
            wanted = batch.targets[: int(batch.target_lengths[row]), row].tolist()
            errors += sum(a != b for a, b in zip(said.tolist(), wanted, strict=False)) + abs(len(said) - len(wanted))
        return {"digit_errors": Mean(torch.tensor(float(errors)), int(batch.target_lengths.sum()))}

"""Measure training steps of residual blocks around rnnlab's layers, relative to the same blocks built from torch.nn.

python scripts/benchmark_block.py [rounds=30] [cells=gru,lstm] [sizes=64x32x128,128x64x256] [blocks=2] [norm=rms]
                                  [convolution=4] [expansion=2]

Sizes are steps x sequences x width. Both models have the same weights, which the script checks, run in one process and
alternate, so that the load of the machine affects both equally; the fastest round of each counts. "layer" is the ratio
for the recurrent layers alone: shared operations, such as the products of the MLP, move the ratio of the blocks to 1.
"""

import sys
from collections.abc import Callable
from time import perf_counter

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from rnnlab import cells
from rnnlab.layers import Block, Recurrent, Stack, to_torch

CELLS = {"gru": {"reset": "after"}, "lstm": {}, "rnn": {}}


class TorchBlock(nn.Module):
    """`rnnlab.layers.Block` with gate and SwiGLU, from modules of ``torch.nn``, with the weights of ``block``."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        *convolution, recurrent = block.recurrence.layers
        self.norm, self.mlp_norm = (_like(norm) for norm in (block.norm, block.mlp_norm))
        self.convolution = None
        if convolution:
            weight = convolution[0].cell.w
            kernel, width = weight.shape
            self.convolution = nn.Conv1d(width, width, kernel, groups=width, padding=kernel - 1, bias=False)
            self.convolution.weight.data.copy_(weight.flip(0).T.unsqueeze(1))
        self.layer = to_torch(Stack([recurrent]))
        for name, linear in (("gate", block.gate), ("project", block.project)):
            setattr(self, name, _like(linear))
        self.mlp_gate, self.up, self.down = (_like(part) for part in (block.mlp.gate, block.mlp.up, block.mlp.down))

    def forward(self, inputs: Tensor) -> Tensor:
        """Run the block over ``[T, B, width]``."""
        normed = hidden = self.norm(inputs)
        if self.convolution is not None:
            channels = self.convolution(normed.permute(1, 2, 0))[..., : len(normed)]
            hidden = silu(channels).permute(2, 0, 1).contiguous()
        hidden, _ = self.layer(hidden)
        outputs = inputs + self.project(silu(self.gate(normed)) * hidden)
        normed = self.mlp_norm(outputs)
        return outputs + self.down(silu(self.mlp_gate(normed)) * self.up(normed))


def _like(module: nn.Module) -> nn.Module:
    """Return a module of ``torch.nn`` with the weights of ``module``: a Linear without bias, or a norm."""
    if isinstance(module, nn.Linear):
        made = nn.Linear(module.in_features, module.out_features, bias=False)
    else:
        made = (nn.RMSNorm if isinstance(module, nn.RMSNorm) else nn.LayerNorm)(module.normalized_shape)
    made.load_state_dict(module.state_dict())
    return made


def step_of(module: nn.Module, inputs: Tensor) -> Callable[[], tuple[Tensor, float]]:
    """Return a function that runs a training step without optimizer and returns the outputs and the seconds."""
    gradient = torch.randn_like(inputs)
    leaf = inputs.clone().requires_grad_()

    def step() -> tuple[Tensor, float]:
        module.zero_grad()
        leaf.grad = None
        started = perf_counter()
        outputs = module(leaf)
        outputs = outputs[0] if isinstance(outputs, tuple) else outputs
        outputs.backward(gradient)
        return outputs.detach(), perf_counter() - started

    return step


def compare(ours: nn.Module, other: nn.Module, inputs: Tensor, rounds: int) -> tuple[float, float]:
    """Return the least seconds of a training step of both modules, after checking that their outputs are equal."""
    steps = [step_of(module, inputs) for module in (ours, other)]
    torch.testing.assert_close(steps[0]()[0], steps[1]()[0], rtol=1e-3, atol=1e-3)
    times = [[step()[1] for step in steps] for _ in range(rounds)]
    return tuple(min(column) for column in zip(*times, strict=True))


def main() -> None:
    """Measure the cells and print the ratios."""
    if not all("=" in argument for argument in sys.argv[1:]):
        raise SystemExit(__doc__)
    options = dict(argument.split("=") for argument in sys.argv[1:])
    rounds, blocks = int(options.get("rounds", 30)), int(options.get("blocks", 2))
    about = {"norm": options.get("norm", "rms"), "convolution": int(options.get("convolution", 4))}
    about["expansion"] = float(options.get("expansion", 2))
    print(f"{torch.get_num_threads()} threads, fastest of {rounds} rounds, {blocks} blocks, {about}")
    print("cell   size          ours ms   torch.nn ms   torch.nn / ours   layer")
    for name in options.get("cells", "gru,lstm").split(","):
        for size in options.get("sizes", "64x32x128,128x64x256").split(","):
            steps, sequences, width = map(int, size.split("x"))
            torch.manual_seed(0)
            made = [cells.create(name, input_size=width, hidden_size=width, **CELLS[name]) for _ in range(blocks)]
            stack = Stack([Block(cell, **about) for cell in made])
            inputs = torch.randn(steps, sequences, width)
            ours, other = compare(stack, nn.Sequential(*map(TorchBlock, stack.layers)), inputs, rounds)
            layers = Stack([Recurrent(cell) for cell in made])
            alone, alone_other = compare(layers, to_torch(layers), inputs, rounds)
            print(
                f"{name:<7}{size:<12}{1e3 * ours:>9.2f}{1e3 * other:>14.2f}{other / ours:>18.2f}"
                f"{alone_other / alone:>8.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()

"""Compare an exported graph with the model that it was exported from."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import onnx
import torch

from rnnlab.export.parts import Part
from rnnlab.layers import Recurrent

TRIALS = ((1, 1), (2, 3), (7, 2), (19, 5))
"""Numbers of steps and sequences of the comparisons."""


def largest_difference(graph: onnx.ModelProto, part: Part, seed: int = 0) -> float:
    """Return the largest difference between onnxruntime and ``part`` in float64, over all results.

    The difference to a tensor with numbers above 1 is divided by the largest of them: a state of norm 200 has a
    rounding error of 1e-5 in float32. Both start from the same random states and read the same random inputs, for
    several numbers of steps and sequences.

    Args:
        graph: the result of `rnnlab.export.graph.build`.
        part: the part, of a model in evaluation mode, in float32 and on the CPU.
        seed: seed of the random numbers.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(graph.SerializeToString(), options, ["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    exact = _exact(part)
    generator = torch.Generator().manual_seed(seed)
    worst = 0.0
    for num_steps, batch_size in TRIALS:
        lengths = torch.randint(1, num_steps + 1, (batch_size,), generator=generator) if "lengths" in names else None
        given = part.examples(num_steps, batch_size, generator, lengths)
        first, *others = [tensor for tensor, port in zip(given, part.given, strict=True) if port.name != part.mask]
        read = [first, *([] if lengths is None else [lengths]), *others]
        found = session.run(None, {name: tensor.numpy() for name, tensor in zip(names, read, strict=True)})
        with torch.no_grad():
            expected = exact.reference(lengths, *(t.double() if t.is_floating_point() else t for t in given))
        if lengths is not None and not part.mask:  # the outputs after the end of a sequence are undefined
            over = torch.arange(num_steps).unsqueeze(1) >= lengths
            expected[0][over], found[0][over.numpy()] = 0.0, 0.0
        for ours, theirs in zip(expected, found, strict=True):
            assert ours.shape == theirs.shape, f"shape {list(ours.shape)} became {list(theirs.shape)}"
            ours, theirs = ours.double().numpy(), theirs.astype(np.float64)
            # Python's max would ignore NaN.
            worst = np.maximum(worst, np.abs(ours - theirs).max() / max(1.0, float(np.abs(ours).max())))
    return float(worst)


def _exact(part: Part) -> Part:
    """A copy of the part in float64 that runs the plain loop."""
    exact = deepcopy(part).double()
    for layer in exact.modules():
        if isinstance(layer, Recurrent):
            layer.backend = "reference"
    return exact

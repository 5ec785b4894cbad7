"""Cells with layer normalisation as their authors wrote them."""

import torch

from rnnlab import cells, engine
from rnnlab.layers import Recurrent

STEPS, BATCH, INPUT, HIDDEN = 7, 3, 5, 4


def ln(x, b, s):
    """Theirs, of a batch of rows."""
    return s * (x - x.mean(1)[:, None]) / torch.sqrt(x.var(1, unbiased=False)[:, None] + 1e-5) + b


@torch.no_grad()
def test_layernorm_lstm_as_the_authors_wrote_it():
    """Theirs stacks i, f, o, c and has the biases apart; its b within the norm of x is left out."""
    torch.manual_seed(0)
    cell = cells.create("layernorm_lstm", input_size=INPUT, hidden_size=HIDDEN).double()
    for parameter in cell.parameters():
        parameter.normal_(std=0.5)
    order = (0, 1, 3, 2)
    W, U, b, s1, s2 = (
        torch.cat([tensor.chunk(4)[k] for k in order]) for tensor in (cell.W, cell.U, cell.b, cell.gain_x, cell.gain_h)
    )
    b1, b2 = torch.randn(2, 4 * HIDDEN, dtype=torch.float64)
    inputs = torch.randn(STEPS, BATCH, INPUT, dtype=torch.float64)
    start = tuple(torch.randn_like(part) for part in cell.initial_state(BATCH))
    (h, c), outputs = start, []
    for x in inputs:
        preact = ln(h @ U.t(), b2, s2) + ln(x @ W.t(), b1, s1) + (b - b1 - b2)
        i, f, o = (part.sigmoid() for part in preact.chunk(4, 1)[:3])
        c = f * c + i * preact.chunk(4, 1)[3].tanh()
        h = o * torch.tanh(ln(c, cell.b_c, cell.gain_c))
        outputs.append(h)
    for backend in engine.backends_of(cell):
        found = Recurrent(cell, backend)(inputs, start)
        torch.testing.assert_close(found, (torch.stack(outputs), (h, c)), rtol=0, atol=1e-12)

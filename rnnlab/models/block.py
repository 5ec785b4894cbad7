"""The block model: encoder, residual blocks around recurrent layers, readout."""

from __future__ import annotations

from torch import nn

from rnnlab.interface import Images, InputError, Tokens, Vectors
from rnnlab.layers import Block, Linear, Stack
from rnnlab.layers.norms import NORMS
from rnnlab.models._stacked import Stacked, encoder_of
from rnnlab.models.base import CellFactory, customised


class BlockModel(Stacked):
    """Residual blocks around recurrent layers: ``y_t = W norm(z_t) + b`` over a stack of `rnnlab.layers.Block`.

    Each block has a norm, an optional short convolution, the cell, an optional gate, and an optional MLP. It reads only
    the past, so the model has no option ``bidirectional``.

    Args:
        input: type of the task's inputs, Tokens or Vectors. Tokens are embedded, vectors are projected to the width.
        output_size: number of features of an output.
        cell: constructor of the cells.
        backend: backend of the recurrent layers.
        hidden_size: width of the blocks, and hidden size of the cells.
        num_layers: number of blocks.
        norm: ``layer`` or ``rms``, before both branches of a block and before the readout.
        convolution: kernel size of a short causal convolution with SiLU before the cell; 0 for none.
        gate: whether the cell's outputs are multiplied by SiLU of a projection of its normalised inputs.
        mlp: ``swiglu`` or ``gelu``.
        expansion: width of the hidden layer of the MLP divided by ``hidden_size``; 0 for no MLP.
        dropout: dropout rate of both branches of a block.
        zero_init: whether each block starts as the identity.
        initial_state: ``zero`` or ``learned``, for the cells.
        readout_bias: whether the readout has a bias.
        input_dropout, recurrent_dropout, output_dropout: dropout rates with one mask per sequence; see
            `rnnlab.layers.VariationalDropout`.
        zoneout: probability that a unit of a cell's state keeps its value, one rate for all states or one for each; see
            `rnnlab.layers.Zoneout`.
        weight_drop: dropout rate of the recurrent weights; see `rnnlab.layers.WeightDrop`.
        recurrent_init, gate_init: initialisation of the recurrent weights, and of the biases of gates that control
            memory; empty: the cell's default. See `rnnlab.layers.initialise`.
        memory_length: maximum time dependency for ``gate_init=chrono``, in steps.

    Raises:
        InputError: an option is not valid.
    """

    def __init__(
        self,
        input: Tokens | Vectors | Images,
        output_size: int,
        cell: CellFactory,
        backend: str = "auto",
        *,
        hidden_size: int = 256,
        num_layers: int = 2,
        norm: str = "rms",
        convolution: int = 4,
        gate: bool = True,
        mlp: str = "swiglu",
        expansion: float = 2.0,
        dropout: float = 0.0,
        zero_init: bool = False,
        initial_state: str = "zero",
        readout_bias: bool = True,
        input_dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        output_dropout: float = 0.0,
        zoneout: list[float] = (0.0,),
        weight_drop: float = 0.0,
        recurrent_init: str = "",
        gate_init: str = "",
        memory_length: int = 100,
    ) -> None:
        super().__init__(input, output_size, cell, backend)
        if hidden_size < 1:
            raise InputError(f"hidden_size={hidden_size} must be at least 1")
        encoder, width = encoder_of(input, "embedding", hidden_size)
        self.encoder = encoder if isinstance(input, Tokens) else Linear(width, hidden_size)
        make = customised(
            cell,
            recurrent_init=recurrent_init,
            gate_init=gate_init,
            memory_length=memory_length,
            weight_drop=weight_drop,
            input_dropout=input_dropout,
            recurrent_dropout=recurrent_dropout,
            output_dropout=output_dropout,
            zoneout=zoneout,
        )
        blocks = [
            Block(
                make(hidden_size, hidden_size),
                backend,
                initial_state=initial_state,
                norm=norm,
                convolution=convolution,
                gate=gate,
                mlp=mlp,
                expansion=expansion,
                dropout=dropout,
                zero_init=zero_init,
            )
            for _ in range(num_layers)
        ]
        self.stack = Stack(blocks)
        self.readout = nn.Sequential(NORMS[norm](hidden_size), Linear(hidden_size, output_size, bias=readout_bias))

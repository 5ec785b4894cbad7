"""The sequence model: encoder, stack of recurrent layers, readout."""

from __future__ import annotations

from rnnlab.interface import Images, Tokens, Vectors
from rnnlab.layers import Linear, Stack
from rnnlab.models._stacked import Stacked, encoder_of
from rnnlab.models.base import CellFactory, customised


class SequenceModel(Stacked):
    """Encoder, stack, readout: ``y_t = W_hy h_t + b_y`` over a stack of recurrent layers.

    ``model=rnn``, ``stacked_rnn``, ``lstm`` and ``gru`` are presets of this class with a depth and a default cell.

    Args:
        input: type of the task's inputs, Tokens or Vectors.
        output_size: number of features of an output.
        cell: constructor of the cells.
        backend: backend of the layers.
        hidden_size: hidden size of each layer.
        num_layers: number of layers.
        encoder: encoding of tokens: ``embedding`` (learned) or ``one_hot``; vectors are not encoded.
        embedding_size: size of the embedding vectors.
        dropout: dropout rate between layers.
        initial_state: ``zero`` or ``learned``.
        readout_bias: whether the readout has a bias.
        input_dropout, recurrent_dropout, output_dropout: dropout rates with one mask per sequence; see
            `rnnlab.layers.VariationalDropout`.
        zoneout: probability that a unit of a state keeps its value, one rate for all states or one for each; see
            `rnnlab.layers.Zoneout`.
        weight_drop: dropout rate of the recurrent weights; see `rnnlab.layers.WeightDrop`.
        norm: normalisation between layers: ``none``, ``layer`` or ``rms``.
        connection: connection around each layer except the lowest: ``none``, ``residual`` or ``highway``.
        bidirectional: ``none``, or the combination of the outputs of both directions: ``concatenate`` or ``sum``. A
            bidirectional model depends on future inputs, so it is not suitable for streams, forecasts or generation.
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
        num_layers: int = 1,
        encoder: str = "embedding",
        embedding_size: int = 64,
        dropout: float = 0.0,
        initial_state: str = "zero",
        readout_bias: bool = True,
        input_dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        output_dropout: float = 0.0,
        zoneout: list[float] = (0.0,),
        weight_drop: float = 0.0,
        norm: str = "none",
        connection: str = "none",
        bidirectional: str = "none",
        recurrent_init: str = "",
        gate_init: str = "",
        memory_length: int = 100,
    ) -> None:
        super().__init__(input, output_size, cell, backend)
        self.encoder, width = encoder_of(input, encoder, embedding_size)

        self.stack = Stack.build(
            customised(
                cell,
                recurrent_init=recurrent_init,
                gate_init=gate_init,
                memory_length=memory_length,
                weight_drop=weight_drop,
                input_dropout=input_dropout,
                recurrent_dropout=recurrent_dropout,
                output_dropout=output_dropout,
                zoneout=zoneout,
            ),
            width,
            hidden_size,
            num_layers,
            dropout=dropout,
            backend=backend,
            initial_state=initial_state,
            bidirectional=bidirectional,
            norm=norm,
            connection=connection,
        )
        self.carries = bidirectional == "none"
        self.readout = Linear(self.stack.output_size, output_size, bias=readout_bias)

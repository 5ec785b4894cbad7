"""The encoder-decoder: read a source, then generate a sequence, with or without attention."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout as drop

from rnnlab.cells.base import check_choice
from rnnlab.interface import Batch, Images, InputError, Tokens, Vectors, places_of
from rnnlab.layers import Linear, Stack
from rnnlab.layers.stack import Bidirectional
from rnnlab.models._attention import Attention
from rnnlab.models._pictures import Pictures
from rnnlab.models.base import CellFactory, Model, customised
from rnnlab.trees import State, map_state, pick_rows, tensors_of


class EncoderDecoder(Model):
    """An encoder reads the source; a decoder generates a sequence, conditioned on what the encoder has read.

    The encoder is a stack of recurrent layers over tokens, vectors or the frames of a video, or a convolutional network
    for a single image. The decoder is a stack of the same cells. Its output h_t attends to the encoder's outputs m_s:

        c_t = Σ_s a_ts m_s,  a_t = softmax_s(score(h_t, m_s))
        h̃_t = tanh(W_c [h_t; c_t])  (Luong, Pham and Manning, 2015, arXiv:1508.04025, eq. 5)
        y_t = W_y h̃_t + b_y

    Without attention, c is the same at every step (Cho et al., 2014, arXiv:1406.1078): the mean of the m_s, as if
    all weights were equal, or a linear map of the whole grid of an image. Without input feeding, the decoder runs
    over all steps at once, and attention takes two matrix products for all steps; with input feeding, the lowest
    layer also reads h̃_{t-1}, step by step.

    Differs from Bahdanau, Cho and Bengio (2015, arXiv:1409.0473): attention uses the new state h_t instead of h_{t-1},
    and the readout is Luong's.

    Args:
        input: type of the decoder's inputs, Tokens or Vectors.
        output_size: number of features of an output.
        cell: constructor of the cells of encoder and decoder.
        backend: backend of the layers.
        source: type of the source.
        hidden_size: hidden size of each layer, in each direction.
        num_layers: number of layers of the encoder and of the decoder.
        embedding_size: size of the embedding vectors of tokens and of the feature vectors of images.
        attention: ``additive`` (Bahdanau), ``dot`` or ``general`` (Luong), or ``none`` for a fixed context; see
            `rnnlab.models._attention.Attention`.
        input_feeding: whether the decoder also reads h̃_{t-1} (Luong et al., 2015, section 3.3).
        bidirectional: directions of the encoder: ``concatenate`` or ``sum`` their outputs, or ``none`` to read forward
            only.
        bridge: how the decoder starts. ``state``: from the final state of the encoder, in the backward direction of a
            bidirectional encoder, as in Bahdanau et al. ``input``: it reads the fixed context before its first input
            (Vinyals et al., 2015, arXiv:1411.4555). ``both``, or ``none``. ``auto``: ``state``, or ``input`` if the
            states of encoder and decoder have different shapes.
        scheduled_sampling: probability that the decoder reads a token drawn from its own distribution instead of the
            target during training (Bengio et al., 2015, arXiv:1506.03099); 0 for teacher forcing. The tokens are drawn
            step by step without gradient; then the decoder is trained on the mixed sequence.
        sampling_steps: number of training steps over which that probability rises linearly from 0.
        channels: number of channels of each convolutional layer, for images.
        dropout: dropout rate of the embeddings, between layers, and before the readout.
        input_dropout, recurrent_dropout, output_dropout: dropout rates with one mask per sequence; see
            `rnnlab.layers.VariationalDropout`.
        zoneout: probability that a unit of a state keeps its value, one rate for all states or one for each.
        weight_drop: dropout rate of the recurrent weights; see `rnnlab.layers.WeightDrop`.
        norm: normalisation between layers: ``none``, ``layer`` or ``rms``.
        connection: connection around each layer of the decoder except the lowest: ``none``, ``residual`` or
            ``highway``.
        recurrent_init, gate_init: initialisation of the recurrent weights, and of the biases of gates that control
            memory; empty: the cell's default. See `rnnlab.layers.initialise`.
        memory_length: maximum time dependency for ``gate_init=chrono``, in steps.

    Raises:
        InputError: an option is not valid, or the task has no source.
    """

    def __init__(
        self,
        input: Tokens | Vectors | Images,
        output_size: int,
        cell: CellFactory,
        backend: str = "auto",
        source: Tokens | Vectors | Images | None = None,
        *,
        hidden_size: int = 256,
        num_layers: int = 1,
        embedding_size: int = 128,
        attention: str = "additive",
        input_feeding: bool = False,
        bidirectional: str = "concatenate",
        bridge: str = "auto",
        scheduled_sampling: float = 0.0,
        sampling_steps: int = 0,
        channels: list[int] = (32, 64, 64),
        dropout: float = 0.0,
        input_dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        output_dropout: float = 0.0,
        zoneout: list[float] = (0.0,),
        weight_drop: float = 0.0,
        norm: str = "none",
        connection: str = "none",
        recurrent_init: str = "",
        gate_init: str = "",
        memory_length: int = 100,
    ) -> None:
        super().__init__(input, output_size, cell, backend, source)
        if source is None:
            raise InputError(
                "model=encoder_decoder needs a task with a source, such as translation; use model=rnn, lstm or gru"
            )
        if isinstance(input, Images):
            raise InputError("the decoder generates tokens or vectors, not images; choose another model")
        if embedding_size < 1:
            raise InputError(f"model.embedding_size={embedding_size} must be at least 1")
        if not 0 <= scheduled_sampling <= 1 or sampling_steps < 0:
            raise InputError(
                f"model.scheduled_sampling={scheduled_sampling} must be a probability, and "
                f"model.sampling_steps={sampling_steps} at least 0"
            )
        if scheduled_sampling and not isinstance(input, Tokens):
            raise InputError("model.scheduled_sampling draws tokens, but the task's inputs are vectors; set it to 0")
        if input_feeding and attention == "none":
            raise InputError("model.input_feeding=true feeds the result of attention; set model.attention")
        if input_feeding and (input_dropout or recurrent_dropout or output_dropout or weight_drop):
            raise InputError(
                "model.input_feeding=true runs the decoder step by step, where a dropout mask for a whole sequence is "
                "not available; set input_dropout, recurrent_dropout, output_dropout and weight_drop to 0"
            )
        check_choice("model.bridge", bridge, ("auto", "state", "input", "both", "none"))
        self.dropout = dropout
        self.scheduled_sampling, self.sampling_steps = scheduled_sampling, sampling_steps
        if scheduled_sampling:
            self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

        configured = customised(
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

        shared = {"dropout": dropout, "backend": backend, "norm": norm}
        self.pictures = Pictures(source.shape, channels, embedding_size) if isinstance(source, Images) else None
        self.read, width = _reader(source, embedding_size)
        self.encoder = None
        if not (isinstance(source, Images) and source.single):
            self.encoder = Stack.build(
                configured, width, hidden_size, num_layers, bidirectional=bidirectional, **shared
            )
        memory_size = self.pictures.channels if self.encoder is None else self.encoder.output_size
        self.write, width = _reader(input, embedding_size)
        decoder_width = width + hidden_size * input_feeding
        self.decoder = Stack.build(configured, decoder_width, hidden_size, num_layers, connection=connection, **shared)
        decoded = self.decoder.output_size
        fixed_size = embedding_size if self.encoder is None else memory_size
        self.attention = Attention(attention, decoded, memory_size) if attention != "none" else None
        context_size = memory_size if self.attention else fixed_size
        self.combine = Linear(decoded + context_size, hidden_size, bias=False)
        self.input_feeding = input_feeding
        self.hidden_size = hidden_size
        self.bridge = self._fitting(bridge)
        self.first_input = nn.Linear(fixed_size, width) if self.bridge in ("input", "both") else None
        self.readout = Linear(hidden_size, output_size)

    def _fitting(self, bridge: str) -> str:
        """Return the bridge for ``auto``, and check that the states fit for ``state`` and ``both``."""
        if bridge in ("input", "none"):
            return bridge
        own, given = self.decoder.initial_state(1), None
        if self.encoder is not None:
            given = self._last(self.encoder.initial_state(1))
        fits = given is not None and [t.shape for t in tensors_of(own)] == [t.shape for t in tensors_of(given)]
        if bridge == "auto":
            return "state" if fits else "input"
        if not fits:
            raise InputError(
                f"model.bridge={bridge} needs an encoder whose final state has the shapes of the decoder's; "
                "use model.bridge=input"
            )
        return bridge

    def _last(self, state: State) -> State:
        """The state of each layer of the encoder that has read the whole source: of the backward direction, if any."""
        is_bidirectional = isinstance(self.encoder.layers[0], Bidirectional)
        return tuple(backward for _, backward in state) if is_bidirectional else state

    def begin(  # noqa: D102
        self, source: Tensor | None = None, source_lengths: Tensor | None = None, batch_size: int = 1
    ) -> State:
        if source is None:
            raise InputError("the encoder-decoder needs a source; pass it to begin")
        memory, fixed, final = self.encode(source, source_lengths)
        present = memory.new_ones(memory.shape[:2], dtype=torch.bool)
        if source_lengths is not None and self.encoder is not None:
            steps = torch.arange(memory.shape[1], device=memory.device)
            present = steps < source_lengths.to(memory.device).unsqueeze(1)
        return self.start(memory, fixed, final, present)

    def encode(self, source: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, Tensor | None, State]:
        """Encode a batch of sources.

        Args:
            source: ``[S, B, ...]``.
            lengths: number of steps of each source, int64 ``[B]``; None if all have S steps.

        Returns:
            the memory ``[B, S, M]``, for a single image the positions of its grid; the fixed context of each image
            ``[B, embedding_size]``, None for other sources; and the final state of the encoder, empty for an image.
        """
        if self.encoder is None:
            return *self.pictures(source[0]), ()
        features = self.read(source) if self.pictures is None else self._frame_features(source, lengths)
        hidden, final = self.encoder(drop(features, self.dropout, self.training), None, lengths)
        return hidden.transpose(0, 1), None, final

    def start(self, memory: Tensor, fixed: Tensor | None, final: State, present: Tensor) -> State:
        """The state before the first step of the decoder.

        Args:
            memory: result of `encode`, ``[B, S, M]``.
            fixed: result of `encode`, ``[B, embedding_size]`` or None.
            final: result of `encode`, the final state of the encoder.
            present: which positions of the memory exist, bool ``[B, S]``.
        """
        if fixed is None:  # the memory is zero after the end of each source
            fixed = memory.sum(1) / present.sum(1, keepdim=True)
        state = self.decoder.initial_state(len(memory))
        if self.bridge in ("state", "both"):
            state = self._last(final)
        fed = (memory.new_zeros(len(memory), self.hidden_size),) if self.input_feeding else ()
        kept = (memory, self.attention.keys(memory), present) if self.attention else (fixed,)
        state = (state, fed, kept)
        if self.first_input is not None:
            _, state = self._decode(self.first_input(fixed).unsqueeze(0), state, None)
        return state

    def _frame_features(self, frames: Tensor, lengths: Tensor | None) -> Tensor:
        """The features ``[S, B, embedding_size]`` of the frames of videos; zero for padding, which is not computed."""
        if lengths is None:
            return self.pictures(frames.flatten(0, 1))[1].unflatten(0, frames.shape[:2])
        places = places_of(lengths, len(frames)).to(frames.device)
        every = frames.flatten(0, 1)
        found = self.pictures(every[places])[1]
        features = found.new_zeros(len(every), found.shape[-1]).index_copy(0, places, found)
        return features.unflatten(0, frames.shape[:2])

    def forward(self, batch: Batch, state: State | None = None) -> tuple[Tensor, State]:  # noqa: D102
        if batch.elapsed is not None or (batch.fresh is not None and batch.fresh.dim() == 2):
            raise InputError(
                "an encoder-decoder takes neither elapsed times nor resets inside a sequence; use model=gru"
            )
        if state is None:
            state = self.begin(batch.source, batch.source_lengths, batch.batch_size)
        inputs = batch.inputs
        if self.training and self.scheduled_sampling:
            inputs = self._mixed(inputs, state)
        return self._decode(self.write(inputs), state, batch.lengths)

    def step(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:  # noqa: D102
        outputs, state = self._decode(self.write(inputs).unsqueeze(0), state, None)
        return outputs[0], state

    def attention_weights(self, batch: Batch) -> Tensor | None:  # noqa: D102
        if self.attention is None:
            return None
        seen: list[Tensor] = []
        handle = self.attention.register_forward_hook(lambda module, args, result: seen.append(result[1]))
        try:
            state = self.begin(batch.source, batch.source_lengths, batch.batch_size)
            seen.clear()
            self._decode(self.write(batch.inputs), state, None)
        finally:
            handle.remove()
        weights = torch.cat(seen)
        return weights if self.encoder is not None else weights.unflatten(-1, self.pictures.grid)

    def _decode(self, inputs: Tensor, state: State, lengths: Tensor | None) -> tuple[Tensor, State]:
        """Run the decoder over ``inputs`` ``[T, B, F]``; returns outputs and the state after them."""
        before, fed, kept = state
        inputs = drop(inputs, self.dropout, self.training)
        if self.input_feeding:
            vectors, before, fed = self._decode_fed(inputs, state, lengths)
        else:
            hidden, before = self.decoder(inputs, before, lengths)
            vectors = self._combined(hidden, kept)
        return self.readout(drop(vectors, self.dropout, self.training)), (before, fed, kept)

    def _decode_fed(self, inputs: Tensor, state: State, lengths: Tensor | None) -> tuple[Tensor, State, State]:
        """Run the decoder step by step, each step with the attentional vector of the previous step."""
        before, (vector,), kept = state
        vectors = []
        for t, one in enumerate(inputs):
            hidden, after = self.decoder(torch.cat([one, vector], -1).unsqueeze(0), before)
            new = self._combined(hidden, kept)[0]
            if lengths is None:
                before, vector = after, new
            else:  # the final state is the state at the end of each sequence
                live = t < lengths.to(new.device)
                before, vector = map_state(lambda a, b: pick_rows(live, a, b), (after, new), (before, vector))  # noqa: B023
            vectors.append(new)
        return torch.stack(vectors), before, (vector,)

    def _combined(self, hidden: Tensor, kept: State) -> Tensor:
        """The vectors h̃ of decoder outputs ``[T, B, H]``."""
        context = self.attention(hidden, *kept)[0] if self.attention else kept[0].expand(len(hidden), -1, -1)
        return self.combine(torch.cat([hidden, context], -1)).tanh()

    @torch.no_grad()
    def _mixed(self, inputs: Tensor, state: State) -> Tensor:
        """Replace inputs by tokens drawn from the model's own distribution, with the current probability."""
        risen = (self.updates.double() / self.sampling_steps).clamp(max=1) if self.sampling_steps else 1.0
        self.updates += 1
        mixed = [inputs[0]]
        for target in inputs[1:]:
            outputs, state = self.step(mixed[-1], state)
            probabilities = outputs.float().softmax(-1)
            # As torch.multinomial, without its checks, which would make the host wait for a GPU at each step.
            drawn = (probabilities / torch.empty_like(probabilities).exponential_()).argmax(-1)
            replaced = torch.rand(drawn.shape, device=drawn.device) < self.scheduled_sampling * risen
            mixed.append(torch.where(replaced, drawn, target))
        return torch.stack(mixed)


def _reader(kind: Tokens | Vectors | Images, embedding_size: int) -> tuple[nn.Module, int]:
    """Return the module that turns sequences into vectors ``[T, B, F]``, and F."""
    if isinstance(kind, Vectors):
        return nn.Identity(), kind.size
    return (nn.Embedding(kind.size, embedding_size) if isinstance(kind, Tokens) else nn.Identity()), embedding_size

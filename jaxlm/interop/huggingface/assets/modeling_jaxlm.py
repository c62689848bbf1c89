"""A language model that jaxlm trained, in PyTorch, for the Auto classes of transformers.

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)

The file stands alone: it needs torch and transformers, and not jaxlm. The models are:

    rnn, gru, lstm    h_t = cell(C(w_t), h_{t-1})          logits_t = b + U h_t
    nplm              x_t = (C(w_{t-n+1}), ..., C(w_t))    logits_t = b + W x_t + U tanh(d + H x_t)

A text begins with the start token (`bos_token`). The state before it is `config.start`: "fresh", as
the model began in training, or "warm", the state after a stretch of the training text. Both are as
in jaxlm, so the scores are the same.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

GATES = {"rnn": 1, "gru": 3, "lstm": 4}
"""Number of gates of each recurrent network."""
SPECIAL_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
STATE = (
    "cache"
    if "cache" in vars(CausalLMOutputWithPast)["__dataclass_fields__"]
    else "past_key_values"
)
"""The name of the state in outputs: transformers renamed it in a version after 5.0."""
STATES = {"rnn": 1, "gru": 1, "lstm": 2}
"""Number of arrays in the state of a layer: h, or h and c."""


class JaxlmConfig(PretrainedConfig):
    """The numbers that define a model.

    vocab_size: V. network: rnn, gru, lstm or nplm. embedding_size: D. layer_sizes: the units of
    each layer; empty for an nplm without a tanh layer. tied: the output matrix is the embedding.
    residual, layer_norm, direct: as in jaxlm. window: the number of words that an nplm reads.
    dropout_input, dropout_between, dropout_output: rates in training. start: the state before a
    text, "fresh" or "warm". has_warm_state: the folder has the state of a warm start. start_id: the
    token that is read where a text has bos_token_id, which is V + 1; pad_token_id is V. fill_id:
    the token before the start of a text, for an nplm. run, run_tokenizer: the description of the
    run, which jaxlm reads back.
    """

    model_type = "jaxlm"

    def __init__(
        self,
        vocab_size: int = 256,
        network: str = "lstm",
        embedding_size: int = 32,
        layer_sizes: Any = (32,),
        tied: bool = False,
        residual: bool = False,
        layer_norm: bool = False,
        layer_norm_epsilon: float = 1e-6,
        direct: bool = False,
        window: int = 1,
        dropout_input: float = 0.0,
        dropout_between: float = 0.0,
        dropout_output: float = 0.0,
        start: str = "fresh",
        has_warm_state: bool = False,
        start_id: int | None = None,
        fill_id: int = 0,
        use_cache: bool = True,
        run: Any = None,
        run_tokenizer: Any = None,
        **others: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.network = network
        self.embedding_size = embedding_size
        self.layer_sizes = list(layer_sizes)
        self.tied = tied
        self.residual = residual
        self.layer_norm = layer_norm
        self.layer_norm_epsilon = layer_norm_epsilon
        self.direct = direct
        self.window = window
        self.dropout_input = dropout_input
        self.dropout_between = dropout_between
        self.dropout_output = dropout_output
        self.start = start
        self.has_warm_state = has_warm_state
        self.start_id = start_id
        self.fill_id = fill_id
        self.use_cache = use_cache
        self.run = run
        self.run_tokenizer = run_tokenizer
        # Names that tools of transformers look for.
        self.hidden_size = self.layer_sizes[-1] if self.layer_sizes else embedding_size
        self.num_hidden_layers = len(self.layer_sizes)
        for name in ("hidden_size", "num_hidden_layers"):
            others.pop(name, None)
        # The model ties its matrix itself.
        others["tie_word_embeddings"] = False
        # transformers warns of ids that are not below vocab_size. These two are not predicted.
        ids = {name: others.pop(name, None) for name in SPECIAL_IDS}
        super().__init__(**others)
        for name, id_ in ids.items():
            setattr(self, name, id_)
        if network not in (*GATES, "nplm"):
            raise ValueError(f"unknown network {network!r}: choose one of {', '.join(GATES)}, nplm")
        if start not in ("fresh", "warm"):
            raise ValueError(f"unknown start {start!r}: choose fresh or warm")


class JaxlmState:
    """The state of a model after it has read a text, for each row of a batch.

    arrays: for a recurrent network one tensor a layer, [1 or 2, B, H]: h, or h and c; for an nplm
    the last n - 1 tokens, [B, n - 1]. seen: number of positions that were read, padding included.
    """

    def __init__(self, arrays: list[torch.Tensor], seen: int = 0) -> None:
        self.arrays, self.seen = arrays, seen

    def get_seq_length(self, *_: Any) -> int:
        """Return the number of positions that were read."""
        return self.seen

    def get_max_cache_shape(self, *_: Any) -> None:
        """Return None: the state has one size, however long the text is."""

    is_compileable = False

    def select(self, rows: torch.Tensor) -> "JaxlmState":
        """Return the state of these rows of the batch."""
        arrays = [
            array.index_select(array.ndim - 2, rows.to(array.device)) for array in self.arrays
        ]
        return JaxlmState(arrays, self.seen)

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Keep these rows of the batch, in this order: the beams that go on."""
        self.arrays = self.select(beam_idx).arrays


class Weights(nn.Module):
    """Parameters by name, without a computation of their own."""

    def __init__(self, **shapes: tuple[int, ...]) -> None:
        super().__init__()
        for name, shape in shapes.items():
            setattr(self, name, nn.Parameter(torch.zeros(shape)))


def layer_shapes(gates: int, inputs: int, size: int, index: int = 0) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the parameters of a recurrent layer, by PyTorch's names.

    Args:
      gates: number of gates of the cell.
      inputs: number of features that the layer reads.
      size: number of units H.
      index: the number at the end of each name.
    """
    width = gates * size
    shapes = {
        "weight_ih": (width, inputs),
        "weight_hh": (width, size),
        "bias_ih": (width,),
        "bias_hh": (width,),
    }
    return {f"{name}_l{index}": shape for name, shape in shapes.items()}


class JaxlmForCausalLM(PreTrainedModel, GenerationMixin):
    """A recurrent language model or an NPLM, with the interface of `AutoModelForCausalLM`."""

    config_class = JaxlmConfig
    base_model_prefix = ""
    # The state cannot go back to an earlier token, so assisted generation is refused.
    _is_stateful = True
    _no_split_modules: list[str] = []  # noqa: RUF012 (the name and type are transformers')

    def __init__(self, config: JaxlmConfig) -> None:
        super().__init__(config)
        V, D, sizes = config.vocab_size, config.embedding_size, config.layer_sizes
        self.vocab_size = V
        recurrent = config.network in GATES
        self.encoder = nn.Embedding(V, D)
        inputs = D if recurrent else config.window * D
        if recurrent:
            gates = GATES[config.network]
            features = sizes[-1]
            shapes = [
                layer_shapes(gates, below, size, index if len(set(sizes)) == 1 else 0)
                for index, (below, size) in enumerate(zip([D, *sizes], sizes, strict=False))
            ]
            if len(set(sizes)) == 1:
                self.rnn = Weights(**{name: shape for one in shapes for name, shape in one.items()})
            else:
                self.rnns = nn.ModuleList(Weights(**one) for one in shapes)
            norms = [D, *sizes]
        else:
            features = sizes[-1] if sizes else 0
            below = [inputs, *sizes]
            self.hidden = nn.ModuleList(
                nn.Linear(wide, size) for wide, size in zip(below, sizes, strict=False)
            )
            norms = list(sizes)
            if config.direct:
                self.direct = nn.Linear(inputs, V, bias=False)
        epsilon = config.layer_norm_epsilon
        if config.layer_norm:
            self.norms = nn.ModuleList(nn.LayerNorm(size, eps=epsilon) for size in norms)
        self.decoder = Weights(bias=(V,), **{"weight": (V, features)} if self.has_decoder else {})
        if config.tied and features != D:
            self.project = nn.Linear(features, D, bias=False)
        for index, shape in enumerate(self.state_shapes() if config.has_warm_state else ()):
            dtype = torch.float32 if recurrent else torch.long
            self.register_buffer(f"warm_{index}", torch.zeros(shape, dtype=dtype))
        self.post_init()

    @property
    def has_decoder(self) -> bool:
        """True if the model has an output matrix U of its own."""
        return not self.config.tied and bool(self.config.layer_sizes)

    def state_shapes(self) -> list[tuple[int, ...]]:
        """Return the shape of each array of the state, without the batch."""
        config = self.config
        if config.network in GATES:
            return [(STATES[config.network], size) for size in config.layer_sizes]
        return [(config.window - 1,)]

    def _init_weights(self, module: nn.Module) -> None:
        """Draw parameters that no file gives from U(-s, s), where s is 1 / √(features)."""
        if not isinstance(module, Weights | nn.Linear | nn.Embedding):
            return
        for parameter in module.parameters(recurse=False):
            if not getattr(parameter, "_is_hf_initialized", False):
                scale = max(1, parameter.shape[-1]) ** -0.5 if parameter.ndim > 1 else 0.0
                with torch.no_grad():
                    parameter.uniform_(-scale, scale)

    def get_input_embeddings(self) -> nn.Module:
        """Return the embedding C."""
        return self.encoder

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the embedding C."""
        self.encoder = value

    def initial_state(self, batch_size: int) -> JaxlmState:
        """Return the state before a text: fresh or warm, as `config.start` says.

        Raises:
          ValueError: for a warm start of a folder without the state.
        """
        config, weight = self.config, self.encoder.weight
        if config.start == "warm" and not config.has_warm_state:
            raise ValueError("this folder has no state for start='warm': choose start='fresh'")
        arrays = []
        for index, shape in enumerate(self.state_shapes()):
            if config.start == "warm":
                array = getattr(self, f"warm_{index}")
            elif config.network in GATES:
                array = torch.zeros(shape)
            else:
                array = torch.full(shape, config.fill_id)
            if config.network in GATES:
                array = array.to(weight).unsqueeze(1).expand(-1, batch_size, -1).contiguous()
            else:
                array = array.to(weight.device).expand(batch_size, -1)
            arrays.append(array)
        return JaxlmState(arrays)

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        past_key_values: JaxlmState | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        logits_to_keep: int = 0,
        **others: Any,
    ) -> Any:
        """Return the logits of the next token at every position, and the state.

        The result has `loss` (if there are labels), `logits` [B, T, V], `past_key_values` (the
        state after the last token; `cache` is its new name) and `hidden_states` (the features of
        the embedding and of each layer, if asked for). Logits at padding have no meaning.

        Args:
          input_ids: token ids [B, T]. `bos_token_id` stands for the start token; another id outside
            of the vocabulary is padding.
          attention_mask: 1 for a token and 0 for padding, [B, T] or longer; the last T columns are
            read. The state does not change at padding, wherever the padding is.
          past_key_values: the state from an earlier call; None for the start of a text.
          labels: token ids [B, T]: the logits at t - 1 predict labels[t]. -100 is not counted.
          use_cache: whether to return the state.
          output_hidden_states: whether to return the features of each layer.
          return_dict: False for a tuple.
          logits_to_keep: number of last positions whose logits are computed; 0 for all.
          others: `cache` is another name of `past_key_values`; `num_items_in_batch` divides the
            summed loss; `pad_logits` adds the logits of the two tokens after the vocabulary, -inf.
            The rest has no effect.
        """
        if input_ids is None:
            raise ValueError("give `input_ids`: the model reads tokens, not `inputs_embeds`")
        config = self.config
        state = past_key_values if past_key_values is not None else others.get("cache")
        batch, time = input_ids.shape
        if state is None:
            state = self.initial_state(batch)
        if config.start_id is not None:
            input_ids = input_ids.masked_fill(input_ids == config.bos_token_id, config.start_id)
        valid = input_ids < self.vocab_size
        if attention_mask is not None:
            valid = valid & attention_mask[:, -time:].to(valid.device).bool()
        order, lengths = None, None
        tokens = input_ids
        if not bool(valid.all()):
            # The tokens of each row go to its front. The features go back to their places below.
            order = torch.argsort((~valid).long(), dim=1, stable=True)
            tokens = input_ids.masked_fill(~valid, 0).gather(1, order)
            lengths = valid.sum(1)
        encode = self._recurrent if config.network in GATES else self._window
        features, arrays, layers = encode(tokens, state.arrays, lengths)
        if order is not None:
            places = torch.argsort(order, dim=1)
            features = [_at(places, array) for array in features]
            layers = [_at(places, array) for array in layers]
        if logits_to_keep:
            features = [array[:, -logits_to_keep:] for array in features]
        logits = self._logits(*features)
        loss = None
        if labels is not None:
            # A token after padding begins a text, and is not predicted.
            labels = labels.masked_fill(~valid.roll(1, 1), -100)
            loss = self._loss(logits, labels, others.get("num_items_in_batch"))
        if others.get("pad_logits"):
            logits = functional.pad(logits, (0, 2), value=float("-inf"))
        keep = config.use_cache if use_cache is None else use_cache
        new_state = JaxlmState(arrays, state.seen + time) if keep else None
        output = CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            hidden_states=tuple(layers) if output_hidden_states else None,
            **{STATE: new_state},
        )
        return output.to_tuple() if return_dict is False else output

    def _recurrent(
        self, tokens: torch.Tensor, arrays: list[torch.Tensor], lengths: torch.Tensor | None
    ) -> tuple[list[torch.Tensor], list[torch.Tensor], list[torch.Tensor]]:
        """Return the features of the output layer, the new state, and the features of each layer.

        Args:
          tokens: [B, T].
          arrays: the state of each layer.
          lengths: number of tokens of each row, [B]; None if it is T.
        """
        config = self.config
        hidden = self._drop(self.encoder(tokens), config.dropout_input)
        new_arrays, layers = [], [hidden]
        for index, (weights, array) in enumerate(zip(self._layers(), arrays, strict=True)):
            if index:
                hidden = self._drop(hidden, config.dropout_between)
            read = self.norms[index](hidden) if config.layer_norm else hidden
            new, array = self._layer(read, array, weights, lengths)
            hidden = hidden + new if config.residual and new.shape == hidden.shape else new
            new_arrays.append(array)
            layers.append(hidden)
        if config.layer_norm:
            hidden = self.norms[-1](hidden)
        return [self._drop(hidden, config.dropout_output)], new_arrays, layers

    def _layers(self) -> list[list[torch.Tensor]]:
        """Return the four parameters of each recurrent layer."""
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        if hasattr(self, "rnns"):
            return [[getattr(layer, f"{name}_l0") for name in names] for layer in self.rnns]
        count = len(self.config.layer_sizes)
        return [[getattr(self.rnn, f"{name}_l{index}") for name in names] for index in range(count)]

    def _layer(
        self,
        read: torch.Tensor,
        array: torch.Tensor,
        weights: list[torch.Tensor],
        lengths: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Run a layer over time, and return its output [B, T, H] and its state."""
        network = self.config.network
        run = {"rnn": torch.rnn_tanh, "gru": torch.gru, "lstm": torch.lstm}[network]

        def start(array: torch.Tensor) -> Any:
            parts = [part.unsqueeze(0).contiguous() for part in array]
            return tuple(parts) if network == "lstm" else parts[0]

        if lengths is None:
            output, *state = run(
                read, start(array), weights, True, 1, 0.0, self.training, False, True
            )
            return output, torch.cat(state)
        # A row without a token is run over one position of padding, and keeps its state.
        packed = pack_padded_sequence(
            read, lengths.clamp(min=1).cpu(), batch_first=True, enforce_sorted=False
        )
        data, *state = run(
            packed.data,
            packed.batch_sizes,
            start(array.index_select(1, packed.sorted_indices)),
            weights,
            True,
            1,
            0.0,
            self.training,
            False,
        )
        output, _ = pad_packed_sequence(
            packed._replace(data=data), batch_first=True, total_length=read.shape[1]
        )
        new = torch.cat(state).index_select(1, packed.unsorted_indices)
        return output, torch.where((lengths > 0)[None, :, None], new, array)

    def _window(
        self, tokens: torch.Tensor, arrays: list[torch.Tensor], lengths: torch.Tensor | None
    ) -> tuple[list[torch.Tensor], list[torch.Tensor], list[torch.Tensor]]:
        """Return what `_recurrent` returns, for an nplm."""
        config = self.config
        (before,) = arrays
        batch, time = tokens.shape
        seen = torch.cat([before.to(tokens), tokens], 1)
        read = torch.full((batch,), time, device=tokens.device) if lengths is None else lengths
        last = read[:, None] + torch.arange(config.window - 1, device=tokens.device)
        words = self._drop(self.encoder(seen), config.dropout_input)
        x = torch.cat([words[:, n : n + time] for n in range(config.window)], dim=-1)
        parts, layers = [], [x]
        hidden = x
        for index, layer in enumerate(self.hidden):
            normed = self.norms[index - 1](hidden) if index and config.layer_norm else hidden
            new = self._drop(torch.tanh(layer(normed)), config.dropout_between)
            hidden = hidden + new if index and config.residual else new
            layers.append(hidden)
        if config.layer_sizes:
            parts.append(self.norms[-1](hidden) if config.layer_norm else hidden)
        if config.direct:
            parts.append(x)
        return parts, [seen.gather(1, last)], layers

    def _logits(self, *features: torch.Tensor) -> torch.Tensor:
        """Return b + U h, and W x if the model has direct connections."""
        weight = self.encoder.weight if self.config.tied else None
        if self.has_decoder:
            weight = self.decoder.weight
        if weight is None:
            return self.direct(features[0]) + self.decoder.bias
        hidden = self.project(features[0]) if hasattr(self, "project") else features[0]
        logits = functional.linear(hidden, weight, self.decoder.bias)
        return logits + self.direct(features[1]) if self.config.direct else logits

    def _loss(
        self, logits: torch.Tensor, labels: torch.Tensor, items: torch.Tensor | int | None
    ) -> torch.Tensor:
        """Return the mean cross-entropy of the labels in nats. Padding is not counted."""
        size = self.vocab_size
        labels = labels.masked_fill(labels >= size, -100)[:, 1:].to(logits.device)
        total = functional.cross_entropy(
            logits[:, :-1].float().reshape(-1, size),
            labels.reshape(-1),
            ignore_index=-100,
            reduction="sum",
        )
        return total / ((labels != -100).sum().clamp(min=1) if items is None else items)

    def _drop(self, array: torch.Tensor, rate: float) -> torch.Tensor:
        return functional.dropout(array, rate, self.training) if rate else array

    # Generation. The names are those of transformers; `cache` and `past_key_values` are the names
    # of the state in its versions.

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        return False

    def prepare_inputs_for_generation(
        self,
        input_ids: torch.Tensor,
        past_key_values: JaxlmState | None = None,
        attention_mask: torch.Tensor | None = None,
        cache: JaxlmState | None = None,
        use_cache: bool | None = None,
        **_: Any,
    ) -> dict[str, Any]:
        """Return the inputs of the next step: the tokens that the state has not read yet.

        Args:
          input_ids: all token ids so far, [B, T].
          past_key_values: the state; None before the first step.
          attention_mask: 1 for a token and 0 for padding, [B, T].
          cache: another name of `past_key_values`.
          use_cache: False to read all tokens again in each step.
        """
        state = cache if past_key_values is None else past_key_values
        if use_cache is False:
            state = None
        if state is not None:
            input_ids = input_ids[:, state.get_seq_length() :]
        if attention_mask is not None and input_ids.shape[1]:
            attention_mask = attention_mask[:, -input_ids.shape[1] :]
        return {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "past_key_values": state,
            "use_cache": use_cache,
            # Processors such as the repetition penalty look up every id of `input_ids`.
            "pad_logits": True,
        }

    def _beam_search(self, *args: Any, **others: Any) -> Any:
        # transformers 4 takes the number of logits from the configuration.
        self.config.vocab_size = self.vocab_size + 2
        try:
            return super()._beam_search(*args, **others)
        finally:
            self.config.vocab_size = self.vocab_size

    @staticmethod
    def _reorder_cache(past_key_values: JaxlmState, beam_idx: torch.Tensor) -> JaxlmState:
        past_key_values.reorder_cache(beam_idx)
        return past_key_values


def _at(places: torch.Tensor, array: torch.Tensor) -> torch.Tensor:
    """Return the positions `places` [B, T] of an array [B, T, F]."""
    return array.gather(1, places[..., None].expand(-1, -1, array.shape[-1]))

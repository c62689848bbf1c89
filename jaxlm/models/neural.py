"""The base class of neural models: a Flax module with the interface of LanguageModel."""

import abc
import contextlib
import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxlm import shapes
from jaxlm.errors import choose
from jaxlm.models.base import Carry, Draw, LanguageModel, Params
from jaxlm.models.generating import generate_tokens, padded
from jaxlm.models.heads import make_head
from jaxlm.models.layers import DTYPES
from jaxlm.ops.cross_entropy import cross_entropy
from jaxlm.ops.dropout import dropout
from jaxlm.ops.machine import (
    default_dtype,
    jit_with,
    precision_of,
    task_options,
    tf32_note,
)
from jaxlm.ops.static import is_zero
from jaxlm.ops.token_details import token_details
from jaxlm.parallel.mesh import Axes, replicate
from jaxlm.ranges import Layers, Positive, Range, Rate, Size, as_tuples

if TYPE_CHECKING:
    from rich.table import Table

# Largest number of logits in one chunk of `token_scores` (32 MiB of float32).
LOGITS_IN_CHUNK = 1 << 23
# Values of the argument `positions`.
POSITIONS = dict.fromkeys(("all", "last"))
FEATURES = "features"
"""The collection in which a model records the features between its layers (`record`)."""
RECORD = "record"
"""The name of what `NeuralModel.record` records in this collection."""
# Axes of the parameters that may be sharded over devices, by the parameter's path.
SHARDED: dict[str, Axes] = {
    "embedding/embedding": ("vocabulary", None),
    "output/kernel": (None, "vocabulary"),
    "output/bias": ("vocabulary",),
}


class NeuralModel(nn.Module, LanguageModel):
    """A Flax module that predicts the next token at every position.

        carry = model.initial_carry(batch_size)
        hidden_BTF, carry = model.apply({"params": params}, tokens_BT, carry)
        logits_BTV = model.apply({"params": params}, hidden_BTF, method="logits")

    A subclass makes `embedding` (by `make_embedding`) and `output` (by `make_head`) in `setup`, and
    computes everything between them in `encode`. A subclass with another output overrides `logits`;
    it may override `loss` too, with a faster or an estimated loss. The fields below are settings of
    every neural model; a subclass adds its own fields, each with its help text below it. Lists in
    fields become tuples.

    Example:
      >>> import jaxlm
      >>> isinstance(jaxlm.LSTM(vocab_size=7), NeuralModel), jaxlm.LSTM(vocab_size=7).softmax
      (True, 'full')
    """

    vocab_size: int
    start_id: int | None = 0
    embedding_size: Size = 200
    """Size of a word's feature vector (a row of C)."""
    tied: bool = False
    """Use the embedding, transposed, as the output matrix (projected if sizes differ)."""
    dropout: Rate = 0.0
    """Dropout before the output."""
    init_scale: Positive | None = None
    """Draw embeddings, weights and biases from U(-s, s) (none: each layer by its own size), but not
    LayerNorm and projections of embeddings."""
    embedding_scale: Positive | None = None
    """Draw the embeddings from N(0, s²) (none: s² = 1 / embedding_size, or init_scale). With 1 a
    recurrent model of few different tokens, such as letters, learns faster from the start."""
    dtype: str | None = None
    """Compute products in float32, tf32 (float32 with a GPU's faster, shorter products), bfloat16
    or auto (as none: bfloat16 on a TPU, float32 elsewhere; a CPU that would train faster in
    bfloat16 gets a note). Parameters and loss are float32 in any case."""
    softmax: str = "full"
    """Output layer: full, adaptive (rare words in small clusters), sampled (in training), mixture
    (of softmaxes)."""
    cutoffs: tuple[Size, ...] = ()
    """adaptive: ids at which a cluster of rarer words begins (none: a fifth, and three fifths)."""
    adaptive_input: bool = False
    """adaptive: rarer words have fewer features at the input too."""
    sampled_words: Annotated[int, Range(1, 1_000_000)] = 1024
    """sampled: number of words that a train step compares the targets with."""
    softmaxes: Layers = 10
    """mixture: number of softmaxes."""

    trained_by = "gradient"
    across_lines = True

    def __post_init__(self) -> None:
        # A module is a static argument of compiled functions, and a list cannot be hashed.
        for name in type(self).__dataclass_fields__:
            value = getattr(self, name, None)
            if isinstance(value, list | tuple):
                object.__setattr__(self, name, as_tuples(value))
        super().__post_init__()

    @property
    def compute_dtype(self) -> str:
        """The dtype of products: the setting `dtype`, or else the platform's default."""
        return default_dtype() if self.dtype is None or self.dtype == "auto" else self.dtype

    @property
    def array_dtype(self) -> Any:
        """The dtype of the arrays that are multiplied."""
        return DTYPES[self.compute_dtype]

    @property
    def precision(self) -> contextlib.AbstractContextManager[Any]:
        """A context in which products of float32 arrays have the precision that `dtype` names.

        `__call__`, `logits`, `nll` and `objective` enter it themselves.
        """
        return precision_of(self.compute_dtype)

    @nn.nowrap
    def settings(self) -> dict[str, Any]:
        # The platform's default dtype is written out, so that a run has the same dtype on every
        # platform.
        return LanguageModel.settings(self) | {"dtype": self.compute_dtype}

    @abc.abstractmethod
    def encode(
        self,
        tokens_BT: jax.Array,
        carry: Carry,
        last: bool,
        deterministic: bool,
        length: jax.Array | None,
    ) -> tuple[jax.Array, Carry]:
        """Return the features that predict the next token, before `output_dropout`, and the carry.

        Args:
          tokens_BT: int32 [B, T].
          carry: from `initial_carry` or an earlier call.
          last: whether to return the features of the last position alone.
          deterministic: whether dropout is off.
          length: int32 scalar, number of the T tokens that are read; None for all.
        Returns:
          The features, [B, T or 1, F], and the carry after the last token that is read.
        """

    def record(self, **arrays_BTF: jax.Array) -> None:
        """Record features between layers, [B, T, F] each, by name, for `jaxlm.inspection.trace`.

        `encode` may call this method. It does nothing unless the collection "features" is mutable.
        The method puts the arrays under one name of the collection, so that they may have the
        names of layers.
        """
        self.sow(FEATURES, RECORD, arrays_BTF)

    def output_dropout(self, hidden_BTF: jax.Array, deterministic: bool) -> jax.Array:
        """Return the features after dropout, as the output layer reads them.

        The rate is the setting `dropout`. A subclass overrides this method for another dropout.
        """
        if deterministic or is_zero(self.dropout):
            return hidden_BTF
        return dropout(self.make_rng("dropout"), hidden_BTF, self.dropout)

    def penalty(
        self, hidden_BTF: jax.Array, dropped_BTF: jax.Array, shares_BT: jax.Array
    ) -> jax.Array | float:
        """Return the penalty that training adds to the loss, a float32 scalar.

        hidden_BTF and dropped_BTF are the features before and after `output_dropout`. shares_BT is
        the weight of each position in the loss, which is a weighted mean over positions.
        """
        return 0.0

    def logits(self, hidden_BTF: jax.Array) -> jax.Array:
        """Return the logits of the next token, [B, T, V].

        They have the compute dtype. The output layers adaptive and mixture return log-probabilities
        in float32 instead.
        """
        with self.precision:
            return self.output(hidden_BTF, self.embedding.embedding)

    def loss(
        self,
        hidden_BTF: jax.Array,
        targets_BT: jax.Array,
        weights_BT: jax.Array,
        deterministic: bool,
    ) -> tuple[jax.Array, jax.Array]:
        """Return Σ weight · nll of the targets, a float32 scalar, and each nll, [B, T], in nats.

        This is `logits` and a cross-entropy in one; only the sum has a gradient. In training
        (`deterministic` False) both may be estimates, and `notes` says so. In a subclass that
        overrides `logits`, the loss is exact.

        Args:
          hidden_BTF: features after `output_dropout`.
          targets_BT: int32, the token to predict at each position.
          weights_BT: float32, the weight of each position in the sum.
          deterministic: whether the loss must be exact.
        """
        if self.overrides_logits:
            nll_BT = cross_entropy(self.logits(hidden_BTF), targets_BT)
            return jnp.sum(weights_BT * nll_BT), nll_BT
        table = self.embedding.embedding
        return self.output.loss(hidden_BTF, table, targets_BT, weights_BT, deterministic)

    @property
    def overrides_logits(self) -> bool:
        """True if the class has a method `logits` of its own, which may not use `output`."""
        return type(self).logits is not NeuralModel.logits

    @property
    def measured(self) -> tuple[str, ...]:
        """Names of the scalars that the layers record in a train step, for metrics.jsonl.

        A layer records them in the collection `layers.MEASURED`. The log has the largest value of
        all layers.
        """
        return ()

    @property
    def widest(self) -> int:
        """The largest number of elements that a layer computes for a token; logits do not count."""
        return self.embedding_size

    @abc.abstractmethod
    def layers(self) -> dict[str, str]:
        """Return a text that describes each layer, by the prefix of its parameters' paths."""

    @nn.nowrap
    def axes(self) -> dict[str, Axes]:
        """Return the axes of the parameters that may be sharded over devices, by path.

        `jaxlm.parallel.mesh.RULES` maps axes to mesh axes. Every other parameter is replicated.
        """
        return SHARDED if make_head(self, parent=None).shards_vocabulary else {}

    @nn.nowrap
    def notes(self) -> list[str]:
        """Return notes to print before training, such as fallbacks and estimated losses."""
        head_note = "" if self.overrides_logits else make_head(self, parent=None).note()
        notes = [head_note, tf32_note(self.compute_dtype)]
        return [note for note in notes if note]

    def sweep_notes(self) -> list[str]:
        """Return further notes to print before several runs train in parallel (`jax.vmap`)."""
        return []

    def __call__(
        self,
        tokens_BT: jax.Array,
        carry: Carry = None,
        *,
        positions: str = "all",
        deterministic: bool = True,
        length: jax.Array | None = None,
    ) -> tuple[jax.Array, Carry]:
        """Return the features that predict the next token at every position, and the carry.

        Args:
          tokens_BT: int32 [B, T].
          carry: from `initial_carry` (the default) or an earlier call.
          positions: "all", or "last" for the features of the last position alone, which cost less.
          deterministic: False draws dropout from rngs={"dropout": key}.
          length: int32 scalar, number of the T tokens that are read; None for all. The carry is the
            carry after these tokens. The features at the other positions have no meaning.
        Returns:
          The features, [B, T or 1, F] in the compute dtype, and the carry.
        Raises:
          AssertionError: for a wrong shape.
          UserError: for another value of `positions`.
        """
        with self.precision:
            hidden_BTF, carry = self._checked(tokens_BT, carry, positions, deterministic, length)
            return self.output_dropout(hidden_BTF, deterministic), carry

    def _checked(
        self,
        tokens_BT: jax.Array,
        carry: Carry,
        positions: str,
        deterministic: bool,
        length: jax.Array | None,
    ) -> tuple[jax.Array, Carry]:
        """Return the features before `output_dropout` and the carry, after a check of shapes."""
        choose(POSITIONS, positions, "positions")
        shapes.check(tokens_BT, "BT")
        batch, time = tokens_BT.shape
        carry = self.initial_carry(batch) if carry is None else carry
        last = positions == "last"
        hidden_BTF, carry = self.encode(tokens_BT, carry, last, deterministic, length)
        shapes.check(hidden_BTF, "BTF", B=batch, T=1 if last else time)
        if self.is_initializing():
            shapes.check(self.logits(hidden_BTF), "BTV", V=self.vocab_size)
        return hidden_BTF, carry

    def nll(
        self,
        tokens_BT: jax.Array,
        targets_BT: jax.Array,
        carry: Carry = None,
        *,
        positions: str = "all",
        deterministic: bool = True,
    ) -> tuple[jax.Array, Carry]:
        """Return the negative log-likelihood of each target, and the carry.

        This is `__call__`, `logits` and the cross-entropy in one.

        Args:
          tokens_BT: int32 [B, T].
          targets_BT: int32 [B, T], or [B, 1] for the last position alone.
          carry: from `initial_carry` (the default) or an earlier call.
          positions: "all" or "last".
          deterministic: False draws dropout from rngs={"dropout": key}.
        Returns:
          nll in nats, float32 [B, T or 1], and the carry.
        """
        with self.precision:
            hidden_BTF, carry = self(
                tokens_BT, carry, positions=positions, deterministic=deterministic
            )
            shapes.check(targets_BT, "BT", B=hidden_BTF.shape[0], T=hidden_BTF.shape[1])
            return cross_entropy(self.logits(hidden_BTF), targets_BT), carry

    def objective(
        self,
        tokens_BT: jax.Array,
        targets_BT: jax.Array,
        weights_BT: jax.Array,
        carry: Carry = None,
        *,
        positions: str = "all",
        deterministic: bool = True,
        length: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array, Carry]:
        """Return the training objective, Σ weight · nll; the nll of each target; and the carry.

        The values equal the values of `nll`. `loss` computes them without storing all logits. In
        training (`deterministic` False) `penalty` is added to the sum, and `loss` may be an
        estimate.

        Args:
          tokens_BT: int32 [B, T].
          targets_BT: int32 [B, T], or [B, 1] for the last position alone.
          weights_BT: float32, the weight of each target in the sum.
          carry: from `initial_carry` (the default) or an earlier call.
          positions: "all" or "last".
          deterministic: False draws dropout from rngs={"dropout": key}, and the words of a sampled
            softmax from rngs={"sampling": key}.
          length: int32 scalar, number of the T tokens that are read; None for all.
        Returns:
          The weighted sum, a float32 scalar; the nll, float32 [B, T or 1], in nats; and the carry.
        """
        with self.precision:
            hidden_BTF, carry = self._checked(tokens_BT, carry, positions, deterministic, length)
            for array in (targets_BT, weights_BT):
                shapes.check(array, "BT", B=hidden_BTF.shape[0], T=hidden_BTF.shape[1])
            dropped_BTF = self.output_dropout(hidden_BTF, deterministic)
            total, nll_BT = self.loss(dropped_BTF, targets_BT, weights_BT, deterministic)
            if not deterministic:
                total = total + self.penalty(hidden_BTF, dropped_BTF, weights_BT)
            return total, nll_BT, carry

    # The methods of LanguageModel. They call compiled functions of the module and its parameters.
    # Without `nn.nowrap`, Flax would expect to call them inside `apply`.

    @nn.nowrap
    def tokens_in_chunk(self, detail: bool) -> int:
        return LOGITS_IN_CHUNK // max(self.vocab_size, self.widest)

    @nn.nowrap
    def token_scores(
        self, params: Params, inputs_BT: Any, targets_BT: Any, carry: Carry, detail: bool = False
    ) -> tuple[tuple[Any, ...], Carry]:
        scores = _compiled_scores(self.compute_dtype)
        return scores(params, inputs_BT, targets_BT, carry, self, detail)

    @nn.nowrap
    def next_log_probs(
        self, params: Params, tokens_BT: Any, carry: Carry = None
    ) -> tuple[Any, Carry]:
        return _next_log_probs(params, *padded(tokens_BT), carry, self)

    @nn.nowrap
    def generate(
        self,
        params: Params,
        prompt_BT: Any,
        key: jax.Array,
        draw: Draw,
        length: int,
        carry: Carry = None,
    ) -> Any:
        return generate_tokens(self, params, prompt_BT, key, draw, length, carry)

    @nn.nowrap
    def last_logits(
        self, params: Params, tokens_BT: jax.Array, length: jax.Array | None, carry: Carry
    ) -> tuple[jax.Array, Carry]:
        """Return the logits after the last token that is read; see `Generator.last_logits`."""
        variables = {"params": params}
        if length is None:
            hidden_B1F, carry = self.apply(variables, tokens_BT, carry, positions="last")
        else:
            hidden_BTF, carry = self.apply(variables, tokens_BT, carry, length=length)
            hidden_B1F = jax.lax.dynamic_slice_in_dim(hidden_BTF, length - 1, 1, axis=1)
        logits_B1V: Any = self.apply(variables, hidden_B1F, method="logits")
        return logits_B1V[:, -1].astype(jnp.float32), carry

    @nn.nowrap
    def draw_token(
        self, params: Params, logits_BV: jax.Array, uniform_2B: jax.Array, draw: Draw
    ) -> jax.Array:
        """Return a token for each row, drawn from the logits; see `Generator.draw_token`."""
        return draw(logits_BV, uniform_2B)

    @nn.nowrap
    def summary(self) -> "Table":
        from jaxlm.models.summary import parameter_table

        return parameter_table(type(self).__name__, param_shapes(self), self.layers())


@functools.lru_cache(maxsize=8)
def param_shapes(model: nn.Module) -> Any:
    """Return the shape and dtype of each parameter, a tree of jax.ShapeDtypeStruct.

    No parameter is computed, but the model is traced, which takes some hundredths of a second. So
    the shapes of the last models are kept.

    Raises:
      SettingError: for settings with which the model cannot be built.

    Example:
      >>> import jaxlm
      >>> shapes = param_shapes(jaxlm.RNN(7, embedding_size=3, hidden_size=2))
      >>> shapes["embedding"]["embedding"].shape
      (7, 3)
    """
    tokens_BT = np.zeros((1, 2), np.int32)
    # `model.init` may return other collections too.
    traced = jax.eval_shape(model.init, jax.random.key(0), tokens_BT)["params"]
    # Without the sharding of a mesh that is active now.
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), traced)


def with_fused_loop(model: Any, *instead_of: str) -> Any:
    """Return the model with the fused time loop if its time loop is one of `instead_of`.

    The fused loop has the same values and the same parameters. Under `jax.vmap`, cuDNN's LSTM has
    no rule in JAX, and Newton's method computes every fall-back, needed or not.
    """
    name = getattr(model, "time_loop", "")
    return model.clone(time_loop="fused") if name in instead_of else model


def tree_bytes(shapes: Any) -> int:
    """Return the bytes of all arrays of a tree, or of a tree of their shapes.

    Example:
      >>> import jaxlm
      >>> tree_bytes(param_shapes(jaxlm.RNN(7, embedding_size=3, hidden_size=2))["embedding"])
      84
    """
    # Python's integers: the product of absurd sizes is larger than an int64.
    leaves = jax.tree.leaves(shapes)
    return sum(math.prod(leaf.shape) * jnp.dtype(leaf.dtype).itemsize for leaf in leaves)


@functools.cache
def _compiled_scores(dtype: str) -> Callable[..., Any]:
    """Return `_token_scores`, compiled for products in `dtype`."""
    options = functools.partial(task_options, "evaluation", dtype)
    return jit_with(options, _token_scores, static_argnames=("model", "detail"))


def _token_scores(
    params: Params,
    inputs_BT: jax.Array,
    targets_BT: jax.Array,
    carry: Carry,
    model: NeuralModel,
    detail: bool,
) -> tuple[tuple[jax.Array, ...], Carry]:
    if not detail:
        weights_BT = jnp.ones(targets_BT.shape, jnp.float32)
        result: Any = model.apply(
            {"params": params}, inputs_BT, targets_BT, weights_BT, carry, method="objective"
        )
        _, nll_BT, carry = result
        return replicate(((-nll_BT,), carry))
    hidden_BTF, carry = model.apply({"params": params}, inputs_BT, carry)
    logits_BTV: Any = model.apply({"params": params}, hidden_BTF, method="logits")
    scores = token_details(logits_BTV.astype(jnp.float32), targets_BT)
    return replicate((scores, carry))


@functools.partial(jax.jit, static_argnames="model")
def _next_log_probs(
    params: Params,
    tokens_BT: jax.Array,
    length: jax.Array | None,
    carry: Carry,
    model: NeuralModel,
) -> tuple[jax.Array, Carry]:
    logits_BV, carry = model.last_logits(params, tokens_BT, length, carry)
    return jax.nn.log_softmax(logits_BV), carry

"""JAX's side of the benchmark: jaxlm, linen's cells with optax's cross-entropy, and the limits.

jaxlm runs the functions of a training run: the train step with clipping, metrics and carry, the
scorer's function, and the sampler's function.
"""

import contextlib
import functools
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from shapes import STREAMS, WORDS
from wire import Work, serve

from jaxlm.commands.process import keep_freed_memory
from jaxlm.data.batching import Block
from jaxlm.models import MODELS, make_model
from jaxlm.ops.cpus import Constants
from jaxlm.ops.machine import using_constants
from jaxlm.ops.sampling import Sampler
from jaxlm.training.optimizers import Horizon, OptimizerConfig, make_optimizer
from jaxlm.training.state import init_params, init_state
from jaxlm.training.step import make_train_block

CAPACITY = 64


def batch_of(shape: dict[str, Any], steps: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Return random inputs [steps, B, T or N] and targets [steps, B, T]."""
    random = np.random.default_rng(0)
    inputs = steps, shape["batch"], shape["n_step"] or shape["time"]
    targets = steps, shape["batch"], shape["time"]
    draw = functools.partial(random.integers, 0, shape["vocab_size"], dtype=np.int32)
    return draw(size=inputs), draw(size=targets)


def prepare_jaxlm(request: dict[str, Any]) -> Work:
    """Return jaxlm's work for a shape, a task and a dtype."""
    shape, task = request["shape"], request["task"]
    # PyTorch may use TF32 on a GPU, so jaxlm may too. On a CPU tf32 is float32.
    dtype = {"float32": "tf32"}.get(request["dtype"], request["dtype"])
    settings = {"dtype": dtype, **request.get("options", {})}
    settings |= {name: shape[name] for name in MODELS[shape["model"]].settings if name in shape}
    model = make_model(shape["model"], settings, shape["vocab_size"])
    positions = "last" if shape["n_step"] else "all"
    key = jax.random.key(0)
    if task == "step":
        optimizer = make_optimizer(OptimizerConfig(lr=1e-3, clip=5.0), Horizon(1000, 1000))
        inputs, targets = batch_of(shape, CAPACITY)
        counted = np.full(CAPACITY, targets[0].size, np.float32)
        ones = np.ones(targets.shape, np.float32)
        reset_KB = np.zeros((CAPACITY, shape["batch"]), bool)
        lengths_and_rates = (
            np.full(CAPACITY, inputs.shape[-1], np.int32),
            np.ones(CAPACITY, np.float32),
        )
        block = Block(inputs, targets, ones, counted, reset_KB, *lengths_and_rates)
        train_block = make_train_block(model, optimizer, key, positions)
        held = [init_state(model, optimizer, key, shape["batch"])]

        def step(count: int) -> None:
            while count > 0:
                held[0], metrics = train_block(held[0], block, min(count, CAPACITY))
                count -= CAPACITY
            float(metrics.nll_K[0])

        return step
    params = init_params(model, key)
    if task == "evaluation":
        return _evaluation(model, params, shape, positions)
    prompt_BT = np.zeros((STREAMS, shape["n_step"] or 1), np.int32)
    sampler = Sampler(1.0, None, None)

    def generation(count: int) -> None:
        for _ in range(count):
            np.asarray(model.generate(params, prompt_BT, key, sampler, WORDS))

    return generation


def _evaluation(model: Any, params: Any, shape: dict[str, Any], positions: str) -> Work:
    inputs, targets = (array[0] for array in batch_of(shape))
    if positions == "last":
        # Training reads separate windows. The scorer reads a stream, with a window per position.
        inputs = targets
    carry = model.initial_carry(len(inputs))

    def evaluation(count: int) -> None:
        nonlocal carry
        for _ in range(count):
            (log_probs_BT,), carry = model.token_scores(params, inputs, targets, carry)
        np.asarray(log_probs_BT)

    return evaluation


class LinenRecurrent(nn.Module):
    """A recurrent model in plain Flax: nn.RNN over OptimizedLSTMCell, GRUCell or SimpleCell."""

    shape: Any

    @nn.compact
    def __call__(self, tokens_BT, carry):
        shape, size = self.shape, self.shape["hidden_size"]
        kinds = {"rnn": nn.SimpleCell, "gru": nn.GRUCell, "lstm": nn.OptimizedLSTMCell}
        x_BTD = nn.Embed(shape["vocab_size"], shape["embedding_size"])(tokens_BT)
        after = []
        for index in range(shape["num_layers"]):
            layer = nn.RNN(kinds[shape["model"]](size), return_carry=True)
            last, x_BTD = layer(x_BTD, initial_carry=carry[index])
            after.append(last)
        return nn.Dense(shape["vocab_size"])(x_BTD), tuple(after)

    @nn.nowrap
    def initial_carry(self):
        zeros = jnp.zeros((self.shape["batch"], self.shape["hidden_size"]))
        layer = (zeros, zeros) if self.shape["model"] == "lstm" else zeros
        return (layer,) * self.shape["num_layers"]


class LinenNPLM(nn.Module):
    """An NPLM in plain Flax: Embed, Dense, tanh, Dense."""

    shape: Any

    @nn.compact
    def __call__(self, tokens_BN, carry):
        x = nn.Embed(self.shape["vocab_size"], self.shape["embedding_size"])(tokens_BN)
        hidden = nn.tanh(nn.Dense(self.shape["hidden_size"])(x.reshape(len(x), -1)))
        return nn.Dense(self.shape["vocab_size"])(hidden)[:, None], carry

    @nn.nowrap
    def initial_carry(self):
        return ()


def prepare_linen(request: dict[str, Any]) -> Work:
    """Return the train step of a shape, written as in Flax's examples."""
    shape = flax.core.freeze(request["shape"])
    # Only the float32 train step is compared with linen's cells.
    assert (request["task"], request["dtype"]) == ("step", "float32"), request
    model = LinenNPLM(shape) if shape["n_step"] else LinenRecurrent(shape)
    optimizer = optax.chain(optax.clip_by_global_norm(5.0), optax.adam(1e-3))
    inputs, targets = (array[0] for array in batch_of(request["shape"]))
    carry = model.initial_carry()
    params = jax.jit(model.init)(jax.random.key(0), inputs, carry)

    @functools.partial(jax.jit, donate_argnums=(0, 1, 2))
    def train_step(params, opt_state, carry):
        def loss(params):
            logits, after = model.apply(params, inputs, carry)
            nll = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
            return nll.mean(), after

        (value, after), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        updates, opt_state_after = optimizer.update(gradient, opt_state)
        return (optax.apply_updates(params, updates), opt_state_after, after), value

    copied = jax.tree.map(lambda array: jnp.array(array, copy=True), carry)
    held = [(params, jax.jit(optimizer.init)(params), copied)]

    def step(count: int) -> None:
        for _ in range(count):
            held[0], value = train_step(*held[0])
        float(value)

    return step


def prepare_limit(request: dict[str, Any]) -> Work:
    """Return the work that measures a limit: a matrix product, or an update of memory in place."""
    size = request["size"]
    if request["what"] == "product":
        a = jnp.ones((size, size), request["dtype"])
        multiply = jax.jit(lambda a, b: jnp.matmul(a, b, preferred_element_type=jnp.float32))

        def product(count: int) -> None:
            for _ in range(count):
                multiply(a, a).block_until_ready()

        return product
    held = [jnp.ones((size,), jnp.float32)]
    scale = jax.jit(lambda x: x * 0.999 + 1e-3, donate_argnums=0)

    def memory(count: int) -> None:
        for _ in range(count):
            held[0] = scale(held[0])
        held[0].block_until_ready()

    return memory


# Contexts that last until the process ends.
CONTEXTS = contextlib.ExitStack()
PREPARE = {"jaxlm": prepare_jaxlm, "linen": prepare_linen, "limit": prepare_limit}


def prepare(request: dict[str, Any]) -> Work:
    """Return the work for the program that the request names.

    With "constants", the fields of `Constants` that differ from their defaults, all programs of
    this process are compiled with these constants.
    """
    if "constants" in request:
        constants = using_constants(Constants(**request["constants"]))
        CONTEXTS.enter_context(constants)
    return PREPARE[request["who"]](request)


if __name__ == "__main__":
    # As `python -m jaxlm.train` does.
    keep_freed_memory()
    device = jax.devices()[0]
    about = {"jax": jax.__version__, "flax": flax.__version__, "device": device.device_kind}
    serve(prepare, about)

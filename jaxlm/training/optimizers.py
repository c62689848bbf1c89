"""Optimizers, learning-rate schedules and clipping, built with optax from an OptimizerConfig."""

import fnmatch
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Annotated, Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax

from jaxlm.errors import SettingError, choose
from jaxlm.ops.static import is_zero
from jaxlm.ranges import NotNegative, Positive, Range, Rate, Size, check_settings


@dataclass(frozen=True)
class OptimizerConfig:
    """Settings of the optimizer, its learning rate, and the average of the parameters."""

    optimizer: str = "adam"
    """adam, adamw, sgd, momentum, rmsprop, adagrad, nadam or lion."""
    lr: Positive = 1e-3
    """Highest learning rate."""
    schedule: str = "constant"
    """constant, cosine (to 0 at the end), step-decay (by epoch), plateau (by validation)."""
    warmup_steps: Annotated[int, Range(0)] = 0
    """Steps over which the rate rises linearly from zero, before the schedule."""
    decay: Annotated[float, Range(above=0, most=1)] = 0.5
    """step-decay, plateau: factor by which the rate decays."""
    full_epochs: Annotated[int, Range(0)] = 4
    """step-decay: epochs at the full rate; from then on it decays before every epoch."""
    plateau_patience: Size = 1
    """plateau: validations without improvement before the rate decays."""
    clip: Positive | None = None
    """Scale the gradient down to this global norm if it is longer (none: no clipping)."""
    weight_decay: NotNegative = 0.0
    """Pull matrices, but not vectors such as biases, towards zero (adamw, lion: decoupled; the
    others: L2)."""
    beta1: Rate = 0.9
    """adam, adamw, nadam, lion, momentum: decay of the mean gradient."""
    beta2: Rate = 0.999
    """adam, adamw, nadam, lion, rmsprop: decay of the mean squared gradient."""
    epsilon: Positive = 1e-8
    """adam, adamw, nadam, rmsprop, adagrad: added to the denominator."""
    average: str = "none"
    """Keep an average of the parameters: ema, or triggered (NT-ASGD: once validation stalls)."""
    ema_decay: Annotated[float, Range(above=0, below=1)] = 0.999
    """ema: share of the average that a step keeps."""
    trigger_after: Size = 5
    """triggered: start when a validation is worse than the best of all but the last n ones."""
    freeze: str | None = None
    """Do not train the parameters whose path matches this pattern, such as embedding* (none: train
    all)."""


@dataclass(frozen=True)
class Horizon:
    """The length of training, which some schedules need.

    steps_per_epoch: train steps in one epoch, or fewer within a time budget
    (`jaxlm.training.budget.horizon_of`). total_steps: train steps of the whole run. most_warmup:
    the largest number of warm-up steps; None for as many as the settings ask for.
    """

    steps_per_epoch: int
    total_steps: int
    most_warmup: int | None = None


Transform: TypeAlias = optax.GradientTransformation


def scale_by_root_of_sum(epsilon: float) -> Transform:
    """Return the transformation of Adagrad, without the learning rate.

        s ← s + g²      g ← g / (√s + epsilon)          elementwise, s = 0 at the start

    `optax.scale_by_rss` adds epsilon to s, inside the root. The state has the same structure.

    Source: Duchi, Hazan & Singer, "Adaptive subgradient methods", 2011; epsilon as in PyTorch.
    """

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        sums = jax.tree.map(lambda s, g: s + g * g, state.sum_of_squares, updates)
        scaled = jax.tree.map(lambda g, s: g / (jnp.sqrt(s) + epsilon), updates, sums)
        return scaled, optax.ScaleByRssState(sum_of_squares=sums)

    return optax.GradientTransformation(optax.scale_by_rss(0.0).init, update)


OPTIMIZERS: dict[str, Callable[[OptimizerConfig], Transform]] = {
    "adam": lambda c: optax.scale_by_adam(c.beta1, c.beta2, c.epsilon),
    "adamw": lambda c: optax.scale_by_adam(c.beta1, c.beta2, c.epsilon),
    "sgd": lambda c: optax.identity(),
    "momentum": lambda c: optax.trace(c.beta1),
    "rmsprop": lambda c: optax.scale_by_rms(c.beta2, c.epsilon, eps_in_sqrt=False),
    "adagrad": lambda c: scale_by_root_of_sum(c.epsilon),
    "nadam": lambda c: optax.scale_by_adam(c.beta1, c.beta2, c.epsilon, nesterov=True),
    "lion": lambda c: optax.scale_by_lion(c.beta1, c.beta2),
}
"""Optimizers by name, without learning rate, clipping and weight decay."""
DECOUPLED_DECAY = ("adamw", "lion")
CUSTOM = "custom"
"""The name in config.json of an optimizer or a schedule that the user's own code made."""

Schedule = Callable[[jax.Array], jax.Array]


class CustomParts(NamedTuple):
    """The user's own optimizer and schedule, in the place of the named ones; None to use the names.

    optimizer: an optax GradientTransformation that includes the learning rate. schedule: the
    learning rate as a function of the step, which includes the warm-up.
    """

    optimizer: Transform | None = None
    schedule: Schedule | None = None


def _constant(config: OptimizerConfig, horizon: Horizon) -> Schedule:
    return optax.constant_schedule(config.lr)


def _cosine(config: OptimizerConfig, horizon: Horizon) -> Schedule:
    return optax.cosine_decay_schedule(config.lr, max(1, horizon.total_steps - config.warmup_steps))


def _step_decay(config: OptimizerConfig, horizon: Horizon) -> Schedule:
    def rate(step: jax.Array) -> jax.Array:
        # `step` counts from the end of the warm-up; epochs count from the start of training.
        epoch = (step + config.warmup_steps) // horizon.steps_per_epoch
        decays = jnp.maximum(0, epoch + 1 - config.full_epochs)
        return config.lr * jnp.power(config.decay, decays.astype(jnp.float32))

    return rate


BELONGS: dict[str, tuple[str, tuple[str, ...]]] = {
    "decay": ("schedule", ("step-decay", "plateau")),
    "full_epochs": ("schedule", ("step-decay",)),
    "plateau_patience": ("schedule", ("plateau",)),
    "beta1": ("optimizer", ("adam", "adamw", "nadam", "lion", "momentum")),
    "beta2": ("optimizer", ("adam", "adamw", "nadam", "lion", "rmsprop")),
    "epsilon": ("optimizer", ("adam", "adamw", "nadam", "rmsprop", "adagrad")),
    "ema_decay": ("average", ("ema",)),
    "trigger_after": ("average", ("triggered",)),
}
"""Settings that have an effect with some values of another setting: its name, and these values."""

SCHEDULES: dict[str, Callable[[OptimizerConfig, Horizon], Schedule]] = {
    "constant": _constant,
    "cosine": _cosine,
    "step-decay": _step_decay,
    # The training loop, which sees the validation loss, decays the rate.
    "plateau": _constant,
}


CHOICES: dict[str, Collection[str]] = {
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "average": ("none", "ema", "triggered"),
}
"""The values of the settings that BELONGS names."""


def make_schedule(
    config: OptimizerConfig, horizon: Horizon, custom: CustomParts | None = None
) -> Schedule:
    """Return the learning rate as a function of the step.

    The decay of the schedule "plateau" is not part of the function; `TrainState.lr_scale` has it.

    Raises:
      UserError: for an unknown name.
    """
    if custom is not None and custom.schedule is not None:
        return custom.schedule
    if config.schedule == CUSTOM:
        why = "is a function of your own: pass it to fit again as schedule="
        raise SettingError("schedule", CUSTOM, why)
    if horizon.most_warmup is not None and config.warmup_steps > horizon.most_warmup:
        config = replace(config, warmup_steps=horizon.most_warmup)
    schedule = choose(SCHEDULES, config.schedule, "schedule")(config, horizon)
    if not config.warmup_steps:
        return schedule
    warmup = optax.linear_schedule(0.0, config.lr, config.warmup_steps)
    return optax.join_schedules([warmup, schedule], [config.warmup_steps])


def check_schedule(schedule: Schedule) -> None:
    """Raise SettingError unless JAX can trace a schedule of the user's own to one number."""
    try:
        rate = jax.eval_shape(schedule, jax.ShapeDtypeStruct((), jnp.int32))
        shapes = [leaf.shape for leaf in jax.tree.leaves(rate)]
    except Exception as error:  # the user's code may raise anything
        why = (
            f"fails when JAX traces it ({type(error).__name__}): use functions of jax.numpy, such "
            f"as jnp.where(step < 10, 0.1, 0.01), in the place of Python's `if`"
        )
        raise SettingError("schedule", "of your own", why) from error
    if shapes != [()]:
        why = "must return one number, the learning rate of the step"
        raise SettingError("schedule", "of your own", why)


def make_optimizer(
    config: OptimizerConfig, horizon: Horizon, custom: CustomParts | None = None
) -> Transform:
    """Return clipping, weight decay, scaling and rate as one optax transformation.

        g ← g · min(1, clip / |g|)      θ ← θ - lr(step) · scale(g)

    `scale` is the optimizer of OPTIMIZERS. Weight decay comes before it (L2), or after it for
    DECOUPLED_DECAY. An optimizer of the user's own replaces all but the clipping and `freeze`.

    Raises:
      UserError: for an unknown name.
      SettingError: for a number that is out of its range.
    """
    check_settings(config)
    return unchecked_optimizer(config, horizon, custom)


def unchecked_optimizer(
    config: OptimizerConfig, horizon: Horizon, custom: CustomParts | None = None
) -> Transform:
    """Return `make_optimizer` without checks of ranges: lr, clip and weight_decay may be traced."""
    # A part that does nothing keeps its place, so that a run can be resumed with other settings.
    nothing = optax.identity()
    clip = nothing if config.clip is None else clip_by_global_norm(config.clip)
    if custom is not None and custom.optimizer is not None:
        return _frozen(config.freeze, clip, custom.optimizer)
    if config.optimizer == CUSTOM:
        why = "is an optimizer of your own: pass it to fit again as optimizer="
        raise SettingError("optimizer", CUSTOM, why)
    core = choose(OPTIMIZERS, config.optimizer, "optimizer")(config)
    no_decay = is_zero(config.weight_decay)
    pull = nothing if no_decay else optax.add_decayed_weights(config.weight_decay)
    decay = optax.masked(pull, _is_weight)
    parts = [core, decay] if config.optimizer in DECOUPLED_DECAY else [decay, core]
    rate = optax.scale_by_learning_rate(make_schedule(config, horizon, custom))
    return _frozen(config.freeze, clip, *parts, rate)


def _frozen(pattern: str | None, *parts: Transform) -> Transform:
    """Return the chain of `parts`, which does not change parameters whose path matches `pattern`.

    With `pattern` None the chain changes all parameters.
    """
    if pattern is None:
        return optax.chain(*parts)

    def mask(params: Any) -> Any:
        return frozen_mask(params, pattern)

    # First the gradients of frozen parameters become zero, so that the norm for clipping does not
    # count them. Last their updates become zero, so that weight decay does not move them.
    zero = optax.masked(optax.set_to_zero(), mask)
    return optax.chain(zero, *parts, zero)


def frozen_mask(params: Any, pattern: str) -> Any:
    """Return a tree of bools: True for each parameter whose path matches `pattern`.

    A path is such as layers_0/input/kernel. A pattern has the wildcards of a shell, as embedding*.
    """

    def matches(path: tuple[Any, ...], leaf: Any) -> bool:
        return fnmatch.fnmatchcase("/".join(str(part.key) for part in path), pattern)

    return jax.tree_util.tree_map_with_path(matches, params)


def clip_by_global_norm(longest: float) -> Transform:
    """Return a transformation that scales the gradient down to at most the norm `longest`.

        g ← g · min(1, longest / |g|)          |g| over all parameters

    The result equals `optax.clip_by_global_norm`, up to rounding. XLA fuses this multiplication
    into passes that read the gradient anyway; optax's division is a separate pass.

    Source: Pascanu, Mikolov & Bengio, "On the difficulty of training recurrent neural networks",
    2013, section 3.2.
    """

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        norm = optax.tree.norm(updates)
        scale = jnp.where(norm < longest, 1.0, longest / norm)
        return jax.tree.map(lambda update: update * scale.astype(update.dtype), updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _is_weight(params: Any) -> Any:
    """Return a tree of bools: True for matrices. Vectors, such as biases, are not decayed."""
    return jax.tree.map(lambda array: array.ndim > 1, params)

"""Optimizers, learning-rate schedules and clipping, from optax, put together from one config."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax

from jaxlm.errors import UserError, choose
from jaxlm.ops.static import is_zero


@dataclass(frozen=True)
class OptimizerConfig:
    """How the parameters are updated."""

    optimizer: str = "adam"
    """adam, adamw, sgd, momentum, rmsprop, adagrad, nadam or lion."""
    lr: float = 1e-3
    """Learning rate at its highest."""
    schedule: str = "constant"
    """constant, cosine (to 0 at the end), step-decay (by epoch), plateau (by validation)."""
    warmup_steps: int = 0
    """Steps over which the rate rises linearly from zero, before the schedule."""
    decay: float = 0.5
    """step-decay, plateau: what the rate is multiplied by."""
    full_epochs: int = 4
    """step-decay: epochs at the full rate; from then on it decays before every epoch."""
    plateau_patience: int = 1
    """plateau: validations without improvement before the rate decays."""
    clip: float | None = None
    """Scale the gradient down to this global norm if it is longer (none: leave it)."""
    weight_decay: float = 0.0
    """Pull weights towards zero, biases left out (adamw, lion: decoupled; the others: L2)."""
    beta1: float = 0.9
    """adam, adamw, nadam, lion, momentum: decay of the mean gradient."""
    beta2: float = 0.999
    """adam, adamw, nadam, lion, rmsprop: decay of the mean squared gradient."""
    epsilon: float = 1e-8
    """adam, adamw, nadam, rmsprop, adagrad: added to the denominator."""
    average: str = "none"
    """Keep an average of the parameters: ema, or triggered (NT-ASGD: once validation stalls)."""
    ema_decay: float = 0.999
    """ema: share of what the average was before the step."""
    trigger_after: int = 5
    """triggered: begin when a validation is worse than the best of all but the last so many."""


@dataclass(frozen=True)
class Horizon:
    """How long training is, which some schedules need to know."""

    steps_per_epoch: int
    total_steps: int


Transform: TypeAlias = optax.GradientTransformation

OPTIMIZERS: dict[str, Callable[[OptimizerConfig], Transform]] = {
    "adam": lambda c: optax.scale_by_adam(c.beta1, c.beta2, c.epsilon),
    "adamw": lambda c: optax.scale_by_adam(c.beta1, c.beta2, c.epsilon),
    "sgd": lambda c: optax.identity(),
    "momentum": lambda c: optax.trace(c.beta1),
    "rmsprop": lambda c: optax.scale_by_rms(c.beta2, c.epsilon),
    "adagrad": lambda c: optax.scale_by_rss(0.0, c.epsilon),
    "nadam": lambda c: optax.scale_by_adam(c.beta1, c.beta2, c.epsilon, nesterov=True),
    "lion": lambda c: optax.scale_by_lion(c.beta1, c.beta2),
}
DECOUPLED_DECAY = ("adamw", "lion")

Schedule = Callable[[jax.Array], jax.Array]


def _constant(config: OptimizerConfig, horizon: Horizon) -> Schedule:
    return optax.constant_schedule(config.lr)


def _cosine(config: OptimizerConfig, horizon: Horizon) -> Schedule:
    return optax.cosine_decay_schedule(config.lr, max(1, horizon.total_steps - config.warmup_steps))


def _step_decay(config: OptimizerConfig, horizon: Horizon) -> Schedule:
    def rate(step: jax.Array) -> jax.Array:
        # `step` counts from the end of warm-up; epochs count from the start of training.
        epoch = (step + config.warmup_steps) // horizon.steps_per_epoch
        decays = jnp.maximum(0, epoch + 1 - config.full_epochs)
        return config.lr * jnp.power(config.decay, decays.astype(jnp.float32))

    return rate


SCHEDULES: dict[str, Callable[[OptimizerConfig, Horizon], Schedule]] = {
    "constant": _constant,
    "cosine": _cosine,
    "step-decay": _step_decay,
    # The decay itself comes from the training loop, which is what sees the validation loss.
    "plateau": _constant,
}


def make_schedule(config: OptimizerConfig, horizon: Horizon) -> Schedule:
    """The learning rate as a function of the step."""
    schedule = choose(SCHEDULES, config.schedule, "schedule")(config, horizon)
    if not config.warmup_steps:
        return schedule
    warmup = optax.linear_schedule(0.0, config.lr, config.warmup_steps)
    return optax.join_schedules([warmup, schedule], [config.warmup_steps])


def make_optimizer(config: OptimizerConfig, horizon: Horizon) -> Transform:
    """Clip, decay, scale and rate, in that order, as one optax transformation.

        g ← g · min(1, clip / |g|)      θ ← θ - lr(step) · scale(g)

    Raises UserError for an unknown name, or a rate, clip or decay that is not positive.
    """
    positive = {"lr": config.lr, "decay": config.decay}
    if config.clip is not None:
        positive["clip"] = config.clip
    for name, value in positive.items():
        if not value > 0:
            raise UserError(f"--{name} {value}: must be above 0")
    least = {"weight_decay": 0, "warmup_steps": 0, "plateau_patience": 1}
    for name, minimum in least.items():
        if not getattr(config, name) >= minimum:
            flag = f"--{name.replace('_', '-')}"
            raise UserError(f"{flag} {getattr(config, name)}: must be at least {minimum}")
    return unchecked_optimizer(config, horizon)


def unchecked_optimizer(config: OptimizerConfig, horizon: Horizon) -> Transform:
    """`make_optimizer` of numbers that may be known only at run time: lr, clip, weight_decay."""
    core = choose(OPTIMIZERS, config.optimizer, "optimizer")(config)
    # A part that does nothing keeps its place, so that a run can be resumed with other settings.
    nothing = optax.identity()
    none = is_zero(config.weight_decay)
    pull = nothing if none else optax.add_decayed_weights(config.weight_decay)
    decay = optax.masked(pull, _is_weight)
    return optax.chain(
        nothing if config.clip is None else clip_by_global_norm(config.clip),
        *([core, decay] if config.optimizer in DECOUPLED_DECAY else [decay, core]),
        optax.scale_by_learning_rate(make_schedule(config, horizon)),
    )


def clip_by_global_norm(longest: float) -> Transform:
    """g ← g · min(1, longest / |g|), with |g| over all parameters (Pascanu et al. 2013, section
    3.2): `optax.clip_by_global_norm` up to rounding.

    One number to multiply by is worked into the passes that read the gradient anyway; a division
    by the norm, as optax has it, XLA keeps as a pass of its own over all parameters.
    """

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        norm = optax.tree.norm(updates)
        scale = jnp.where(norm < longest, 1.0, longest / norm)
        return jax.tree.map(lambda update: update * scale.astype(update.dtype), updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _is_weight(params: Any) -> Any:
    """True for matrices, False for biases, which decay would only pull off their mean."""
    return jax.tree.map(lambda array: array.ndim > 1, params)

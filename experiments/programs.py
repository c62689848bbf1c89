"""Compile training, evaluation and generation for TPUs without a TPU; published rates of chips."""

import math
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

# libtpu compiles without a TPU if JAX does not look for a TPU.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-8")
os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
# Several processes may compile at once, because none of them uses a TPU.
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "true")

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from jaxlm.data.batching import Block
from jaxlm.inspection.hlo_cost import Compiled, Work, read_compiled, work_of
from jaxlm.models import MODELS, NeuralModel, make_model
from jaxlm.ops.machine import compiling_for
from jaxlm.ops.sampling import Sampler
from jaxlm.parallel.mesh import shapes_on_mesh, use_mesh
from jaxlm.training.optimizers import Horizon, OptimizerConfig, make_optimizer
from jaxlm.training.state import state_shapes
from jaxlm.training.step import BLOCK_AXES, block_function, keep_sharding

GENERATED = 64


class Chip(NamedTuple):
    """The published rates of a chip."""

    flops: float
    """bfloat16 FLOP per second."""
    memory: float
    """Bytes of memory."""
    bandwidth: float
    """Bytes per second of memory traffic."""
    link: float
    """Bytes per second to a nearby chip, in one direction."""
    far_link: float
    """Bytes per second to a chip of another host, in one direction."""
    near: int
    """Number of chips that are connected by the fast links."""


CHIPS = {
    # docs.cloud.google.com/tpu/docs/v5e and v6e: 400 and 800 GB/s between chips, both directions.
    "v5e": Chip(197e12, 16e9, 819e9, 200e9, 200e9, 256),
    "v6e": Chip(918e12, 32e9, 1638e9, 400e9, 400e9, 256),
    # NVIDIA's H100 SXM5: dense FLOP; NVLink has 900 GB/s in both directions among eight cards;
    # beyond them a card has 400 Gb/s.
    "h100": Chip(989e12, 80e9, 3350e9, 450e9, 50e9, 8),
}


class Program(NamedTuple):
    """The program of one device, with its cost."""

    work: Work
    compiled: Compiled
    held: float
    """Bytes of memory: arguments, results, temporary arrays and code."""
    updated: float
    """Bytes of float32 parameters that Adam updates."""

    @property
    def traffic(self) -> float:
        """Bytes read and written. Adam reads p, m, v and g, and writes p, m and v."""
        return self.work.bytes + 7 * self.updated

    @property
    def communicated(self) -> float:
        """Bytes of all arrays that collectives sum or gather."""
        return sum(collective.bytes * collective.times for collective in self.compiled.collectives)

    def seconds(self, chip: Chip) -> tuple[float, float]:
        """Return the seconds of computation and of communication.

        Computation takes the longer of arithmetic and memory traffic. Collectives are rings, and
        run one after another.
        """
        computation = max(self.work.flops / chip.flops, self.traffic / chip.bandwidth)
        return computation, sum(
            collective_seconds(each.kind, each.bytes, each.devices, chip) * each.times
            for each in self.compiled.collectives
        )


class DoesNotFitError(Exception):
    """The program does not fit into the memory of the chip; the message names its needs."""


def collective_seconds(kind: str, size: float, devices: int, chip: Chip) -> float:
    """Return the seconds of a collective, as a ring of n devices.

    Each device sends (n - 1) / n of the bytes. An all-reduce does so twice: to sum and to gather.

    Args:
      kind: kind of the collective, such as "all-reduce".
      size: bytes of the array.
      devices: number of devices in the ring.
      chip: rates of the links.
    """
    rounds = 2 if kind == "all-reduce" else 1
    link = chip.link if devices <= chip.near else chip.far_link
    return rounds * (devices - 1) / devices * size / link


def tpu_mesh(topology: str, model: int) -> Mesh:
    """Return a mesh of a TPU slice such as v5e:2x4, with `model` devices on the axis `model`."""
    from jax.experimental import topologies

    # A host has four chips or more, except in a slice of a single chip.
    bounds = {"chips_per_host_bounds": [1, 1, 1]} if topology.endswith(":1x1") else {}
    devices = topologies.get_topology_desc(topology, "tpu", **bounds).devices
    grid = np.array(devices).reshape(-1, model)
    return Mesh(grid, ("data", "model"), axis_types=(AxisType.Auto, AxisType.Auto))


def build(name: str, vocab_size: int, **settings: Any) -> NeuralModel:
    """Return a model of MODELS. Settings that the model does not have are ignored."""
    known = MODELS[name].settings
    fitting = {key: value for key, value in settings.items() if key in known}
    model = make_model(name, fitting, vocab_size, vocab_size - 1)
    assert isinstance(model, NeuralModel)
    return model


def training_step(model: NeuralModel, mesh: Mesh, batch: int, time: int) -> Program:
    """Compile a step of Adam with clipping.

    Args:
      model: the model.
      mesh: devices of the program.
      batch: number of streams on all devices.
      time: tokens of a stream in a step.
    """
    optimizer = make_optimizer(OptimizerConfig(lr=1e-3, clip=5.0), Horizon(1000, 1000))
    state = state_shapes(model, optimizer, batch, mesh)
    tokens = [
        jax.ShapeDtypeStruct((1, batch, time), kind) for kind in ("int32", "int32", "float32")
    ]
    denominator, length, rate = (
        jax.ShapeDtypeStruct((1,), kind) for kind in ("float32", "int32", "float32")
    )
    reset = jax.ShapeDtypeStruct((1, batch), "bool")
    shapes = Block(*tokens, denominator, reset, length, rate)
    block = shapes_on_mesh(mesh, shapes, BLOCK_AXES)
    key = jax.eval_shape(lambda: jax.random.key(0))

    def step(state: Any, block: Any, key: Any) -> Any:
        function = block_function(model, optimizer, key, "all")
        return keep_sharding(function, model, mesh)(state, block, 1)

    updated = sum(map(_bytes_per_device, jax.tree.leaves(state.params)))
    return _program(step, (state, block, key), mesh, updated, donate=0)


def evaluation(model: NeuralModel, mesh: Mesh, batch: int, time: int) -> Program:
    """Compile the log-probabilities of a chunk of a stream.

    Args:
      model: the model.
      mesh: devices of the program.
      batch: not used: the scorer reads a single stream.
      time: not used: the chunk is as long as the scorer's chunks.
    """
    params, _ = _params(model, mesh)
    tokens_BT = jax.ShapeDtypeStruct((1, model.tokens_in_chunk(False)), "int32")
    carry = jax.eval_shape(lambda: model.initial_carry(1))

    def score(params: Any, inputs: Any, targets: Any, carry: Any) -> Any:
        return model.token_scores(params, inputs, targets, carry)

    return _program(score, (params, tokens_BT, tokens_BT, carry), mesh)


def generation(model: NeuralModel, mesh: Mesh, batch: int, time: int) -> Program:
    """Compile the generation of GENERATED tokens after a prompt.

    Args:
      model: the model.
      mesh: devices of the program.
      batch: number of streams on all devices.
      time: tokens of the prompt.
    """
    params, key = _params(model, mesh)
    prompt_BT = shapes_on_mesh(mesh, jax.ShapeDtypeStruct((batch, time), "int32"), ("batch", None))

    def generate(params: Any, prompt_BT: Any, key: Any) -> Any:
        return model.generate(params, prompt_BT, key, Sampler(1.0, None, None), GENERATED)

    return _program(generate, (params, prompt_BT, key), mesh)


TASKS = {"step": training_step, "evaluation": evaluation, "generation": generation}


def _params(model: NeuralModel, mesh: Mesh) -> tuple[Any, Any]:
    optimizer = make_optimizer(OptimizerConfig(), Horizon(1, 1))
    key = jax.eval_shape(lambda: jax.random.key(0))
    return state_shapes(model, optimizer, mesh.shape["data"], mesh).params, key


def _bytes_per_device(shape: Any) -> int:
    return math.prod(shape.sharding.shard_shape(shape.shape)) * shape.dtype.itemsize


def _program(
    function: Any, given: tuple[Any, ...], mesh: Mesh, updated: float = 0.0, **options: int
) -> Program:
    donated = {"donate_argnums": options["donate"]} if options else {}
    platform = mesh.devices.flat[0].platform
    with use_mesh(mesh), compiling_for(platform):
        traced = jax.jit(function, **donated).trace(*given)
        try:
            compiled = traced.lower().compile()
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            raise DoesNotFitError(str(error).splitlines()[0]) from None
    memory = compiled.memory_analysis()
    held = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    held += memory.output_size_in_bytes - memory.alias_size_in_bytes
    held += memory.generated_code_size_in_bytes
    work = work_of(traced.jaxpr, mesh.shape["data"])
    return Program(work, read_compiled(compiled.as_text()), held, updated)


def shown(collectives: Mapping[str, int]) -> str:
    """Return numbers and kinds of collectives as text."""
    return ", ".join(f"{count} {kind}" for kind, count in collectives.items()) or "none"

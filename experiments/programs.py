"""The programs of training, evaluation and generation, compiled for chips that are not here; and
what a chip can do, as published.
"""

import math
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

# libtpu compiles without a TPU if it is not looked for.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-8")
os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
# Several may compile at once: none of them has a TPU.
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
    """bfloat16 products a second; bytes of memory, and those moved a second; bytes a second that
    it sends to chips near by, and to those of other hosts (near: how many are), one way.
    """

    flops: float
    memory: float
    bandwidth: float
    link: float
    far_link: float
    near: int


CHIPS = {
    # docs.cloud.google.com/tpu/docs/v5e and v6e: 400 and 800 GB/s between chips, both ways.
    "v5e": Chip(197e12, 16e9, 819e9, 200e9, 200e9, 256),
    "v6e": Chip(918e12, 32e9, 1638e9, 400e9, 400e9, 256),
    # NVIDIA's H100 SXM5: dense; NVLink 900 GB/s both ways among eight; then 400 Gb/s a card.
    "h100": Chip(989e12, 80e9, 3350e9, 450e9, 50e9, 8),
}


class Program(NamedTuple):
    """Of one device. held: bytes, of what it is given and of what it works in; updated: bytes of
    parameters that Adam goes through, in float32.
    """

    work: Work
    compiled: Compiled
    held: float
    updated: float

    @property
    def traffic(self) -> float:
        """Bytes read and written: Adam reads p, m, v and g and writes p, m and v."""
        return self.work.bytes + 7 * self.updated

    @property
    def told(self) -> float:
        """Bytes of what devices tell each other, added up or handed out."""
        return sum(one.bytes * one.times for one in self.compiled.collectives)

    def seconds(self, chip: Chip) -> tuple[float, float]:
        """Of arithmetic or memory traffic, whichever is longer; and of what devices tell each
        other, as rings would, one thing after another.
        """
        own = max(self.work.flops / chip.flops, self.traffic / chip.bandwidth)
        return own, sum(
            told(one.kind, one.bytes, one.devices, chip) * one.times
            for one in self.compiled.collectives
        )


class DoesNotFitError(Exception):
    """The compiler found no way to hold the program; the message says what it needs."""


def told(kind: str, size: float, devices: int, chip: Chip) -> float:
    """Seconds of one collective: of n devices, a ring passes on (n - 1) / n of the bytes, to add
    them up and once more to hand them out.
    """
    rounds = 2 if kind == "all-reduce" else 1
    link = chip.link if devices <= chip.near else chip.far_link
    return rounds * (devices - 1) / devices * size / link


def tpu_mesh(topology: str, model: int) -> Mesh:
    """A mesh of a TPU slice such as v5e:2x4, with so many devices on `model`."""
    from jax.experimental import topologies

    # A host has four chips or more, unless there is but one.
    alone = {"chips_per_host_bounds": [1, 1, 1]} if topology.endswith(":1x1") else {}
    devices = topologies.get_topology_desc(topology, "tpu", **alone).devices
    grid = np.array(devices).reshape(-1, model)
    return Mesh(grid, ("data", "model"), axis_types=(AxisType.Auto, AxisType.Auto))


def build(name: str, vocab_size: int, **settings: Any) -> NeuralModel:
    """A model of MODELS, with those of the settings that it has."""
    known = MODELS[name].settings
    fitting = {key: value for key, value in settings.items() if key in known}
    model = make_model(name, fitting, vocab_size, vocab_size - 1)
    assert isinstance(model, NeuralModel)
    return model


def training_step(model: NeuralModel, mesh: Mesh, batch: int, time: int) -> Program:
    """One step of Adam with clipping."""
    optimizer = make_optimizer(OptimizerConfig(lr=1e-3, clip=5.0), Horizon(1000, 1000))
    state = state_shapes(model, optimizer, batch, mesh)
    tokens = [
        jax.ShapeDtypeStruct((1, batch, time), kind) for kind in ("int32", "int32", "float32")
    ]
    each = [jax.ShapeDtypeStruct((1,), kind) for kind in ("float32", "bool", "int32", "float32")]
    block = shapes_on_mesh(mesh, Block(*tokens, *each), BLOCK_AXES)
    key = jax.eval_shape(lambda: jax.random.key(0))

    def step(state: Any, block: Any, key: Any) -> Any:
        function = block_function(model, optimizer, key, "all")
        return keep_sharding(function, model, mesh)(state, block, 1)

    updated = sum(map(_bytes_on_one, jax.tree.leaves(state.params)))
    return _program(step, (state, block, key), mesh, updated, donate=0)


def evaluation(model: NeuralModel, mesh: Mesh, batch: int, time: int) -> Program:
    """The log-probability of a chunk of one stream, as long as the scorer's are."""
    params, _ = _params(model, mesh)
    tokens_BT = jax.ShapeDtypeStruct((1, model.tokens_in_chunk(False)), "int32")
    carry = jax.eval_shape(lambda: model.initial_carry(1))

    def score(params: Any, inputs: Any, targets: Any, carry: Any) -> Any:
        return model.token_scores(params, inputs, targets, carry)

    return _program(score, (params, tokens_BT, tokens_BT, carry), mesh)


def generation(model: NeuralModel, mesh: Mesh, batch: int, time: int) -> Program:
    """GENERATED tokens of `batch` streams, after a prompt."""
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


def _bytes_on_one(shape: Any) -> int:
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
    """Kinds and numbers, in words."""
    return ", ".join(f"{count} {kind}" for kind, count in collectives.items()) or "none"

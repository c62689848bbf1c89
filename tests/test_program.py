"""The computed cost of programs against their known cost."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp

from jaxlm.inspection.hlo_cost import read_compiled, work_of


def test_work_counts_each_execution_of_a_product():
    a, b = jnp.ones((3, 4)), jnp.ones((4, 5))

    def looped(a, b):
        def body(total, _):
            return total + (a @ b).sum(), None

        return jax.lax.scan(body, 0.0, None, length=7)[0]

    single = work_of(jax.make_jaxpr(lambda a, b: a @ b)(a, b))
    assert single.flops == 2 * 3 * 4 * 5
    assert single.bytes == 4 * (3 * 4 + 4 * 5 + 3 * 5)
    assert work_of(jax.make_jaxpr(looped)(a, b)).flops == 7 * single.flops
    gradient = jax.make_jaxpr(jax.value_and_grad(lambda a, b: (a @ b).sum(), (0, 1)))(a, b)
    assert work_of(gradient).flops == 3 * single.flops
    sharded = work_of(jax.make_jaxpr(lambda a, b: a @ b)(a, b), batch_shards=2)
    assert sharded.flops == single.flops / 2
    branches = jax.make_jaxpr(
        lambda a, b: jax.lax.cond(True, lambda: a @ b, lambda: jnp.ones((3, 5)))
    )
    assert work_of(branches(a, b)).flops == single.flops


HLO = """\
HloModule jit_step, entry_computation_layout={()->f32[]}

%add (x: f32[], y: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%x, %y)
}

%condition (state: (s32[], f32[4])) -> pred[] {
  %limit = s32[]{:T(128)} constant(35)
  ROOT %less = pred[] compare(%index, %limit), direction=LT
}

%body (state: (s32[], f32[4])) -> (s32[], f32[4]) {
  %inner = f32[4]{0} all-reduce(%part), replica_groups={{0,1},{2,3}}, to_apply=%add
  ROOT %next = (s32[], f32[4]) tuple(%index, %inner), x={"estimated_cycles":"10"}
}

ENTRY %main (p: f32[8,2]) -> f32[] {
  %both = (bf16[8,2]{1,0}, f32[3]{0}) all-reduce-start(%p, %q), replica_groups=[2,4]<=[8]
  %done = (bf16[8,2]{1,0}, f32[3]{0}) all-reduce-done(%both)
  %loop = (s32[], f32[4]) while(%start), condition=%condition, body=%body, metadata={NAME}
  %rows = f32[6]{0} all-gather(%r), replica_groups=mesh['a'=2,'b'=4], ids=([4,2]) {'b'}
  ROOT %out = f32[] fusion(%loop), calls=%add, x={"estimated_cycles":"5"}
}
"""


def test_collectives_and_time_loops_are_read_from_hlo_text():
    in_time = HLO.replace("NAME", 'op_name="jit(step)/layers_0/over_time/while"')
    found = read_compiled(in_time)
    assert [collective[:5] for collective in found.collectives] == [
        ("all-reduce", 2 * 16 + 4 * 3, 4, 1, False),
        ("all-reduce", 16, 2, 35, True),
        ("all-gather", 24, 4, 1, False),
    ]
    assert (found.time_loops, found.cycles) == (1, 35 * 10 + 5)
    other = read_compiled(HLO.replace("NAME", 'op_name="jit(step)/output/while"'))
    assert not other.time_loops
    assert not any(collective.in_time_loop for collective in other.collectives)


SHARDED = """
import json, sys
import jax
jax.config.update("jax_num_cpu_devices", 4)
import programs
from jaxlm.ops.cpus import Constants
from jaxlm.ops.machine import using_constants
from jaxlm.parallel.mesh import make_mesh
mesh = make_mesh({"data": 2, "model": 2})
settings = {"hidden_size": 8, "embedding_size": 6, "num_layers": 1}
model = programs.build("lstm", 16, **settings)
# On every kind of CPU, the test compiles the same program.
with using_constants(Constants()):
    program = programs.training_step(model, mesh, 4, 9)
print(json.dumps([program.compiled.time_loops, program.work.flops, program.held,
                  [each._asdict() for each in program.compiled.collectives]]))
"""


def test_devices_do_not_communicate_inside_the_time_loop():
    experiments = os.path.join(os.path.dirname(__file__), "..", "experiments")
    found = subprocess.run(
        [sys.executable, "-c", SHARDED],
        cwd=experiments,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr[-2000:]
    loops, flops, held, collectives = json.loads(found.stdout.splitlines()[-1])
    assert loops == 2, "forward and back"
    assert collectives and not any(collective["in_time_loop"] for collective in collectives)
    assert {collective["kind"] for collective in collectives} == {"all-reduce"}
    # A device has 2 of 4 rows, 9 time steps, and 8 of 16 words. The kernels are 14 x 32 (6 + 8
    # inputs, 32 gate units) and 8 x 8. Each product has a forward pass and two gradients.
    tokens = 2 * 9
    assert flops == 2 * 3 * tokens * ((6 + 8) * 32 + 8 * 8)
    assert held > 0

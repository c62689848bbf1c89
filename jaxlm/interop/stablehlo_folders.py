"""Runs as folders of StableHLO programs, which JAX runs on CPUs, GPUs and TPUs without jaxlm."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from jaxlm.errors import UserError, reason
from jaxlm.interop.description import State, check_by_gradient, description_of, initial_value
from jaxlm.runs.run import Run

STEP, CHUNK = "step.stablehlo", "chunk.stablehlo"
PARAMETERS, DESCRIPTION = "params.safetensors", "model.json"
PLATFORMS = ("cpu", "cuda", "tpu")
"""The platforms of a program, as `jax.export` calls them."""


def export_stablehlo(run: Run, path: str | Path) -> None:
    """Write a neural model as a folder of two StableHLO programs and its parameters.

        step.stablehlo        one token of each row: tokens [B, 1]
        chunk.stablehlo       any number of tokens: tokens [B, T]
        params.safetensors    the parameters by name, which both programs read
        model.json            the description of the model (`description_of`)

    A program is a function of `jax.export`: (params, tokens, state) -> (logits, new state), where
    params and state are dictionaries of arrays by name. The new state has the names of the state.
    B and T may be any numbers of at least 1 in each call. The programs run on the PLATFORMS.

    The folder appears when it is complete.

    Raises:
      UserError: for an n-gram, a model that cannot be traced for any B and T, a file or folder that
        exists, and if the folder cannot be written.
    """
    path = Path(path)
    check_by_gradient(run, "it has no program for JAX; write it as an ARPA file, x.arpa")
    if os.path.lexists(path):
        raise UserError(f"{path} exists already: name a new folder")
    programs, params, states = _programs(run)
    description = description_of(run, states)
    description["programs"] = {
        "step": STEP,
        "chunk": CHUNK,
        "platforms": list(PLATFORMS),
        "jax": version("jax"),
    }
    from safetensors.numpy import save

    partial = path.with_name(f"{path.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        for name, program in programs.items():
            (partial / name).write_bytes(program)
        (partial / PARAMETERS).write_bytes(save(params))
        text = json.dumps(description, ensure_ascii=False, indent=1)
        (partial / DESCRIPTION).write_text(text + "\n", encoding="utf-8")
        os.rename(partial, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {reason(error)}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def import_stablehlo(path: str | Path, folder: str | Path | None = None) -> NoReturn:
    """Raise UserError: a program is not a model that could be trained further."""
    raise UserError(
        f"{path}: StableHLO programs can be written, but not read: they hold no model that could "
        f"be trained further. Read the run's folder, a safetensors file or an ARPA file"
    )


def _programs(run: Run) -> tuple[dict[str, bytes], dict[str, np.ndarray], list[State]]:
    """Return the programs by the name of their file, the parameters by name, and the state."""
    import jax
    import jax.numpy as jnp
    from flax.traverse_util import flatten_dict, unflatten_dict
    from jax import export

    model = _portable(run.model)
    arrays = flatten_dict(run.params)
    paths = {".".join(path): path for path in arrays}
    params = {name: np.asarray(arrays[path]) for name, path in paths.items()}
    carry = model.initial_carry(1)
    leaves, tree = jax.tree.flatten(carry)
    names = state_names(model, len(leaves))

    def program(
        params: dict[str, jax.Array], tokens: jax.Array, state: dict[str, jax.Array]
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        variables = {"params": unflatten_dict({paths[name]: params[name] for name in params})}
        carry = jax.tree.unflatten(tree, [state[name] for name in names])
        hidden_BTF, carry = model.apply(variables, tokens, carry)
        logits_BTV = model.apply(variables, hidden_BTF, method="logits")
        new = dict(zip(names, jax.tree.leaves(carry), strict=True))
        return logits_BTV.astype(jnp.float32), new

    def shape(array: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(array.shape, array.dtype)

    written = {}
    for name, sizes in ((STEP, "b, 1"), (CHUNK, "b, t")):
        batch, time = export.symbolic_shape(sizes)
        state = {
            key: jax.ShapeDtypeStruct((batch, *leaf.shape[1:]), leaf.dtype)
            for key, leaf in zip(names, leaves, strict=True)
        }
        tokens = jax.ShapeDtypeStruct((batch, time), jnp.int32)
        try:
            with _portable_lowering():
                exported = export.export(jax.jit(program), platforms=PLATFORMS)(
                    jax.tree.map(shape, params), tokens, state
                )
        except Exception as error:  # a registered model may do anything with the sizes
            line = " ".join(str(error).split())[:200]
            raise UserError(
                f"{run.name} cannot be traced for any batch and time, as StableHLO needs: {line}"
            ) from error
        written[name] = bytes(exported.serialize())
    states = [
        State(name, leaf.shape[1:], str(leaf.dtype), initial_value(leaf[0]))
        for name, leaf in zip(names, leaves, strict=True)
    ]
    return written, params, states


@contextlib.contextmanager
def _portable_lowering() -> Iterator[None]:
    """Return a context in which programs are lowered for every platform, and name no source file.

    JAX would put the paths of this machine's source files into the program.
    """
    import jax

    from jaxlm.ops.machine import ANY, compiling_for

    frames = jax.config.jax_traceback_in_locations_limit  # type: ignore[attr-defined]
    jax.config.update("jax_traceback_in_locations_limit", 0)
    try:
        with compiling_for(ANY):
            yield
    finally:
        jax.config.update("jax_traceback_in_locations_limit", frames)


def _portable(model: Any) -> Any:
    """Return a model that computes the same, with choices that suit every platform and any T."""
    fixed = {"dtype": model.compute_dtype, "time_loop": "fused", "remat": 0}
    return model.clone(**{name: fixed[name] for name in fixed if hasattr(model, name)})


def state_names(model: Any, count: int) -> list[str]:
    """Return the names of the `count` arrays of a model's carry, in its order.

    They are h_0, c_0, h_1, ... for a recurrent model, window for a model whose only array is a
    window of tokens, and state_0, state_1, ... for other models.

    Example:
      >>> import jaxlm
      >>> state_names(jaxlm.LSTM(7, num_layers=2), 4), state_names(jaxlm.NPLM(7), 1)
      (['h_0', 'c_0', 'h_1', 'c_1'], ['window'])
    """
    if hasattr(model, "cell"):
        return [f"{part}_{index}" for index in range(len(model.sizes)) for part in model.cell.carry]
    return ["window"] if count == 1 else [f"state_{index}" for index in range(count)]

"""Imports point down the layers, and some libraries have one home."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "jaxlm"
# The higher may import the lower, and its own; the first prefix that fits decides.
LAYERS = {
    "jaxlm.errors": 0,
    "jaxlm.processes": 0,
    "jaxlm.shapes": 0,
    "jaxlm.sharding": 0,
    "jaxlm.ops": 1,
    "jaxlm.data": 1,
    "jaxlm.ngrams": 1,
    "jaxlm.models": 2,
    "jaxlm.scoring": 3,
    "jaxlm.training": 4,
    "jaxlm.evaluation": 5,
    "jaxlm.generation": 5,
    "jaxlm.plots": 5,
    "jaxlm.program": 5,
    "jaxlm.interpolation": 3,
    "jaxlm.mixing": 5,
    "jaxlm.adaptation": 5,
    "jaxlm.interop": 5,
    "jaxlm.recipes": 5,
    "jaxlm.config": 6,
    "jaxlm.cli": 6,
    "jaxlm.train": 7,
    "jaxlm.evaluate": 7,
    "jaxlm.predict": 7,
    "jaxlm.generate": 7,
    "jaxlm.convert": 7,
    "jaxlm.prepare": 7,
    "jaxlm.__main__": 7,
    "jaxlm": 7,
}
COMMANDS = {
    "jaxlm.train",
    "jaxlm.evaluate",
    "jaxlm.predict",
    "jaxlm.generate",
    "jaxlm.convert",
    "jaxlm.prepare",
    "jaxlm.__main__",
}
HOMES = {
    "chex": {"jaxlm.shapes"},
    "orbax": {"jaxlm.training.checkpoints"},
    "duckdb": {"jaxlm.ngrams.engines"},
    "pyarrow": {"jaxlm.ngrams.engines"},
    "pyspark": {"jaxlm.ngrams.engines"},
    "matplotlib": {"jaxlm.plots"},
    "torch": set(),
    "pickle": set(),
}


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        yield ".".join(parts).removesuffix(".__init__"), path


MODULES = list(modules())


def imports(path):
    """Every module named in an import, function bodies included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if is_module(name) else node.module for name in names)


def is_module(name):
    path = PACKAGE.parent / Path(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def layer(module):
    fitting = [prefix for prefix in LAYERS if f"{module}.".startswith(f"{prefix}.")]
    return LAYERS[max(fitting, key=len)]


@pytest.mark.parametrize(("module", "path"), MODULES)
def test_imports_point_down(module, path):
    for name in imports(path):
        if name.split(".")[0] != "jaxlm":
            continue
        assert name not in COMMANDS, f"{module} imports the command {name}"
        assert layer(name) <= layer(module), f"{module} imports {name}, which is above it"


@pytest.mark.parametrize(("module", "path"), MODULES)
def test_data_knows_no_jax_and_ops_no_flax(module, path):
    forbidden = {
        "jaxlm.data": {"jax", "flax"},
        "jaxlm.ngrams": {"jax", "flax"},
        "jaxlm.ops": {"flax"},
    }
    for prefix, libraries in forbidden.items():
        if module.startswith(prefix):
            assert not {name.split(".")[0] for name in imports(path)} & libraries


@pytest.mark.parametrize(("module", "path"), MODULES)
def test_libraries_have_one_home(module, path):
    for name in imports(path):
        home = HOMES.get(name.split(".")[0])
        assert home is None or module in home, f"{module} imports {name}"


@pytest.mark.parametrize(("module", "path"), MODULES)
def test_files_stay_small(module, path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 320


def test_every_module_has_a_layer_of_its_own():
    top = {module.split(".")[1] for module, _ in modules() if "." in module}
    assert {f"jaxlm.{name}" for name in top} == set(LAYERS) - {"jaxlm"}

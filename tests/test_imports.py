"""Each folder imports only lower folders, and some libraries are imported by a single module."""

import ast
import functools
import re
import subprocess
import sys
from pathlib import Path

import pytest

import jaxlm
from jaxlm.__main__ import COMMANDS

PACKAGE = Path(__file__).parents[1] / "jaxlm"
# The order of docs/design.md. A folder may import itself and the folders after it.
FOLDERS = (
    "commands",
    "serving",
    "inspection",
    "interop",
    "training",
    "evaluation",
    "runs",
    "models",
    "ops",
    "ngrams",
    "data",
    "parallel",
    "recipes",
)
# Modules at the root of the package that every folder may import.
SHARED = ("errors", "ranges", "shapes")
VERBS = tuple(COMMANDS)


IMPORTERS = {
    "chex": {"jaxlm.shapes"},
    "nltk": {"jaxlm.data.splitting"},
    "orbax": {"jaxlm.runs.checkpoints"},
    "duckdb": {"jaxlm.ngrams.engines"},
    "pyarrow": {"jaxlm.ngrams.engines"},
    "pyspark": {"jaxlm.ngrams.engines"},
    "matplotlib": {"jaxlm.runs.plots", "jaxlm.inspection.figures"},
    "scipy": {"jaxlm.evaluation.comparing"},
    "fastapi": {"jaxlm.serving.app"},
    "uvicorn": {"jaxlm.serving.server"},
    "filelock": {"jaxlm.runs.folder"},
    # The assets are the model in PyTorch, for Hugging Face folders; jaxlm does not import it.
    "torch": {"jaxlm.interop.torch_files", "jaxlm.interop.huggingface.assets.modeling_jaxlm"},
    "transformers": {"jaxlm.interop.huggingface.assets.modeling_jaxlm"},
    "onnx": {"jaxlm.interop.onnx_graph"},
    "pickle": set(),
}


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        yield ".".join(parts).removesuffix(".__init__"), path


MODULES = list(modules())


@functools.cache
def tree_of(path):
    """Return the syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path):
    """Yield every imported module, also from imports inside functions."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if is_module(name) else node.module for name in names)


def is_module(name):
    path = PACKAGE.parent / Path(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def folder_of(module):
    """Return the part of a module's name after "jaxlm."; "" for `jaxlm` itself."""
    return module.split(".")[1] if "." in module else ""


def imported_folders():
    """Return all pairs (importing folder or file, imported folder or file) in the package."""
    return {
        (folder_of(module), folder_of(name))
        for module, path in MODULES
        for name in imports(path)
        if name.split(".")[0] == "jaxlm"
    }


def test_folders_import_only_folders_below_them():
    place = {folder: index for index, folder in enumerate(FOLDERS)}
    for user, used in sorted(imported_folders()):
        if user in SHARED:
            assert used in SHARED, f"{user} imports {used}"
        elif user in place and used not in SHARED:
            assert used in place, f"{user} imports {used or 'jaxlm'}, which is above it"
            assert place[used] >= place[user], f"{user} imports {used}, which is above it"


def test_nothing_imports_a_command():
    assert not {pair for pair in imported_folders() if pair[1] in (*VERBS, "__main__")}


def test_the_root_holds_only_commands_folders_and_shared_modules():
    found = {folder_of(module) for module, _ in MODULES} - {"", "__main__"}
    assert found == {*FOLDERS, *SHARED, *VERBS}


def asks_for_the_platform(node):
    names = {"default_backend", "platform_dependent"}
    return isinstance(node, ast.Attribute) and node.attr in names


def test_only_one_module_asks_for_the_platform():
    asking = {
        module
        for module, path in MODULES
        if any(map(asks_for_the_platform, ast.walk(tree_of(path))))
    }
    assert asking == {"jaxlm.ops.machine"}


def messages(path):
    """Yield the texts in a file's code, without docstrings, with their lines."""
    tree = tree_of(path)
    statements = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in set(ast.walk(tree)) - statements:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, node.value


# Flags of other programs. Messages of the library may name them.
FOREIGN_FLAGS = {"--discount_fallback"}


@pytest.mark.parametrize(
    ("module", "path"),
    [pair for pair in MODULES if folder_of(pair[0]) in {*FOLDERS, *SHARED} - {"commands"}],
)
def test_messages_of_the_library_name_settings_instead_of_flags(module, path):
    for line, text in messages(path):
        flags = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", text)) - FOREIGN_FLAGS
        assert not flags, f"{path}:{line} names {flags}: write `setting_name`"


@pytest.mark.parametrize(("module", "path"), MODULES)
def test_data_does_not_import_jax_and_ops_do_not_import_flax(module, path):
    forbidden = {
        "jaxlm.data": {"jax", "flax"},
        "jaxlm.ngrams": {"jax", "flax"},
        "jaxlm.ops": {"flax"},
    }
    for prefix, libraries in forbidden.items():
        if module.startswith(prefix):
            assert not {name.split(".")[0] for name in imports(path)} & libraries


@pytest.mark.parametrize(("module", "path"), MODULES)
def test_some_libraries_are_imported_by_a_single_module(module, path):
    for name in imports(path):
        home = IMPORTERS.get(name.split(".")[0])
        assert home is None or module in home, f"{module} imports {name}"


def imported_by(code, *names):
    """Run `code` in a new Python process, and return which of the modules `names` it imported."""
    ending = f"\nimport sys\nprint(*[name for name in {names!r} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code + ending], capture_output=True, text=True, check=True
    )
    return set(done.stdout.splitlines()[-1].split())


def test_importing_jaxlm_imports_no_library():
    assert not imported_by("import jaxlm", "jax", "flax", "numpy", "tyro", "rich")


def test_the_list_of_commands_imports_no_library():
    code = "import sys; sys.argv = ['jaxlm', '--help']\nfrom jaxlm.__main__ import main; main()"
    assert not imported_by(code, "jax", "flax", "numpy", "tyro", "matplotlib")


def test_commands_use_an_ngram_without_jax(tmp_path):
    text = jaxlm.read_corpus("toy", eos=False)
    jaxlm.fit(jaxlm.NGram(len(text.vocabulary), order=3), text, folder=tmp_path, quiet=True)
    code = f"""
import sys
from jaxlm import evaluate, predict
assert predict.main([{str(tmp_path)!r}, "我 讨厌"]) == 0
assert evaluate.main([{str(tmp_path)!r}]) == 0
"""
    assert not imported_by(code, "jax", "flax", "optax", "orbax", "matplotlib")


def test_training_imports_no_plotting():
    assert not imported_by("import jaxlm.train", "matplotlib", "IPython", "tensorboardX")

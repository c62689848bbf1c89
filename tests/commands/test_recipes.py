"""Every recipe runs and names its source. experiments/reproduce.py measures its perplexity."""

import importlib
import json
import random
from pathlib import Path

import pytest

from jaxlm.models import make_model
from jaxlm.models.neural import param_shapes
from jaxlm.recipes import RECIPES
from jaxlm.training.config import RunConfig

SPLITS = {"train", "valid", "test"}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Folder of a corpus with three splits and a few hundred words."""
    folder = tmp_path_factory.mktemp("corpus")
    draw = random.Random(0)
    for split, lines in {"train": 60, "valid": 6, "test": 6}.items():
        words = [" ".join(draw.choices("abcdefgh", k=7)) + "\n" for _ in range(lines)]
        (folder / f"{split}.txt").write_text("".join(words))
    return folder


QUICK = ("lecture",)
# Recipes whose program is that of another recipe, with other sizes or another text.
SAME = ("zaremba-medium", "zaremba-large", "awd-lstm-wt2", "wt2-2h-cpu")
SAME += ("lecture-nplm", "lecture-lstm")


@pytest.mark.parametrize(
    "name",
    [
        name if name in QUICK else pytest.param(name, marks=pytest.mark.full)
        for name in RECIPES
        if name not in SAME
    ],
)
def test_a_recipe_trains_with_its_settings(shell, tmp_path, corpus, name):
    settings = RECIPES[name]["settings"]
    small = {"embedding_size": 6, "hidden_size": 6, "batch_size": 3}
    # Other sizes are reduced too, if the recipe has them.
    most = {"inner_size": 8, "bptt": 12, "num_layers": 2, "far_size": 3, "rank": 2}
    small |= {field: least for field, least in most.items() if field in settings}
    if "layer_sizes" in settings:
        # It has no effect beside them, and is refused.
        del small["hidden_size"]
    flags = ["--recipe", name, "--steps", "5", "--out", tmp_path / "run"]
    for field, least in small.items():
        value = min(settings[field], least) if field in settings else least
        flags += [f"--{field.replace('_', '-')}", value]
    if "cutoffs" in settings:
        flags += ["--cutoffs", 3, 6]
    if "layer_sizes" in settings:
        flags += ["--layer-sizes", *(7 for _ in settings["layer_sizes"])]
    if settings.get("corpus") != "toy":
        # If the recipe has `fractions`, its corpus is a single file.
        where = corpus / "train.txt" if "fractions" in settings else corpus
        flags += ["--corpus", where, "--eval-every", "2"]
    code, out, err = shell("train", *flags)
    assert code == 0, err
    config = json.loads((tmp_path / "run/config.json").read_text())
    # Settings of the recipe that were not reduced reach the run's config.json.
    given = {
        key: value
        for part in config.values()
        if isinstance(part, dict)
        for key, value in part.items()
    }
    changed = {*small, "layer_sizes", "cutoffs", "corpus", "steps", "model", "eval_every"}
    if name == "own-text":
        # These follow from the text and the number of train steps.
        changed |= {"dropout", "lr", "warmup_steps"}
    for field, value in settings.items():
        if field in given and field not in changed:
            # JSON has no tuples.
            value = list(value) if isinstance(value, tuple) else value
            assert given[field] == value, field
    if settings.get("corpus") != "toy":
        assert out.count("valid loss") >= 2


@pytest.mark.parametrize("name", SAME)
def test_a_recipe_of_a_program_that_another_recipe_trains_can_be_built(name):
    settings = RECIPES[name]["settings"]
    config = RunConfig.default(settings["model"])
    config = config.with_options({k: v for k, v in settings.items() if k != "model"}, name)
    config.check_ranges()
    assert param_shapes(make_model(config.model, config.network, 40_000, 0))


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_names_its_source(name):
    recipe = RECIPES[name]
    assert set(recipe) - {"by_model"} == {"settings", "paper", "published", "expected", "measured"}
    assert len(recipe["paper"]) > 20 and set(recipe["published"]) <= SPLITS
    measured = recipe["measured"]
    if measured:
        assert {"hardware", "minutes", "seeds"} <= set(measured)
        # The measured perplexity lies in the expected range.
        for split, (least, most) in recipe["expected"].items():
            assert least <= measured[split] <= most
    else:
        assert not recipe["expected"]


def test_reproduce_refuses_a_run_of_other_settings(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "experiments"))
    reproduce = importlib.import_module("reproduce")
    sections = {"optimizer": {"decay": RECIPES["zaremba-medium"]["settings"]["decay"]}}
    (tmp_path / "config.json").write_text(json.dumps(sections))
    reproduce.check_settings("zaremba-medium", tmp_path)
    sections["optimizer"]["decay"] = 0.8
    (tmp_path / "config.json").write_text(json.dumps(sections))
    with pytest.raises(SystemExit):
        reproduce.check_settings("zaremba-medium", tmp_path)
    assert "has decay 0.8, the recipe" in capsys.readouterr().err

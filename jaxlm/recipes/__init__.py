"""Recipes: settings by name, from papers, from the lecture, or tuned for this library.

The lecture is a first lesson on language models, with a text of three sentences (the corpus "toy").

A recipe is a plain dict:

    settings    values of settings by name. A setting that the chosen model does not have is
                ignored, so the recipe of the lecture serves all its models.
    by_model    values that differ for some models: {model: {setting: value}}; it may be absent
    paper       the source of the settings, and how they were adapted
    published   the perplexities of the source: {"valid": ..., "test": ...}; {} if there are none
    expected    by split, the lowest and the highest perplexity that a run of jaxlm should have; {}
                until the recipe has been run
    measured    the perplexity of jaxlm by split, with "hardware", "minutes" and "seeds" (number of
                runs); {} until the recipe has been run to its end. A recipe states no number that
                was not measured.

Some papers sum the loss over the time steps and average it over the batch (Zaremba et al. 2014).
jaxlm averages the loss over tokens. So the learning rates of these papers are multiplied by `bptt`,
and their clipping thresholds are divided by `bptt`.

Example:
  >>> RECIPES["zaremba-small"]["published"]
  {'valid': 120.7, 'test': 114.5}
"""

from typing import Any

from jaxlm.errors import choose
from jaxlm.recipes.lecture import LECTURE
from jaxlm.recipes.ours import OURS
from jaxlm.recipes.own_text import OWN_TEXT
from jaxlm.recipes.papers import PAPERS
from jaxlm.recipes.regularised import REGULARISED
from jaxlm.recipes.table import Recipe

__all__ = ["RECIPES", "Recipe", "recipe_settings"]

RECIPES: dict[str, Recipe] = LECTURE | OWN_TEXT | PAPERS | REGULARISED | OURS


def recipe_settings(recipe: str, model: str | None) -> dict[str, Any]:
    """Return the settings of a recipe for a model; None for the recipe's own model.

    Example:
      >>> [recipe_settings("lecture", model)["hidden_size"] for model in ("nplm", "transformer")]
      [2, 8]

    Raises:
      UserError: for an unknown recipe.
    """
    found = choose(RECIPES, recipe, "recipe")
    name = model or found["settings"].get("model")
    return {**found["settings"], **found.get("by_model", {}).get(name, {})}

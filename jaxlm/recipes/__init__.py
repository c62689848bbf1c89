"""Settings by name: what a paper, the lecture or we used, with what came of it.

A recipe is a plain dict:

    settings    flags without their dashes; fields of another model than the one chosen are passed
                over, so that the lecture's recipe serves all its models
    paper       where they come from, and how they were carried over
    published   perplexities as they stand there: {"valid": ..., "test": ...}; {} if there are none
    expected    from and to which our own should lie, by split; {} as long as it has not been run
    measured    ours, by split; with "hardware", "minutes" and "seeds". {} as long as it has not
                been run to its end: a recipe claims no number that nobody has seen

Papers that sum the loss over the time steps and average it over the batch (Zaremba et al.) give a
rate and a clip for that; for our mean per token the rate is multiplied by `bptt` and the clip
divided by it.
"""

from jaxlm.recipes.lecture import LECTURE
from jaxlm.recipes.ours import OURS
from jaxlm.recipes.papers import PAPERS
from jaxlm.recipes.regularised import REGULARISED
from jaxlm.recipes.table import Recipe

__all__ = ["RECIPES", "Recipe"]

RECIPES: dict[str, Recipe] = LECTURE | PAPERS | REGULARISED | OURS

"""Fine-tuning: a model that starts from the parameters of a trained run."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxlm.data.text import Text
from jaxlm.data.tokenizers import to_json
from jaxlm.errors import UserError
from jaxlm.models.base import LanguageModel
from jaxlm.models.neural import NeuralModel
from jaxlm.runs.run import Run
from jaxlm.training.state import init_params


def adapt_model(run: Run, text: Text) -> LanguageModel:
    """Return the run's model with the vocabulary size of `text`; its parameters are not touched.

    The vocabulary of `text` is the run's, or the run's with new tokens at the end.

    Raises:
      UserError: if the text was read with another vocabulary, or the model cannot be extended.
    """
    check_extends(run, text)
    model = run.model
    if not isinstance(model, NeuralModel):
        raise UserError(f"{run.name} is counted, not trained by gradient: count the new text")
    size = len(text.vocabulary)
    if size == model.vocab_size:
        return model
    if model.softmax == "adaptive":
        raise UserError(
            f"{run.name} has an adaptive softmax, whose clusters depend on the vocabulary: read "
            f"the text with the run's own vocabulary (`vocabulary` keep)"
        )
    return model.clone(vocab_size=size)


def start_params(model: NeuralModel, run: Run, text: Text) -> Any:
    """Return the run's parameters in the shapes of `model`.

    If the vocabulary was extended, the rows of the new tokens are drawn at random, from a fixed
    key.

    Raises:
      UserError: if the text was read with another vocabulary, or the models differ otherwise.
    """
    check_extends(run, text)
    fresh = init_params(model, jax.random.key(0))
    if str(jax.tree.structure(fresh)) != str(jax.tree.structure(run.params)):
        raise UserError(
            f"{run.name} has other parameters than the model: use the settings of the run"
        )

    def fill(new: jax.Array, old: jax.Array) -> jax.Array:
        if new.shape == old.shape:
            return jnp.asarray(old)
        sizes = zip(new.shape, old.shape, strict=False)
        extended = [(size, known) for size, known in sizes if size != known]
        vocabularies = model.vocab_size, run.model.vocab_size
        if new.ndim != old.ndim or extended != [vocabularies]:
            raise UserError(
                f"{run.name} has parameters of shape {old.shape} where the model has {new.shape}: "
                f"use the settings of the run"
            )
        return new.at[tuple(slice(0, size) for size in old.shape)].set(old)

    return jax.tree.map(fill, fresh, run.params)


def check_extends(run: Run, text: Text) -> None:
    """Raise UserError unless the text's vocabulary is the run's, or the run's and more tokens."""
    known, tokens = run.vocabulary.tokens, text.vocabulary.tokens
    same_kind = type(text.tokenizer) is type(run.tokenizer)
    if to_json(text.tokenizer) != to_json(run.tokenizer) and (
        not same_kind or tokens[: len(known)] != known
    ):
        raise UserError(
            f"the text was read with another vocabulary than {run.name}: read it with "
            f"read_corpus(..., tokenizer=run.tokenizer)"
        )

"""Facts of information theory: a uniform model has perplexity V, and no model beats the source."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxlm
from jaxlm.evaluation.scoring import Scorer
from jaxlm.models import MODELS, make_model
from jaxlm.runs.run import Run

# P(next | present) of a first-order Markov source. jaxlm puts a line break before the first
# character of a text. The line break is a symbol of the source, so the first character has a
# probability too.
SYMBOLS = "abcd\n"
SOURCE_SS = np.array(
    [
        [0.05, 0.70, 0.10, 0.05, 0.10],
        [0.10, 0.05, 0.60, 0.20, 0.05],
        [0.45, 0.05, 0.05, 0.40, 0.05],
        [0.25, 0.25, 0.05, 0.05, 0.40],
        [0.80, 0.05, 0.05, 0.05, 0.05],
    ]
)
START = SYMBOLS.index("\n")


def zero_parameters(model):
    tokens_BT = jnp.zeros((1, 2), jnp.int32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), tokens_BT)["params"]
    return jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)


NEURAL = [name for name, entry in MODELS.items() if entry.kind.trained_by == "gradient"]


@pytest.mark.quick_for("lstm", "nplm", "transformer")
@pytest.mark.parametrize("name", NEURAL)
def test_a_uniform_model_has_perplexity_v(name):
    text = jaxlm.read_corpus("toy")
    vocabulary = text.vocabulary
    model = make_model(name, {}, len(vocabulary), vocabulary.start_id)
    report = jaxlm.perplexity(Run(model, zero_parameters(model), text.tokenizer), text.train)
    assert len(vocabulary) == 8
    assert report.tokens == 12  # nine words, three <eos>
    assert report.perplexity == pytest.approx(8, rel=1e-6)


def sample(rng, length):
    """Return `length` symbols of the source, which starts after a line break."""
    cumulative_SS = SOURCE_SS.cumsum(axis=1)
    state, states = START, []
    for draw in rng.random(length):
        state = min(int(np.searchsorted(cumulative_SS[state], draw, "right")), len(SYMBOLS) - 1)
        states.append(state)
    return np.array(states)


def source_log_prob(states):
    """Return log P of every symbol given the symbol before it."""
    before = np.concatenate([[START], states[:-1]])
    return np.log(SOURCE_SS[before, states])


def to_text(states):
    return "".join(SYMBOLS[state] for state in states)


SMALL = {"embedding_size": 8, "hidden_size": 16}
TRAINING = {
    "batch_size": 32,
    "bptt": 16,
    "steps": 200,
    "lr": 0.02,
    "schedule": "cosine",
    "clip": 1.0,
}
LEARNERS = {
    "ngram": ({"order": 2, "stream": True}, {}),
    "nplm": (SMALL | {"n_step": 2}, TRAINING),
    "rnn": (SMALL, TRAINING),
}


@pytest.mark.quick_for("ngram", "rnn")
@pytest.mark.parametrize("name", LEARNERS)
def test_models_reach_the_entropy_of_a_markov_source(name, tmp_path):
    rng = np.random.default_rng(1913)
    train, test = sample(rng, 40_000), sample(rng, 10_000)
    (tmp_path / "train.txt").write_text(to_text(train), encoding="utf-8", newline="")
    (tmp_path / "test.txt").write_text(to_text(test), encoding="utf-8", newline="")
    text = jaxlm.read_corpus(str(tmp_path), tokens="chars")
    vocabulary = text.vocabulary
    sizes, training = LEARNERS[name]
    model = make_model(name, sizes, len(vocabulary), vocabulary.start_id)
    run = jaxlm.fit(model, text, **training)

    source = source_log_prob(test)
    report = jaxlm.perplexity(run, text.test)
    assert report.tokens == len(test)
    assert report.perplexity == pytest.approx(np.exp(-source.mean()), rel=0.01)

    # No model is better than the source on average (Gibbs' inequality). On one text a model can be
    # better by chance.
    scores = Scorer(run.model).stream(run.params, text.test.ids)
    assert scores.nll == pytest.approx(report.nll)
    loss = source - scores.log_prob
    assert loss.mean() > -4 * loss.std() / np.sqrt(len(test))

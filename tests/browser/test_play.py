"""The page to play with: its models, gradients and tokenizers equal jaxlm's, in Chromium."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose

import jaxlm
from jaxlm.data.tokenizers import BPE, Bytes, Characters, VocabularyConfig, Words
from jaxlm.data.vocabulary import EOS, UNK, Vocabulary
from jaxlm.evaluation.generation import encode_context
from jaxlm.inspection.play.building import SCRIPTS, Shelf, asset, play_page, shelves_of
from jaxlm.models import MODELS
from jaxlm.ops.sampling import filter_logits
from jaxlm.runs.protocol import Protocol
from jaxlm.runs.run import Run
from jaxlm.runs.starts import WARM_START
from cases import START, VARIANTS, V, build

LETTERS = "abcdefghijk"
CHARACTERS = Characters(Vocabulary((*LETTERS, UNK, "\n"), unk=UNK, start="\n"))
TEXT = "abcabc\nkjihg?fed\nabcab"
CELLS = ("rnn", "gru", "lstm", "mingru", "minlstm")
# The variants whose mathematics the page has.
FEATURES = {
    "recurrent": ("plain", "tied two layers", "tied, projected", "stack", "sampled"),
    "nplm": ("plain", "tied, projected", "deep", "direct", "direct, no hidden"),
    "ngram": ("plain", "stream", "unigram", "bigram", "add-k", "maximum-likelihood", "witten-bell"),
}


def make_run(name, variant="plain", tokenizer=CHARACTERS, settings=None, **options):
    model, params = build(name, VARIANTS[variant], **options)
    assert (model.vocab_size, model.start_id) == (V, START) == (len(CHARACTERS.vocabulary), 12)
    return Run(model, params, tokenizer, Protocol(), settings or {})


def all_runs():
    """Return every model that the page runs, in every variant, with random weights."""
    kinds = {cell: "recurrent" for cell in CELLS} | {"nplm": "nplm", "ngram": "ngram"}
    return {
        f"{name}, {variant}": make_run(name, variant)
        for name, kind in kinds.items()
        for variant in FEATURES[kind]
    }


def open_play(open_page, tmp_path, runs, dtype="float16", start=None, **window):
    path = tmp_path / "play.html"
    path.write_text(play_page([Shelf("test", runs)], dtype=dtype, start=start), encoding="utf-8")
    page = open_page(path, **window)
    page.wait_for_selector('html[data-ready="true"]')
    return page


def type_text(page, text):
    page.locator("#text").press_sequentially(text)
    page.wait_for_selector('html[data-left="0"]')


# The distribution after the text, of every model of the first shelf.
DISTRIBUTIONS = """() => jaxlmPlay.Playing.shelves[0].cards.map(({reader}) =>
  Array.from(reader.next(reader.stateBefore()), Math.exp))"""
BITS = "() => jaxlmPlay.Playing.shelves[0].cards.map(({reader}) => reader.entries.map((e) => e.bits))"


def expected_distribution(run, text, start=None):
    context = encode_context(run, text, start)
    log_probs_1V, _ = run.model.next_log_probs(run.params, context.ids, context.start.carry)
    return np.exp(np.asarray(log_probs_1V)[0])


def expected_bits(run, text):
    context = encode_context(run, text)
    inputs, targets = context.ids[:, :-1], context.ids[:, 1:]
    carry = run.model.initial_carry(1) if context.start.carry is None else context.start.carry
    (scores_1T,), _ = run.model.token_scores(run.params, inputs, targets, carry)
    return -np.asarray(scores_1T)[0] / np.log(2)


def test_models_in_the_page_say_what_jaxlm_says(open_page, tmp_path):
    runs = [make_run("lstm"), make_run("nplm"), make_run("ngram")]
    page = open_play(open_page, tmp_path, runs)
    type_text(page, TEXT)
    found = page.evaluate(DISTRIBUTIONS)
    for run, probabilities, bits in zip(runs, found, page.evaluate(BITS), strict=True):
        assert_allclose(probabilities, expected_distribution(run, TEXT), atol=1e-3)
        assert_allclose(bits, expected_bits(run, TEXT), atol=0.03)
    # What the page shows is what its models say.
    for card, run in zip(page.locator(".card").all(), runs, strict=True):
        shown = jaxlm.next_words(run, TEXT, 10)
        rows = card.locator(".expected li")
        numbers = [float(p) for p in rows.evaluate_all("all => all.map(x => x.dataset.probability)")]
        assert_allclose(numbers, [p for _, p in shown], atol=1e-3)
        ids = rows.evaluate_all("all => all.map(x => Number(x.dataset.id))")
        by_id = expected_distribution(run, TEXT)
        assert_allclose(by_id[ids], numbers, atol=1e-3)
        last = float(card.locator(".line .bits").get_attribute("data-bits"))
        assert_allclose(last, expected_bits(run, TEXT)[-1], atol=0.03)
        assert "?" in card.locator(".warning").all_inner_texts()[-1]
    for name, sizes in (("NPLM", (5, 2, 3, 2)), ("LSTM", (6, 3, 5, 2))):
        check_gradient(page, name, *sizes)


@pytest.mark.full
@pytest.mark.parametrize(("dtype", "limit"), [("float16", 1e-3), ("float32", 1e-4)])
def test_every_model_in_the_page_says_what_jaxlm_says(open_page, tmp_path, dtype, limit):
    runs = all_runs()
    page = open_play(open_page, tmp_path, list(runs.values()), dtype)
    for text in ("", "a", TEXT):
        page.fill("#text", text)
        page.wait_for_selector('html[data-left="0"]')
        for (name, run), found in zip(runs.items(), page.evaluate(DISTRIBUTIONS), strict=True):
            wanted = expected_distribution(run, text)
            assert_allclose(found, wanted, atol=limit, err_msg=f"{name} after {text!r}")
    for (name, run), found in zip(runs.items(), page.evaluate(BITS), strict=True):
        bits = np.array([np.inf if x is None else x for x in found])
        assert_allclose(2**-bits, 2 ** -expected_bits(run, TEXT), atol=limit, err_msg=name)


@pytest.mark.full
def test_a_warm_start_is_that_of_jaxlm(open_page, tmp_path):
    warm = {WARM_START: [1, 2, 3, 12, 4, 5, 12]}
    names = [*CELLS, "nplm"]
    runs = [make_run(name, settings=warm) for name in names]
    runs.append(make_run("ngram", "stream", settings=warm))
    for start in (None, "fresh"):
        page = open_play(open_page, tmp_path, runs, "float32", start)
        for text in ("", "ab"):
            page.fill("#text", text)
            page.wait_for_selector('html[data-left="0"]')
            for run, found in zip(runs, page.evaluate(DISTRIBUTIONS), strict=True):
                assert_allclose(found, expected_distribution(run, text, start), atol=1e-4)


# ---- gradients ------------------------------------------------------------------------------------
LEARN = """([name, sizes, params, rows, rate, steps]) => {
  const learner = new jaxlmPlay.Learning.MODELS[name](sizes, jaxlmPlay.Numbers.generator(1));
  const made = Object.fromEntries(Object.entries(learner.params).map(([key, x]) => [key, x.length]));
  for (const [key, values] of Object.entries(params)) learner.params[key].set(values);
  const first = learner.gradient(rows);
  const adam = new jaxlmPlay.Learning.Adam(learner);
  for (let step = 0; step < steps; step++) adam.step(learner.params, learner.gradient(rows).grads, rate);
  const plain = (tree) => Object.fromEntries(Object.entries(tree).map(([key, x]) => [key, Array.from(x)]));
  return {loss: first.loss, grads: plain(first.grads), params: plain(learner.params), made};
}"""


def check_gradient(page, name, words, features, hidden, steps, updates=3, seed=0):
    """Compare a learner's loss, gradient and steps of Adam with jax.grad and optax."""
    sizes = {"embedding_size": features, "hidden_size": hidden}
    if name == "NPLM":
        model = jaxlm.NPLM(words, n_step=steps, **sizes)
    else:
        model = jaxlm.LSTM(words, time_loop="scan", **sizes)
    generator = np.random.default_rng(seed)
    shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 2), np.int32))["params"]
    params = jax.tree.map(lambda a: jnp.float32(generator.normal(0, 0.7, a.shape)), shapes)
    lengths = generator.integers(steps + 1, steps + 5, 3)
    lines = [generator.integers(0, words, length + 1) for length in lengths]
    # Targets at every place where the NPLM sees its whole window.
    places = [range(steps - 1, len(line) - 1) for line in lines]

    def mean_loss(params):
        nll = []
        for line, wanted in zip(lines, places, strict=True):
            found, _ = model.apply(
                {"params": params}, line[None, :-1], line[None, 1:], method="nll"
            )
            nll += [found[0, place] for place in wanted]
        return jnp.mean(jnp.stack(nll))

    loss, grads = jax.value_and_grad(mean_loss)(params)
    optimizer = optax.adam(0.05)
    state, learnt = optimizer.init(params), params
    for _ in range(updates):
        moves, state = optimizer.update(jax.grad(mean_loss)(learnt), state)
        learnt = optax.apply_updates(learnt, moves)
    by_path = {
        "/".join(str(key.key) for key in path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }
    rows = [
        {"tokens": line[:-1].tolist(), "targets": [[p, int(line[p + 1])] for p in wanted]}
        for line, wanted in zip(lines, places, strict=True)
    ]
    flat = {path: values.ravel().tolist() for path, values in by_path.items()}
    sizes_js = {"words": words, "features": features, "hidden": hidden, "steps": steps}
    found = page.evaluate(LEARN, [name.lower(), sizes_js, flat, rows, 0.05, updates])
    assert found["made"] == {path: values.size for path, values in by_path.items()}
    assert_allclose(found["loss"], loss, rtol=1e-4)
    for kind, tree in (("grads", grads), ("params", learnt)):
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            key = "/".join(str(part.key) for part in path)
            wanted = np.asarray(leaf).ravel()
            assert_allclose(found[kind][key], wanted, atol=1e-4, err_msg=f"{kind} of {key}")


@pytest.fixture(scope="module")
def toy_run():
    text = jaxlm.read_corpus("toy", eos=False)
    return jaxlm.fit(jaxlm.NGram(len(text.vocabulary), order=3), text, quiet=True)


@pytest.mark.full
@pytest.mark.parametrize("name", ["NPLM", "LSTM"])
def test_the_gradients_of_the_page_are_those_of_jax(open_page, tmp_path, toy_run, name):
    page = open_play(open_page, tmp_path, [toy_run])
    for seed, sizes in enumerate([(7, 2, 2, 2), (11, 3, 5, 1), (2, 1, 1, 3), (13, 7, 9, 4)]):
        check_gradient(page, name, *sizes, updates=20, seed=seed)

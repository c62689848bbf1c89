"""The page to play with: its models, gradients and tokenizers equal jaxlm's, in Chromium."""

import itertools
import json
import re
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import START, VARIANTS, V, build
from numpy.testing import assert_allclose

import jaxlm
from jaxlm import show
from jaxlm.data.tokenizers import BPE, Bytes, Characters, VocabularyConfig, Words
from jaxlm.data.vocabulary import EOS, UNK, Vocabulary
from jaxlm.evaluation.generation import encode_context
from jaxlm.inspection.play.building import SCRIPTS, Shelf, asset, play_page
from jaxlm.inspection.play.models import describe_tokenizer
from jaxlm.ops.sampling import filter_logits
from jaxlm.runs.protocol import Protocol
from jaxlm.runs.run import Run
from jaxlm.runs.starts import WARM_START

LETTERS = "abcdefghijk"
CHARACTERS = Characters(Vocabulary((*LETTERS, UNK, "\n"), unk=UNK, start="\n"))
TEXT = "abcabc\nkjihg?fed\nabcab"
CELLS = ("rnn", "gru", "lstm", "mingru", "minlstm", "paragru", "paralstm")
# The variants whose mathematics the page has.
FEATURES = {
    "recurrent": (
        "plain",
        "tied two layers",
        "tied, projected",
        "stack",
        "sampled",
        "learned start",
    ),
    "nplm": ("plain", "tied, projected", "deep", "direct", "direct, no hidden"),
    "ngram": ("plain", "stream", "unigram", "bigram", "add-k", "maximum-likelihood", "witten-bell"),
}


def make_run(name, variant="plain", tokenizer=CHARACTERS, settings=None, **options):
    model, params = build(name, VARIANTS[variant], **options)
    assert (model.vocab_size, model.start_id) == (V, START) == (len(CHARACTERS.vocabulary), 12)
    return Run(model, params, tokenizer, Protocol(), settings or {})


def all_runs():
    """Return every model that the page runs, and every variant, with random weights.

    The wiring of a recurrent network does not depend on its cell, so each variant has another cell.
    """
    plain, *wired = FEATURES["recurrent"]
    chosen = [(name, plain) for name in CELLS]
    chosen += zip(itertools.cycle(CELLS), wired, strict=False)
    chosen += [(name, variant) for name in ("nplm", "ngram") for variant in FEATURES[name]]
    return {f"{name}, {variant}": make_run(name, variant) for name, variant in chosen}


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
BITS = """() => jaxlmPlay.Playing.shelves[0].cards.map(({reader}) =>
  reader.entries.map((entry) => entry.bits))"""
PROBABILITIES = "rows => rows.map((row) => Number(row.dataset.probability))"
IDS = "rows => rows.map((row) => Number(row.dataset.id))"


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


@pytest.mark.full
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
        numbers = rows.evaluate_all(PROBABILITIES)
        assert_allclose(numbers, [p for _, p in shown], atol=1e-3)
        by_id = expected_distribution(run, TEXT)
        assert_allclose(by_id[rows.evaluate_all(IDS)], numbers, atol=1e-3)
        last = float(card.locator(".line .bits").get_attribute("data-bits"))
        assert_allclose(last, expected_bits(run, TEXT)[-1], atol=0.03)
        assert "?" in card.locator(".warning").all_inner_texts()[-1]


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


LEARN = """([name, sizes, params, rows, rate, steps]) => {
  const learner = new jaxlmPlay.Learning.MODELS[name](sizes, jaxlmPlay.Numbers.generator(1));
  const map = (tree, f) => Object.fromEntries(Object.entries(tree).map(([key, x]) => [key, f(x)]));
  const made = map(learner.params, (x) => x.length);
  for (const [key, values] of Object.entries(params)) learner.params[key].set(values);
  const first = learner.gradient(rows);
  const adam = new jaxlmPlay.Learning.Adam(learner);
  for (let step = 0; step < steps; step++) {
    adam.step(learner.params, learner.gradient(rows).grads, rate);
  }
  const list = (x) => Array.from(x);
  return {loss: first.loss, grads: map(first.grads, list), params: map(learner.params, list), made};
}"""


def check_gradient(page, name, words, features, hidden, steps, updates, seed, count=3):
    """Compare a learner's loss, gradient and steps of Adam with jax.grad and optax."""
    sizes = {"embedding_size": features, "hidden_size": hidden}
    if name == "NPLM":
        model = jaxlm.NPLM(words, n_step=steps, **sizes)
    else:
        model = jaxlm.LSTM(words, time_loop="scan", **sizes)
    generator = np.random.default_rng(seed)
    shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 2), np.int32))["params"]
    params = jax.tree.map(lambda a: jnp.float32(generator.normal(0, 0.7, a.shape)), shapes)
    lengths = generator.integers(steps + 1, steps + 5, count)
    lines = [generator.integers(0, words, length + 1) for length in lengths]
    # Targets at every place where the NPLM sees its whole window.
    places = [range(steps - 1, len(line) - 1) for line in lines]

    @jax.jit
    @jax.value_and_grad
    def loss_and_gradient(params):
        nll = []
        for line, wanted in zip(lines, places, strict=True):
            found, _ = model.apply(
                {"params": params}, line[None, :-1], line[None, 1:], method="nll"
            )
            nll += [found[0, place] for place in wanted]
        return jnp.mean(jnp.stack(nll))

    loss, grads = loss_and_gradient(params)
    optimizer = optax.adam(0.05)
    state, learnt = optimizer.init(params), params
    for _ in range(updates):
        moves, state = optimizer.update(loss_and_gradient(learnt)[1], state)
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
    for seed, sizes in enumerate([(11, 3, 5, 1), (13, 7, 9, 4)]):
        check_gradient(page, name, *sizes, updates=20, seed=seed)


FILTER = """([logits, temperature, topK, topP]) =>
  Array.from(jaxlmPlay.Numbers.filtered(Float64Array.from(logits), temperature, topK, topP))"""
DRAW = """([probabilities, count]) => {
  const random = jaxlmPlay.Numbers.generator(7);
  const counts = probabilities.map(() => 0);
  for (let i = 0; i < count; i++) counts[jaxlmPlay.Numbers.draw(probabilities, random())] += 1;
  return counts;
}"""


@pytest.mark.full
def test_sampling_follows_temperature_top_k_top_p_and_seed(open_page, tmp_path, toy_run):
    page = open_play(open_page, tmp_path, [make_run("gru"), make_run("ngram")])
    generator = np.random.default_rng(5)
    # Rounded logits have ties, of which the lower ids are kept.
    logits = jnp.float32(np.round(generator.normal(0, 1.5, 17), 1))
    for temperature in (0.3, 1.0, 1.7):
        for top_k, top_p in ((None, None), (5, None), (None, 0.7), (9, 0.5), (1, 0.9), (40, 1.0)):
            kept = filter_logits(logits[None], temperature, top_k, top_p)
            found = page.evaluate(FILTER, [logits.tolist(), temperature, top_k, top_p])
            assert_allclose(found, jax.nn.softmax(kept)[0], atol=1e-5)
    coldest = np.array(page.evaluate(FILTER, [logits.tolist(), 0, None, None]))
    assert coldest.nonzero()[0].tolist() == [int(jnp.argmax(logits))]
    shares = np.array(page.evaluate(DRAW, [[0.5, 0.0, 0.3, 0.2], 20000])) / 20000
    assert_allclose(shares, [0.5, 0, 0.3, 0.2], atol=0.02)

    def written(seed, temperature="1", writer="0"):
        page.fill("#text", "ab")
        page.locator("details").evaluate("x => { x.open = true; }")
        page.select_option("#writer", writer)
        for name, value in (("seed", seed), ("temperature", temperature), ("length", "40")):
            page.fill(f"#{name}", value)
        page.click("#write")
        page.wait_for_selector('html[data-writing="false"]')
        return page.input_value("#text")

    first = written("3")
    assert first.startswith("ab") and len(first) == 42
    assert written("3") == first != written("4")
    greedy = jaxlm.sample(make_run("gru"), "ab", length=40, temperature=0)
    assert written("1", "0") == greedy[0].replace(UNK, "\ufffd") == written("2", "0")
    assert len(written("3", writer="1")) == 42


@pytest.mark.full
def test_a_setting_that_makes_no_sense_is_marked_and_not_used(open_page, tmp_path, toy_run):
    page = open_play(open_page, tmp_path, [toy_run], width=390, touch=True)
    page.locator("details").evaluate("x => { x.open = true; }")
    wrong = {"topK": ("0", "1.5", "-3"), "seed": ("", "-1", "5000000000"), "length": ("0", "5000")}
    before = page.evaluate("({...jaxlmPlay.Playing.options})")
    for name, values in wrong.items():
        for value in values:
            page.fill(f"#{name}", value)
            marked = page.locator(f"#{name}:invalid").count()
            assert marked == (value != ""), (name, value)
        assert page.evaluate("({...jaxlmPlay.Playing.options})") == before
    page.fill("#topK", "3")
    assert page.evaluate("jaxlmPlay.Playing.options.topK") == 3


@pytest.mark.full
def test_training_with_a_probability_of_zero_draws_a_curve(open_page, tmp_path, toy_run):
    page = open_play(open_page, tmp_path, [toy_run])
    page.click("#tab-train")
    # The first word that is to be predicted gets a score that is 2,000 below those of the others.
    page.evaluate("""() => {
      const { models, rows } = jaxlmPlay.Training.made();
      const id = rows[0].targets[0][1];
      for (const { learner } of Object.values(models)) learner.params["output/bias"][id] = -2000;
      jaxlmPlay.Training.many(1);
    }""")
    losses = page.locator("[data-loss]").evaluate_all("all => all.map((x) => x.dataset.loss)")
    assert [600 < float(loss) < 800 for loss in losses] == [True, True]


SPOKEN = [
    "the cat",
    "sat on",
    "a  mat ,",
    "café",
    "我 爱",
    "😀 ok",
    "don't",
    "1234 5",
]
TEXTS = (
    "",
    " ",
    "the cat\n",
    "the cat sat\n\non a mat ",
    "我爱😀\u3000the\u00a0cat ",
    "  the\tzebra's 12345 café!\n",
    "שלום the cat ",
)
ENCODE = """([specs, texts]) => specs.map((spec) => texts.map((text) => {
  const {tokens} = jaxlmPlay.Tokenizers.make(spec).encode(text);
  return tokens.map(({id, start, end}) => [id, start, end]);
}))"""
SHOWN = """(specs) => specs.map((spec) => {
  const tokenizer = jaxlmPlay.Tokenizers.make(spec);
  return spec.tokens.map((_, id) => tokenizer.text(id));
})"""


@pytest.mark.full
def test_tokenizers_of_the_page_are_those_of_jaxlm(open_page, tmp_path, toy_run):
    lines = [f"{line}\n" for line in SPOKEN] * 3
    words = Words.fit(lines, VocabularyConfig(), True)
    tokenizers = [
        words,
        Words.fit(lines, VocabularyConfig(eos=False), True),
        Words(words.vocabulary, True, ascii_blanks=True),
        Characters.fit(lines, VocabularyConfig(), True),
        # As from another program: without a line break.
        Characters(Vocabulary((*LETTERS, UNK), unk=UNK)),
        Bytes(),
        BPE.fit(lines, VocabularyConfig(vocab_size=280), False),
    ]
    specs = json.loads(json.dumps([describe_tokenizer(tokenizer) for tokenizer in tokenizers]))
    page = open_play(open_page, tmp_path, [toy_run])
    found = page.evaluate(ENCODE, [specs, list(TEXTS)])
    shown = page.evaluate(SHOWN, specs)
    for tokenizer, of_tokenizer, names in zip(tokenizers, found, shown, strict=True):
        for text, tokens in zip(TEXTS, of_tokenizer, strict=True):
            ids = [index for index, _, _ in tokens]
            wanted = tokenizer.encode_context(text).tolist()
            # A word without a blank after it may not be complete, so an unknown one is not read.
            assert ids == wanted, (tokenizer.name, text)
            starts = [start for _, start, _ in tokens]
            assert starts == sorted(starts)
            assert all(first < last for _, first, last in tokens) or tokenizer.name in (
                "bytes",
                "bpe",
            )
        plain = {"\n": "⏎", EOS: "⏎", " ": "␣", "\t": "⇥", "\u3000": "␣"}
        for index, name in enumerate(names):
            text = tokenizer.token_text(index)
            assert name in (
                plain.get(text, text),
                text.replace(" ", "␣").replace("\n", "⏎"),
            )


@pytest.mark.full
def test_a_word_that_is_being_typed_is_completed(open_page, tmp_path):
    lines = ["the cat sat\n", "the car stops\n", "a dog ran\n"] * 3
    text = jaxlm.read_corpus(lines, unk="always")
    run = jaxlm.fit(jaxlm.NGram(len(text.vocabulary), order=3), text, quiet=True)
    page = open_play(open_page, tmp_path, [run])
    type_text(page, "the c")
    listed = page.locator(".expected .token").all_inner_texts()
    assert sorted(listed) == ["car", "cat"] and page.inner_text(".typing") == "c"
    page.locator(".expected button").filter(has_text="cat").click()
    assert page.input_value("#text") == "the cat"
    assert_allclose(
        page.evaluate(DISTRIBUTIONS)[0], expected_distribution(run, "the cat"), atol=1e-3
    )
    type_text(page, " zebra ")
    assert "zebra" in page.locator(".warning").all_inner_texts()[-1]
    assert page.locator(".strip .unknown").inner_text() == "zebra"


@pytest.mark.full
def test_chinese_is_typed_through_an_input_method(open_page, tmp_path, toy_run):
    page = open_play(open_page, tmp_path, [toy_run])
    page.focus("#text")
    keyboard = page.context.new_cdp_session(page)
    for letters in ("w", "wo"):
        arguments = {"text": letters, "selectionStart": 1, "selectionEnd": 1}
        keyboard.send("Input.imeSetComposition", arguments)
    # The letters of the sound are no text of the models yet.
    assert page.input_value("#text") == "wo" and page.evaluate(BITS) == [[]]
    keyboard.send("Input.insertText", {"text": "我 讨厌"})
    assert page.input_value("#text") == "我 讨厌"
    ids = page.locator(".expected li").evaluate_all(IDS)
    assert toy_run.tokenizer.token_text(ids[0]) == "挨打"


@pytest.mark.full
@pytest.mark.parametrize(("width", "language", "dark"), [(1280, "en", False), (390, "zh", True)])
def test_the_page_is_used_by_keyboard_and_in_both_languages(
    open_page, tmp_path, width, language, dark
):
    evil = ["<script>alert(1)</script> <b>bold</b> 😀 שלום " + "x" * 300 + "\n"] * 3
    text = jaxlm.read_corpus(evil)
    run = jaxlm.fit(jaxlm.NGram(len(text.vocabulary), order=3), text, quiet=True)
    page = open_play(open_page, tmp_path, [run], width=width, dark=dark)
    if language == "zh":
        page.click("#language")
        assert page.locator("html").get_attribute("lang") == "zh-Hans"
        assert re.search("[\u4e00-\u9fff]", page.inner_text("h1"))
    page.fill("#text", evil[0].strip())
    page.wait_for_selector('html[data-left="0"]')
    assert "<script>alert(1)</script>" in page.inner_text(".strip")
    assert page.evaluate("document.documentElement.scrollWidth") == width
    page.focus(".strip")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert "שלום" in page.locator(".chosen").inner_text()
    assert page.locator(".expected .true").count() == 1
    page.keyboard.press("Escape")
    assert page.locator(".chosen").count() == 0
    page.focus("#tab-play")
    page.keyboard.press("ArrowRight")
    assert page.locator("#tab-train").get_attribute("aria-selected") == "true"
    assert page.evaluate("document.documentElement.scrollWidth") == width
    for button in page.locator(".show-data:visible").all():
        button.click()
    assert page.locator("table").count() == 4


@pytest.mark.full
def test_the_lecture_is_learnt_in_the_page(open_page, tmp_path, toy_run):
    page = open_play(open_page, tmp_path, [toy_run])
    page.click("#tab-train")
    page.evaluate("jaxlmPlay.Training.many(1000)")
    for card in page.locator("[data-learner]").all():
        assert float(card.locator(".line").get_attribute("data-loss")) < 0.01
        for row in card.locator(".predictions li").all():
            assert row.get_attribute("data-true") == row.get_attribute("data-best")
    page.click("#train-reset")
    assert page.locator("[data-count]").get_attribute("data-count") == "0"
    page.click("#train-step")
    assert page.locator("[data-count]").get_attribute("data-count") == "1"
    page.fill("#sentences", "a b\nc d e f\nd c e a b")
    # A line of two words is too short for an NPLM that sees two words.
    assert page.inner_text("#panel-train .warning").endswith(": 1.")
    page.check("#train-all")
    assert page.locator("[data-learner=nplm] .predictions li").count() == 5
    page.click("#train-start")
    # The page's policy forbids the evaluation of a string, which `wait_for_function` needs.
    deadline = time.monotonic() + 30
    while page.evaluate("jaxlmPlay.Training.made().count") <= 20 and time.monotonic() < deadline:
        page.wait_for_timeout(20)
    assert page.evaluate("jaxlmPlay.Training.made().count") > 20
    page.click("#train-start")
    page.fill("#sentences", "one")
    assert page.inner_text("#panel-train .warning") != ""


def test_the_script_is_small_and_a_run_that_the_page_cannot_run_is_refused(tmp_path, capsys):
    assert sum(len(asset(name).encode()) for name in (*SCRIPTS, "texts.json", "play.css")) < 150_000
    refused = [make_run(name) for name in ("mogrifier", "transformer", "modern-nplm")]
    refused.append(make_run("nplm", "mixture"))
    for run in refused:
        with pytest.raises(jaxlm.UserError, match=r"cannot run .*: it runs ngram, nplm, rnn"):
            play_page([Shelf("test", [run])])
    text = jaxlm.read_corpus("toy", eos=False)
    run = jaxlm.fit(jaxlm.NGram(len(text.vocabulary), order=2), text, quiet=True)
    folder = str(run.save(tmp_path / "toy").folder)
    out = tmp_path / "made.html"
    assert show.main([folder, "我", "--play", "--out", str(out), "--date", "today"]) == 0
    written = out.read_text(encoding="utf-8")
    assert str(out) in capsys.readouterr().out and "default-src 'none'" in written
    with pytest.raises(jaxlm.SettingError, match="data"):
        show.main([folder, "--play", "--data", str(tmp_path / "x.json")])
    with pytest.raises(jaxlm.SettingError, match="dtype"):
        show.main([folder, "--dtype", "float32"])


@pytest.mark.full
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_of_the_manual_opens_and_answers(open_page, width):
    path = Path(__file__).parents[2] / "docs/play/index.html"
    assert path.stat().st_size < 6_000_000
    page = open_page(path, width=width)
    for index, (text, following) in enumerate((("那猪八", "戒"), ("What is th", "e"))):
        page.locator(".shelves button").nth(index).click()
        page.wait_for_selector('html[data-ready="true"]')
        page.fill("#text", text)
        page.wait_for_selector('html[data-left="0"]')
        first = [rows.locator(".token").first for rows in page.locator(".expected").all()]
        # Each of the three models has learnt how these words go on.
        assert [token.inner_text() for token in first] == [following] * 3
        assert page.evaluate("document.documentElement.scrollWidth") == width

"""The page of `show` in a browser: Python's numbers, two languages, the keyboard, every width."""

import json
import re
import subprocess
import sys
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import jaxlm
from jaxlm.inspection import backoff, gradient_by_lag, neighbours, trace
from jaxlm.inspection.pages.building import page as page_of
from jaxlm.inspection.pages.view_gates import layers_of
from jaxlm.inspection.pages.view_gradients import POSITIONS
from jaxlm.inspection.pages.views import VIEWS, Options
from jaxlm.runs.log import read_records
from jaxlm.runs.run import Run

LONG = "Donaudampfschifffahrts" * 12
FAMILY = "👩\u200d👩\u200d👧"
LINES = [
    'the cat said " no " to the dog ( a big dog ) , and the cat sat',
    "<script>window.hacked=1</script> <img/src=x> & 'quotes' the cat",
    "我 喜欢 玩具 我 爱 爸爸 我 讨厌 挨打",
    f"{FAMILY} 🎉 e\u0301 שלום עולם مرحبا {LONG} the end",
]
TEXT = "\n".join(LINES)
WIDTHS = (390, 1280, 1920)
GATES = {"en": (" closed: ", " half open", " open: "), "zh-Hans": (" 关：", " 半开", " 开：")}
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def untrained(kind, text, **sizes):
    """Return a run with parameters as training would begin with them."""
    vocabulary = text.vocabulary
    model = kind(len(vocabulary), start_id=vocabulary.start_id, init_scale=0.5, **sizes)
    tokens = jnp.zeros((1, 4), jnp.int32)
    return Run(model, model.init(jax.random.key(3), tokens)["params"], text.tokenizer)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """An LSTM and a trigram by words, an Elman network by characters, and an NPLM with a log."""
    folder = tmp_path_factory.mktemp("runs")
    words, characters = (
        jaxlm.read_corpus([f"{line}\n" for line in LINES] * 2, tokens=tokens, fractions=(1.0,))
        for tokens in ("words", "chars")
    )
    lstm = untrained(jaxlm.LSTM, words, embedding_size=6, hidden_size=9, num_layers=2)
    elman = untrained(jaxlm.RNN, characters, embedding_size=4, hidden_size=12)
    nplm = untrained(jaxlm.NPLM, words, n_step=3, embedding_size=2, hidden_size=5)
    trigram = jaxlm.NGram(len(words.vocabulary), words.vocabulary.start_id, order=3)
    made = {
        "lstm": replace(lstm, folder=folder / "lstm"),
        "trigram": jaxlm.fit(trigram, words, folder=folder / "trigram", quiet=True),
        "elman": replace(elman, folder=folder / "elman"),
        "nplm": replace(nplm, folder=folder / "nplm"),
    }
    (folder / "nplm").mkdir()
    records = [
        {"step": step, "split": split, "loss": 4.0 / step, "ppl": 9.0, "grad_norm": 0.5 * step}
        for step in (1, 2, 3)
        for split in ("train", "valid")
    ]
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "nplm/metrics.jsonl").write_text(lines)
    sample = json.dumps({"step": 2, "text": "<b>a sample</b>"})
    (folder / "nplm/samples.jsonl").write_text(f"{sample}\n")
    return made


@pytest.fixture(scope="module")
def some_views(runs, tmp_path_factory):
    """The page of the LSTM and the trigram, with three views."""
    path = tmp_path_factory.mktemp("page") / "some.html"
    shown = [runs["lstm"], runs["trigram"]]
    path.write_text(page_of(shown, TEXT, views=["surprise", "next", "gates"]), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def whole(runs, tmp_path_factory):
    """The page of all runs, with every view."""
    path = tmp_path_factory.mktemp("page") / "whole.html"
    path.write_text(page_of(list(runs.values()), TEXT), encoding="utf-8")
    return path


def ready(page):
    """Wait until every view of the page is drawn, and return the page."""
    # The page's policy forbids the evaluation of a string, which `wait_for_function` needs.
    page.wait_for_selector("html[data-ready=true]")
    return page


def number(element, name):
    return float(element.get_attribute(name))


def sections(page):
    return [element.get_attribute("id") for element in page.query_selector_all("main section")]


def wide_elements(page):
    """Return what makes the page scroll sideways: elements beyond its right edge."""
    return page.evaluate(
        """() => document.documentElement.scrollWidth <= innerWidth ? [] :
        Array.from(document.querySelectorAll("main *")).filter(
          (e) => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest(".scroll, .strip"))
          .slice(0, 5).map((e) => `${e.tagName}.${e.className}: ${e.textContent.slice(0, 40)}`)"""
    ) or (["?"] if page.evaluate("document.documentElement.scrollWidth > innerWidth") else [])


def test_clicks_show_the_numbers_of_python_in_both_languages(some_views, runs, open_page):
    found = trace(runs["lstm"], TEXT)
    page = ready(open_page(some_views))
    for language in ("en", "zh-Hans"):
        assert page.get_attribute("html", "lang") == language
        for token in (2, 15, len(found) - 1):
            page.click(f"#surprise [data-token='{token}']")
            bits = number(page.query_selector("#surprise-readout"), "data-bits")
            assert_allclose(bits, found.surprisal[token], **CLOSE)
            bars = page.query_selector_all("#next .column:first-child li:not(.apart)")
            words = [bar.get_attribute("data-word") for bar in bars]
            assert words == found.next_words[token]
            shown = [number(bar, "data-p") for bar in bars]
            assert_allclose(shown, found.next_probabilities[token], **CLOSE)
            values = page.query_selector_all("#gates .gates-readout [data-array]")
            readout = page.query_selector("#gates .gates-readout")
            layer, unit = (readout.get_attribute(f"data-{name}") for name in ("layer", "unit"))
            assert {value.get_attribute("data-array") for value in values} >= {"forget", "c"}
            for value in values:
                array = found[f"{layer}/{value.get_attribute('data-array')}"]
                assert_allclose(number(value, "data-value"), array[token, int(unit)], **CLOSE)
                if value.get_attribute("data-array") in ("input", "forget", "output"):
                    step = int(np.digitize(number(value, "data-value"), [0.25, 0.75]))
                    assert GATES[language][step] in value.inner_text()
        page.click("#language")
        ready(page)
    # What a corpus says is shown, and is not run.
    assert LINES[1] in page.inner_text("#surprise .text")
    assert page.evaluate("window.hacked") is None and not page.query_selector("main img")


def test_a_network_whose_gate_is_its_state_has_one_strip(runs):
    layers = layers_of(trace(runs["elman"], LINES[0]))
    assert {name: list(arrays) for name, arrays in layers.items()} == {"layers_0": ["h"]}


@pytest.mark.full
@pytest.mark.parametrize("width", WIDTHS[:2])
def test_a_unit_paints_the_text_below_its_button(width, runs, tmp_path, open_page):
    run, path = runs["elman"], tmp_path / "gates.html"
    path.write_text(page_of([run], TEXT, views=["gates"]), encoding="utf-8")
    page = ready(open_page(path, width=width, height=844))
    page.query_selector("#gates .found").scroll_into_view_if_needed()
    scrolled = page.evaluate("scrollY")
    buttons = page.query_selector_all("#gates [data-feature='inside quotes']")
    buttons[1].click()
    assert buttons[1].get_attribute("aria-pressed") == "true"
    unit, layer, array = (
        buttons[1].get_attribute(f"data-{name}") for name in ("unit", "layer", "array")
    )
    values = trace(run, TEXT)[f"{layer}/{array}"][:, int(unit)]
    first = TEXT.index('"') + 1
    token = page.query_selector(f"#painted-{first}")
    # The first character inside quotes can be seen, without a scroll of the page.
    place, box = token.bounding_box(), page.query_selector("#gates .painted-copy .text")
    frame = box.bounding_box()
    assert frame["y"] <= place["y"] <= frame["y"] + frame["height"] - place["height"]
    assert 0 <= place["y"] <= 844 - place["height"]
    assert width > 400 or page.evaluate("scrollY") == scrolled
    for index in (0, first, len(values) - 1):
        shown, expected = page.evaluate(
            """([index, value]) => [
              document.querySelector(`#painted-${index}`).style.backgroundColor,
              jaxlm.tools.colour.divergingRGB(value)]""",
            [index, float(values[index])],
        )
        found = [int(part) for part in re.findall(r"\d+", shown)]
        assert_allclose(found, expected, atol=1)


@pytest.mark.full
def test_every_run_paints_the_text_with_its_own_surprise(whole, runs, open_page):
    page = ready(open_page(whole))
    for name, run in runs.items():
        found = trace(run, TEXT)
        page.click(f"#surprise .choices button:has-text('{name}')")
        tokens = page.query_selector_all("#surprise .text .token")
        assert len(tokens) == len(found) + 1
        shown = []
        some = range(0, len(found), 3)
        for token in some:
            page.evaluate("(token) => jaxlm.tools.select({token})", token)
            shown.append(number(page.query_selector("#surprise-readout"), "data-bits"))
        assert_allclose(shown, found.surprisal[some], **CLOSE)
        # A token can be seen, unless it is drawn together with the token before it.
        hidden = {t.inner_text() for t in tokens[:-1] if not t.bounding_box()["width"]}
        assert hidden <= {"\u0301", *FAMILY[1:]}, (name, hidden)


@pytest.mark.full
def test_keys_move_the_token_and_the_unit(some_views, runs, open_page):
    found = trace(runs["lstm"], TEXT)
    page = ready(open_page(some_views))
    page.click("#surprise [data-token='3']")
    page.keyboard.press("ArrowRight")
    assert page.get_attribute("#surprise-readout", "data-token") == "4"
    page.focus("#gates .strip")
    units = []
    for _ in range(4):
        page.keyboard.press("ArrowDown")
        readout = page.query_selector("#gates .gates-readout")
        units.append(int(readout.get_attribute("data-unit")))
        layer = readout.get_attribute("data-layer")
        value = page.query_selector("#gates .gates-readout [data-array=forget]")
        assert_allclose(
            number(value, "data-value"), found[f"{layer}/forget"][4, units[-1]], **CLOSE
        )
    assert len(set(units)) == 4
    page.keyboard.press("ArrowLeft")
    assert page.get_attribute("#surprise-readout", "data-token") == "3"


@pytest.mark.full
def test_the_keyboard_alone_reaches_every_view(whole, open_page):
    page = ready(open_page(whole))
    can_have_focus = page.evaluate(
        """() => Array.from(document.querySelectorAll("main section")).filter((section) =>
        section.querySelector("button, [tabindex='0'], input, select, a")).map((s) => s.id)"""
    )
    reached, presses = set(), 0
    while not set(can_have_focus) <= reached and presses < 600:
        page.keyboard.press("Tab")
        presses += 1
        reached.add(page.evaluate("document.activeElement.closest('main section')?.id"))
    assert set(can_have_focus) <= reached
    # A view without anything to press is a message.
    for name in set(sections(page)) - set(can_have_focus):
        assert page.query_selector(f"#{name} .missing"), name


@pytest.mark.full
@pytest.mark.parametrize("width", WIDTHS)
def test_no_view_makes_the_page_scroll_sideways(width, whole, open_page):
    page = ready(open_page(whole, width=width, dark=width == 390))
    assert sections(page) == list(VIEWS)
    for _ in range(2):
        assert not wide_elements(page)
        for button in page.query_selector_all("button.show-data:visible"):
            button.click()
        assert not wide_elements(page), "with the tables"
        page.click("#language")
        ready(page)


@pytest.mark.full
def test_a_view_that_has_nothing_to_show_says_why(runs, tmp_path, open_page):
    path = tmp_path / "page.html"
    path.write_text(page_of([runs["trigram"]], TEXT, Options(lang="zh")), encoding="utf-8")
    page = ready(open_page(path, width=390))
    for name in ("gates", "gradients", "exploding", "unrolled", "vectors", "senses", "learning"):
        assert len(page.inner_text(f"#{name} .missing")) > 10, name
    assert not wide_elements(page)


def table_of(page, view):
    """Return the rows of the first table behind a chart of a view: numbers, and texts."""
    page.click(f"#{view} button.show-data >> nth=0")
    rows = page.evaluate(
        """(view) => Array.from(document.querySelectorAll(`#${view} .behind tbody tr`)).map(
        (row) => Array.from(row.cells).map((cell) => cell.dataset.value ?? cell.textContent))""",
        view,
    )
    return rows


@pytest.mark.full
def test_gradients_by_lag_are_those_of_python(whole, runs, open_page):
    page = ready(open_page(whole))
    sentences = page.query_selector_all("#gradients .sentence")
    constants = [number(sentence, "data-constant") for sentence in sentences]
    assert len(constants) == 3 and constants == sorted(constants)
    rows = table_of(page, "gradients")
    for name in ("lstm", "nplm"):
        of_run = np.array([[float(x) for x in row[1:4]] for row in rows if row[0] == name])
        largest = int(of_run[:, 0].max())
        found = gradient_by_lag(runs[name], TEXT, largest, positions=POSITIONS)
        assert_allclose(of_run[:, 0], found.lags[1:])
        assert_allclose(of_run[:, 1], found.norms[1:], **CLOSE)
        assert_allclose(of_run[:, 2], found.norms[1:] / found.norms[1], **CLOSE)


@pytest.mark.full
def test_the_ladder_adds_up_to_the_answer_of_python(whole, runs, open_page):
    page = ready(open_page(whole))
    found = trace(runs["trigram"], TEXT)
    page.click("#surprise .choices button:has-text('trigram')")
    for token in (1, 3, 17, len(found) - 1):
        page.evaluate("(token) => jaxlm.tools.select({token})", token)
        rungs = page.query_selector_all("#backoff tbody tr[data-order]")
        adds = sum(number(rung, "data-contribution") for rung in rungs)
        assert_allclose(adds, 2.0 ** -found.surprisal[token], **CLOSE)
    # The third word of the first line, whose context is the line's beginning.
    page.evaluate("(token) => jaxlm.tools.select({token})", 3)
    ladder = backoff(runs["trigram"], " ".join(LINES[0].split()[:3]), LINES[0].split()[3])
    rungs = page.query_selector_all("#backoff tbody tr[data-order]")
    assert [int(number(rung, "data-order")) for rung in rungs] == [
        rung.order for rung in ladder.rungs
    ]
    for name in ("contribution", "weight", "probability"):
        shown = [number(rung, f"data-{name}") for rung in rungs]
        assert_allclose(shown, [getattr(rung, name) for rung in ladder.rungs], **CLOSE)


@pytest.mark.full
def test_neighbours_are_those_of_python(whole, runs, open_page):
    page = ready(open_page(whole))
    shown = [
        (item.get_attribute("data-word"), number(item, "data-cosine"))
        for item in page.query_selector_all("#vectors li[data-word]")
    ]
    chosen = page.query_selector("#vectors circle.chosen").get_attribute("data-word")
    expected = neighbours(runs["lstm"], chosen, len(shown))
    assert [word for word, _ in shown] == [word for word, _ in expected]
    assert_allclose([c for _, c in shown], [c for _, c in expected], **CLOSE)
    covered = page.evaluate(
        """() => {
        const boxes = [...document.querySelectorAll("#vectors .word-name, #vectors .map-buttons")]
          .map((label) => label.getBoundingClientRect());
        return boxes.filter((a, i) => boxes.some((b, k) => k > i
          && Math.min(a.right, b.right) - Math.max(a.left, b.left) > 0.5
          && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 0.5)).length;
        }"""
    )
    assert covered == 0


@pytest.mark.full
def test_the_unrolled_network_has_the_losses_of_python(whole, runs, open_page):
    page = ready(open_page(whole))
    losses = [
        number(item, "data-loss") for item in page.query_selector_all("#unrolled [data-loss]")
    ]
    nats = trace(runs["lstm"], TEXT).surprisal * np.log(2)
    assert len(losses) > 4
    begin = next(k for k in range(3) if np.isclose(nats[k], losses[0], atol=1e-4))
    assert_allclose(losses, nats[begin : begin + len(losses)], **CLOSE)
    total = number(page.query_selector("#unrolled [data-total]"), "data-total")
    assert_allclose(total, sum(losses), **CLOSE)


@pytest.mark.full
def test_the_learning_curve_is_that_of_the_log(whole, open_page):
    page = ready(open_page(whole))
    rows = table_of(page, "learning")
    losses = [row[3] for row in rows if row[2] == rows[0][2]]
    assert_allclose(list(map(float, losses)), [4, 2, 4 / 3], **CLOSE)
    assert "<b>a sample</b>" in page.inner_text("#learning")


@pytest.mark.full
def test_every_table_is_copied_as_tsv(whole, open_page):
    page = ready(open_page(whole))
    for button in page.query_selector_all("button.show-data"):
        button.click()
    buttons = page.query_selector_all(".behind button.copy")
    assert len(buttons) >= 8
    for button in buttons:
        button.click()
        figure = button.evaluate_handle("(button) => button.closest('figure')").as_element()
        figure.wait_for_selector(".status:not(:empty)")
        lines = page.evaluate("navigator.clipboard.readText()").rstrip("\n").split("\n")
        header = [cell.inner_text() for cell in figure.query_selector_all(".behind thead th")]
        assert lines[0].split("\t") == header
        assert len(lines) > 1 and {line.count("\t") for line in lines} == {len(header) - 1}


@pytest.mark.full
def test_a_page_of_a_thousand_characters_is_smaller_than_two_megabytes(tmp_path):
    """The budget of a page: 1,000 characters, and an LSTM by characters with 2 x 256 units."""
    text = ("Now is the winter of our discontent made glorious summer. " * 20)[:1000]
    characters = jaxlm.read_corpus([text], tokens="chars", fractions=(1.0,))
    sizes = {"embedding_size": 64, "hidden_size": 256, "num_layers": 2}
    content = page_of([untrained(jaxlm.LSTM, characters, **sizes)], text)
    assert len(content.encode()) < 2_000_000


@pytest.mark.full
def test_a_report_shows_how_a_run_learned(runs, tmp_path, open_page, monkeypatch):
    monkeypatch.chdir(tmp_path)
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n".join(LINES * 4) + "\n", encoding="utf-8")
    arguments = ["train", "--model", "gru", "--corpus", str(corpus), "--tokens", "chars"]
    arguments += ["--steps", "4", "--eval-every", "2", "--hidden-size", "6", "--out", "run"]
    done = subprocess.run([sys.executable, "-m", "jaxlm", *arguments], capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    page = ready(open_page(tmp_path / "run/report.html", width=390))
    assert sections(page) == ["learning", "surprise", "next", "gates", "about"]
    samples = [record["text"] for record in read_records(tmp_path / "run/samples.jsonl")]
    assert len(samples) == 2 and all(s in page.inner_text("#learning") for s in samples)
    assert page.query_selector("#surprise-readout").get_attribute("data-bits")
    assert not wide_elements(page)

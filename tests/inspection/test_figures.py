"""Figures have the numbers of the data, stay text, and have the same bytes each time."""

import dataclasses
import json
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from case_runs import run_of
from matplotlib import rc_context
from matplotlib.font_manager import fontManager
from matplotlib.patches import Rectangle
from numpy.testing import assert_allclose

import jaxlm
from jaxlm.data.tokenizers import Words
from jaxlm.data.vocabulary import EOS, Vocabulary
from jaxlm.errors import UserError
from jaxlm.inspection import figure, gradient_by_lag, trace
from jaxlm.inspection.figures import FIGURES, MOST_TOKENS, Asked, use_fonts

TEXT = "w3 w0 w7 w7 w11\nw2 w1\n\nw5 w4 w3 w3 w0 w7 w9\nw8"
CHINESE = ("我", "爱", "爸爸", "讨厌", "挨打", "$x$", "<script>", "玩具", "喜欢", "a", "b", "c")


@pytest.fixture(scope="module")
def run():
    return run_of("lstm")


@pytest.fixture(scope="module")
def chinese(run):
    tokenizer = Words(Vocabulary((*CHINESE, EOS), start=EOS))
    return dataclasses.replace(run, tokenizer=tokenizer)


def drawn(kind, runs, text=TEXT, layer=None):
    """Return matplotlib's figure and the notes."""
    labels = [f"run {index}" for index in range(len(runs))]
    notes = []
    return FIGURES[kind](Asked(runs, labels, text, None, layer), notes), notes


def logged(run, folder):
    """Return the run with a log in its folder."""
    folder.mkdir()
    records = [{"step": step, "split": "train", "ppl": 900.0 / step} for step in (1, 2, 3)]
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "metrics.jsonl").write_text(lines)
    return dataclasses.replace(run, folder=folder)


def test_gates_are_those_of_the_trace(run):
    found = trace(run, TEXT)
    made, _ = drawn("gates", [run_of("ngram"), run])
    panels = [axes for axes in made.axes if axes.images]
    names = [*found.gates("layers_0"), *found.states("layers_0")]
    orders = []
    assert [axes.get_ylabel() for axes in panels] == names
    for axes, name in zip(panels, names, strict=True):
        rows = np.asarray(axes.images[0].get_array())
        expected = found[f"layers_0/{name}"].T
        assert_allclose(np.sort(rows, axis=0), np.sort(expected, axis=0), rtol=1e-6)
        # Units have the same place in every panel.
        order = [np.flatnonzero(np.isclose(expected, row).all(axis=1))[0] for row in rows]
        assert sorted(order) == list(range(len(expected)))
        orders.append(order)
    assert orders == orders[:1] * len(orders)
    labels = [label.get_text() for label in panels[-1].get_xticklabels()]
    assert labels == [token.replace("\n", "⏎") for token in found.tokens]


def test_surprise_is_that_of_the_trace(run):
    made, _ = drawn("surprise", [run])
    found = trace(run, TEXT)
    axes = made.axes[0]
    boxes = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    assert len(boxes) == len(found)
    light = [np.dot(box.get_facecolor()[:3], (0.3, 0.6, 0.1)) for box in boxes]
    order = np.argsort(found.surprisal, kind="stable")
    assert np.all(np.diff(np.array(light)[order]) <= 1e-6), "the more bits, the darker"
    # A line of the text is a line of the figure.
    lines = len({round(box.get_y(), 3) for box in boxes})
    assert lines == len(TEXT.splitlines())
    assert f"{found.surprisal.mean():.2f} bits" in axes.texts[0].get_text()


@pytest.mark.full
def test_gradients_are_those_by_lag(run):
    text = " ".join(["w3 w0 w7 w11 w2"] * 12)
    made, notes = drawn("gradients", [run_of("ngram"), run], text)
    found = gradient_by_lag(run, text)
    line = made.axes[0].lines[0]
    assert_allclose(line.get_xdata(), found.lags[1:])
    assert_allclose(line.get_ydata(), found.norms[1:] / found.norms[1], rtol=1e-5)
    assert notes == ["run 0 is an n-gram: it has no gradient"]


def test_the_curve_is_that_of_the_log(run, tmp_path):
    made, notes = drawn("curve", [logged(run, tmp_path / "run"), run])
    (line,) = made.axes[0].lines
    assert line.get_xydata().tolist() == [[1, 900], [2, 450], [3, 300]]
    assert notes == ["run 1 has no learning curve: its folder has no metrics.jsonl"]


@pytest.mark.full
def test_the_map_shows_words_at_their_places(run):
    made, _ = drawn("map", [run])
    words, vectors = jaxlm.inspection.vectors(run)
    (points,) = made.axes[0].lines
    assert_allclose(points.get_xydata(), jaxlm.inspection.map2d(vectors), atol=1e-6)
    shown = {text.get_text() for text in made.axes[0].texts}
    assert shown <= set(words) and len(shown) > len(words) / 2


@pytest.mark.full
@pytest.mark.quick_for("svg")
@pytest.mark.parametrize("ending", ["svg", "pdf", "png"])
def test_a_figure_has_the_same_bytes_and_its_text_stays_text(ending, chinese, tmp_path):
    text = "我 爱 爸爸 $x$ <script> 我 讨厌 挨打"
    files = [tmp_path / f"{number}.{ending}" for number in (1, 2)]
    for path in files:
        figure("gates", chinese, text, out=path)
    assert files[0].read_bytes() == files[1].read_bytes()
    assert not re.search(rb"CreationDate|<dc:date", files[0].read_bytes())
    if ending == "svg":
        root = ElementTree.parse(files[0]).getroot()
        elements = [element for element in root.iter() if element.tag.endswith("text")]
        assert set(text.split()) <= {"".join(element.itertext()) for element in elements}


def test_a_character_that_no_font_has_is_named(monkeypatch):
    fonts = [font for font in fontManager.ttflist if font.name == "DejaVu Sans"]
    monkeypatch.setattr(fontManager, "ttflist", fonts)
    monkeypatch.setattr("matplotlib.font_manager.findSystemFonts", lambda: [])
    notes = []
    with rc_context():
        use_fonts(["a b", "我们"], notes)
    (note,) = notes
    assert note.startswith("no installed font has 们 (cjk unified ideograph-4eec), 我 (cjk")


def test_a_long_text_is_cut_and_the_notes_say_so(run, tmp_path):
    text = " ".join(["w1"] * (MOST_TOKENS["gates"] + 9))
    made, notes = drawn("gates", [run], text)
    assert made.axes[0].images[0].get_array().shape[1] == MOST_TOKENS["gates"]
    assert any("the figure shows the first 120" in note for note in notes)


def test_only_the_words_that_a_run_learnt_are_coloured(run):
    learnt = dataclasses.replace(run, protocol=jaxlm.Protocol(rows=True, last_only=True))
    made, _ = drawn("surprise", [learnt], "w3 w0\nw2 w1\nw1")
    found = trace(learnt, "w3 w0\nw2 w1\nw1")
    # The last token of a row is <eos>, and the last line has none yet.
    last = [token == EOS for token in found.tokens]
    assert sum(last) == 2
    assert f"{found.surprisal[last].mean():.2f} bits" in made.axes[0].texts[0].get_text()


MISTAKES = {
    "no such figure": (("bars", "lstm", TEXT, "a.svg"), "unknown figure 'bars'"),
    "no such ending": (("gates", "lstm", TEXT, "a.gif"), r"`out` .*a.gif: .*\.pdf, \.svg, \.png"),
    "no gates": (("gates", "nplm", TEXT, "a.svg"), "no gates to draw.*rnn, gru, lstm"),
    "no gradient": (("gradients", "ngram", TEXT, "a.svg"), "an n-gram has no gradient"),
    "no text": (("surprise", "lstm", "", "a.svg"), "needs a text"),
    "no curve": (("curve", "lstm", "", "a.svg"), "no learning curve"),
    "no folder": (("gates", "lstm", TEXT, "file/a.svg"), r"`out` .*cannot be written"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_writes_nothing(mistake, tmp_path):
    (kind, model, text, name), message = MISTAKES[mistake]
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match=message) as raised:
        figure(kind, run_of(model), text, out=tmp_path / name)
    assert "\n" not in str(raised.value)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_without_matplotlib_the_error_says_what_to_install(run, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install matplotlib"):
        figure("curve", run, out=tmp_path / "a.svg")

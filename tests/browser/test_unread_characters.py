"""Characters that a run without `<unk>` cannot read are marked in the page, in a browser."""

import re

import numpy as np
import pytest

import jaxlm
from jaxlm.inspection.pages.building import page as page_of
from jaxlm.inspection.traces import trace

TEXT = 'a "dog"\r\nsat 5 🎉 on a mat 🎉'
LINES = ["a dog sat on a mat\n", "a cat sat on a dog\n"]


@pytest.fixture(scope="module")
def runs():
    """A run that knows few characters, and one that knows every byte."""
    made = {}
    for tokens in ("chars", "bytes"):
        text = jaxlm.read_corpus(LINES, tokens=tokens, fractions=(1.0,))
        model = jaxlm.NGram(len(text.vocabulary), text.vocabulary.start_id, order=3)
        made[tokens] = jaxlm.fit(model, text, quiet=True)
    return [made["chars"], made["bytes"]]


@pytest.mark.full
def test_unread_characters_stand_in_their_place_and_say_so(runs, open_page, tmp_path):
    found, other = (trace(run, TEXT) for run in runs)
    content = page_of(runs, TEXT, views=("surprise", "next", "counts", "backoff"))
    (tmp_path / "p.html").write_text(content, encoding="utf-8")
    page = open_page(tmp_path / "p.html")
    page.wait_for_selector("html[data-ready=true]")
    left_out = page.query_selector_all("#surprise .left-out[data-skipped]")
    assert [one.inner_text() for one in left_out] == ['"', '"', "5", "🎉", "🎉"]
    shown = page.inner_text("#surprise .text").replace("⏎\n", "\n").replace("▮", "")
    assert shown == TEXT.replace("\r\n", "\n")
    cells = page.query_selector_all("#surprise .totals tbody tr:first-child td")
    numbers = [float(cell.get_attribute("data-value")) for cell in cells[1:]]
    assert numbers[0] == np.isfinite(found.surprisal).sum() and numbers[-1] == 5
    for language, said in (("en", "does not read"), ("zh", "跳过不读")):
        left_out = page.query_selector_all("#surprise .left-out[data-skipped]")
        left_out[3].click()
        assert re.search(r"🎉.*<unk>", page.inner_text("#surprise-readout"))
        columns = page.query_selector_all("#next .column")
        assert said in columns[0].inner_text() and said not in columns[1].inner_text()
        after = found.spans[:, 0].tolist().index(TEXT.index("🎉") + 1)
        words = [bar.get_attribute("data-word") for bar in columns[0].query_selector_all("li")]
        assert words == found.next_words[after]
        if language == "en":
            page.click("#language")
            page.wait_for_selector("html[data-ready=true][lang=zh-Hans]")
    # Compared are the characters that both runs read.
    page.click("#language")
    page.wait_for_selector("html[data-ready=true][lang=en]")
    page.click("#surprise .choice button[data-value='1']")
    page.click("#surprise .choice button:has-text('against')")
    lost = {index for first, last in found.skipped for index in range(first, last)}
    both = [first not in lost for first, _ in other.spans.tolist()]
    lead = page.inner_text("#surprise .lead")
    assert f" of {sum(both)} " in lead, lead
    bits = [float(x) for x in re.findall(r"needs ([\d.]+) bits", lead)]
    total = found.surprisal.sum() - other.surprisal[both].sum()
    assert bits == pytest.approx([abs(total)], abs=0.051)


@pytest.mark.full
@pytest.mark.parametrize(
    "text", ["a", "a " + "x" * 1990 + " dog"], ids=["one token", "a long word"]
)
def test_a_very_short_text_and_a_very_long_word_are_shown(open_page, tmp_path, text):
    corpus = jaxlm.read_corpus(LINES, unk="always", fractions=(1.0,))
    model = jaxlm.NGram(len(corpus.vocabulary), corpus.vocabulary.start_id, order=3)
    run = jaxlm.fit(model, corpus, quiet=True)
    views = ("surprise", "next", "counts", "backoff")
    (tmp_path / "p.html").write_text(page_of([run], text, views=views), encoding="utf-8")
    page = open_page(tmp_path / "p.html", width=390)
    page.wait_for_selector("html[data-ready=true]")
    for _ in range(3):
        page.keyboard.press("ArrowRight")
        shown = page.inner_text("main")
        assert not re.search(r"\b(null|undefined|NaN)\b", shown)
        for view in views:
            box = page.query_selector(f"#{view}").bounding_box()
            assert box["height"] < 3000 and box["width"] <= 390, (view, box)

"""Tokens of bytes, of which several are one Chinese character: both pages, in a browser."""

import re

import numpy as np
import pytest

import jaxlm
from jaxlm.inspection.pages.building import page as page_of
from jaxlm.inspection.play.building import Shelf, play_page
from jaxlm.inspection.traces import trace

TEXT = "我爱你"
LINES = ["我爱你\n", "你爱我\n", "我们爱你们\n"]


@pytest.fixture(scope="module")
def runs():
    """The same n-gram over bytes and over characters."""
    made = []
    for tokens in ("bytes", "chars"):
        text = jaxlm.read_corpus(LINES * 2, tokens=tokens, fractions=(1.0,))
        model = jaxlm.NGram(len(text.vocabulary), text.vocabulary.start_id, order=3)
        made.append(jaxlm.fit(model, text, quiet=True))
    return made


def opened(open_page, tmp_path, content):
    (tmp_path / "p.html").write_text(content, encoding="utf-8")
    page = open_page(tmp_path / "p.html")
    page.wait_for_selector("html[data-ready=true]")
    return page


@pytest.mark.full
@pytest.mark.parametrize("first", ["bytes", "chars"])
def test_the_bits_of_a_character_are_counted_once(runs, open_page, tmp_path, first):
    own, other = runs if first == "bytes" else runs[::-1]
    page = opened(open_page, tmp_path, page_of([own, other], TEXT, views=("surprise",)))
    page.click("#surprise .choice button:has-text('against')")
    lead = page.inner_text("#surprise .lead")
    (bits,) = re.findall(r"needs ([\d.]+) bits (?:fewer|more)", lead)
    total = trace(other, TEXT).surprisal.sum() - trace(own, TEXT).surprisal.sum()
    assert float(bits) == pytest.approx(abs(total), abs=0.051)
    assert ("fewer" if total >= 0 else "more") in lead


@pytest.mark.full
def test_each_byte_is_selected_and_shows_its_own_distribution(runs, open_page, tmp_path):
    run = runs[0]
    views = ("surprise", "next", "backoff", "counts")
    page = opened(open_page, tmp_path, page_of([run], TEXT, views=views))
    found = trace(run, TEXT)
    page.click("#token-0")
    for place in range(len(found)):
        words = page.locator("#next .bars li:not(.apart)").evaluate_all(
            "rows => rows.map((row) => row.dataset.word)"
        )
        assert words == found.next_words[place]
        ladder = page.locator("#backoff .finding")
        assert int(ladder.get_attribute("data-place")) == place
        assert float(ladder.get_attribute("data-answer")) == pytest.approx(
            2 ** -found.surprisal[place], rel=1e-4
        )
        if place + 1 < len(found):
            page.click("#backoff .stepper .on")


@pytest.mark.full
def test_the_other_run_reaches_each_of_its_bytes(runs, open_page, tmp_path):
    # The run over characters is selected, and the buttons step through the bytes of the other run.
    page = opened(open_page, tmp_path, page_of(runs[::-1], TEXT, views=("surprise", "backoff")))
    page.click("#token-0")
    page.click("#backoff .choice [data-value='1']")
    places = []
    for _ in range(len(TEXT.encode()) - 1):
        page.click("#backoff .stepper .on")
        places.append(int(page.locator("#backoff .finding").get_attribute("data-place")))
    assert places == list(range(1, len(TEXT.encode())))


@pytest.mark.full
def test_the_page_to_play_with_shows_every_byte(runs, open_page, tmp_path):
    page = opened(open_page, tmp_path, play_page([Shelf("test", runs)]))
    page.locator("#text").press_sequentially(TEXT)
    page.wait_for_selector('html[data-left="0"]')
    card, other = page.locator(".card").all()
    parts = card.locator(".strip .t")
    assert parts.all_inner_texts() == [f"<0x{byte:02X}>" for byte in TEXT.encode()]
    assert other.locator(".strip .t").all_inner_texts() == list(TEXT)
    found = trace(runs[0], TEXT)
    # The arrow keys reach every byte, from the last to the first.
    parts.first.click()
    page.keyboard.press("Escape")
    card.locator(".strip").focus()
    for place in reversed(range(len(found))):
        page.keyboard.press("ArrowLeft")
        shown = float(card.locator(".line .bits").get_attribute("data-bits"))
        assert shown == pytest.approx(found.surprisal[place], abs=0.02)
        chosen = parts.evaluate_all("all => all.findIndex((one) => one.matches('.chosen'))")
        assert chosen == place
    # Both cards count the characters alike, so that their bits per character can be compared.
    for one, run in zip((card, other), runs, strict=True):
        bits = float(one.locator(".mean").get_attribute("data-bits"))
        assert bits == pytest.approx(np.sum(trace(run, TEXT).surprisal) / len(TEXT), abs=0.02)
    # Another second byte in the place of the chosen byte leaves the characters before it.
    parts.nth(4).click()
    card.locator(".expected button").first.click()
    page.wait_for_selector('html[data-left="0"]')
    assert page.locator("#text").input_value().startswith("我")


@pytest.mark.full
def test_blanks_and_code_points_count_as_characters(open_page, tmp_path):
    text = "the cat 🐱 sat"
    made = []
    for tokens in ("words", "chars"):
        corpus = jaxlm.read_corpus([f"{text}\n"] * 4, tokens=tokens, fractions=(1.0,))
        model = jaxlm.NGram(len(corpus.vocabulary), corpus.vocabulary.start_id, order=2)
        made.append(jaxlm.fit(model, corpus, quiet=True))
    page = opened(open_page, tmp_path, play_page([Shelf("test", made)]))
    page.fill("#text", text)
    page.wait_for_selector('html[data-left="0"]')
    for card, run in zip(page.locator(".card").all(), made, strict=True):
        bits = float(card.locator(".mean").get_attribute("data-bits"))
        expected = trace(run, text).surprisal.sum() / len(text)
        assert bits == pytest.approx(expected, rel=0.02)

"""The text in the colours of two runs compared: words against characters, in a browser."""

import re

import numpy as np
import pytest

import jaxlm
from jaxlm.inspection.pages.building import page as page_of
from jaxlm.inspection.traces import trace

TEXT = "the dog sat on the mat\nthe cat  sat 🐱 here"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder, made = tmp_path_factory.mktemp("compared"), {}
    for tokens, order in (("words", 3), ("chars", 4)):
        lines = ["the cat sat on the mat\n", "the dog sat here 🐱\n"]
        text = jaxlm.read_corpus(lines * 2, tokens=tokens, fractions=(1.0,))
        model = jaxlm.NGram(len(text.vocabulary), text.vocabulary.start_id, order=order)
        made[tokens] = jaxlm.fit(model, text, folder=folder / tokens, quiet=True)
    return made


def difference(run, other):
    """Return the bits that `other` needs more than `run` for each token of `run`."""
    own, their = trace(run, TEXT), trace(other, TEXT)
    spread, end = np.zeros(len(TEXT)), 0
    for (_, last), bits in zip(their.spans, their.surprisal, strict=True):
        spread[end:last] += bits / (last - end)
        end = last
    ends = own.spans[:, 1]
    starts = [0, *ends[:-1]]
    sums = [spread[a:b].sum() for a, b in zip(starts, ends, strict=True)]
    return np.array(sums) - own.surprisal


@pytest.mark.full
@pytest.mark.parametrize("first", ["words", "chars"])
def test_the_difference_of_two_runs_is_that_of_python(runs, open_page, tmp_path, first):
    other = "chars" if first == "words" else "words"
    content = page_of([runs[first], runs[other]], TEXT, views=("surprise", "next", "gates"))
    (tmp_path / "p.html").write_text(content, encoding="utf-8")
    page = open_page(tmp_path / "p.html")
    page.wait_for_selector("html[data-ready=true]")
    page.click(f"#surprise .choice button:has-text('against {other}')")
    expected = difference(runs[first], runs[other])
    assert f"{np.count_nonzero(expected > 1e-6)} of {len(expected)}" in page.inner_text(
        "#surprise .lead"
    )
    for index in (0, 3, len(expected) - 1):
        page.click(f"#token-{index}")
        readout = page.inner_text("#surprise-readout").replace("−", "-")
        (shown,) = re.findall(rf"against {other}: (\S+) bits better", readout)
        assert float(shown) == pytest.approx(expected[index], abs=0.0051)
    page.click("#surprise .choice button:has-text('surprise')")
    assert "bits better" not in page.inner_text("#surprise-readout")

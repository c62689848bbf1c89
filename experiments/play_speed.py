"""Measure how long the page to play with takes for a token, in the system's Chromium.

Command    python experiments/play_speed.py
Hardware   any CPU; nothing else should run on its cores
Minutes    less than 1
Expected   median 2.45 ms a token, fastest 1.21 ms, on shared cores of an AMD EPYC
Published  none

The model is an LSTM of two layers of 256 units over 64 characters, with random parameters. The
script prints the median and the fastest of 20 measurements of 100 tokens each, in milliseconds a
token. It needs playwright and a Chromium on PATH.
"""

import shutil
import statistics
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np

import jaxlm
from jaxlm.inspection.play.building import Shelf, play_page

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
MEASUREMENTS, TOKENS = 20, 100
SPEED = """(steps) => {
  const {reader} = jaxlmPlay.Playing.shelves[0].cards[0];
  let state = reader.begin;
  const begin = performance.now();
  for (let step = 0; step < steps; step++) {
    reader.model.next(state);
    state = reader.model.read(state, step % reader.model.size);
  }
  return (performance.now() - begin) / steps;
}"""


def page() -> str:
    """Return the page of the model."""
    text = jaxlm.read_corpus(["".join(map(chr, range(48, 112))) + "\n"], tokens="chars")
    size, start = len(text.vocabulary), text.vocabulary.start_id
    model = jaxlm.LSTM(size, start, embedding_size=64, num_layers=2, hidden_size=256)
    params = model.init(jax.random.key(0), np.zeros((1, 2), np.int32))["params"]
    return play_page([Shelf("speed", [jaxlm.Run(model, params, text.tokenizer)])])


def main() -> int:
    """Measure, and print the result."""
    from playwright.sync_api import sync_playwright

    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        print(f"no browser on PATH: install one of {', '.join(BROWSERS)}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as driver:
        path = Path(folder) / "play.html"
        path.write_text(page(), encoding="utf-8")
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        window = browser.new_page()
        window.goto(path.as_uri())
        window.wait_for_selector('html[data-ready="true"]')
        found = [window.evaluate(SPEED, TOKENS) for _ in range(MEASUREMENTS)]
        browser.close()
    print(f"median {statistics.median(found):.2f} ms per token, fastest {min(found):.2f} ms")
    return 0


if __name__ == "__main__":
    sys.exit(main())

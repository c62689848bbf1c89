"""Make the page to play with: models, tokenizers and scripts in one HTML file."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from jaxlm.data.corpora import CORPORA
from jaxlm.errors import SettingError, UserError, choose
from jaxlm.inspection.pages.building import LANGUAGES, labels_of
from jaxlm.inspection.pages.html import document
from jaxlm.inspection.play.models import describe, describe_tokenizer
from jaxlm.inspection.play.packing import DTYPES
from jaxlm.runs.run import UNK_IN_TRAINING, Run

SCRIPTS = (
    "numbers.js",
    "tokenizers.js",
    "models.js",
    "learning.js",
    "frame.js",
    "reading.js",
    "playing.js",
    "training.js",
    "main.js",
)
# Browsers of phones open a file of this size.
MOST_BYTES = 64_000_000
# The sentences that the page learns in English: the lecture's, in another language.
ENGLISH_SENTENCES = "i like toys\ni love dad\ni hate homework\n"

Said = str | Mapping[str, str]
"""A text for both languages, or {"en": ..., "zh": ...}."""


@dataclass(frozen=True)
class Shelf:
    """Runs that read the same text side by side.

    title: what the shelf is called, such as the name of the corpus. runs: the runs. text: the text
    that stands in the page at first.
    """

    title: Said
    runs: Sequence[Run]
    text: str = ""


def shelves_of(runs: Sequence[Run], text: str = "") -> list[Shelf]:
    """Return a shelf for each corpus that runs were trained on, in the order of the runs.

    Example:
      >>> import jaxlm
      >>> corpus = jaxlm.read_corpus("toy")
      >>> run = jaxlm.fit(jaxlm.NGram(len(corpus.vocabulary), order=2), corpus, quiet=True)
      >>> [(shelf.title, len(shelf.runs)) for shelf in shelves_of([run, run])]
      [('toy', 2)]
    """
    shelves: dict[str, list[Run]] = {}
    for run in runs:
        shelves.setdefault(str(run.settings.get("text", {}).get("corpus")), []).append(run)
    return [Shelf(_title(corpus), shelf, text) for corpus, shelf in shelves.items()]


def _title(corpus: str) -> str:
    """Return the name of a corpus without the folders that hold it."""
    return "/".join(Path(corpus).parts[-2:]) if "/" in corpus else corpus


def asset(name: str) -> str:
    """Return the text of a file in jaxlm/inspection/play/assets."""
    return resources.files(__package__).joinpath("assets", name).read_text(encoding="utf-8")


def play_page(
    shelves: Sequence[Shelf],
    *,
    lang: str = "en",
    dtype: str = "float16",
    start: str | None = None,
    foot: Mapping[str, Any] | None = None,
) -> str:
    """Return a page in which models run and learn, as HTML.

    Args:
      shelves: the runs, by the text that they read.
      lang: language of the page at first, en or zh.
      dtype: type of the weights in the page, float16 or float32.
      start: the state before the text: "fresh", "warm", or None for the default of each run.
      foot: lines at the foot of the page by name: "command", "date".
    Raises:
      SettingError: for another language, dtype or start.
      UserError: for a run that the page cannot run, and for runs that are too large.
    """
    choose(dict.fromkeys(LANGUAGES), lang, "lang")
    choose(dict.fromkeys(DTYPES), dtype, "dtype")
    runs = [run for shelf in shelves for run in shelf.runs]
    if not runs:
        raise SettingError("runs", "none", "the page to play with needs a run: give one")
    labels = iter(labels_of(runs))
    tokenizers: list[dict[str, Any]] = []
    described: list[dict[str, Any]] = []
    for shelf in shelves:
        models = [_model(run, next(labels), tokenizers, dtype, start) for run in shelf.runs]
        described.append({"title": shelf.title, "text": shelf.text, "models": models})
    data = {
        "lang": lang,
        "dtype": dtype,
        "texts": json.loads(asset("texts.json")),
        "shelves": described,
        "tokenizers": tokenizers,
        "sentences": {"zh": CORPORA["toy"].texts["train"], "en": ENGLISH_SENTENCES},
        "foot": dict(foot or {}),
    }
    titles = [title if isinstance(title := shelf.title, str) else title[lang] for shelf in shelves]
    scripts = ["\n".join(map(asset, SCRIPTS))]
    page = document(f"jaxlm: {', '.join(titles)}", lang, [asset("play.css")], scripts, data)
    if len(page) > MOST_BYTES:
        raise UserError(
            f"the page would have {len(page) / 1e6:.0f} MB, and a browser opens at most "
            f"{MOST_BYTES / 1e6:.0f}: give fewer or smaller runs"
        )
    return page


def _model(
    run: Run, label: str, tokenizers: list[dict[str, Any]], dtype: str, start: str | None
) -> dict[str, Any]:
    """Return a run as the page reads it; its tokenizer is added to `tokenizers` if it is new."""
    tokenizer = describe_tokenizer(run.tokenizer)
    if tokenizer not in tokenizers:
        tokenizers.append(tokenizer)
    model = describe(run, dtype, start)
    return {
        "label": label,
        "tokenizer": tokenizers.index(tokenizer),
        "last_only": run.protocol.last_only and run.model.trained_by == "gradient",
        "unknown_is_new": run.settings.get(UNK_IN_TRAINING) is False,
        "spec": model.settings | {"arrays": model.arrays},
    }

"""The text of a page: from a file, or from the corpus of the run if no text is given."""

import os
from collections.abc import Mapping
from pathlib import Path

from jaxlm.data.corpora import SENTENCES, SPLITS, corpus_sources
from jaxlm.data.reading import Reading, text_of
from jaxlm.data.shards import is_prepared, read_prepared
from jaxlm.data.sources import Source
from jaxlm.errors import SettingError, UserError
from jaxlm.runs.run import Run
from jaxlm.runs.starts import WARM_START

DEFAULT_CHARACTERS = 600
"""Length of the text that is chosen if none is given; it ends with a line."""
SPLIT_ZH = {"train": "训练", "valid": "验证", "test": "测试"}


def text_from_file(path: Path, encoding: str | None = None) -> str:
    """Return the text of a file, plain or compressed.

    Args:
      path: the file.
      encoding: its encoding, such as gb18030; None for UTF-8.
    Raises:
      SettingError: if there is no such file, and for an unknown encoding.
      UserError: if it cannot be read as text.
    """
    # `os.path` takes a name that is too long for a name that does not exist.
    if os.path.isdir(path):
        raise SettingError("text", path, "is a folder: give the path of a text file")
    if not os.path.isfile(path):
        raise SettingError("text", path, "does not exist: give the path of a text file")
    reading = Reading(encoding)
    reading.check()
    return "".join(text_of(path, reading).lines())


def default_text(run: Run) -> tuple[str, dict[str, str]]:
    """Return a text for a run if none is given, and a note that says where it is from.

    It is the beginning of the validation text of the run's corpus, or of its training text if it
    has no other. If the corpus is not there any more, it is the stretch of training text that the
    run keeps.

    Raises:
      UserError: if the run keeps no text either.

    Example:
      >>> import jaxlm
      >>> text = jaxlm.read_corpus("toy", eos=False)
      >>> run = jaxlm.fit(jaxlm.NGram(len(text.vocabulary), order=3), text, quiet=True)
      >>> text, note = default_text(run)
      >>> text.splitlines()[0], note["en"]
      ('我 喜欢 玩具', 'No text was given: this is the beginning of the train text of toy.')
    """
    try:
        name, sources = _sources(run)
    except UserError:
        return _kept_stretch(run)
    split = next(split for split in ("valid", "test", "train") if split in sources)
    # A file of bytes may be no text: what is not UTF-8 is shown as U+FFFD.
    raw = _beginning(sources[split]).encode("utf-8", "surrogateescape")
    text = raw.decode("utf-8", "replace")
    if not text.strip():
        return _kept_stretch(run)
    return text, {
        "en": f"No text was given: this is the beginning of the {split} text of {name}.",
        "zh": f"没有给出文本：这是 {name} 的{SPLIT_ZH[split]}文本的开头。",
    }


def _sources(run: Run) -> tuple[str, Mapping[str, Source]]:
    """Return the name of a run's corpus, and the source of each split.

    Raises:
      UserError: if the run does not say what it was trained on, or the corpus cannot be read.
    """
    trained_on = run.settings.get("text", {})
    name = trained_on.get("corpus")
    if not name or name == SENTENCES:
        raise UserError(f"{run.name} keeps no text")
    if is_prepared(Path(name)):
        _, splits = read_prepared(Path(name))
        return name, {split: splits[split].source for split in SPLITS if split in splits}
    fractions = trained_on.get("fractions")
    reading = Reading(
        trained_on.get("encoding"), trained_on.get("column"), exact=run.tokenizer.exact
    )
    sources = corpus_sources(
        name, tuple(fractions) if fractions else None, run.tokenizer.splits_at_lines, reading
    )
    return name, {split: sources[split] for split in SPLITS if split in sources}


def _beginning(source: Source) -> str:
    """Return the first lines of a text, at least one and about DEFAULT_CHARACTERS characters."""
    lines: list[str] = []
    length = 0
    for line in source.lines():
        if lines and length + len(line) > DEFAULT_CHARACTERS:
            break
        lines.append(line)
        length += len(line)
    return "".join(lines)[:DEFAULT_CHARACTERS].strip("\n")


def _kept_stretch(run: Run) -> tuple[str, dict[str, str]]:
    """Return the stretch of training text that a run keeps.

    Raises:
      UserError: if it keeps none.
    """
    stretch = run.settings.get(WARM_START)
    if not stretch:
        raise UserError(f"{run.name} keeps no text, and its corpus is not there: give a text")
    return run.tokenizer.decode(stretch).strip("\n"), {
        "en": f"No text was given: this is a stretch of the training text, which {run.name} keeps.",
        "zh": f"没有给出文本：这是 {run.name} 保存的一段训练文本。",
    }

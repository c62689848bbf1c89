"""ARPA files as runs, and n-gram runs as ARPA files."""

from pathlib import Path
from typing import Any

from jaxlm.data.tokenizers import Characters, Tokenizer, Words
from jaxlm.data.vocabulary import EOS, Vocabulary
from jaxlm.errors import SettingError, UserError, choose
from jaxlm.interop.arpa import UNKNOWN_WORDS, read_arpa, write_arpa
from jaxlm.models.ngram import NGram
from jaxlm.runs.protocol import Protocol
from jaxlm.runs.run import Run

ARPA = "arpa"


def _words(tokens: tuple[str, ...]) -> Tokenizer:
    """Return a tokenizer that divides the words of a text at ASCII blanks."""
    has_eos = EOS in tokens
    return Words(
        Vocabulary(tokens, _unknown(tokens), EOS if has_eos else None), has_eos, ascii_blanks=True
    )


def _characters(tokens: tuple[str, ...]) -> Tokenizer:
    """Return a tokenizer of characters; the `</s>` of the file is the line break.

    Raises:
      SettingError: if a token has several characters.
    """
    unknown = _unknown(tokens)
    if "\n" not in tokens:
        tokens = tuple("\n" if token == EOS else token for token in tokens)
    longer = [token for token in tokens if len(token) != 1 and token != unknown]
    if longer:
        why = f"the file lists {longer[0]!r}, which is no character: leave it out"
        raise SettingError("tokens", "chars", why)
    return Characters(Vocabulary(tokens, unknown, "\n" if "\n" in tokens else None))


def _unknown(tokens: tuple[str, ...]) -> str | None:
    """Return the unknown word of a file, or None."""
    return next((word for word in UNKNOWN_WORDS if word in tokens), None)


TOKENS = {"words": _words, "chars": _characters}
"""How a text is cut into the tokens of an ARPA file: the tokenizer of its tokens."""


def export_arpa(run: Run, path: str | Path) -> None:
    """Write an n-gram run as an ARPA file, which KenLM and SRILM read.

    The file is compressed by gzip if its name ends in .gz.

    Raises:
      UserError: for a run of another model, and if the file cannot be written.
    """
    if not isinstance(run.model, NGram):
        raise UserError(
            f"{run.name} has the model {type(run.model).__name__}: only n-grams can be written as "
            f"ARPA files"
        )
    vocabulary = run.vocabulary
    write_arpa(
        Path(path),
        run.params,
        vocabulary.tokens,
        end=vocabulary.start,
        across_lines=run.model.stream,
    )


def import_arpa(
    path: str | Path,
    folder: str | Path | None = None,
    tokens: str | None = None,
    add_unknown: bool = False,
) -> Run:
    """Return the model of an ARPA file as a run, and save the run in `folder` unless it is None.

    An ARPA file does not say how text is cut into tokens. By words, ASCII blanks divide the words
    of a text, as in KenLM, and every line ends in `<eos>` if the file has `</s>` or `<eos>`. By
    characters, the line break is the `</s>` of the file.

    Words that the file does not list become its unknown word: `<unk>`, or the unknown word of
    another toolkit, such as `<UNK>`. A run of a file without an unknown word reads no other words.

    Args:
      path: the file.
      folder: the folder of the new run; None to keep the run in memory.
      tokens: "words" or "chars"; None for words.
      add_unknown: add `<unk>` with the probability 0, if the file lists no unknown word. SRILM
        writes such files.
    Raises:
      UserError: for a file that is not in the format (the message names the line), and for a folder
        that holds a run.
      SettingError: for `chars` if the file lists a word of several characters.
    """
    kind = tokens or "words"
    choose(TOKENS, kind, "tokens")
    arpa = read_arpa(Path(path), add_unknown=add_unknown)
    tokenizer = TOKENS[kind](arpa.tokens)
    vocabulary = tokenizer.vocabulary
    has_eos = vocabulary.start is not None
    network: dict[str, Any] = {
        "order": arpa.tables.order,
        "smoothing": ARPA,
        "add_k": 0.0,
        "stream": arpa.across_lines,
    }
    model = NGram(len(vocabulary), vocabulary.start_id, **network)
    protocol = Protocol(rows=not has_eos)
    settings = {
        "model": "ngram",
        "network": network,
        "protocol": protocol.as_json(),
        "file": str(path),
    }
    run = Run(model, arpa.tables, tokenizer, protocol, settings, None, 1)
    return run if folder is None else run.save(folder)

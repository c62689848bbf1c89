"""ARPA files as runs, and n-gram runs as ARPA files."""

from pathlib import Path
from typing import Any

from jaxlm.data.tokenizers import Words
from jaxlm.data.vocabulary import EOS, UNK, Vocabulary
from jaxlm.errors import UserError
from jaxlm.interop.arpa import read_arpa, write_arpa
from jaxlm.models.ngram import NGram
from jaxlm.runs.protocol import Protocol
from jaxlm.runs.run import Run

ARPA = "arpa"
# The unknown word, as toolkits spell it; the first that a file lists counts.
UNKNOWN_WORDS = (UNK, "<UNK>", "<Unk>", "[UNK]")


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


def import_arpa(path: str | Path, folder: str | Path | None = None) -> Run:
    """Return the model of an ARPA file as a run, and save the run in `folder` unless it is None.

    An ARPA file does not say how text is cut into tokens. The run reads words between white space,
    and every line ends in `<eos>` if the file has `</s>` or `<eos>`. Words that the file does not
    list become `<unk>` if the file has `<unk>`, or the unknown word of another toolkit, such as
    `<UNK>`. As in KenLM, only ASCII blanks divide the words of a text.

    Raises:
      UserError: for a file that is not in the format (the message names the line), and for a folder
        that holds a run.
    """
    arpa = read_arpa(Path(path))
    has_eos = EOS in arpa.tokens
    unknown = next((token for token in UNKNOWN_WORDS if token in arpa.tokens), None)
    vocabulary = Vocabulary(arpa.tokens, unknown, EOS if has_eos else None)
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
    tokenizer = Words(vocabulary, has_eos, ascii_blanks=True)
    run = Run(model, arpa.tables, tokenizer, protocol, settings, None, 1)
    return run if folder is None else run.save(folder)

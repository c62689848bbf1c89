"""Runs from other programs' files, and for them."""

from pathlib import Path
from typing import Any

from jaxlm.data.tokenizers import Words
from jaxlm.data.vocabulary import EOS, UNK, Vocabulary
from jaxlm.errors import UserError
from jaxlm.interop.arpa import read_arpa, write_arpa
from jaxlm.models.ngram import NGram
from jaxlm.runs.run import Run, claim_folder
from jaxlm.training.counting import keep_tables

ARPA = "arpa"


def export_arpa(run: Run, path: str | Path) -> None:
    """Writes an n-gram run as an ARPA file, which KenLM and SRILM read; gzip if it ends in .gz.

    Raises UserError for a run of another model, and if the file cannot be written.
    """
    if not isinstance(run.model, NGram):
        raise UserError(
            f"{run.name} is a {type(run.model).__name__}: only n-grams can be written as ARPA files"
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
    """An ARPA file as a run, kept in `folder` if one is given.

    The file says nothing of how text is cut into tokens: the run reads words, what white space
    separates, and every line ends in `<eos>` if the file has `</s>`. Words that it does not list
    are `<unk>` if it has that. Raises UserError for a bad file (its line, and what is wrong), and
    for a folder that holds a run already.
    """
    arpa = read_arpa(Path(path))
    has_eos = EOS in arpa.tokens
    vocabulary = Vocabulary(
        arpa.tokens, UNK if UNK in arpa.tokens else None, EOS if has_eos else None
    )
    tokenizer = Words(vocabulary, has_eos)
    network: dict[str, Any] = {
        "order": arpa.tables.order,
        "smoothing": ARPA,
        "add_k": 0.0,
        "stream": arpa.across_lines,
    }
    model = NGram(len(vocabulary), vocabulary.start_id, **network)
    batching = {"batching": "streams" if has_eos else "rows", "positions": "all"}
    config = {"model": "ngram", "network": network, "batching": batching, "file": str(path)}
    if folder is None:
        return Run(model, arpa.tables, tokenizer, config, None, 1)
    folder = Path(folder)
    claim_folder(folder, config, tokenizer, resume=False)
    return Run(model, keep_tables(arpa.tables, folder), tokenizer, config, folder, 1)

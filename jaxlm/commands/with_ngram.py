"""--with-ngram of `python -m jaxlm.train`: an n-gram of the text, mixed with the trained run."""

import os
import shlex
from pathlib import Path

from rich.console import Console
from rich.table import Table

from jaxlm.data.text import Text
from jaxlm.errors import UserError
from jaxlm.evaluation.mixing import mixture
from jaxlm.models import NGram
from jaxlm.runs.folder import CONFIG, files_of_run, holds_run, lost_config, read_description
from jaxlm.runs.log import shown_perplexity
from jaxlm.runs.protocol import Protocol
from jaxlm.runs.run import Run
from jaxlm.runs.starts import by_lines
from jaxlm.training.fit import fit

FEW_TOKENS = 1000
"""A text of at most this many different tokens, such as letters, gets the order LONG."""
LONG, SHORT = 8, 5
COUNTED_IN_SECONDS = 20_000_000
"""A text of at most this many tokens is counted in seconds, within memory."""


def ngram_of(text: Text, protocol: Protocol) -> NGram:
    """Return the n-gram that is mixed with a neural model of a text.

    Its order is 8 if the text has few different tokens (letters or bytes), and else 5 (words,
    byte-pair pieces, Chinese characters). It reads the same stream as the neural model.
    Of a text that is read by lines, no n-gram is longer than the longest line.

    Args:
      text: the text.
      protocol: how the neural model is scored.
    """
    size = len(text.vocabulary)
    order = LONG if size <= FEW_TOKENS else SHORT
    if protocol.rows:
        order = min(order, max(map(len, text.train.rows())))
    return NGram(size, text.vocabulary.start_id, order=order, stream=not protocol.rows)


def ngram_folder(folder: Path) -> Path:
    """Return the folder of the n-gram that is mixed with the run in `folder`.

    Example:
      >>> ngram_folder(Path("runs/lstm-my")).name
      'lstm-my-ngram'
    """
    # A path such as "." has no name of its own.
    place = folder if folder.name not in ("", "..") else folder.resolve()
    return place.with_name(f"{place.name}-ngram")


def can_mix(text: Text, protocol: Protocol) -> bool:
    """Return whether an n-gram can be mixed: the weights need a validation split."""
    return text.valid is not None and len(text.valid) > 0 and not protocol.last_only


def check_can_mix(text: Text, protocol: Protocol, folder: Path, resume: bool) -> None:
    """Raise UserError if --with-ngram cannot work, before anything is trained.

    Args:
      text: the text.
      protocol: how the neural model is scored.
      folder: the folder of the run.
      resume: whether the run continues, so that its n-gram may be counted already.
    Raises:
      UserError: without a validation split, for a model that predicts last tokens alone, and if the
        folder of the n-gram holds another run than the n-gram that is mixed.
    """
    if not can_mix(text, protocol):
        raise UserError(
            "`with_ngram` needs a validation split, on which the weights of the mixture are "
            "chosen, and a model that predicts every token"
        )
    place = ngram_folder(folder)
    if not holds_run(place):
        if os.path.exists(place) and not os.path.isdir(place):
            raise UserError(f"`with_ngram`: {place} is a file: give another `out`")
        if found := [name for name in files_of_run(place) if not (resume and name == CONFIG)]:
            raise lost_config(place, found)
        return
    if not resume:
        raise UserError(f"`with_ngram`: {place} holds a run already: give another `out`")
    saved, wanted = read_description(place)[0], ngram_of(text, protocol)
    network = saved["network"]
    if saved["model"] != "ngram" or (network["order"], network["stream"]) != (
        wanted.order,
        wanted.stream,
    ):
        raise UserError(
            f"`with_ngram`: {place} holds another run than the {wanted.order}-gram that is mixed: "
            "move it away, or leave the flag out"
        )


def note_on_ngram(text: Text, protocol: Protocol, model: str) -> str:
    """Return the note that an n-gram would help; empty if it cannot be mixed, or takes long."""
    if not can_mix(text, protocol) or len(text.train) > COUNTED_IN_SECONDS:
        return ""
    order = ngram_of(text, protocol).order
    return (
        f"counting n-grams of {order} tokens takes seconds, and mixed with the {model} they "
        f"usually predict better than either alone: `with_ngram` counts and mixes them"
    )


def count_and_mix(run: Run, text: Text, console: Console, resume: bool) -> None:
    """Count the n-gram, and print the perplexity of both models and of their mixture.

    Args:
      run: the trained run, kept in a folder.
      text: its text.
      console: where to print.
      resume: whether the n-gram may be counted already.
    Raises:
      UserError: for a full disk, and for a validation split that cannot be read.
    """
    assert run.folder is not None
    place = ngram_folder(run.folder)
    quiet = Console(quiet=True)
    ngram = fit(
        ngram_of(text, run.protocol), text, folder=place, resume=resume, console=quiet,
        sample_every=0,
    )  # fmt: skip
    # Lines that are scored on their own leave out blank lines, in both models.
    scored = by_lines(ngram) if run.protocol.rows else ngram
    mixed = mixture([run, scored], split="valid")
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("validation", overflow="fold")
    for header in ("nats/token", "perplexity", "weight"):
        table.add_column(header, justify="right", no_wrap=True)
    order = ngram.settings["network"]["order"]
    names = (str(run.folder), f"{place} ({order}-gram)", "mixed")
    weights = (*(f"{weight:.2f}" for weight in mixed.weights), "")
    for name, report, weight in zip(names, (*mixed.alone, mixed.together), weights, strict=True):
        nats, ppl = f"{report.nats_per_token:z.4f}", shown_perplexity(report.perplexity)
        table.add_row(name, nats, ppl, weight)
    console.print(table)
    shares = ",".join(f"{weight:.3f}" for weight in mixed.weights[:-1])
    last = 1 - sum(float(share) for share in shares.split(","))
    remote = run.settings.get("training", {}).get("checkpoint_folder")
    kept = f" --checkpoint-folder {shlex.quote(remote)}" if remote else ""
    console.print(
        f"draw from the mixture: python -m jaxlm.generate {run.folder} {place} --mix "
        f"--weights {shares},{last:.3f}{kept}",
        soft_wrap=True,
        highlight=False,
    )

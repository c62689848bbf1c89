"""python -m jaxlm.convert: write a run as a file of another program, or read a file as a run."""

if __name__ == "__main__":
    # Before the other imports, which take a second.
    from jaxlm.commands.interrupt import end_quietly

    end_quietly()

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from jaxlm.commands import cli
from jaxlm.commands.plugins import load_plugin
from jaxlm.data.files import is_device
from jaxlm.errors import SettingError, UserError
from jaxlm.interop.formats import (
    FORMATS,
    format_name,
    has_format,
    read_run,
    write_run,
)
from jaxlm.runs.folder import CONFIG, read_description
from jaxlm.runs.huggingface import is_huggingface
from jaxlm.runs.pruning import prune
from jaxlm.runs.run import Run, load

ABOUT = """Write a run as a file of another program, or read a file as a run.

The end of the file's name chooses the format. KenLM and SRILM read ARPA files of n-grams. PyTorch
reads .safetensors and .pt files of weights; nothing in such a file is executed. onnxruntime and
browsers read ONNX files. JAX alone runs the programs of a StableHLO folder.

Examples:
  python -m jaxlm.convert runs/ngram-ptb ptb.arpa.gz
  python -m jaxlm.convert runs/lstm-ptb lstm.onnx
  python -m jaxlm.convert runs/lstm-ptb lstm.stablehlo
  python -m jaxlm.convert kenlm.arpa runs/kenlm
  python -m jaxlm.convert kenlm.txt runs/kenlm --format arpa
  python -m jaxlm.convert runs/lstm-ptb lstm-ptb-hf --format huggingface
  python -m jaxlm.convert lstm-ptb-hf runs/again
  python -m jaxlm.convert runs/lstm-ptb lstm.safetensors
  python -m jaxlm.convert weights.pt runs/green --vocabulary vocab.txt
  python -m jaxlm.convert runs/ngram-ptb small.arpa.gz --prune-entropy 1e-8
"""
FORMAT_HELP = f"Format of the file: {', '.join(FORMATS)} (none: the end of the file's name)."


@dataclass(frozen=True)
class Command:
    """Settings of `python -m jaxlm.convert`."""

    source: tyro.conf.Positional[Path]
    """Folder of the run, or file to read (plain or gzip)."""
    target: tyro.conf.Positional[Path]
    """File to write (gzip if its name ends in .gz), or folder of the new run."""
    format: Annotated[str | None, tyro.conf.arg(help=FORMAT_HELP)] = None
    vocabulary: Path | None = None
    """Tokens of another program's weights in the order of their ids: one a line, or a JSON list
    (none: the file has them)."""
    tokens: str | None = None
    """How text is cut into the tokens of an ARPA file, or of another program's weights: words or
    chars (none: words)."""
    add_unknown: bool = False
    """Add <unk> with the probability 0 to an ARPA file that lists no unknown word, as SRILM writes
    it. Texts with other words can then be measured."""
    plugin: Path | None = None
    """Run this Python file first; it registers models or cells of your own."""
    checkpoint_folder: str | None = None
    """Where the checkpoints are, if they were trained with --checkpoint-folder (none: in the run's
    folder)."""
    prune_entropy: float | None = None
    """Leave out n-grams whose removal makes the perplexity larger by less than this share, such as
    1e-8, as SRILM's -prune. Then the target may be of the same kind as the source."""


def main(argv: Sequence[str]) -> int:
    """Read a run from a folder or a file, and write it as a file, a folder or a new run."""
    command = cli.parse(Command, argv, prog="python -m jaxlm.convert", about=ABOUT)
    load_plugin(command.plugin)
    # A device such as /dev/stdout gets the file alone: the lines go to standard error.
    console = Console(highlight=False, markup=False, stderr=is_device(command.target))
    format_written = check_paths(command)
    run = read(command, console)
    if command.prune_entropy is not None:
        before = run.params.sizes if run.model.trained_by == "counting" else ()
        run = prune(run, command.prune_entropy)
        for title, sizes in (("before", before), ("after ", run.params.sizes)):
            console.print(f"n-grams {title}: {', '.join(f'{size:,}' for size in sizes)}")
    if format_written is not None:
        write_run(run, command.target, format_written)
        console.print(f"written to {command.target}", soft_wrap=True)
        return 0
    try:
        run.save(command.target)
    except UserError as error:
        # This command has no flag for the folder.
        raise UserError(str(error).replace("`folder`", "folder")) from None
    console.print(describe_size(run), soft_wrap=True)
    console.print(f"saved in {command.target}", soft_wrap=True)
    return 0


def check_paths(command: Command) -> str | None:
    """Return the name of the format to write; None to write a new run.

    `--format` names the format of the source if the source is to be read as one, else the format of
    the target. Without it the end of the target's name decides. A name without such an end is the
    folder of a new run, unless the source is the folder of a run already. A Hugging Face folder is
    read as a run, and may become a new run.

    Raises:
      UserError: if the source does not exist or is a folder of programs, if the target is no name
        for the file to write, and if the target is there already. No file is read.
      SettingError: for `--prune-entropy` with a format that counts the training text.
    """
    source, target = command.source, command.target
    if not os.path.exists(source):
        raise UserError(f"{source} does not exist: give a run's folder, or a file to read")
    is_folder = os.path.isdir(source)
    if is_folder and not os.path.isfile(source / CONFIG):
        # Whatever the target is, this is the mistake. The error names what can be read instead.
        read_run(source) if has_format(source) else read_description(source)
    is_read_by_format = not is_folder or (
        command.format == "huggingface" and is_huggingface(source)
    )
    name = None if is_read_by_format else command.format
    may_be_run = is_read_by_format or is_huggingface(source) or command.prune_entropy is not None
    if name is None and may_be_run and not has_format(target):
        if os.path.exists(target / CONFIG):
            raise UserError(f"{target} already holds a run: name another folder")
        return None
    name = format_name(target, name)
    if FORMATS[name].recounts and command.prune_entropy is not None:
        why = f"has no effect on {name}, which has the counts of the training text: leave it out"
        raise SettingError("prune_entropy", command.prune_entropy, why)
    if os.path.isdir(target) and not FORMATS[name].folder:
        raise UserError(f"{target} is a folder: name the file to write")
    return name


def read(command: Command, console: Console) -> Run:
    """Return the run of the source.

    Raises:
      UserError: for a folder or a file that cannot be read.
      SettingError: for an option that has no effect on the source.
    """
    options = {
        "vocabulary": command.vocabulary,
        "tokens": command.tokens,
        "add_unknown": command.add_unknown or None,
    }
    if os.path.isdir(command.source):
        for field, value in options.items():
            if value is not None:
                raise SettingError(field, value, "has no effect: a run has its own vocabulary")
        return load(command.source, checkpoint_folder=command.checkpoint_folder)
    if command.checkpoint_folder is not None:
        why = "has no effect: a file has no checkpoints"
        raise SettingError("checkpoint_folder", command.checkpoint_folder, why)
    tell = functools.partial(console.print, soft_wrap=True, markup=False)
    return read_run(command.source, None, command.format, **options, tell=tell)


def describe_size(run: Run) -> str:
    """Return the number of n-grams of each order of a run, or else its number of parameters."""
    if run.model.trained_by == "counting":
        return "n-grams of each order: " + ", ".join(f"{size:,}" for size in run.params.sizes)
    import jax

    return f"parameters: {sum(array.size for array in jax.tree.leaves(run.params)):,}"


if __name__ == "__main__":
    cli.run(main, goes_on=True)

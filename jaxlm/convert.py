"""python -m jaxlm.convert: write a run as a file of another program, or read a file as a run."""

if __name__ == "__main__":
    # Before the other imports, which take a second.
    from jaxlm.commands.interrupt import end_quietly

    end_quietly()

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from jaxlm.commands import cli
from jaxlm.commands.plugins import load_plugin
from jaxlm.errors import SettingError, UserError
from jaxlm.interop.formats import FORMATS, find_format, has_format, read_run, write_run
from jaxlm.runs.folder import CONFIG
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
    """How text is cut into these tokens: words or chars (none: words)."""
    plugin: Path | None = None
    """Run this Python file first; it registers models or cells of your own."""
    checkpoint_folder: str | None = None
    """Where the checkpoints are, if they were trained with --checkpoint-folder (none: in the run's
    folder)."""
    prune_entropy: float | None = None
    """Leave out n-grams whose removal makes the perplexity larger by less than this share, such as
    1e-8, as SRILM's -prune. Then the target may be of the same kind as the source."""


def main(argv: Sequence[str]) -> int:
    """Convert a folder to a file, or a file to a folder."""
    command = cli.parse(Command, argv, prog="python -m jaxlm.convert", about=ABOUT)
    load_plugin(command.plugin)
    source, target = command.source, command.target
    console = Console(highlight=False)
    if command.prune_entropy is not None and os.path.exists(source):
        return _convert_pruned(command, command.prune_entropy, console)
    if os.path.isdir(source) and not is_folder_to_read(source, target, command.format):
        if os.path.isdir(target) and not find_format(target, command.format).folder:
            raise UserError(f"{target} is a folder: name the file to write")
        for name, value in (("vocabulary", command.vocabulary), ("tokens", command.tokens)):
            if value is not None:
                raise SettingError(name, value, "has no effect: a run has its own vocabulary")
        # A wrong name of a format costs no loading.
        find_format(target, command.format)
        write_run(load(source, checkpoint_folder=command.checkpoint_folder), target, command.format)
        console.print(f"written to {target}", soft_wrap=True)
        return 0
    if not os.path.exists(source):
        raise UserError(f"{source} does not exist: give a run's folder, or a file to read")
    if os.path.exists(target / CONFIG):
        # Said before a large file is read.
        raise UserError(f"{target} already holds a run: name another folder")
    kind = "huggingface" if os.path.isdir(source) else command.format
    try:
        run = read_run(
            source,
            target,
            kind,
            vocabulary=command.vocabulary,
            tokens=command.tokens,
            tell=lambda line: console.print(line, soft_wrap=True, markup=False),
        )
    except UserError as error:
        # This command has no flag for the folder.
        raise UserError(str(error).replace("`folder`", "folder")) from None
    console.print(describe_size(run), soft_wrap=True)
    console.print(f"saved in {target}", soft_wrap=True)
    return 0


def is_folder_to_read(source: Path, target: Path, name: str | None) -> bool:
    """Return whether the source is a folder of another program, to read as a new run.

    A Hugging Face folder is a run too, so it can also be written in another format.
    """
    if not is_huggingface(source):
        return False
    return name == "huggingface" or (name is None and not has_format(target))


def _convert_pruned(command: Command, prune_entropy: float, console: Console) -> int:
    """Write a pruned n-gram as a file if the name of the target is a file's, else as a run."""
    source, target = command.source, command.target
    if os.path.isdir(source):
        as_file = command.format is not None or has_format(target)
        format_read, format_written = None, command.format
    else:
        as_file = has_format(target)
        format_read, format_written = command.format, None
    if as_file and os.path.isdir(target):
        raise UserError(f"{target} is a folder: name the file to write")
    if not as_file and os.path.exists(target / CONFIG):
        raise UserError(f"{target} already holds a run: name another folder")
    if os.path.isdir(source):
        run = load(source, checkpoint_folder=command.checkpoint_folder)
    else:
        run = read_run(source, None, format_read)
    pruned = prune(run, prune_entropy)
    if as_file:
        write_run(pruned, target, format_written)
    else:
        pruned.save(target)
    for title, sizes in (("before", run.params.sizes), ("after ", pruned.params.sizes)):
        console.print(f"n-grams {title}: {', '.join(f'{size:,}' for size in sizes)}")
    console.print(f"{'written to' if as_file else 'saved in'} {target}", soft_wrap=True)
    return 0


def describe_size(run: Run) -> str:
    """Return the number of n-grams of each order of a run, or else its number of parameters."""
    if run.model.trained_by == "counting":
        return "n-grams of each order: " + ", ".join(f"{size:,}" for size in run.params.sizes)
    import jax

    return f"parameters: {sum(array.size for array in jax.tree.leaves(run.params)):,}"


if __name__ == "__main__":
    cli.run(main, goes_on=True)

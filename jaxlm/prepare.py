"""python -m jaxlm.prepare: encode any amount of text into memory-mapped files of token ids."""

if __name__ == "__main__":
    # Before the other imports, which take a second.
    from jaxlm.commands.interrupt import end_quietly

    end_quietly()

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from jaxlm.commands import cli
from jaxlm.data.columns import whole_lines_note
from jaxlm.data.compression import is_packed
from jaxlm.data.preparing import PreparingConfig, Texts, claim_prepared_folder, prepare
from jaxlm.data.reading import open_text
from jaxlm.data.shards import Shard
from jaxlm.errors import UserError

ABOUT = """Encode any amount of text into memory-mapped files of token ids, by several processes.

Examples:
  python -m jaxlm.prepare part-*.txt.gz --tokens bpe --vocab-size 8192 --out prepared
  python -m jaxlm.prepare train.txt.zst --valid valid.txt --test test.txt --out prepared
  python -m jaxlm.train --model lstm --corpus prepared

If the command is interrupted, repeat it: it continues where it stopped.
"""


@dataclass(frozen=True)
class Command(PreparingConfig):
    """The flags of this command."""

    texts: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """Files of the training text, plain or compressed by gzip or zstd."""
    valid: tuple[Path, ...] = ()
    """Files of the validation text."""
    test: tuple[Path, ...] = ()
    """Files of the test text."""
    out: Path = Path("prepared")
    """Folder to make."""


def main(argv: Sequence[str]) -> int:
    """Fit the tokenizer, encode all texts, and print the sizes and the speed."""
    command = cli.parse(Command, argv, prog="python -m jaxlm.prepare", about=ABOUT)
    console = Console(highlight=False)
    texts = texts_of(command)
    paths = [path for files in texts.values() for path in files]
    # One note, for the first of the tables.
    cli.say(next(filter(None, (whole_lines_note(path, command.column) for path in paths)), None))
    began = time.perf_counter()
    tokenizer = claim_prepared_folder(command.out, texts, command)
    console.print(
        f"{tokenizer.name}: vocabulary of {len(tokenizer.vocabulary):,} tokens, "
        f"{time.perf_counter() - began:.1f} s",
        soft_wrap=True,
    )
    done = {"bytes": 0, "new": 0, "kept": 0}
    began = time.perf_counter()
    with Progress(
        TextColumn("{task.completed:,.0f} MB"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as progress:
        task = progress.add_task("", total=megabytes(texts, command), rate="")

        def on_shard(shard: Shard, newly_written: bool) -> None:
            done["bytes"] += shard.text.bytes * newly_written
            done["new" if newly_written else "kept"] += 1
            rate = done["bytes"] / 1e6 / (time.perf_counter() - began)
            progress.update(task, advance=shard.text.bytes / 1e6, rate=f"{rate:.1f} MB/s")

        reading = command.reading
        splits = prepare(command.out, texts, tokenizer, command.workers, on_shard, reading)
    seconds = time.perf_counter() - began
    for split, shards in splits.items():
        tokens, size = (
            sum(shard.tokens for shard in shards),
            sum(shard.text.bytes for shard in shards),
        )
        console.print(f"{split}: {tokens:,} tokens of {size:,} bytes in {len(shards)} shards")
    kept = f", {done['kept']} shards existed already" if done["kept"] else ""
    rate = done["bytes"] / 1e6 / seconds
    console.print(f"{seconds:.1f} s, {rate:.1f} MB/s{kept}; saved in {command.out}", soft_wrap=True)
    return 0


def texts_of(command: Command) -> Texts:
    """Return the files of each split.

    Raises:
      UserError: if there is no training text, or a file cannot be read.
    """
    if not command.texts:
        raise UserError("give at least one text file; see python -m jaxlm.prepare --help")
    command.reading.check()
    splits = {"train": command.texts, "valid": command.valid, "test": command.test}
    texts = {split: list(paths) for split, paths in splits.items() if paths}
    for paths in texts.values():
        for path in paths:
            open_text(path, command.reading).close()
    return texts


def megabytes(texts: Texts, config: PreparingConfig) -> float | None:
    """Return the size of all texts in MB.

    None if a file is compressed or converted, so that the size of its text is unknown.
    """
    files = [path for paths in texts.values() for path in paths]
    if config.reading.converts or any(is_packed(path) for path in files):
        return None
    return sum(path.stat().st_size for path in files) / 1e6


if __name__ == "__main__":
    cli.run(main, goes_on=True)

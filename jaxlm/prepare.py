"""python -m jaxlm.prepare: any amount of text to token ids in memory-mapped files."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from jaxlm.commands import cli
from jaxlm.data.preparing import PreparingConfig, Texts, begin, open_text, prepare
from jaxlm.data.shards import Shard
from jaxlm.errors import UserError

ABOUT = """Any amount of text to token ids in memory-mapped files, by several processes, once.

Examples:
  python -m jaxlm.prepare part-*.txt.gz --tokens bpe --vocab-size 8192 --out prepared
  python -m jaxlm.prepare train.txt.zst --valid valid.txt --test test.txt --out prepared
  python -m jaxlm.train --model lstm --corpus prepared

Stopped, the same command goes on where it was.
"""


@dataclass(frozen=True)
class Command(PreparingConfig):
    """Which text, and where to."""

    texts: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """UTF-8 files of the training text, plain or compressed by gzip or zstd."""
    valid: tuple[Path, ...] = ()
    """Files of the validation text."""
    test: tuple[Path, ...] = ()
    """Files of the test text."""
    out: Path = Path("prepared")
    """The folder to make."""


def main(argv: Sequence[str]) -> int:
    """Fits the tokenizer, cuts all texts, and tells how fast."""
    command = cli.parse(Command, argv, prog="python -m jaxlm.prepare", about=ABOUT)
    console = Console(highlight=False)
    texts = texts_of(command)
    began = time.perf_counter()
    tokenizer = begin(command.out, texts, command)
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
        task = progress.add_task("", total=megabytes(texts), rate="")

        def told(shard: Shard, new: bool) -> None:
            done["bytes"] += shard.text.bytes * new
            done["new" if new else "kept"] += 1
            rate = done["bytes"] / 1e6 / (time.perf_counter() - began)
            progress.update(task, advance=shard.text.bytes / 1e6, rate=f"{rate:.1f} MB/s")

        splits = prepare(command.out, texts, tokenizer, command.workers, told)
    seconds = time.perf_counter() - began
    for split, shards in splits.items():
        tokens, size = (
            sum(shard.tokens for shard in shards),
            sum(shard.text.bytes for shard in shards),
        )
        console.print(f"{split}: {tokens:,} tokens of {size:,} bytes in {len(shards)} shards")
    kept = f", {done['kept']} shards were there" if done["kept"] else ""
    rate = done["bytes"] / 1e6 / seconds
    console.print(f"{seconds:.1f} s, {rate:.1f} MB/s{kept}; saved in {command.out}", soft_wrap=True)
    return 0


def texts_of(command: Command) -> Texts:
    """The files of each split. Raises UserError for one that cannot be read."""
    if not command.texts:
        raise UserError("which text? give one file or more; see python -m jaxlm.prepare --help")
    texts = {"train": command.texts, "valid": command.valid, "test": command.test}
    found = {split: list(paths) for split, paths in texts.items() if paths}
    for paths in found.values():
        for path in paths:
            open_text(path).close()
    return found


def megabytes(texts: Texts) -> float | None:
    """Of all texts; None if one is compressed, and so not known before the end."""
    total = 0
    for paths in texts.values():
        for path in paths:
            with open_text(path) as file:
                if type(file).__name__ != "BufferedReader":
                    return None
            total += path.stat().st_size
    return total / 1e6


if __name__ == "__main__":
    cli.run(main)

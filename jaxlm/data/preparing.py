"""Any amount of text to shards of token ids, piece by piece, by several processes.

A piece is some megabytes of whole lines of one file, after decompression, and becomes one shard.
Which text is in which piece depends on the files alone, so what was begun is gone on with: shards
that are there are left as they are.
"""

import contextlib
import functools
import gzip
import importlib
import json
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from jaxlm.data.encoding import BLOCK_BYTES, TextSize, in_blocks
from jaxlm.data.shards import KINDS, PREPARED, TOKENIZER, Shard, kind_of
from jaxlm.data.sources import BOM
from jaxlm.data.tokenizers import TOKENIZERS, Tokenizer, VocabularyConfig, from_json, to_json
from jaxlm.errors import UserError, choose

PIECE_BYTES = 32 << 20
GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"


@dataclass(frozen=True)
class PreparingConfig(VocabularyConfig):
    """How text is cut into tokens, and by whom."""

    tokens: str = "bpe"
    """words, chars, bytes or bpe."""
    fit_megabytes: int = 256
    """Learn the vocabulary from so much of the training text, the same share of each file."""
    workers: int | None = None
    """Processes that cut text into tokens (none: one for each core)."""


class Piece(NamedTuple):
    """split: whose it is; file: where it is from; start: of its bytes in that, uncompressed."""

    split: str
    file: Path
    start: int
    text: bytes


Texts = dict[str, list[Path]]
"""Files of each split."""
Told = Callable[[Shard, bool], None]
"""told(shard, new): a piece is done; new: now, or was before."""


def open_text(path: Path) -> BinaryIO:
    """A file's bytes, uncompressed if its first ones are those of gzip or zstd. Raises UserError if
    it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            first = file.read(4)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    if first.startswith(GZIP):
        return gzip.open(path, "rb")  # type: ignore[return-value]
    if first == ZSTD:
        return _zstd().open(path, "rb")
    return open(path, "rb")


def _zstd() -> Any:
    """Python's module for zstd, which 3.14 has, and before it a package of the same code."""
    for name in ("compression.zstd", "backports.zstd"):
        with contextlib.suppress(ImportError):
            return importlib.import_module(name)
    raise UserError("for text compressed by zstd a package is needed: pip install backports.zstd")


def pieces_of(texts: Texts, size: int = PIECE_BYTES) -> Iterator[Piece]:
    """Pieces of about `size` bytes, cut at line ends; a line is never torn."""
    for split, paths in texts.items():
        for path in paths:
            start = 0
            with open_text(path) as file:
                while text := _read(file, size, path):
                    yield Piece(split, path, start, text)
                    start += len(text)


def _read(file: BinaryIO, size: int, path: Path) -> bytes:
    try:
        text = file.read(size)
        return text if not text or text.endswith(b"\n") else text + file.readline()
    except (OSError, EOFError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot read {path}: {reason}") from None
    except Exception as error:  # zlib's and zstd's errors have no base class but this one
        raise UserError(f"cannot read {path}: {error}") from None


def lines_of(piece: Piece) -> Iterator[str]:
    """The lines of a piece, as a text file's are read: CRLF becomes LF, a byte order mark is
    dropped. Raises UserError for what is not UTF-8.
    """
    text = piece.text
    if piece.start == 0 and text.startswith(BOM):
        text = text[len(BOM) :]
    skipped, place = len(piece.text) - len(text), 0
    while place < len(text):
        end = text.find(b"\n", place) + 1 or len(text)
        raw = text[place:end]
        try:
            line = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            offset = piece.start + skipped + place + error.start
            raise UserError(
                f"{piece.file} is not UTF-8: byte 0x{raw[error.start]:02x} at offset {offset} "
                f"({error.reason}). Convert it first, for instance: iconv -f GB18030 -t UTF-8"
            ) from None
        yield line[:-2] + "\n" if line.endswith("\r\n") else line
        place = end


def fit_tokenizer(texts: Texts, config: PreparingConfig) -> Tokenizer:
    """A tokenizer that is fitted to some of the training text. One that could meet what it has not
    seen has <unk>.
    """
    kind = choose(TOKENIZERS, config.tokens, "tokens")
    for name, value in (("--fit-megabytes", config.fit_megabytes), ("--workers", config.workers)):
        if value is not None and value < 1:
            raise UserError(f"{name} {value}: must be at least 1")
    share = max(1, (config.fit_megabytes << 20) // len(texts["train"]))

    def lines() -> Iterator[str]:
        for path in texts["train"]:
            left = share
            for piece in pieces_of({"train": [path]}, BLOCK_BYTES):
                yield from lines_of(piece)
                left -= len(piece.text)
                if left <= 0:
                    break

    if not any(line.strip() for line in lines()):
        raise UserError(f"{texts['train'][0]} is empty: there is no text to train on")
    return kind.fit(lines(), config, True)


def begin(folder: Path, texts: Texts, config: PreparingConfig) -> Tokenizer:
    """Makes the folder this text's, and finds its tokenizer: the one that is there, if it was begun
    before. Raises UserError if something else is in it.
    """
    inputs = [
        [split, str(path.resolve()), path.stat().st_size]
        for split, paths in texts.items()
        for path in paths
    ]
    names = [item.name for item in fields(PreparingConfig) if item.name != "workers"]
    settings = {name: getattr(config, name) for name in names}
    about = {"inputs": inputs, "settings": settings, "piece_bytes": PIECE_BYTES}
    made = folder / PREPARED
    if made.exists():
        before = json.loads(made.read_text(encoding="utf-8"))
        changed = [
            name for name in about if before.get(name) != json.loads(json.dumps(about[name]))
        ]
        if changed:
            raise UserError(
                f"{folder} holds another text (its {' and '.join(changed)} differ): give another "
                f"--out, or the command that made it"
            )
        return from_json((folder / TOKENIZER).read_text(encoding="utf-8"))
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"--out {folder} is there already: give a new folder")
    tokenizer = fit_tokenizer(texts, config)
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / TOKENIZER, to_json(tokenizer))
    _write(made, json.dumps(about | {"finished": False, "splits": {}}, indent=1))
    return tokenizer


def prepare(
    folder: Path, texts: Texts, tokenizer: Tokenizer, workers: int | None, told: Told
) -> dict[str, list[Shard]]:
    """Cuts all of the text into tokens, and says so in the folder: the shards of each split."""
    splits: dict[str, list[Shard]] = {split: [] for split in texts}
    workers = workers or os.cpu_count() or 1
    waiting: deque[tuple[str, bool, Future[Shard] | Shard]] = deque()

    def take() -> None:
        split, new, job = waiting.popleft()
        shard = job.result() if isinstance(job, Future) else job
        splits[split].append(shard)
        told(shard, new)

    # Not by fork: JAX has threads of its own.
    context, saved = multiprocessing.get_context("spawn"), to_json(tokenizer)
    with ProcessPoolExecutor(workers, context, _start_worker) as pool:
        counts = dict.fromkeys(texts, 0)
        for piece in pieces_of(texts, PIECE_BYTES):
            name = f"{piece.split}-{counts[piece.split]:05d}.{kind_of(tokenizer)}"
            counts[piece.split] += 1
            before = _shard_before(folder, name)
            job = before or pool.submit(_encode, folder / name, saved, piece)
            waiting.append((piece.split, before is None, job))
            # No more pieces in memory than there is work for.
            if len(waiting) > workers + 1:
                take()
        while waiting:
            take()
    about = json.loads((folder / PREPARED).read_text(encoding="utf-8"))
    listed = {split: [shard.as_json() for shard in shards] for split, shards in splits.items()}
    _write(folder / PREPARED, json.dumps(about | {"finished": True, "splits": listed}, indent=1))
    return splits


def _shard_before(folder: Path, name: str) -> Shard | None:
    """A shard that an earlier call finished: its size is written after its ids."""
    about = folder / f"{name}.json"
    return Shard.from_json(json.loads(about.read_text())) if about.exists() else None


def _start_worker() -> None:
    # Each has one core.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


@functools.cache
def _tokenizer(saved: str) -> Tokenizer:
    return from_json(saved)


def _encode(path: Path, saved: str, piece: Piece) -> Shard:
    """Writes a piece's shard, aside and renamed; saved: the tokenizer."""
    tokenizer = _tokenizer(saved)
    totals, tokens = np.zeros(4, np.int64), 0
    dtype = KINDS[path.suffix[1:]]
    partial = path.with_suffix(".partial")
    with open(partial, "wb") as file:
        for block in in_blocks(lines_of(piece)):
            ids = tokenizer.encode(block)
            np.asarray(ids, dtype).tofile(file)
            tokens += len(ids)
            for line in block:
                totals += len(line.encode("utf-8")), len(line), len(line.split()), 1
    os.replace(partial, path)
    shard = Shard(path.name, tokens, TextSize(*map(int, totals)))
    _write(path.with_name(f"{path.name}.json"), json.dumps(shard.as_json()))
    return shard


def _write(path: Path, text: str) -> None:
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)

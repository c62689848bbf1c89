"""Encode any amount of text into shards of token ids, by several processes.

A piece is about 32 MiB of whole lines of one file, after decompression. Each piece becomes one
shard. The pieces depend only on the files, so a later call can continue an interrupted call: it
keeps the shards that are finished.

Example:
  >>> import tempfile
  >>> with tempfile.TemporaryDirectory() as folder:
  ...     path = Path(folder) / "text.txt"
  ...     _ = path.write_text("a b c\\n" * 100)
  ...     texts, config = {"train": [path]}, PreparingConfig(tokens="words")
  ...     tokenizer = claim_prepared_folder(Path(folder) / "out", texts, config)
  >>> tokenizer.vocabulary.tokens
  ('a', 'b', 'c', '<eos>', '<unk>')
"""

import contextlib
import functools
import gzip
import importlib
import itertools
import json
import math
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
from jaxlm.data.file_digests import file_digest
from jaxlm.data.files import replacing, write_text
from jaxlm.data.shards import ID_TYPES, PREPARED, TOKENIZER, Shard, id_type
from jaxlm.data.sources import decode_line
from jaxlm.data.tokenizers import (
    TOKENIZERS,
    Tokenizer,
    VocabularyConfig,
    check_used,
    from_json,
    to_json,
)
from jaxlm.errors import SettingError, UserError, check_at_least, choose

PIECE_BYTES = 32 << 20
GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"


@dataclass(frozen=True)
class PreparingConfig(VocabularyConfig):
    """Settings of preparing a text: the tokenizer, and the processes that use it."""

    tokens: str = "bpe"
    """words, chars, bytes or bpe."""
    fit_megabytes: int = 256
    """Megabytes of training text to learn the vocabulary from, the same amount of each file."""
    workers: int | None = None
    """Number of processes that cut text into tokens (none: one for each core)."""


class Piece(NamedTuple):
    """A part of a file that becomes one shard.

    Attributes:
      split: train, valid or test.
      file: the file.
      start: offset in bytes of the piece in the uncompressed file.
      text: the bytes, whole lines in UTF-8.
    """

    split: str
    file: Path
    start: int
    text: bytes


Texts = dict[str, list[Path]]
"""The files of each split."""
OnShard = Callable[[Shard, bool], None]
"""on_shard(shard, newly_written): called once per shard, in the order of the text. newly_written is
False if an earlier call of `prepare` wrote the shard."""


def open_text(path: Path) -> BinaryIO:
    """Open a file for reading. A file that begins like gzip or zstd data is decompressed.

    Raises:
      UserError: if the file cannot be read, or zstd is not installed.
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
    """Return a module for zstd: Python's own since 3.14, else the package backports.zstd."""
    for name in ("compression.zstd", "backports.zstd"):
        with contextlib.suppress(ImportError):
            return importlib.import_module(name)
    raise UserError("text compressed by zstd needs a package: pip install backports.zstd")


def pieces_of(texts: Texts, size: int = PIECE_BYTES) -> Iterator[Piece]:
    """Yield pieces of `size` bytes or slightly more: a piece ends at the next line break.

    Raises:
      UserError: if a file cannot be read.
    """
    for split, paths in texts.items():
        for path in paths:
            start = 0
            with open_text(path) as file:
                while text := _read(file, size, path):
                    yield Piece(split, path, start, text)
                    start += len(text)


def _read(file: BinaryIO, size: int, path: Path) -> bytes:
    """Return the next `size` bytes and the rest of their last line; `path` is for the error."""
    try:
        text = file.read(size)
        return text if not text or text.endswith(b"\n") else text + file.readline()
    except (OSError, EOFError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot read {path}: {reason}") from None
    except Exception as error:  # the errors of zlib and zstd share only this class
        raise UserError(f"cannot read {path}: {error}") from None


def lines_of(piece: Piece) -> Iterator[str]:
    """Yield the lines of a piece. CRLF becomes LF; a byte order mark is dropped.

    Raises:
      UserError: if a line is not UTF-8.
    """
    text, place = piece.text, 0
    while place < len(text):
        end = text.find(b"\n", place) + 1 or len(text)
        yield decode_line(text[place:end], piece.start + place, piece.file)
        place = end


def fit_tokenizer(texts: Texts, config: PreparingConfig) -> Tokenizer:
    """Return a tokenizer that is fitted to the beginning of each training file.

    The files have equal shares of `fit_megabytes`, in MiB of uncompressed text. A share is read in
    blocks of BLOCK_BYTES or less, and each block ends at a line break. The rest of the text may
    have new tokens, so a tokenizer with a closed vocabulary has <unk>.

    Raises:
      SettingError: if a size is below 1, and for a setting that the tokenizer does not use.
      UserError: if a file cannot be read, is not UTF-8, or the text is empty.
    """
    kind = choose(TOKENIZERS, config.tokens, "tokens")
    check_used(kind, config)
    check_at_least("fit_megabytes", config.fit_megabytes, 1)
    if config.workers is not None:
        check_at_least("workers", config.workers, 1)
    share = max(1, (config.fit_megabytes << 20) // len(texts["train"]))
    blocks = math.ceil(share / BLOCK_BYTES)

    def lines() -> Iterator[str]:
        for path in texts["train"]:
            pieces = pieces_of({"train": [path]}, math.ceil(share / blocks))
            for piece in itertools.islice(pieces, blocks):
                yield from lines_of(piece)

    if not any(line.strip() for line in lines()):
        raise UserError(f"{texts['train'][0]} is empty: there is no text to train on")
    return kind.fit(lines(), config, kind.closed_vocabulary)


def claim_prepared_folder(folder: Path, texts: Texts, config: PreparingConfig) -> Tokenizer:
    """Reserve `folder` for the shards of this text, and return the tokenizer.

    If an earlier call reserved the folder for the same files (paths and sizes) and settings, its
    tokenizer is read. Else a tokenizer is fitted, and saved with prepared.json.

    Raises:
      UserError: if the folder holds something else, a file of `texts` does not exist, or for the
        reasons of `fit_tokenizer`.
    """
    inputs = [
        [split, str(path.resolve()), _size(path)]
        for split, paths in texts.items()
        for path in paths
    ]
    names = [item.name for item in fields(PreparingConfig) if item.name != "workers"]
    settings = {name: getattr(config, name) for name in names}
    about = {"inputs": inputs, "settings": settings, "piece_bytes": PIECE_BYTES}
    prepared_json = folder / PREPARED
    if prepared_json.exists():
        saved = json.loads(prepared_json.read_text(encoding="utf-8"))
        changed = [name for name in about if saved.get(name) != json.loads(json.dumps(about[name]))]
        if changed:
            raise UserError(
                f"{folder} holds another text (its {' and '.join(changed)} differ): give another "
                f"`folder`, or repeat the command that made it"
            )
        return from_json((folder / TOKENIZER).read_text(encoding="utf-8"))
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SettingError("folder", folder, "exists already: give a new folder")
    tokenizer = fit_tokenizer(texts, config)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / TOKENIZER, to_json(tokenizer))
    write_text(prepared_json, json.dumps(about | {"finished": False, "splits": {}}, indent=1))
    return tokenizer


def _size(path: Path) -> int:
    """Return the size of a file in bytes.

    Raises:
      UserError: if there is no such file.
    """
    try:
        return path.stat().st_size
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None


def prepare(
    folder: Path, texts: Texts, tokenizer: Tokenizer, workers: int | None, on_shard: OnShard
) -> dict[str, list[Shard]]:
    """Encode all of the text into shards, and list them in prepared.json.

    Args:
      folder: the folder of `claim_prepared_folder`.
      texts: the files of each split.
      tokenizer: the tokenizer of that folder.
      workers: number of processes (None: one for each core).
      on_shard: called when a shard is finished; `OnShard` describes its arguments.
    Returns:
      The shards of each split, in the order of the text.
    Raises:
      UserError: if a file cannot be read, or is not UTF-8.
    """
    splits: dict[str, list[Shard]] = {split: [] for split in texts}
    workers = workers or os.cpu_count() or 1
    waiting: deque[tuple[str, Future[Shard] | Shard]] = deque()

    def finish_next() -> None:
        split, job = waiting.popleft()
        newly_written = isinstance(job, Future)
        shard = job.result() if isinstance(job, Future) else job
        splits[split].append(shard)
        on_shard(shard, newly_written)

    # "fork" would copy the locks of JAX's threads without the threads.
    context, saved = multiprocessing.get_context("spawn"), to_json(tokenizer)
    with ProcessPoolExecutor(workers, context, _start_worker) as pool:
        counts = dict.fromkeys(texts, 0)
        for piece in pieces_of(texts, PIECE_BYTES):
            name = f"{piece.split}-{counts[piece.split]:05d}.{id_type(tokenizer)}"
            counts[piece.split] += 1
            job = _finished_shard(folder, name) or pool.submit(_encode, folder / name, saved, piece)
            waiting.append((piece.split, job))
            # Limit the number of pieces in memory to little more than one for each worker.
            if len(waiting) > workers + 1:
                finish_next()
        while waiting:
            finish_next()
    about = json.loads((folder / PREPARED).read_text(encoding="utf-8"))
    listed = {split: [shard.as_json() for shard in shards] for split, shards in splits.items()}
    write_text(
        folder / PREPARED, json.dumps(about | {"finished": True, "splits": listed}, indent=1)
    )
    return splits


def _finished_shard(folder: Path, name: str) -> Shard | None:
    """Return a shard that an earlier call finished, or None.

    The .json file of a shard is written last, so its presence means that the shard is complete.
    """
    about = folder / f"{name}.json"
    return Shard.from_json(json.loads(about.read_text())) if about.exists() else None


def _start_worker() -> None:
    """Make the package tokenizers use one thread in this worker process."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


@functools.cache
def _tokenizer(saved: str) -> Tokenizer:
    """Return the tokenizer of the JSON text `saved`, parsed once per process."""
    return from_json(saved)


def _encode(path: Path, saved: str, piece: Piece) -> Shard:
    """Write the shard of a piece under a partial name, then rename it to `path`.

    `saved` is the JSON text of the tokenizer.
    """
    tokenizer = _tokenizer(saved)
    totals, tokens = np.zeros(4, np.int64), 0
    dtype = ID_TYPES[path.suffix[1:]]
    with replacing(path) as partial, open(partial, "wb") as file:
        for block in in_blocks(lines_of(piece)):
            ids = tokenizer.encode(block)
            np.asarray(ids, dtype).tofile(file)
            tokens += len(ids)
            for line in block:
                totals += len(line.encode("utf-8")), len(line), len(line.split()), 1
    shard = Shard(path.name, tokens, TextSize(*map(int, totals)), file_digest(path))
    write_text(path.with_name(f"{path.name}.json"), json.dumps(shard.as_json()))
    return shard

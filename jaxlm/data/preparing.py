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
import hashlib
import itertools
import json
import math
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from jaxlm.data.compression import reading_errors
from jaxlm.data.encoding import BLOCK_BYTES, TextSize, in_blocks
from jaxlm.data.file_digests import file_digest
from jaxlm.data.files import replacing, write_text
from jaxlm.data.reading import AS_TEXT, Reading, open_text
from jaxlm.data.shards import (
    ID_TYPES,
    PREPARED,
    TOKENIZER,
    Shard,
    damaged,
    id_type,
    read_description,
    read_tokenizer,
)
from jaxlm.data.sources import decode_lines, read_line
from jaxlm.data.tokenizers import (
    TOKENIZERS,
    Tokenizer,
    VocabularyConfig,
    check_used,
    from_json,
    to_json,
)
from jaxlm.errors import SettingError, UserError, check_at_least, choose, reason

PIECE_BYTES = 32 << 20
NEEDS_END = "a prepared text needs the token that ends a line; leave the setting out"


@dataclass(frozen=True)
class PreparingConfig(VocabularyConfig):
    """Settings of preparing a text: the tokenizer, and the processes that use it."""

    tokens: str = "bpe"
    """words, chars, bytes or bpe."""
    encoding: str | None = None
    """Encoding of the files, such as gb18030 or cp1252 (none: UTF-8)."""
    column: str | None = None
    """Read this column of CSV, TSV or JSON lines files, each cell as a line (none: texts)."""
    fit_megabytes: int = 256
    """Megabytes of training text to learn the vocabulary from, the same amount of each file."""
    workers: int | None = None
    """Number of processes that cut text into tokens (none: one for each core)."""

    @property
    def reading(self) -> Reading:
        """Return the settings by which the bytes of the files become text."""
        kind = choose(TOKENIZERS, self.tokens, "tokens")
        return Reading(self.encoding, self.column, kind.exact)


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


def pieces_of(texts: Texts, size: int = PIECE_BYTES, reading: Reading = AS_TEXT) -> Iterator[Piece]:
    """Yield pieces of `size` bytes or slightly more: a piece ends at the next line break.

    A file without a line break at its end gains one if another file of the split follows.

    Raises:
      UserError: if a file cannot be read.
    """
    for split, paths in texts.items():
        for number, path in enumerate(paths, 1):
            yield from _pieces_of_file(split, path, size, reading, number < len(paths))


def _pieces_of_file(
    split: str, path: Path, size: int, reading: Reading, ends_line: bool
) -> Iterator[Piece]:
    """Yield the pieces of a file; with `ends_line`, the last piece ends with a line break."""
    start = 0
    with open_text(path, reading) as file:
        while text := _read(file, size, path):
            if ends_line and not text.endswith((b"\n", b"\r")):
                # Only the end of the file ends a piece within a line.
                text += b"\n"
            yield Piece(split, path, start, text)
            start += len(text)


def _read(file: BinaryIO, size: int, path: Path) -> bytes:
    """Return the next `size` bytes and the rest of their last line; `path` is for the error."""
    with reading_errors(path):
        text = file.read(size)
        if not text or text.endswith(b"\n"):
            return text
        if text.endswith(b"\r"):
            # The line has ended, unless the break is CR LF.
            follows = file.peek(1)[:1]  # type: ignore[attr-defined]
            return text + file.read(1) if follows == b"\n" else text
        return text + read_line(file)


def lines_of(piece: Piece, exact: bool = False) -> Iterator[str]:
    """Yield the lines of a piece, as `decode_lines` reads them.

    Raises:
      UserError: if a line is not UTF-8.
    """
    text, place = piece.text, 0
    while place < len(text):
        end = text.find(b"\n", place) + 1 or len(text)
        yield from decode_lines(text[place:end], piece.start + place, piece.file, exact)
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
    if not config.eos:
        raise SettingError("eos", False, NEEDS_END)
    check_at_least("fit_megabytes", config.fit_megabytes, 1)
    if config.workers is not None:
        check_at_least("workers", config.workers, 1)
    reading = config.reading
    reading.check()

    def lines() -> Iterator[str]:
        for piece in _pieces_to_fit(texts, config):
            yield from lines_of(piece, reading.exact)

    if not any(line.strip() for line in lines()):
        raise UserError(f"{texts['train'][0]} is empty: there is no text to train on")
    return kind.fit(lines(), config, kind.closed_vocabulary)


def _pieces_to_fit(texts: Texts, config: PreparingConfig) -> Iterator[Piece]:
    """Yield the beginning of each training file, from which the vocabulary is learnt."""
    share = max(1, (config.fit_megabytes << 20) // len(texts["train"]))
    blocks = math.ceil(share / BLOCK_BYTES)
    paths = texts["train"]
    for number, path in enumerate(paths, 1):
        size, ends_line = math.ceil(share / blocks), number < len(paths)
        pieces = _pieces_of_file("train", path, size, config.reading, ends_line)
        yield from itertools.islice(pieces, blocks)


def _fitted_text_sha256(texts: Texts, config: PreparingConfig) -> str:
    """Return the digest of the text from which the vocabulary is learnt."""
    digest = hashlib.sha256()
    for piece in _pieces_to_fit(texts, config):
        digest.update(piece.text)
    return digest.hexdigest()


def claim_prepared_folder(folder: Path, texts: Texts, config: PreparingConfig) -> Tokenizer:
    """Reserve `folder` for the shards of this text, and return the tokenizer.

    If an earlier call reserved the folder for the same files and settings, its tokenizer is read.
    Files are the same if their paths, their sizes and the text for the vocabulary are. Else a
    tokenizer is fitted, and saved with prepared.json.

    Raises:
      UserError: if the folder holds something else or is damaged, a file of `texts` does not exist
        or has changed, the folder cannot be written, or for the reasons of `fit_tokenizer`.
      SettingError: for settings without a token that ends a line.
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
        saved = read_description(folder)
        # A setting that an earlier version did not have has its default value.
        defaults = {item.name: item.default for item in fields(PreparingConfig)}
        before = saved.get("settings", {})
        saved["settings"] = {name: before.get(name, defaults[name]) for name in names}
        changed = [name for name in about if saved.get(name) != json.loads(json.dumps(about[name]))]
        if changed:
            raise UserError(
                f"{folder} holds another text (its {' and '.join(changed)} differ): give another "
                f"`folder`, or repeat the command that made it"
            )
        fitted = saved.get("fitted_text_sha256")
        if fitted is not None and fitted != _fitted_text_sha256(texts, config):
            raise _changed(folder, "a training file")
        if (folder / TOKENIZER).exists():
            return read_tokenizer(folder)
        if saved["finished"]:
            raise damaged(folder, UserError(f"it has no {TOKENIZER}"))
    elif folder.exists() and (not folder.is_dir() or _has_other_files(folder)):
        raise SettingError("folder", folder, "exists already: give a new folder")
    tokenizer = fit_tokenizer(texts, config)
    if tokenizer.vocabulary.start_id is None:
        raise SettingError("eos", False, NEEDS_END)
    about["fitted_text_sha256"] = _fitted_text_sha256(texts, config)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # prepared.json comes first: a folder that has it is this command's own.
        write_text(prepared_json, json.dumps(about | {"finished": False, "splits": {}}, indent=1))
        write_text(folder / TOKENIZER, to_json(tokenizer))
    except OSError as error:
        raise _cannot_write(folder, error) from None
    return tokenizer


def _has_other_files(folder: Path) -> bool:
    """Return whether a folder has files that a killed call of this command did not leave."""
    left = {f"{PREPARED}.partial", f"{TOKENIZER}.partial"}
    return any(path.name not in left for path in folder.iterdir())


def _changed(folder: Path, what: str) -> UserError:
    return UserError(
        f"{what} has changed since {folder} was begun: remove the folder, or give another `folder`"
    )


def _cannot_write(folder: Path, error: Exception) -> UserError:
    return UserError(
        f"cannot write to {folder}: {reason(error)}: free some space, then repeat the command; it "
        f"continues where it stopped"
    )


def _size(path: Path) -> int:
    """Return the size of a file in bytes.

    Raises:
      UserError: if there is no such file.
    """
    try:
        return path.stat().st_size
    except OSError as error:
        raise UserError(f"cannot read {path}: {reason(error)}") from None


def prepare(
    folder: Path,
    texts: Texts,
    tokenizer: Tokenizer,
    workers: int | None,
    on_shard: OnShard,
    reading: Reading = AS_TEXT,
) -> dict[str, list[Shard]]:
    """Encode all of the text into shards, and list them in prepared.json.

    Args:
      folder: the folder of `claim_prepared_folder`.
      texts: the files of each split.
      tokenizer: the tokenizer of that folder.
      workers: number of processes (None: one for each core).
      on_shard: called when a shard is finished; `OnShard` describes its arguments.
      reading: how the bytes of the files become text (`PreparingConfig.reading`).
    Returns:
      The shards of each split, in the order of the text.
    Raises:
      UserError: if a file cannot be read, is not UTF-8, or has changed since an earlier call; if
        the folder cannot be written; and if a worker process is killed.
    """
    try:
        return _prepare(folder, texts, tokenizer, workers, on_shard, reading)
    except BrokenProcessPool:
        raise UserError(
            f"a process that prepares {folder} was killed, perhaps for want of memory: repeat the "
            f"command, which continues where it stopped; fewer `workers` need less memory"
        ) from None
    except OSError as error:
        raise _cannot_write(folder, error) from None


def _prepare(
    folder: Path,
    texts: Texts,
    tokenizer: Tokenizer,
    workers: int | None,
    on_shard: OnShard,
    reading: Reading,
) -> dict[str, list[Shard]]:
    """Encode all of the text into shards, as `prepare`, with the errors of the system."""
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
    pool = ProcessPoolExecutor(workers, context, _start_worker)
    with pool, contextlib.ExitStack() as stop:
        # After an error, pieces that wait are not encoded.
        stop.callback(pool.shutdown, cancel_futures=True)
        counts = dict.fromkeys(texts, 0)
        for piece in pieces_of(texts, PIECE_BYTES, replace(reading, exact=tokenizer.exact)):
            name = f"{piece.split}-{counts[piece.split]:05d}.{id_type(tokenizer)}"
            counts[piece.split] += 1
            job = _finished_shard(folder, name, piece) or pool.submit(
                _encode, folder / name, saved, piece
            )
            waiting.append((piece.split, job))
            # Limit the number of pieces in memory to little more than one for each worker.
            if len(waiting) > workers + 1:
                finish_next()
        while waiting:
            finish_next()
    # A call that was killed leaves partial files.
    for path in folder.glob("*.partial"):
        path.unlink(missing_ok=True)
    about = read_description(folder)
    listed = {split: [shard.as_json() for shard in shards] for split, shards in splits.items()}
    write_text(
        folder / PREPARED, json.dumps(about | {"finished": True, "splits": listed}, indent=1)
    )
    return splits


def _finished_shard(folder: Path, name: str, piece: Piece) -> Shard | None:
    """Return the shard of a piece that an earlier call finished, or None.

    The .json file of a shard is written last, so its presence means that the shard is complete. A
    shard that is damaged nevertheless counts as not finished.

    Raises:
      UserError: if the shard was made from another text.
    """
    try:
        shard = Shard.from_json(json.loads((folder / f"{name}.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    if shard.file != name or not shard.is_whole(folder):
        return None
    if shard.sha256 not in (None, file_digest(folder / name)):
        return None
    if shard.text_sha256 not in (None, hashlib.sha256(piece.text).hexdigest()):
        raise _changed(folder, str(piece.file))
    return shard


def _start_worker() -> None:
    """Make the package tokenizers use one thread in this worker process, and end with the parent.

    Ctrl-C reaches every process; the parent ends the workers.
    """
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: Any) -> None:
    """End this process when the process of `sentinel` has ended."""
    multiprocessing.connection.wait([sentinel])
    os._exit(1)


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
    with replacing(path, per_process=True) as partial, open(partial, "wb") as file:
        for block in in_blocks(lines_of(piece, tokenizer.exact)):
            ids = tokenizer.encode(block)
            # The errors of ndarray.tofile do not say why.
            file.write(np.asarray(ids, dtype).tobytes())
            tokens += len(ids)
            totals += tuple(asdict(TextSize.of(block)).values())
    text_digest = hashlib.sha256(piece.text).hexdigest()
    shard = Shard(path.name, tokens, TextSize(*map(int, totals)), text_digest, file_digest(path))
    write_text(path.with_name(f"{path.name}.json"), json.dumps(shard.as_json()))
    return shard

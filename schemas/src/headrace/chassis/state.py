"""Local state: ordered bytes to bytes, one atomic write per commit. RocksDB for services, a twin in memory for tests."""

from __future__ import annotations

import shutil
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Protocol

from rocksdict import BlockBasedOptions, Cache, Options, Rdict, RdictIter, WriteBatch, WriteBufferManager

from headrace.chassis.errors import Fatal, Retryable

BLOCK_CACHE_BYTES = 128 << 20  # of the whole process, shared by all its stores
WRITE_BUFFER_BYTES = 64 << 20  # of the whole process, charged to the block cache
BLOCK_BYTES = 16 << 10  # values are blocks of tiles, some KB each: larger blocks mean a smaller index
BLOOM_BITS_PER_KEY = 10  # 1 % false positives; most look-ups of a new entity miss


class Store(Protocol):
    """Ordered map of raw bytes. One writer thread; reads may come from others."""

    def get(self, key: bytes) -> bytes | None: ...

    def multi_get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Values in the order of the keys; sorted keys are read fastest."""
        ...

    def range(self, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Pairs whose key starts with prefix, in key order, as of the call."""
        ...

    def scan(self, start: bytes, end: bytes | None) -> Iterator[tuple[bytes, bytes]]:
        """Pairs with start <= key < end (None: to the last), in key order, as of the call."""
        ...

    def write(self, puts: Mapping[bytes, bytes], deletes: Iterable[bytes] = ()) -> None:
        """All or nothing, also across a kill of the process. A key in both is put: deletes go first."""
        ...

    def wipe(self) -> None:
        """Remove everything; the store stays open and empty."""
        ...

    def close(self) -> None: ...


def prefix_end(prefix: bytes) -> bytes | None:
    """Smallest key above every key with this prefix; None if there is none (all 0xff or empty)."""
    trimmed = prefix.rstrip(b"\xff")
    return trimmed[:-1] + bytes([trimmed[-1] + 1]) if trimmed else None


@cache
def _process_memory() -> tuple[Cache, WriteBufferManager]:
    """One bound for all stores of the process, however many partitions it owns."""
    blocks = Cache(BLOCK_CACHE_BYTES)
    return blocks, WriteBufferManager.new_write_buffer_manager_with_cache(WRITE_BUFFER_BYTES, False, blocks)


def _options() -> Options:
    blocks, buffers = _process_memory()
    table = BlockBasedOptions()
    table.set_block_cache(blocks)
    table.set_cache_index_and_filter_blocks(True)  # else they grow outside the bound
    table.set_block_size(BLOCK_BYTES)
    table.set_bloom_filter(BLOOM_BITS_PER_KEY, False)
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_write_buffer_manager(buffers)
    options.set_block_based_table_factory(table)
    options.set_max_background_jobs(2)
    options.set_keep_log_file_num(2)
    options.set_max_open_files(256)
    return options


class RocksStore:
    """A RocksDB folder. Writes reach the operating system (WAL), not the disk: a killed process loses nothing, a machine
    that loses power may lose the last ones, and the changelog gives them back."""

    def __init__(self, path: Path) -> None:
        """Open or create. Raises Fatal if the folder is held by another process or damaged."""
        self.path = path
        self._db = _open(path)

    def get(self, key: bytes) -> bytes | None:
        return self._db.get(key)

    def multi_get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return self._db.get(list(keys)) or []

    def range(self, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        return self.scan(prefix, prefix_end(prefix))

    def scan(self, start: bytes, end: bytes | None) -> Iterator[tuple[bytes, bytes]]:
        found = self._db.iter()
        found.seek(start)
        return _pairs(found, end)

    def write(self, puts: Mapping[bytes, bytes], deletes: Iterable[bytes] = ()) -> None:
        batch = WriteBatch(raw_mode=True)
        for key in deletes:
            batch.delete(key)
        for key, value in puts.items():
            batch.put(key, value)
        try:
            self._db.write(batch)
        except Exception as error:
            raise Retryable(f"state not written: {error}; free space on {self.path}") from error

    def wipe(self) -> None:
        """Out of the way in one step, then removed: half a folder, left by a kill in between, would never open again."""
        self._db.close()
        self.path.rename(_gone(self.path))
        self._db = _open(self.path)

    def close(self) -> None:
        self._db.close()


def _gone(path: Path) -> Path:
    return path.with_name(f"{path.name}.gone")


def _open(path: Path) -> Rdict:
    shutil.rmtree(_gone(path), ignore_errors=True)  # of a wipe, perhaps of an earlier life
    path.mkdir(parents=True, exist_ok=True)
    try:
        return Rdict(str(path), _options())
    except Exception as error:
        raise Fatal(f"state folder {path} does not open: {error}; is another process using it?") from error


def _pairs(found: RdictIter, end: bytes | None) -> Iterator[tuple[bytes, bytes]]:
    # Not by ReadOptions.set_iterate_upper_bound: rocksdict 0.3 encodes that key as if the store were not in raw mode.
    while found.valid() and (end is None or found.key() < end):
        yield found.key(), found.value()
        found.next()
    if not found.valid():
        found.status()  # raises if the walk ended for another reason than the last key


class MemoryStore:
    """The same in memory: sorted keys beside a dictionary."""

    def __init__(self) -> None:
        self._keys: list[bytes] = []
        self._values: dict[bytes, bytes] = {}

    def get(self, key: bytes) -> bytes | None:
        return self._values.get(key)

    def multi_get(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return [self._values.get(key) for key in keys]

    def range(self, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        return self.scan(prefix, prefix_end(prefix))

    def scan(self, start: bytes, end: bytes | None) -> Iterator[tuple[bytes, bytes]]:
        last = len(self._keys) if end is None else bisect_left(self._keys, end)
        return iter([(key, self._values[key]) for key in self._keys[bisect_left(self._keys, start) : last]])

    def write(self, puts: Mapping[bytes, bytes], deletes: Iterable[bytes] = ()) -> None:
        for key in deletes:
            self._values.pop(key, None)
        self._values.update(puts)
        self._keys = sorted(self._values)

    def wipe(self) -> None:
        self._keys, self._values = [], {}

    def close(self) -> None:
        """Nothing to release."""

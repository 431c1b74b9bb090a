"""Tables of rows on disk: pages of sorted rows as values, and one value that says which pages there are.

    prefix | "m"                              manifest: JSON with the format, the bounds and the pages of each run
    prefix | "p" | number, 8 bytes BE         a page: format, 1 byte | Arrow IPC stream of its rows

Pages are read whole and kept in a cache that all tables of a process share; those of the transaction under way stay in
memory until `settle` hands them over. A page is some 16,000 rows, so a row costs the disk little more than its bytes.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import astuple
from io import BytesIO

import polars as pl

from headrace.chassis.state import Store
from headrace.contracts.errors import Fatal
from headrace.plan.streams.blocks import Block, block_of
from headrace.plan.streams.pages import Page, Run
from headrace.plan.streams.sorted_rows import SortedRows

FORMAT = 1
PAGE_ROWS = 16_384
MERGE_PAGES = 8  # at once; larger merges go on bit by bit
_MANIFEST, _PAGE = b"m", b"p"


class PageCache:
    """Pages as they were last read or written, up to a bound in bytes; the least recently used go first. One thread."""

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max, self.bytes, self.hits, self.misses = bytes_max, 0, 0, 0
        self._blocks: OrderedDict[bytes, tuple[Block, int]] = OrderedDict()

    def get(self, key: bytes) -> Block | None:
        found = self._blocks.get(key)
        if found is None:
            self.misses += 1
            return None
        self.hits += 1
        self._blocks.move_to_end(key)
        return found[0]

    def put(self, key: bytes, block: Block) -> None:
        self.pop(key)
        size = block.size()
        self._blocks[key] = block, size
        self.bytes += size
        while self.bytes > self.bytes_max:
            _, (_, gone) = self._blocks.popitem(last=False)
            self.bytes -= gone

    def pop(self, key: bytes) -> None:
        found = self._blocks.pop(key, None)
        if found is not None:
            self.bytes -= found[1]


class RocksPages:
    """The pages of one table."""

    def __init__(self, store: Store, prefix: bytes, cache: PageCache, page_rows: int) -> None:
        self.rows_max, self.merge_rows = page_rows, page_rows * MERGE_PAGES
        self._store, self._prefix, self._cache = store, prefix + _PAGE, cache
        self._dirty: dict[int, Block] = {}
        self._gone: list[int] = []

    def put(self, number: int, block: Block) -> None:
        self._dirty[number] = block

    def get(self, number: int) -> Block:
        if (block := self._dirty.get(number)) is not None:
            return block
        key = self._key(number)
        block = self._cache.get(key)
        if block is None:
            value = self._store.get(key)
            if value is None:
                raise Fatal(f"page {number} of {self._prefix!r} is missing on disk: wipe the folder, the changelog has it all")
            block = block_of(decoded(value))
            self._cache.put(key, block)
        return block

    def drop(self, number: int) -> None:
        if self._dirty.pop(number, None) is None:
            self._cache.pop(self._key(number))
            self._gone.append(number)

    def bytes(self) -> int:
        """Of the transaction under way: what is cached belongs to all tables."""
        return sum(block.size() for block in self._dirty.values())

    def settle(self) -> tuple[dict[bytes, bytes], list[bytes]]:
        """Pages put and dropped since the last call."""
        puts: dict[bytes, bytes] = {}
        for number, block in self._dirty.items():
            key = self._key(number)
            puts[key] = encoded(block.frame)
            self._cache.put(key, block)
        deletes = [self._key(number) for number in self._gone]
        self._dirty, self._gone = {}, []
        return puts, deletes

    def _key(self, number: int) -> bytes:
        return self._prefix + number.to_bytes(8, "big")


class RocksRows(SortedRows):
    """A table as it was left on disk. Raises: Fatal if another format or other columns lie there."""

    def __init__(
        self, name: str, carried: pl.Schema, store: Store, prefix: bytes, cache: PageCache, page_rows: int = PAGE_ROWS
    ) -> None:
        self._disk = RocksPages(store, prefix, cache, page_rows)
        super().__init__(name, carried, self._disk)
        self._manifest_key = prefix + _MANIFEST
        self._written = store.get(self._manifest_key)
        if self._written is not None:
            self._open(json.loads(self._written))

    def _open(self, manifest: dict[str, object]) -> None:
        if manifest["format"] != FORMAT:
            raise Fatal(
                f"table {self.name} on disk has format {manifest['format']}, this version reads {FORMAT}: "
                "run the version that wrote it, or wipe the folder"
            )
        if manifest["carried"] != _described(self.carried):
            raise Fatal(f"table {self.name} on disk carries {manifest['carried']}, the plan {_described(self.carried)}")
        runs: list[Run] = [tuple(Page(*page) for page in run) for run in manifest["runs"]]  # type: ignore[attr-defined]
        floor, superseded, number = manifest["bounds"]  # type: ignore[misc]
        self._opened(floor, superseded, runs, number)

    def settle(self) -> tuple[dict[bytes, bytes], list[bytes]]:
        puts, deletes = self._disk.settle()
        floor, superseded, runs, number = self._state()
        manifest = json.dumps(
            {
                "format": FORMAT,
                "carried": _described(self.carried),
                "bounds": [floor, superseded, number],
                "runs": [[astuple(page) for page in run] for run in runs],
            }
        ).encode()
        if manifest != self._written:
            puts[self._manifest_key] = self._written = manifest
        return puts, deletes


def encoded(frame: pl.DataFrame) -> bytes:
    """A page as it lies on disk."""
    out = BytesIO(bytes((FORMAT,)))
    out.seek(1)
    frame.write_ipc_stream(out, compression="lz4")
    return out.getvalue()


def decoded(value: bytes) -> pl.DataFrame:
    """Its rows. Raises: Fatal for a format this version does not know."""
    if value[0] != FORMAT:
        raise Fatal(f"a page has format {value[0]}, this version reads {FORMAT}: run the version that wrote it, or newer")
    return pl.read_ipc_stream(BytesIO(value[1:])).rechunk()


def _described(schema: pl.Schema) -> dict[str, str]:
    return {name: str(dtype) for name, dtype in schema.items()}

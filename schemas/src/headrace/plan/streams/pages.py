"""Where the blocks of a table lie: pages, of which a run is some in the order of their keys' hashes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from headrace.plan.streams.blocks import Block

HASH_MIN, HASH_MAX = -(1 << 63), (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Page:
    """What is known of a block without reading it. Rows outside [first_hash, last_hash] are no longer the page's.

    check_ms: a floor above it may have outdated half of the rows.
    """

    id: int
    rows: int
    first_hash: int
    last_hash: int
    first_ms: int
    last_ms: int
    check_ms: int


Run: TypeAlias = tuple[Page, ...]
"""Sorted: no hash of a page is above one of the next; one hash may go on from page to page."""


class Pages(Protocol):
    """Keeps blocks by number. One thread."""

    rows_max: int  # of a page
    merge_rows: int  # runs of more rows together are merged bit by bit, so that a step stays short and small

    def put(self, number: int, block: Block) -> None: ...

    def get(self, number: int) -> Block: ...

    def drop(self, number: int) -> None: ...

    def bytes(self) -> int:
        """Memory they hold, roughly."""
        ...


class MemoryPages:
    """All in memory: a run is one page, and any merge is done at once."""

    rows_max = merge_rows = 1 << 60

    def __init__(self) -> None:
        self._blocks: dict[int, Block] = {}

    def put(self, number: int, block: Block) -> None:
        self._blocks[number] = block

    def get(self, number: int) -> Block:
        return self._blocks[number]

    def drop(self, number: int) -> None:
        del self._blocks[number]

    def bytes(self) -> int:
        return sum(block.size() for block in self._blocks.values())


def page_of(number: int, block: Block) -> Page:
    """What there is to know of a block."""
    check = (block.first_ms + block.last_ms) // 2
    return Page(number, len(block), int(block.heads[0]), int(block.heads[-1]), block.first_ms, block.last_ms, check)


def split(block: Block, rows_max: int) -> Iterator[Block]:
    """The block in parts of like size, none above the bound."""
    count = -(-len(block) // rows_max)
    for part in range(count):
        yield block.rows(part * len(block) // count, (part + 1) * len(block) // count)


def rows_of(run: Sequence[Page]) -> int:
    """Rows of all pages, those that are gone but still stored included."""
    return sum(page.rows for page in run)

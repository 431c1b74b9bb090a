"""The runs of a table: each addition is one, and runs of like size are merged, so that there are few.

    add --> run --(like the one before)--> merge --> one run, without what is gone
                                             |
                  large ones on disk: some rows at each addition, from the lowest hash on

A row is merged about log2(rows of the table / rows of an addition) times. While a large merge goes on, what it has done
is a run of its own that ends at a hash, and its inputs begin after that hash.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from headrace.plan.streams.blocks import Block, merged
from headrace.plan.streams.pages import HASH_MAX, HASH_MIN, Page, Pages, Run, page_of, rows_of, split

_LIKE = 2  # a run is merged with the one before if that is at most so many times as long
_WORK = 8  # rows of a large merge done for each row that is added: it is through before the table has grown by much

Alive: TypeAlias = Callable[[Block, bool], Block | None]
"""What is left of some rows; whether there are no others of their keys."""


@dataclass(slots=True)
class _Merge:
    """A merge under way: everything of `inputs` up to a hash is in `done`."""

    inputs: list[Run]
    done: list[Page]


class Runs:
    """See the module."""

    def __init__(self, pages: Pages, alive: Alive, runs: Sequence[Run] = (), next_number: int = 0) -> None:
        self._pages, self._alive = pages, alive
        self._runs: list[Run] = list(runs)
        self._merge: _Merge | None = None
        self.next_number = next_number

    def all(self) -> list[Run]:
        """Every run."""
        if self._merge is None:
            return self._runs
        return [run for run in (tuple(self._merge.done), *self._merge.inputs) if run] + self._runs

    def read(self, page: Page) -> Block | None:
        """The rows that are the page's."""
        return self._pages.get(page.id).within(page.first_hash, page.last_hash)

    def add(self, block: Block) -> None:
        self._runs.append(tuple(self._written(block)))
        while (count := self._like()) > 1:
            chosen = self._runs[-count:]
            del self._runs[-count:]
            if sum(map(rows_of, chosen)) > self._pages.merge_rows:
                self._merge = _Merge(chosen, [])
                break
            run = tuple(self._merged(chosen, HASH_MIN, HASH_MAX, whole=not self.all()))
            self._runs += [run] if run else []
        self._go_on(_WORK * len(block))

    def _like(self) -> int:
        """How many of the last runs are to be one: only small ones while a large merge goes on."""
        count, total = 1, rows_of(self._runs[-1]) if self._runs else 0
        for run in reversed(self._runs[:-1]):
            if rows_of(run) > _LIKE * total or (self._merge and rows_of(run) + total > self._pages.merge_rows):
                break
            count, total = count + 1, total + rows_of(run)
        return count

    def _go_on(self, rows: int) -> None:
        """Do so many rows of the large merge."""
        merge = self._merge
        while merge is not None and rows > 0:
            longest = max(merge.inputs, key=rows_of)
            low, high = min(run[0].first_hash for run in merge.inputs), longest[0].last_hash
            if len(longest) == 1:
                high = HASH_MAX
            rows -= sum(page.rows for run in merge.inputs for page in run if page.first_hash <= high)
            merge.done += self._merged(merge.inputs, low, high, whole=not self._runs)
            merge.inputs = [rest for run in merge.inputs if (rest := _after(run, high))]
            self._finish()
            merge = self._merge

    def _finish(self) -> None:
        """Take the large merge's run among the others if it is through. They stand by length: their age means nothing."""
        if self._merge is not None and not self._merge.inputs:
            self._runs = sorted(
                [*self._runs, *([tuple(self._merge.done)] if self._merge.done else [])], key=rows_of, reverse=True
            )
            self._merge = None

    def _merged(self, runs: Sequence[Run], low: int, high: int, *, whole: bool) -> Iterator[Page]:
        """Pages of what is left of the rows with low <= hash <= high; those read to the end are dropped."""
        for first, last in _ranges(runs, low, high):
            blocks = [block for run in runs for page in run if (block := self._part(page, first, last)) is not None]
            left = self._alive(merged(blocks), whole) if blocks else None
            if left is not None:
                yield from self._written(left)
        for run in runs:
            for page in run:
                if page.last_hash <= high:
                    self._pages.drop(page.id)

    def _part(self, page: Page, low: int, high: int) -> Block | None:
        low, high = max(low, page.first_hash), min(high, page.last_hash)
        return self._pages.get(page.id).within(low, high) if low <= high else None

    def _written(self, block: Block) -> Iterator[Page]:
        for part in split(block, self._pages.rows_max):
            number, self.next_number = self.next_number, self.next_number + 1
            self._pages.put(number, part)
            yield page_of(number, part)

    def drop_below(self, floor_ms: int) -> None:
        """Forget pages of which nothing is left, rewrite those of which less than half is."""
        self._runs = [run for run in (tuple(self._kept(run, floor_ms)) for run in self._runs) if run]
        if self._merge is not None:
            self._merge.inputs = [run for run in (tuple(self._kept(run, floor_ms)) for run in self._merge.inputs) if run]
            self._merge.done = list(self._kept(self._merge.done, floor_ms))
            self._finish()

    def _kept(self, run: Sequence[Page], floor_ms: int) -> Iterator[Page]:
        for page in run:
            if page.last_ms < floor_ms:
                self._pages.drop(page.id)
            elif page.check_ms >= floor_ms:
                yield page
            else:
                yield from self._checked(page, floor_ms)

    def _checked(self, page: Page, floor_ms: int) -> Iterator[Page]:
        block = self.read(page)
        kept = None if block is None else block.times >= floor_ms
        if block is not None and kept is not None and 2 * np.count_nonzero(kept) >= len(block):
            yield replace(page, check_ms=(floor_ms + page.last_ms) // 2)
            return
        self._pages.drop(page.id)
        if block is not None and kept is not None and kept.any():
            yield from self._written(block.where(kept))


def _after(run: Run, high: int) -> Run:
    """The run without what is up to a hash."""
    return tuple(
        page if page.first_hash > high else replace(page, first_hash=high + 1) for page in run if page.last_hash > high
    )


def _ranges(runs: Sequence[Run], low: int, high: int) -> Iterator[tuple[int, int]]:
    """Ranges of hashes that cover [low, high], each about a page of the longest run and what the others have there."""
    longest = max(runs, key=rows_of)
    for cut in sorted({page.last_hash for page in longest[:-1] if page.last_hash < high}):
        if cut >= low:
            yield low, cut
            low = cut + 1
    yield low, high

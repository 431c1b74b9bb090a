"""What a key's state is, asked from outside while the worker goes on: answered between two commits, by its own thread."""

from __future__ import annotations

import queue
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from headrace.contracts.partition import partition_for
from headrace.plan.streams.frames import KEY
from headrace.plan.streams.operator import Table
from svc_stream.streams.assigned import Assigned
from svc_stream.streams.task import OperatorTask

WAITING_MAX = 32
ENTRIES_MAX = 200  # of an answer
SCANNED_MAX = 5_000_000  # entries looked through for a key


class Busy(RuntimeError):
    """More questions wait than are answered."""


@dataclass(frozen=True, slots=True)
class Question:
    """Entries of one table with this key."""

    table: str
    key: str
    answer: Future[dict[str, Any]] = field(default_factory=Future)


class Questions:
    """A bounded queue between any thread and the worker's."""

    def __init__(self) -> None:
        self._waiting: queue.Queue[Question] = queue.Queue(WAITING_MAX)

    def ask(self, table: str, key: str) -> Future[dict[str, Any]]:
        """Raises: Busy."""
        asked = Question(table, key)
        try:
            self._waiting.put_nowait(asked)
        except queue.Full:
            raise Busy("too many questions wait for this stream") from None
        return asked.answer

    def answer(self, tasks: Assigned) -> None:
        """All that wait; nothing is open now, so what is in the tables is committed."""
        while True:
            try:
                asked = self._waiting.get_nowait()
            except queue.Empty:
                return
            if not asked.answer.set_running_or_notify_cancel():
                continue
            try:
                asked.answer.set_result(_answered(tasks, asked))
            except Exception as error:
                asked.answer.set_exception(error)


def _answered(tasks: Assigned, asked: Question) -> dict[str, Any]:
    """Raises: KeyError if there is no such table, or its partition is elsewhere."""
    partition = partition_for(asked.key, tasks.stream.partitions)
    changelog = tasks.operators.get(partition)
    if changelog is None:
        raise KeyError(f"partition {partition} of {tasks.stream.name} is not on this replica")
    task = changelog.task
    if asked.table not in task.operator.tables:
        raise KeyError(f"no table {asked.table}: {', '.join(task.operator.tables)}")
    return dict(_stands(task)) | {"entries": list(_entries(task.operator.tables[asked.table], asked.key))}


def _stands(task: OperatorTask) -> Mapping[str, Any]:
    return {
        "stream": task.stream.name, "partition": task.partition, "commit": task.sequence, "watermark_ms": task.watermark_ms,
        "cut": {f"{event}-{p}": at.next_offset for (event, p), at in sorted(task.cut.items())},
    }  # fmt: skip


def _entries(table: Table, key: str) -> list[dict[str, Any]]:
    """By looking through the table: a question of people, not of programs."""
    found: list[dict[str, Any]] = []
    after: bytes | None = None
    seen = 0
    while seen < SCANNED_MAX and len(found) < ENTRIES_MAX:
        page, after = table.sweep(after, 50_000)
        seen += page.height
        found += page.filter(pl.col(KEY) == key).head(ENTRIES_MAX - len(found)).to_dicts()
        if after is None:
            break
    return [{name.strip("_"): value for name, value in entry.items()} for entry in found]

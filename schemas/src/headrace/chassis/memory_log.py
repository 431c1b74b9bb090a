"""The in-memory broker's logs and transactions: offsets, markers, read committed, fencing. No threads, no time of its own."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field
from enum import Enum

from headrace.chassis.bus import Committed, Record, TopicPartition


class TxnState(Enum):
    """OPEN -> COMMITTED | ABORTED; a closed transaction never changes."""

    OPEN = "open"
    COMMITTED = "committed"
    ABORTED = "aborted"


@dataclass(slots=True, eq=False)
class Txn:
    """One transaction of one producer incarnation."""

    deadline_s: float
    state: TxnState = TxnState.OPEN
    touched: set[TopicPartition] = field(default_factory=set)
    offsets: dict[str, dict[TopicPartition, Committed]] = field(default_factory=dict)  # group -> what commit applies


@dataclass(slots=True)
class Entry:
    """A record or, without one, a transaction marker: it takes an offset no reader ever sees."""

    offset: int
    record: Record | None
    txn: Txn | None


class PartitionLog:
    """One partition: entries ascending in offset, with gaps after compaction."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.start = 0
        self.next_offset = 0
        self._open: dict[int, int] = {}  # id of an open transaction -> its first offset here

    def append(self, record: Record | None, txn: Txn | None) -> int:
        """A record, plain or of a transaction; without a record, the marker that ends the transaction here."""
        offset = self.next_offset
        self.entries.append(Entry(offset, record, txn))
        self.next_offset = offset + 1
        if txn is not None and record is not None:
            self._open.setdefault(id(txn), offset)
        elif txn is not None:
            self._open.pop(id(txn), None)
        return offset

    def stable_end(self) -> int:
        """Last stable offset: the first record of the oldest open transaction, else the end."""
        return min(self._open.values(), default=self.next_offset)

    def read(self, position: int, records_max: int) -> tuple[list[Record], int]:
        """Committed records from position on, and the next position: past markers and aborted records."""
        end = self.stable_end()
        found: list[Record] = []
        for entry in self.entries[bisect_left(self.entries, position, key=lambda e: e.offset) :]:
            if entry.offset >= end:
                break
            if len(found) >= records_max:
                return found, entry.offset
            if entry.record is not None and _visible(entry):
                found.append(entry.record)
        return found, max(position, end)

    def compact(self) -> None:
        """Keep the newest committed record per key below the stable end, tombstones included; offsets stay as they are."""
        end = self.stable_end()
        newest: dict[bytes, int] = {}
        for entry in self.entries:
            if entry.offset < end and _visible(entry) and entry.record is not None and entry.record.key is not None:
                newest[entry.record.key] = entry.offset
        kept = set(newest.values())
        self.entries = [e for e in self.entries if e.offset >= end or e.offset in kept]

    def truncate_before(self, offset: int) -> None:
        """Retention: the log now starts at offset."""
        self.start = max(self.start, min(offset, self.next_offset))
        self.entries = [e for e in self.entries if e.offset >= self.start]


def _visible(entry: Entry) -> bool:
    return entry.record is not None and (entry.txn is None or entry.txn.state is TxnState.COMMITTED)

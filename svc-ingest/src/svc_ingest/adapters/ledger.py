"""What is known to be written: ids, dead letters and offsets, in the local store.

    i <topic> NUL <event id>      -> ingest time, event times     (domain/identity.py)
    d <topic> NUL <origin id>     -> ingest time
    m <topic>                     -> largest event time accepted
    o <topic> NUL <partition>     -> next offset not yet read back or written by us

Entries and offsets are put in one atomic write, after the broker acknowledged: the store never knows of more than the
topics hold, and what the topics hold beyond the offsets is read back (readback.py). The store is a cache of the topics:
losing it costs reading them again, nothing else.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from itertools import islice

from headrace.chassis.bus import TopicPartition
from headrace.contracts.errors import Fatal
from svc_ingest.domain.identity import forgettable, near, remembered
from svc_ingest.ports import Store

SWEEP_PER_WRITTEN = 2  # entries looked at per entry written: a round ends before the store doubles
ROUNDS_PER_HOLD = 4  # an entry outlives its bounds by at most a quarter of the hold, and most commits sweep nothing
FORMAT = b"1"

_MS = struct.Struct(">q")
_PARTITION = struct.Struct(">i")
_FORMAT_KEY = b"f"
_NO_TIME = -(2**63)


class Ledger:
    """One writer thread. `look_up` then `accept`/`reject` any number of times, then `commit` or `forget`."""

    def __init__(self, store: Store, hold_ms: int) -> None:
        found = store.get(_FORMAT_KEY)
        if found is None:
            store.write({_FORMAT_KEY: FORMAT})
        elif found != FORMAT:
            raise Fatal(
                f"the state folder has format {found.decode()}, this version writes {FORMAT.decode()}; remove the folder"
            )
        self._store = store
        self._hold_ms = hold_ms
        self._horizons: dict[str, int] = {}
        self._maxima: dict[str, int] = {}
        self._known: dict[bytes, bytes | None] = {}
        self._puts: dict[bytes, bytes] = {}
        self._sweep_from = b"d"
        self._next_round_ms = 0

    def watch(self, topic: str, horizon_ms: int | None) -> None:
        """Tell the horizon of an event topic; None for a dead-letter topic."""
        if horizon_ms is None:
            return
        self._horizons[topic] = horizon_ms
        stored = self._store.get(b"m" + topic.encode())
        self._maxima[topic] = _NO_TIME if stored is None else _MS.unpack(stored)[0]

    def look_up(self, keys: Iterable[bytes]) -> None:
        """Load entries for the checks that follow: one sorted multi-get."""
        wanted = sorted(set(keys) - self._known.keys() - self._puts.keys())
        self._known.update(zip(wanted, self._store.multi_get(wanted), strict=True))

    def accept(self, key: bytes, topic: str, event_time_ms: int, now_ms: int) -> bool:
        """Note an event about to be produced; False if it is there already."""
        entry = self._puts.get(key) or self._known.get(key)
        if entry is not None and near(entry, event_time_ms, self._horizons[topic]):
            return False
        self._puts[key] = remembered(entry, event_time_ms, now_ms)
        self._maxima[topic] = max(self._maxima[topic], event_time_ms)
        return True

    def reject(self, key: bytes, now_ms: int) -> bool:
        """Note a dead letter about to be produced; False if it is there already."""
        if key in self._puts or self._known.get(key) is not None:
            return False
        self._puts[key] = _MS.pack(now_ms)
        return True

    def offsets(self, partitions: Sequence[TopicPartition]) -> list[int]:
        """Next offset per partition, 0 if nothing is recorded."""
        found = self._store.multi_get([_offset_key(partition) for partition in partitions])
        return [0 if value is None else _MS.unpack(value)[0] for value in found]

    def commit(self, offsets: dict[TopicPartition, int], now_ms: int) -> None:
        """One atomic write of everything noted since the last commit; call it only when the broker has it all."""
        written = len(self._puts)
        puts = self._puts
        for topic, largest in self._maxima.items():
            if largest != _NO_TIME:
                puts[b"m" + topic.encode()] = _MS.pack(largest)
        for partition, offset in offsets.items():
            puts[_offset_key(partition)] = _MS.pack(offset)
        self._store.write(puts, self._expired(SWEEP_PER_WRITTEN * written, now_ms))
        self.forget()

    def forget(self) -> None:
        """Drop what was noted and not committed."""
        self._puts, self._known = {}, {}

    def _expired(self, entries_max: int, now_ms: int) -> list[bytes]:
        """Keys past their bounds among the next entries of the round."""
        if now_ms < self._next_round_ms:
            return []
        entries = list(islice(self._store.scan(self._sweep_from, b"j"), entries_max))
        if len(entries) < entries_max:
            self._sweep_from, self._next_round_ms = b"d", now_ms + self._hold_ms // ROUNDS_PER_HOLD
        elif entries:
            self._sweep_from = entries[-1][0] + b"\0"
        return [key for key, entry in entries if self._past(key, entry, now_ms)]

    def _past(self, key: bytes, entry: bytes, now_ms: int) -> bool:
        if key[:1] == b"d":
            return now_ms - _MS.unpack(entry)[0] > self._hold_ms
        if key[:1] != b"i":
            return False
        topic = key[1 : key.index(b"\0")].decode()
        horizon_ms = self._horizons.get(topic)
        if horizon_ms is None:  # its pipeline is not here (yet): its horizon is not known
            return False
        return forgettable(entry, self._maxima[topic], now_ms, horizon_ms, self._hold_ms)


def event_prefix(topic: str) -> bytes:
    return b"i" + topic.encode() + b"\0"


def letter_prefix(topic: str) -> bytes:
    return b"d" + topic.encode() + b"\0"


def _offset_key(partition: TopicPartition) -> bytes:
    return b"o" + partition.topic.encode() + b"\0" + _PARTITION.pack(partition.partition)

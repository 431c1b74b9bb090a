"""Control topics without a broker: a log of records, read as a ControlReader reads its topics."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from headrace.chassis.bus import Record
from headrace.chassis.control import Newest, OnControl, Rank
from headrace.chassis.health import Health
from headrace.chassis.metrics import ChassisMetrics


@dataclass
class ControlLog:
    """What the broker holds; `reader` is what a service reads it with."""

    records: list[Record] = field(default_factory=list)
    readers: list[LogReader] = field(default_factory=list)

    def append(self, topic: str, key: bytes, value: bytes | None) -> Record:
        record = Record(topic, 0, len(self.records), 1_000 + len(self.records), key, value)
        self.records.append(record)
        for reader in self.readers:
            reader.on_record(record)
        return record

    def compact(self) -> None:
        """Only the newest record of each key is left, as the broker's cleaner leaves it."""
        newest = {(r.topic, r.key): r for r in self.records}
        self.records = sorted(newest.values(), key=lambda r: r.offset)

    def reader(
        self, bootstrap: str, topics: Sequence[str], on_record: OnControl, health: Health, metrics: ChassisMetrics,
        ranks: Mapping[str, Rank],
    ) -> LogReader:  # fmt: skip
        return LogReader(self, topics, on_record, ranks)


@dataclass
class LogReader:
    log: ControlLog
    topics: Sequence[str]
    on_record: OnControl
    ranks: Mapping[str, Rank]

    async def start(self) -> None:
        newest = Newest(self.ranks)
        for record in self.log.records:
            if record.topic in self.topics:
                newest.add(record)
        for record in newest.records(self.topics):
            self.on_record(record)
        self.log.readers.append(self)

    async def wait(self) -> None:
        await asyncio.Event().wait()

    async def stop(self) -> None:
        if self in self.log.readers:
            self.log.readers.remove(self)

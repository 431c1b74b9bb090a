"""What every measurement stands on: broker and registry on one core, the results compared as they come."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from bench.stream import compare, inputs, outputs, records
from bench.stream.answers import Edition
from bench.stream.broker import Broker
from bench.stream.compare import Compared
from bench.stream.outputs import Reader
from bench.stream.process import Child
from bench.stream.watch import Run, watched
from headrace.contracts.errors import Retryable
from headrace.contracts.registry import ConfluentRegistry

REGISTRY_S = 60.0  # beside a broker that is being filled it may be slow


@dataclass(frozen=True, slots=True)
class Job:
    """One computation over one input."""

    name: str  # w1, w2, ...
    topics: tuple[str, ...]
    total: int  # records of the topics, closing ones included
    expected: Mapping[Edition, pl.DataFrame]
    identity: tuple[str, ...]
    values: Mapping[str, object]  # sizes, gaps and graces, ms, by the names of the Kafka Streams program


@dataclass(frozen=True, slots=True)
class Outcome:
    """One run and what came out of it."""

    contender: str
    run: Run
    compared: Compared
    notes: Mapping[str, float] = field(default_factory=dict)  # what only this contender can tell


class Ground:
    """Broker, registry, a folder for state and logs."""

    def __init__(self, bootstrap: str, registry_url: str, folder: Path) -> None:
        self.broker, self.registry_url, self.folder = Broker(bootstrap), registry_url, folder
        self.registry = ConfluentRegistry(registry_url)
        self._numbers, self.epochs = itertools.count(1), itertools.count(1)  # control records of one broker only grow
        folder.mkdir(parents=True, exist_ok=True)

    def fresh(self, word: str) -> str:
        """A name nobody had before."""
        return f"bench-{word}-{next(self._numbers)}"

    def register(self, topic: str, schema: Mapping[str, Any]) -> int:
        until = time.monotonic() + REGISTRY_S
        while True:
            try:  # several contenders describe the same bytes under names of their own
                return self.registry.register(f"{topic}-value", schema, compatibility="NONE")
            except Retryable:
                if time.monotonic() > until:
                    raise

    def schema(self, schema_id: int) -> Mapping[str, Any]:
        return self.registry.schema(schema_id)

    def fill_readings(self, topic: str, frame: pl.DataFrame, *, distinct: bool = False) -> None:
        """Create the topic and put readings into it."""
        self.broker.create([topic])
        schema_id = self.register(topic, records.READING)
        for part in frame.iter_slices(1_000_000):
            keys = inputs.distinct_texts(part["key"].to_numpy()) if distinct else inputs.keys_of(part)
            values = inputs.encoded_readings(part, keys, schema_id)
            self.broker.fill(topic, values, keys, part["partition"].to_numpy())

    def fill_side(self, topic: str, frame: pl.DataFrame, schema: Mapping[str, Any]) -> None:
        """Create the topic and put orders or payments into it."""
        self.broker.create([topic])
        schema_id = self.register(topic, schema)
        for part in frame.iter_slices(1_000_000):
            keys = inputs.parties_of(part)
            self.broker.fill(topic, inputs.encoded_side(part, keys, schema_id), keys, part["partition"].to_numpy())

    def drop_job(self, job: Job) -> None:
        """Its topics, and all that contenders made under its name."""
        self.broker.drop(job.topics[0].partition(".")[0])

    @contextmanager
    def output(self, topic: str) -> Iterator[Reader]:
        """A reader of a topic that exists."""
        reader = Reader(self.broker, topic)
        try:
            yield reader
        finally:
            reader.close()

    def judge(
        self,
        child: Child,
        contender: str,
        edition: Edition,
        group: str,
        job: Job,
        reader: Reader,
        columns: Mapping[str, str] | None = None,
    ) -> Outcome:
        """Watch a run that was just started to its end, then compare what it wrote. columns: its names -> the answer's."""
        answer = job.expected[edition]
        run = watched(child, self.broker, group, job.topics, job.total, reader, len(answer))
        return Outcome(contender, run, self.compared(reader.values, answer, job, columns or {}))

    def compared(self, values: Sequence[bytes], answer: pl.DataFrame, job: Job, columns: Mapping[str, str]) -> Compared:
        """Framed results against the answer."""
        found = outputs.decoded(values, self.schema)
        if found.is_empty():
            found = answer.clear()
        return compare.compare(answer, found.rename(dict(columns), strict=False), job.identity)

"""From the producer's call to the committed record in a reader's hands, at a fixed rate: each reading goes through a filter.

Open loop: the sender never waits for an answer. Sender, broker and reader share the broker's core, the contender has its own;
the first seconds are not counted. Every reading must come out once.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import polars as pl
from confluent_kafka import Message

from bench.stream import inputs, outputs, records
from bench.stream.ground import Ground
from bench.stream.inputs import PARTITIONS
from bench.stream.outputs import Reader
from bench.stream.process import BROKER_CORE, Child
from headrace.contracts.partition import partitions_for

RATE = 20_000
KEYS = 1_000
WARM_UP_S = 5.0
SILENT_S = 3.0
WAKE_RATE, WAKE_S, AWAKE_S_MAX = 1_000, 1.0, 60.0
PERCENTILES = {"p50": 0.50, "p99": 0.99, "p999": 0.999}


@dataclass(frozen=True, slots=True)
class Served:
    """A contender at work: its process, its group, where its results go, and what their columns are called here."""

    child: Child
    group: str
    out: str
    columns: Mapping[str, str]


class Serves(Protocol):
    """A contender that can be started on a topic and left alone."""

    name: str

    def serving(self, name: str, topic: str, /, **values: object) -> AbstractContextManager[Served]: ...


def measure(ground: Ground, contender: Serves, commit_ms: int, seconds: float) -> dict[str, float]:
    """p50_ms, p99_ms, p999_ms, answers, missing, doubled, cpu_share, rate. The contender starts on an empty topic."""
    topic = f"{ground.fresh('moments')}.moments.v1"
    ground.broker.create([topic])
    schema_id = ground.register(topic, records.MOMENT)
    arrived: list[tuple[int, list[bytes]]] = []

    def note(messages: list[Message]) -> None:
        arrived.append((time.time_ns() // 1_000, [m.value() or b"" for m in messages]))

    with contender.serving("map", topic, commit_ms=commit_ms, linger_ms=2) as served:
        reader = Reader(ground.broker, served.out, note)
        awoken = _wake(ground, topic, schema_id, served, reader)
        arrived.clear()
        with _sender(ground, topic, schema_id, RATE, seconds + WARM_UP_S, awoken) as sender:
            cpu, began = served.child.cpu_s(), time.monotonic()
            while time.monotonic() - began < seconds + WARM_UP_S:
                reader.read_at_once(0.05)
            share = (served.child.cpu_s() - cpu) / (time.monotonic() - began)
            sent = sender.answer()
        until = time.monotonic() + SILENT_S
        while time.monotonic() < until:
            if reader.read_at_once(0.05):
                until = time.monotonic() + SILENT_S
        reader.close()
    ground.broker.drop(topic)
    return _figures(arrived, sent, served.columns, ground) | {"cpu_share": share}


def _wake(ground: Ground, topic: str, schema_id: int, served: Served, reader: Reader) -> int:
    """Send a little, until all of it came out: first transactions wait for coordinators. Returns how many were sent."""
    with _sender(ground, topic, schema_id, WAKE_RATE, WAKE_S, 0) as sender:
        sent = int(sender.answer()["sent"])
    until = time.monotonic() + AWAKE_S_MAX
    while len(reader.values) < sent:
        reader.read_at_once(0.05)
        if time.monotonic() > until or not served.child.running:
            raise served.child.failure(f"gave {len(reader.values):,} of the first {sent:,} readings")
    return sent


def _sender(ground: Ground, topic: str, schema_id: int, rate: int, seconds: float, first: int) -> Child:
    names = inputs.texts(inputs.key_texts("k", KEYS))
    keys = list(zip(names, partitions_for(names, PARTITIONS).tolist(), strict=True))
    asked = {"bootstrap": ground.broker.bootstrap, "topic": topic, "schema": schema_id, "rate": rate, "seconds": seconds,
             "keys": keys, "first": first}  # fmt: skip
    side = str(Path(__file__).with_name("paced_side.py"))
    return Child([sys.executable, side, json.dumps(asked)], ground.folder / "paced.log", core=BROKER_CORE)


def _figures(
    arrived: list[tuple[int, list[bytes]]], sent: Mapping[str, Any], columns: Mapping[str, str], ground: Ground
) -> dict[str, float]:
    frames = [outputs.decoded(values, ground.schema).with_columns(read_us=pl.lit(at)) for at, values in arrived]
    if not frames:
        raise RuntimeError("no reading came out at all")
    found = pl.concat(frames).rename(dict(columns), strict=False)
    counted = found.filter(pl.col("value") >= found["value"].min() + int(WARM_UP_S * 1e6))  # pyright: ignore[reportOperatorIssue]
    spans = (counted["read_us"] - counted["value"]) / 1_000
    distinct = found["id"].n_unique()
    return {f"{name}_ms": float(spans.quantile(share) or 0.0) for name, share in PERCENTILES.items()} | {
        "answers": float(len(counted)), "missing": float(sent["sent"] - distinct), "doubled": float(len(found) - distinct),
        "rate": sent["sent"] / sent["wall_s"],
    }  # fmt: skip

"""Event to readable: from the producer's call to an answer over HTTP that contains the event, under a steady load.

    sender (20,000/s) --broker--> stream worker --state topic--> view -- HTTP --> this process, asking again and again

Two cards are probes; a count of theirs says how many of their events an answer contains. The n-th event of a probe is
readable when an answer first counts n or more. Control: a bare consumer of the same events under the same load.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import orjson
from confluent_kafka import Consumer, TopicPartition

from bench.features.caller import Caller
from bench.features.measure import percentile
from bench.features.processes import Process, process, sender, worker
from bench.features.sender import Sending
from bench.features.stream_worker import Working
from bench.features.streams import COUNTED, PROBES, plan_of
from headrace.chassis.bus_confluent import ConfluentBus
from headrace.plan.topics import plan_topics
from headrace_local import Stack

RATE = 20_000
ENTITIES = 500  # at the full rate: as many as a country has airports, or a bank its merchants' categories
CARDS, CARDS_RATE = 100_000, 4_000  # and many, at a rate whose every event changes blocks of its own
ASK_PAUSE_S = 0.003
SETTLE_S = 30.0  # after the last event was sent: longest wait for an answer that contains it
WARM_S = 5

Say = Callable[[str], None]


@dataclass(slots=True)
class Seen:
    """By probe: (ns since 1970, events it was seen to have) whenever that had grown."""

    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PROBES, 0))
    grown: dict[str, list[tuple[int, int]]] = field(default_factory=lambda: {p: [] for p in PROBES})
    answers_ms: list[float] = field(default_factory=list)  # how long each answer took

    def take(self, probe: str, count: int, at_ns: int) -> None:
        if count > self.counts[probe]:
            self.counts[probe] = count
            self.grown[probe].append((at_ns, count))

    def waits_ms(self, moments: Mapping[str, Sequence[int]], before: Mapping[str, int]) -> list[float]:
        """From each probe's moment to when it was seen. before: events of earlier legs. Raises RuntimeError for one unseen."""
        out: list[float] = []
        for probe, sent_ns in moments.items():
            grown = iter([g for g in self.grown[probe] if g[1] > before[probe]])
            at_ns, count = next(grown, (0, 0))
            for number, moment in enumerate(sent_ns, before[probe] + 1):
                while count < number:
                    at_ns, count = next(grown, (0, 1 << 60))
                    if not at_ns:
                        raise RuntimeError(f"event {number} of {probe} was never readable")
                out.append((at_ns - moment) / 1e6)
        return out


@dataclass(frozen=True, slots=True)
class Load:
    """A steady load and the name its figures bear."""

    name: str
    pipeline: str
    cards: int
    rate: int


LOADS = (
    Load("event_to_readable", "bench-live", ENTITIES, RATE),
    Load("event_to_readable_many", "bench-live-many", CARDS, CARDS_RATE),
)


def measure(stack: Stack, folder: Path, runs: int, leg_s: int, say: Say) -> dict[str, float]:
    """Per load `<name>_p50_ms`, `_p99_ms` and what was held meanwhile; control_event_to_consumer_*. Medians over the runs."""
    out: dict[str, float] = {}
    for load in LOADS:
        out |= _steady(load, stack, folder, runs, leg_s, say)
    return out


def _steady(load: Load, stack: Stack, folder: Path, runs: int, leg_s: int, say: Say) -> dict[str, float]:
    plan, log = plan_of(load.pipeline), folder / f"{load.name}.log"
    ConfluentBus(stack.bootstrap).admin().ensure_topics(plan_topics(plan))
    address: dict[str, Any] = {"bootstrap": stack.bootstrap, "registry_url": stack.registry_url, "pipeline": load.pipeline}
    probes, first, legs, seen = folder / "probes.json", 0, list[tuple[float, float, float]](), Seen()
    arguments = [load.pipeline, stack.bootstrap, stack.registry_url, str(folder / f"{load.name}-view")]
    with (
        worker(Working(**address, state_dir=str(folder / f"{load.name}-state")), log) as stream,
        process("bench.features.live_reader", arguments, log) as reader,
    ):
        stream.send({"until": None})
        told = reader.answer()
        with Caller(told["port"], told["token"]) as caller:
            request = _request(caller, load)
            _until_live(caller, request)
            for run in range(-1, runs):  # the first warms up
                count, before = load.rate * (leg_s if run >= 0 else WARM_S), dict(seen.counts)
                sending = Sending(**address, count=count, cards=load.cards, rate=load.rate, probes=str(probes), first=first)
                wall_s, moments = _follow(sender(sending, log), probes, caller, request, seen, before)
                first += 2 * count  # ids that were left out for the probes' sake included
                waits = seen.waits_ms(moments, before)
                if run >= 0:
                    legs.append((percentile(waits, 0.5), percentile(waits, 0.99), count / wall_s))
                told = f"{len(waits):,} probes, p50 {percentile(waits, 0.5):.1f} ms, p99 {percentile(waits, 0.99):.1f} ms"
                say(f"{load.rate:,} events/s over {load.cards:,} cards, run {run + 1} of {runs}: {told}")
        reader_cpu_s = reader.cpu_s
        ended = stream.ask({"until": 0})  # the answer to the endless round
        stream.answer()
    assert not ended["aborts"], f"{ended['aborts']} transactions aborted"
    out = {
        f"{load.name}_p50_ms": median(leg[0] for leg in legs),
        f"{load.name}_p99_ms": median(leg[1] for leg in legs),
        f"{load.name}_answer_p50_ms": percentile(seen.answers_ms, 0.5),
        f"{load.name}_answer_p99_ms": percentile(seen.answers_ms, 0.99),
        f"{load.name}_events_s": median(leg[2] for leg in legs),
        f"{load.name}_cards": float(load.cards),
        f"{load.name}_events": float(ended["events"]),
        f"{load.name}_worker_cpu_us": ended["cpu_s"] / ended["events"] * 1e6,
        f"{load.name}_events_per_commit": ended["events"] / max(1, ended["rounds"]),
        f"{load.name}_reader_cpu_us": reader_cpu_s / ended["events"] * 1e6,
    }
    return out | (_control(load, stack, probes, address, first, leg_s, log) if load is LOADS[0] else {})


def _request(caller: Caller, load: Load) -> bytes:
    body = {"keys": [{"card": p} for p in PROBES], "sets": {"card_spending": [COUNTED]}, "t_ms": "now"}
    return caller.prepared(f"/v1/{load.pipeline}/features", body)


def _until_live(caller: Caller, request: bytes) -> None:
    deadline = time.monotonic() + SETTLE_S
    while True:
        try:
            caller.call(request)
            return
        except RuntimeError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def _follow(
    child: Process, probes: Path, caller: Caller, request: bytes, seen: Seen, before: Mapping[str, int]
) -> tuple[float, dict[str, list[int]]]:
    """Ask until all that was sent is readable. Returns: seconds of sending, and the moments."""
    try:
        while child.running:
            _ask(caller, request, seen)
        told = child.answer()
    finally:
        child.end()
    moments: dict[str, list[int]] = orjson.loads(probes.read_bytes())
    deadline = time.monotonic() + SETTLE_S
    while any(seen.counts[p] - before[p] < len(moments[p]) for p in PROBES):
        if time.monotonic() > deadline:
            raise RuntimeError(f"not readable {SETTLE_S:g} s after the last was sent: {seen.counts}")
        _ask(caller, request, seen)
    return told["wall_s"], moments


def _ask(caller: Caller, request: bytes, seen: Seen) -> None:
    begun = time.perf_counter_ns()
    body = orjson.loads(caller.call(request))
    at_ns = time.time_ns()
    seen.answers_ms.append((time.perf_counter_ns() - begun) / 1e6)
    values = body["sets"]["card_spending"]["values"]
    for probe, (count,) in zip(PROBES, values, strict=True):
        seen.take(probe, int(count or 0), at_ns)
    time.sleep(ASK_PAUSE_S)


def _control(
    load: Load, stack: Stack, probes: Path, address: Mapping[str, Any], first: int, leg_s: int, log: Path
) -> dict[str, float]:
    """The same events to a bare consumer, nothing else running."""
    event = plan_of(load.pipeline).events[0]
    consumer = Consumer({
        "bootstrap.servers": stack.bootstrap, "group.id": "bench-control", "enable.auto.commit": False,
        "fetch.queue.backoff.ms": 1, "fetch.wait.max.ms": 100,
    })  # fmt: skip
    places = [TopicPartition(event.topic, p) for p in range(event.partitions)]
    ends = [consumer.get_watermark_offsets(place, 10)[1] for place in places]
    consumer.assign([TopicPartition(event.topic, p, end) for p, end in enumerate(ends)])
    seen, counts = Seen(), dict.fromkeys(PROBES, 0)
    needles = {probe: probe.encode() for probe in PROBES}
    consumer.poll(0.5)
    sending = Sending(**address, count=load.rate * leg_s, cards=load.cards, rate=load.rate, probes=str(probes), first=first)
    child, taken = sender(sending, log), 0
    try:
        while taken < sending.count:
            messages = consumer.consume(500, 0.001)
            at_ns = time.time_ns()
            for message in messages:
                value = message.value() or b""
                if b"probe-" in value:
                    probe = next(p for p, needle in needles.items() if needle in value)
                    counts[probe] += 1
                    seen.take(probe, counts[probe], at_ns)
            taken += len(messages)
        child.answer()
    finally:
        child.end()
        consumer.close()
    waits = seen.waits_ms(orjson.loads(Path(sending.probes).read_bytes()), dict.fromkeys(PROBES, 0))
    return {
        "control_event_to_consumer_p50_ms": percentile(waits, 0.5), "control_event_to_consumer_p99_ms": percentile(waits, 0.99),
    }  # fmt: skip

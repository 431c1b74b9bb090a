"""`make bench-owned [ARGS=--quick]`: an owned set answers requests at their rows, beside bare loops of the same clients.

Open loop: requests come at moments drawn before (Poisson), whatever the answers do; events of the set flow beside. Timed from
the broker's stamp of the request to the moment a reader has its `ScoringInput`, which is also said as from stamp to stamp.

    echo         consume, produce each request again: the broker's and the clients' part of such an answer
    owned        svc-stream's worker: judge, read at the row, answer, merge; state committed several times a second
    transaction  consume, produce, send offsets, commit: what an answer inside a transaction would cost at least

Writes .headrace/reports/bench-owned.json.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import multiprocessing
import os
import platform
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import psutil
from confluent_kafka import Producer as KafkaProducer
from prometheus_client import CollectorRegistry

from bench.features.measure import percentile
from headrace.chassis.bus import Committed, Record, TopicPartition, TopicSpec
from headrace.chassis.bus_confluent import ConfluentBus
from headrace.chassis.clock import SystemClock
from headrace.chassis.health import Health
from headrace.chassis.state import RocksStore, Store
from headrace.chassis.tracing import Tracing
from headrace.chassis.worker import LoopThread
from headrace.contracts.codec import Codec, ConfluentRegistry
from headrace.contracts.partition import partition_for
from headrace.contracts.records import ScoringInput
from headrace.declare import compile, load
from headrace.plan.avro import event_schema
from headrace.plan.ir import Plan
from headrace.plan.topics import plan_topics, scoring_inputs_topic
from headrace_local import Ports, Stack, clone_root
from svc_stream.owned import worker_of
from svc_stream.pauses import shorten_pauses
from svc_stream.settings import StreamSettings
from svc_stream.tasks import Surroundings
from svc_stream.telemetry import StreamMetrics

ROOT = clone_root()
KINDS = ("echo", "owned", "transaction", "echo")
CARDS = 2_000
ANSWER_BYTES = 700  # about a ScoringInput of the set
WARM_UP_S = 3.0  # of each phase: not counted
ANSWERED_S_MAX = 30.0
AWAKE_S_MAX = 60.0
ECHO_IN, ECHO_BESIDE, ECHO_OUT = "bench.requests.v1", "bench.events.v1", "bench.answers.v1"
PARTITIONS = 4


def the_plan() -> Plan:
    return compile(load(ROOT / "schemas" / "pipelines" / "payments"))


def topics() -> dict[str, int]:
    """Partitions by name."""
    found = {spec.name: spec.partitions for spec in plan_topics(the_plan())}
    return found | dict.fromkeys((ECHO_IN, ECHO_BESIDE), PARTITIONS) | {ECHO_OUT: found[scoring_inputs_topic("payments")]}


# ---------------------------------------------------------------- what answers, each in a process of its own


def answer(kind: str, bootstrap: str, registry: str, folder: str) -> None:
    """Until stdin closes; says `ready` once it has its partitions."""
    if kind == "owned":
        asyncio.run(_owned(bootstrap, registry, Path(folder)))
    else:
        _echo(kind, bootstrap)


async def _owned(bootstrap: str, registry: str, folder: Path) -> None:
    """The worker as svc-stream runs it: a thread beside an event loop, RocksDB, the registry."""
    shorten_pauses()
    plan, codec = the_plan(), Codec(ConfluentRegistry(registry))

    def open_store(tp: TopicPartition) -> Store:
        return RocksStore(folder / f"{tp.topic}-{tp.partition}")

    around = Surroundings(
        ConfluentBus(bootstrap), codec, StreamSettings(instance="bench"), open_store, Tracing("svc-stream", "bench", None),
        StreamMetrics(CollectorRegistry()), SystemClock(),
    )  # fmt: skip
    (feature_set,) = (s for s in plan.feature_sets if s.placement == "owned")
    thread = LoopThread("owned", lambda: worker_of(plan, feature_set, around, frozenset(e.name for e in plan.events)), Health())
    await thread.start()
    await asyncio.to_thread(sys.stdin.read)
    await thread.stop()


def _echo(kind: str, bootstrap: str) -> None:
    bus, stop = ConfluentBus(bootstrap), threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
    name = "bench.echo" if kind == "transaction" else None
    consumer = bus.consumer(f"bench.echo.{os.getpid()}", "bench.echo", from_latest=True)
    producer = bus.producer("bench.echo", transactional_id=name, linger_ms=0)
    if name:
        producer.init_transactions()
    consumer.subscribe([ECHO_IN, ECHO_BESIDE])
    while not stop.is_set():
        records = consumer.consume(500, 0.1)
        asked = [r for r in records if r.topic == ECHO_IN]
        if name and records:
            producer.begin()
        for record in asked:
            producer.produce(ECHO_OUT, _echoed(record), record.key)
        if name and records:
            at = {TopicPartition(r.topic, r.partition): Committed(r.offset + 1, "") for r in records}
            producer.send_offsets(at, consumer)
            producer.commit()
        producer.poll(0)
    consumer.close()
    producer.close()


def _echoed(record: Record) -> bytes:
    return f"{record.partition} {record.offset} {record.append_time_ms} ".encode().ljust(ANSWER_BYTES, b".")


@contextmanager
def answering(kind: str, stack: Stack, folder: Path) -> Iterator[psutil.Process]:
    command = [sys.executable, "-m", "bench.owned", "--role", kind, stack.bootstrap, stack.registry_url, str(folder)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, env=dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)))
    assert process.stdin is not None
    try:
        yield psutil.Process(process.pid)
    finally:
        process.stdin.close()
        if process.wait(30):
            raise SystemExit(f"{kind} ended with {process.returncode}")


# ---------------------------------------------------------------- what asks


def ask(
    kind: str, bootstrap: str, registry: str, rate: float, beside: float, count: int, seed: int, begin: Any, sent: Any
) -> None:
    """Requests and events at moments drawn beforehand, in a process of its own; never waits for an answer."""
    plan, codec = the_plan(), Codec(ConfluentRegistry(registry))
    schemas = {e.name: event_schema(plan, e) for e in plan.events}
    producer = KafkaProducer({"bootstrap.servers": bootstrap, "enable.idempotence": True, "linger.ms": 0})
    rng, cards = random.Random(seed), [f"card-{n:05d}" for n in range(CARDS)]
    into = ("payments.payments.v1", "payments.logins.v1") if kind == "owned" else (ECHO_IN, ECHO_BESIDE)
    begin.wait()
    moment, asked, began = 0.0, 0, time.perf_counter()
    for number in itertools.count():
        moment += rng.expovariate(rate + beside)
        card, now_ms = cards[int(rng.paretovariate(0.8)) % CARDS], int(time.time() * 1000)
        mine = rng.random() < rate / (rate + beside)
        if mine:
            row = {"payment_id": f"{seed}-{number}", "card": card, "merchant": f"m{number % 300}", "paid_at": now_ms,
                   "amount": rng.randrange(100_000), "abroad": number % 9 == 0}  # fmt: skip
            value = codec.encode_event(schemas["payments"], row)
        else:
            value = codec.encode_event(
                schemas["logins"], {"login_id": f"{seed}-{number}", "card": card, "failed": number % 7 == 0, "at": now_ms}
            )
        if (left := moment - (time.perf_counter() - began)) > 0:
            time.sleep(left)
        producer.produce(into[0 if mine else 1], value, card.encode(), partition_for(card, PARTITIONS))
        producer.poll(0)
        asked += mine
        if asked == count:
            break
    producer.flush(30)
    sent.put(time.perf_counter() - began)


# ---------------------------------------------------------------- what reads and counts


class Readings:
    """Every answer, with the moment a read-committed consumer had it."""

    def __init__(self, bus: ConfluentBus, topic: str) -> None:
        self._consumer, self._stop = bus.consumer(None, "bench.reader"), threading.Event()
        places = [TopicPartition(topic, p) for p in range(topics()[topic])]
        self._consumer.assign({tp: self._consumer.watermarks(tp)[1] for tp in places})
        self.found: list[tuple[float, Record]] = []
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        while not self._stop.is_set():
            records = self._consumer.consume(500, 0.1)
            now_ms = time.time() * 1000
            self.found += [(now_ms, r) for r in records]

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self._consumer.close()


def phase(kind: str, stack: Stack, folder: Path, options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """One kind of answer under the load: figures over the requests after the warm-up."""
    bus, count = ConfluentBus(stack.bootstrap), options.requests if kind == "owned" else options.control_requests
    warm = int(options.rate * WARM_UP_S)
    readings = Readings(bus, scoring_inputs_topic("payments") if kind == "owned" else ECHO_OUT)
    context = multiprocessing.get_context("spawn")
    begin, sent = context.Event(), context.Queue()
    load_of = (kind, stack.bootstrap, stack.registry_url, options.rate, options.beside, count + warm, seed, begin, sent)
    asker = context.Process(target=ask, args=load_of)
    with answering(kind, stack, folder) as process:
        try:
            asker.start()
            _wake(kind, stack, readings)
            busy, started, began_ms = process.cpu_times(), time.monotonic(), time.time() * 1000
            begin.set()
            asker.join()
            until = time.monotonic() + ANSWERED_S_MAX
            while len(readings.found) < count + warm and time.monotonic() < until:
                time.sleep(0.05)
            spent, wall = process.cpu_times(), time.monotonic() - started
        finally:
            asker.kill()
            readings.close()
    found = _spans(kind, readings, stack, began_ms)[warm:]
    if len(found) != count:
        raise SystemExit(f"{kind}: {len(found)} of {count} requests were answered")
    read, stamped = [r for r, _ in found], [float(s) for _, s in found]
    return {
        "kind": kind, "answered": len(found), "seconds": round(sent.get(), 1),
        "cpu_share": round((spent.user + spent.system - busy.user - busy.system) / wall, 3),
        **{f"read_{name}_ms": round(percentile(read, share), 2) for name, share in SHARES.items()},
        **{f"stamp_{name}_ms": percentile(stamped, share) for name, share in SHARES.items()},
    }  # fmt: skip


def _wake(kind: str, stack: Stack, readings: Readings) -> None:
    """Until what answers has its partitions, as its first answers show."""
    plan, codec = the_plan(), Codec(ConfluentRegistry(stack.registry_url))
    schema = next(event_schema(plan, e) for e in plan.events if e.name == "payments")
    producer = KafkaProducer({"bootstrap.servers": stack.bootstrap})
    until = time.monotonic() + AWAKE_S_MAX
    for number in itertools.count():
        row = {"payment_id": f"wake-{kind}-{number}-{time.time_ns()}", "card": f"wake-{number}", "merchant": "m", "amount": 1,
               "paid_at": int(time.time() * 1000), "abroad": False}  # fmt: skip
        into = "payments.payments.v1" if kind == "owned" else ECHO_IN
        producer.produce(into, codec.encode_event(schema, row), partition=number % PARTITIONS)
        producer.flush(10)
        time.sleep(0.25)
        if number >= 2 * PARTITIONS and len(readings.found) > PARTITIONS:
            return
        if time.monotonic() > until:
            raise SystemExit(f"{kind} does not answer")


SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999, "max": 1.0}


def _spans(kind: str, readings: Readings, stack: Stack, began_ms: float) -> list[tuple[float, int]]:
    """Per request, in the order they were appended: ms until read, ms until stamped. The first answer counts.

    An answer to what was asked before this phase may come again, where a worker was stopped before its commit.
    """
    codec = Codec(ConfluentRegistry(stack.registry_url))
    first: dict[tuple[int, int], tuple[int, float, int]] = {}
    for now_ms, record in readings.found:
        if kind == "owned":
            found = codec.decode(record.value, ScoringInput)
            partition, offset, appended = found.partition, found.offset, found.append_time_ms
        else:
            partition, offset, appended = map(int, (record.value or b"").split(b" ")[:3])
        if appended < began_ms:
            continue
        first.setdefault((partition, offset), (appended, now_ms - appended, record.append_time_ms - appended))
    return [(read, stamped) for _, read, stamped in sorted(first.values())]


def main() -> int:
    options = _options()
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as name:
        folder = Path(name)
        with Stack(home=folder / "stack", ports=Ports.free(), ephemeral=True) as stack:
            stack.start(("kafka", "registry"))
            own = [TopicSpec(name, partitions) for name, partitions in topics().items() if name.startswith("bench.")]
            ConfluentBus(stack.bootstrap).admin().ensure_topics([*plan_topics(the_plan()), *own])
            phases = []
            for seed, kind in enumerate(options.only or KINDS):
                phases.append(phase(kind, stack, folder / "state", options, seed))
                print(json.dumps(phases[-1]), flush=True)
    report = {"bench": "owned", "quick": options.quick, "about": _about(options), "phases": phases, **_ratios(phases)}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_bytes(orjson.dumps(report, option=orjson.OPT_INDENT_2) + b"\n")
    print(options.out)
    return 0


def _ratios(phases: list[dict[str, Any]]) -> dict[str, float]:
    echo = [p for p in phases if p["kind"] == "echo"]
    out: dict[str, float] = {}
    for found in (p for p in phases if p["kind"] == "owned"):
        for name in ("p50", "p99"):
            out[f"owned_{name}_ms"] = found[f"read_{name}_ms"]
            if echo:
                out[f"owned_{name}_over_echo"] = round(
                    found[f"read_{name}_ms"] / (sum(p[f"read_{name}_ms"] for p in echo) / len(echo)), 2
                )
    return out


def _about(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "rate": options.rate, "beside": options.beside, "requests": options.requests, "cpus": os.cpu_count(),
        "machine": platform.processor() or platform.machine(), "load_before": round(os.getloadavg()[0], 2),
        "method": __doc__,
    }  # fmt: skip


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench-owned", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a minute: shows that it runs")
    parser.add_argument("--rate", type=float, default=200.0, help="requests a second")
    parser.add_argument("--beside", type=float, default=800.0, help="other events of the set a second")
    parser.add_argument("--requests", type=int, default=6_000)
    parser.add_argument("--control-requests", type=int, default=3_000)
    parser.add_argument("--only", nargs="*", choices=sorted(set(KINDS)))
    parser.add_argument("--out", type=Path, default=ROOT / ".headrace" / "reports" / "bench-owned.json")
    options = parser.parse_args()
    if options.quick:
        options.requests = options.control_requests = 1_000
    return options


if __name__ == "__main__":
    if sys.argv[1:2] == ["--role"]:
        answer(*sys.argv[2:6])
        raise SystemExit(0)
    raise SystemExit(main())

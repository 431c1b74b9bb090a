"""The faults, in the order they are caused. Each names the alerts it must raise and how it is undone.

`cause` does harm and may yield while it lasts; `repair` is the runbook of the first alert, whose own commands are run. What
only the one who caused it can stop (a process that freezes others, a source that is silent) ends with the `cause` block.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import orjson
from confluent_kafka import Producer

from drill.alerts import harm, past
from drill.alerts.rig import HOUR_MS, Rig, going, half_a_day, held, stir

DAY_H = 24


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault.

    Attributes:
        alerts: (alert, labels it must carry); each must fire, reach the stand-in and resolve.
        undone_first: end the cause before the runbook's commands are run (a frozen process cannot be started), else after.
        within_s: declared time to the Alertmanager, from the cause on, with the drill's shortened rules.
        over_s: declared time until it is resolved, from the repair on.
        repair_after_s: from the cause on; a runbook may leave young things alone.
        act: those of one act touch nothing of each other and are caused together; "" alone.
    """

    name: str
    alerts: tuple[tuple[str, dict[str, str]], ...]
    cause: Callable[[Rig], AbstractContextManager[None]]
    undone_first: bool = False
    within_s: float = 60.0
    over_s: float = 120.0
    repair_after_s: float = 0.0
    act: str = ""


@contextmanager
def stop_a_service(rig: Rig) -> Iterator[None]:
    """svc-monitor is stopped in order, as by a mistaken hand."""
    rig.stack.stop_component("svc-monitor")
    yield


@contextmanager
def fill_the_dead_letters(rig: Rig) -> Iterator[None]:
    """A producer changes its format: a word where minutes belong."""
    row = {
        "carrier": "UA", "tail": None, "origin": "EWR", "dest": "ORD", "departed_at": rig.at_ms, "dep_delay": "late",
        "outcome": "departed",
    }  # fmt: skip
    rig.post("departures", [orjson.dumps({**row, "flight_id": f"bad-{os.getpid()}-{n}"}) for n in range(200)])
    yield


@contextmanager
def park_a_pipeline(rig: Rig) -> Iterator[None]:
    """A declaration only the service that opens its source can refuse; the audit chain gets entries meanwhile."""
    rig.played.story.apply("faulty", expected=1)
    yield


@contextmanager
def stall_the_archive(rig: Rig) -> Iterator[None]:
    """svc-features stands still while the audit chain grows: what is retired and admitted is not archived."""
    with rig.frozen("svc-features"):
        stir(rig, 2)
        yield


@contextmanager
def hang_a_transaction(rig: Rig) -> Iterator[None]:
    """A foreign producer with a long timeout writes in a transaction and goes away without a word."""
    producer = Producer(
        {
            "bootstrap.servers": rig.stack.bootstrap,
            "transactional.id": f"drill-{time.time_ns()}",
            "transaction.timeout.ms": 600_000,
        }
    )
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce("flights.departures.v1.svc-ingest.dlq", b"never committed", partition=0)
    producer.flush(30)
    rig.notes["hanging"] = producer  # kept, so that its end does not abort the transaction in order
    yield


@contextmanager
def freeze_the_stream(rig: Rig) -> Iterator[None]:
    """svc-stream stands still while events go on."""
    with rig.frozen("svc-stream"), going(rig, half_a_day):
        yield


@contextmanager
def block_the_loop(rig: Rig) -> Iterator[None]:
    """svc-serve is held again and again for most of a second."""
    with held(rig.stack.service("svc-serve").pid, 0.8, 0.3):
        yield


@contextmanager
def slow_the_broker(rig: Rig) -> Iterator[None]:
    """Kafka is held again and again, as by a disk that is slow to write: each decision waits until it is durable."""
    with held(rig.stack.service("kafka").pid, 0.5, 0.12):
        yield


@contextmanager
def corrupt_an_archived_event(rig: Rig) -> Iterator[None]:
    """The file of archived departures gets other delays than were logged; then decisions are made upon what was logged."""
    rig.asker.paused.set()
    time.sleep(8)  # a round of proof takes what there is
    began = time.time()
    rig.send("departures", 6)
    rig.at_ms += 6 * HOUR_MS
    _await_archived(rig, "flights.departures.v1")
    before = rig.tamper("flights.departures.v1", "dep_delay", 555, began - 1)
    rig.asker.t_ms = rig.at_ms
    rig.asker.paused.clear()
    try:
        yield
    finally:
        rig.asker.paused.set()
        for file, raw in reversed(before):
            file.write_bytes(raw)
        rig.asker.paused.clear()


@contextmanager
def stall_the_labels(rig: Rig) -> Iterator[None]:
    """Requests go on for days of event time; arrivals, which are the labels, do not come."""
    low = rig.at_ms
    for _ in range(5):
        rig.send("scheduled", DAY_H)
        rig.at_ms += DAY_H * HOUR_MS
    rig.asker.t_ms = rig.at_ms
    yield
    for stream in ("departures", "arrivals"):
        for day in range(5):
            rig.send(stream, DAY_H, low + day * DAY_H * HOUR_MS)
    for stream in ("departures", "arrivals"):
        rig.send(stream, 3 * DAY_H, rig.at_ms)
    rig.at_ms += 3 * DAY_H * HOUR_MS
    rig.played.story.doors.drop(rig.played.story.year.streams["weather"].csv(low, rig.at_ms)).result()
    rig.catch_up()


@contextmanager
def send_late(rig: Rig) -> Iterator[None]:
    """A source delivers what happened weeks ago."""

    def late(rig: Rig) -> None:
        number = rig.notes["late"] = rig.notes.get("late", 0) + 1
        row = {
            "carrier": "UA", "tail": None, "origin": "EWR", "dest": "ORD", "departed_at": rig.at_ms - 14 * DAY_H * HOUR_MS,
            "dep_delay": 5, "outcome": "departed",
        }  # fmt: skip
        rig.post("departures", [orjson.dumps({**row, "flight_id": f"late-{os.getpid()}-{number}-{n}"}) for n in range(20)])

    with going(rig, late):
        yield


@contextmanager
def forge_a_rollout(rig: Rig) -> Iterator[None]:
    """Somebody with write access puts an unsigned record where rollouts are read."""
    producer = Producer({"bootstrap.servers": rig.stack.bootstrap})
    producer.produce("governance.rollouts.v1", b"not signed by anybody", key=b"flights/late_arrival")
    producer.flush(30)
    yield


@contextmanager
def train_on_nothing(rig: Rig) -> Iterator[None]:
    """A model is asked for of months in which nothing was archived."""
    with rig.played.story.as_person("ada") as client:
        client.train("flights", "late_arrival", 0, 86_400_000, f"drill-{time.time_ns()}")
    yield


@contextmanager
def fall_silent(rig: Rig) -> Iterator[None]:
    """Departures come steadily, more than one a minute on the drill's day, and then no more."""
    for _ in range(6):
        half_a_day(rig)
        time.sleep(1.5)  # a scrape in between
    yield
    half_a_day(rig)


@contextmanager
def take_the_broker_away(rig: Rig) -> Iterator[None]:
    """Kafka is stopped while producers and callers go on."""
    rig.stack.stop_component("kafka")

    def insist(rig: Rig) -> None:
        rig.post("departures", rig.played.story.year.lines("departures", rig.at_ms, rig.at_ms + HOUR_MS)[:20])

    with going(rig, insist), going(rig, insist), going(rig, insist):  # one batch is given up after most of a minute
        yield


def _await_archived(rig: Rig, topic: str) -> None:
    behind = f'sum(kafka_last_stable_offset{{topic="{topic}"}} - on (topic, partition) features_archive_offset)'
    deadline = time.monotonic() + 60
    time.sleep(3)
    while time.monotonic() < deadline:
        found = rig.tower.query(behind)
        if found and float(found[0]["value"][1]) <= 4:  # markers
            return
        time.sleep(0.5)
    raise TimeoutError(f"{topic} is not archived")


SLOW = {"burn": "fast"}
SERVES, PIPELINE = {"service": "svc-serve"}, {"pipeline": "flights"}
NOT_DRILLED = {
    "CertificateExpiring": "the drilled stack has no TLS; tests/integration/secure asks a secure one for its days, and rotates",
}
FAULTS = (
    Fault("train on nothing", (("TrainingFailed", {"pipeline": "flights"}),), train_on_nothing, act="doors"),
    Fault("stop a service", (("ServiceDown", {"service": "svc-monitor"}),), stop_a_service, act="doors"),
    Fault("park a pipeline", (("PipelineParked", {"pipeline": "faulty"}),), park_a_pipeline, act="doors"),
    Fault("fill the dead letters", (("DeadLettersRising", {}),), fill_the_dead_letters, act="doors"),
    Fault("forge a rollout", (("ControlRefused", {}),), forge_a_rollout, over_s=180, act="doors"),
    Fault(
        "send late events", (("LateRising", {"event": "departures"}),), send_late, undone_first=True, within_s=90, act="pace"
    ),
    Fault("hang a transaction", (("TransactionHanging", {}),), hang_a_transaction, repair_after_s=62, act="doors"),
    Fault("fill the disk", (("DiskFilling", {"service": harm.FILLED}),), harm.fill_the_disk, undone_first=True, act="doors"),
    Fault(
        "tamper with the model",
        (("ModelRefused", PIPELINE), ("FallbackServing", PIPELINE), ("RolloutPending", PIPELINE)),
        harm.tamper_with_the_model,
        undone_first=True,
        within_s=240,
        over_s=240,
    ),
    Fault("turn the world over", (("DriftWithLoss", PIPELINE),), past.turn_the_world_over, undone_first=True, over_s=180),
    Fault(
        "corrupt an archived event",
        (("ParityMismatch", {}),),
        corrupt_an_archived_event,
        undone_first=True,
        within_s=120,
        over_s=240,
    ),
    Fault(
        "stall the labels",
        (("LabelsOverdue", {}), ("FeaturesMissing", {})),
        stall_the_labels,
        undone_first=True,
        within_s=120,
        over_s=240,
    ),
    Fault("block the event loop", (("EventLoopBlocked", SERVES),), block_the_loop, undone_first=True, within_s=90, act="pace"),
    Fault(
        "slow the broker",
        (("DecisionLatencyBurning", SLOW),),
        slow_the_broker,
        undone_first=True,
        within_s=120,
        over_s=240,
    ),
    Fault(
        "freeze the stream",
        (("FreshnessLost", {}), ("LagGrowing", {})),
        freeze_the_stream,
        undone_first=True,
        within_s=120,
        over_s=180,
    ),
    Fault("stall the archive", (("AuditGap", {}),), stall_the_archive, undone_first=True, within_s=90),
    Fault("a source falls silent", (("SourceSilent", {"event": "departures"}),), fall_silent, undone_first=True, within_s=90),
    Fault(
        "start without the broker",
        (("ServiceNotReady", {"service": "svc-monitor"}),),
        harm.start_without_the_broker,
        undone_first=True,
    ),
    Fault("lose the lake", (("ArchiveBehind", {"severity": "page"}),), harm.lose_the_lake, undone_first=True, over_s=180),
    Fault(
        "hang the lake", (("LoopStalled", {"service": "svc-features"}),), harm.hang_the_lake, undone_first=True, within_s=150
    ),
    Fault(
        "shrink the largest message",
        (("TransactionsAborting", PIPELINE),),
        harm.shrink_the_largest_message,
        undone_first=True,
        within_s=120,
        over_s=180,
    ),
    Fault("hang the state", (("ViewBehind", SERVES),), harm.hang_the_state, within_s=90, over_s=180, repair_after_s=75),
    Fault("cut the audit chain", (("AuditShrunk", {}),), past.cut_the_audit_chain, undone_first=True, within_s=90),
    Fault(
        "take the broker away",
        (("BrokerNotSeen", {}), ("DecisionErrorsBurning", SLOW), ("IngestErrorsBurning", SLOW)),
        take_the_broker_away,
        within_s=200,
        over_s=300,
    ),
)

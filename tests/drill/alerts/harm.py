"""Harm to what the services stand on: broker, the lake's files, a full disk, an artefact of a model."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,  # pyright: ignore[reportPrivateImportUsage]
    ConfigEntry,  # pyright: ignore[reportPrivateImportUsage]
    ConfigResource,  # pyright: ignore[reportPrivateImportUsage]
    ResourceType,  # pyright: ignore[reportPrivateImportUsage]
)

from drill.alerts.rig import DAY_MS, Rig, going, half_a_day, until

PIPELINE, CROWN_DAYS_MAX = "flights", 12
FILLED = "svc-governance"  # its state lies on a small disk of its own
ANSWER_S, LET_GO_S = 30.0, 1.0


# -- the broker


@contextmanager
def hang_the_state(rig: Rig) -> Iterator[None]:
    """A foreign producer's transaction hangs in the state that svc-serve reads; state goes on being written behind it."""
    topic, partitions = busiest_view(rig)
    producer = Producer(
        {
            "bootstrap.servers": rig.stack.bootstrap,
            "transactional.id": f"drill-state-{time.time_ns()}",
            "transaction.timeout.ms": 600_000,
        }
    )
    producer.init_transactions(ANSWER_S)
    producer.begin_transaction()
    for partition in partitions:
        producer.produce(topic, b"never committed", key=b"drill", partition=partition)
    producer.flush(ANSWER_S)
    rig.notes["hanging state"] = producer  # kept, so that its end does not abort the transaction in order
    for _ in range(6):
        half_a_day(rig)
        time.sleep(1)
    yield


def busiest_view(rig: Rig) -> tuple[str, list[int]]:
    """The state topic of which svc-serve has read most, and its partitions."""
    found = rig.tower.query(f'view_next_offset{{service="svc-serve", topic=~"{PIPELINE}[.].+"}}')
    read: dict[str, dict[int, float]] = {}
    for one in found:
        read.setdefault(one["metric"]["topic"], {})[int(one["metric"]["partition"])] = float(one["value"][1])
    topic = max(read, key=lambda name: sum(read[name].values()))
    return topic, sorted(read[topic])


@contextmanager
def shrink_the_largest_message(rig: Rig) -> Iterator[None]:
    """Somebody sets `max.message.bytes` of a state topic so low that no block fits: each round of svc-stream is refused."""
    topic, _ = busiest_view(rig)
    admin = AdminClient({"bootstrap.servers": rig.stack.bootstrap})
    _set(admin, topic, AlterConfigOpType.SET, "max.message.bytes", "100")
    try:
        with going(rig, half_a_day, every_s=3.0):
            yield
    finally:
        _set(admin, topic, AlterConfigOpType.DELETE, "max.message.bytes", "")


def _set(admin: AdminClient, topic: str, how: Any, name: str, value: str) -> None:
    entry = ConfigEntry(name, value, incremental_operation=how)
    for future in admin.incremental_alter_configs(
        [ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])]
    ).values():
        future.result(ANSWER_S)


@contextmanager
def start_without_the_broker(rig: Rig) -> Iterator[None]:
    """Kafka stands still; svc-monitor dies, and its next life cannot read what governs it."""
    with rig.frozen("kafka"):
        rig.stack.kill("svc-monitor")
        yield


# -- the lake


@contextmanager
def lose_the_lake(rig: Rig) -> Iterator[None]:
    """The folder of archived arrivals takes nothing any more, and the broker has deleted all that was archived of them."""
    topic = f"{PIPELINE}.arrivals.v1"
    log = rig.stack.layout.lake / topic / "_delta_log"
    _delete_archived(rig, topic)
    away = log.with_name("_delta_log.away")
    log.rename(away)
    log.touch()
    try:
        with going(rig, lambda r: _more(r, "arrivals"), every_s=2.0):
            yield
    finally:
        log.unlink()
        away.rename(log)


def _more(rig: Rig, stream: str) -> None:
    rig.send(stream, 6)
    rig.at_ms += DAY_MS // 4


def _delete_archived(rig: Rig, topic: str) -> None:
    """As retention by size does it: what is in the lake goes from the log."""
    found = rig.tower.query(f'features_archive_offset{{topic="{topic}"}}')
    ends = [TopicPartition(topic, int(one["metric"]["partition"]), int(float(one["value"][1]))) for one in found]
    admin = AdminClient({"bootstrap.servers": rig.stack.bootstrap})
    for future in admin.delete_records(ends).values():
        future.result(ANSWER_S)


@contextmanager
def hang_the_lake(rig: Rig) -> Iterator[None]:
    """A file of the archive's log does not answer, as on a network disk that is away: a pipe nobody writes into."""
    log = rig.stack.layout.lake / f"{PIPELINE}.departures.v1" / "_delta_log"
    with hanging_commit(log), going(rig, lambda r: _more(r, "departures"), every_s=2.0):
        yield


@contextmanager
def hanging_commit(log: Path) -> Iterator[Path]:
    """The newest commit of a Delta log is there and does not open; after the block it is what it was."""
    newest = max(file for file in log.glob("*.json") if file.stem.isdigit())
    commit, pipe = log / ".drill.json", log / ".drill.pipe"
    os.mkfifo(pipe)
    newest.rename(commit)
    os.link(pipe, newest)
    try:
        yield newest
    finally:
        commit.rename(newest)
        _let_go(pipe)
        pipe.unlink()


def _let_go(pipe: Path) -> None:
    """Whoever waits to open it gets it, and its end."""
    deadline = time.monotonic() + LET_GO_S
    while time.monotonic() < deadline:
        with suppress(OSError):  # nobody waits
            os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
        time.sleep(0.02)


# -- disk


def has_small_disk(stack: Any) -> bool:
    """Whether the state of FILLED lies on a disk of its own, which may be filled."""
    return (stack.layout.state / FILLED).is_mount()


@contextmanager
def fill_the_disk(rig: Rig) -> Iterator[None]:
    """The disk of svc-governance's state, a small one of its own in this drill, is filled up to a twentieth."""
    folder = rig.stack.layout.state / FILLED
    if not has_small_disk(rig.stack):
        raise RuntimeError(f"{folder} has no disk of its own to be filled")
    usage = os.statvfs(folder)
    ballast = folder / "ballast"
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, int(usage.f_bavail * usage.f_frsize - 0.05 * usage.f_blocks * usage.f_frsize))
    try:
        yield
    finally:
        ballast.unlink()


# -- the model


@contextmanager
def tamper_with_the_model(rig: Rig) -> Iterator[None]:
    """A bit of the champion's artefact is turned over in the object store; then svc-serve dies and must load it anew."""
    digest = crown(rig)
    (file,) = rig.stack.layout.objects.rglob(f"{digest}.onnx")
    raw = file.read_bytes()
    os.chmod(file, 0o644)
    file.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    rig.stack.kill("svc-serve")
    try:
        yield
    finally:
        file.write_bytes(raw)


def crown(rig: Rig) -> str:
    """Play on, approving what passed the gate, until a model is champion; its digest. Raises: TimeoutError."""
    rig.asker.paused.set()
    try:
        for _ in range(CROWN_DAYS_MAX):
            if found := _champion(rig):
                return found
            _approve(rig)
            rig.at_ms = rig.played.a_day(rig.at_ms)
            rig.asker.t_ms = rig.at_ms
            with suppress(TimeoutError):
                until("a champion", lambda: bool(_champion(rig)), 8)
        raise TimeoutError(f"no champion after {CROWN_DAYS_MAX} days")
    finally:
        rig.asker.paused.clear()


def _approve(rig: Rig) -> None:
    """The newest candidate that passed the gate, where no canary is under way. It may still be in training: wait for it."""
    with rig.played.story.as_person("grace") as client:
        if any(arm["name"] != "rules" for view in client.rollouts() if view["pipeline"] == PIPELINE for arm in view["arms"]):
            return
        with suppress(TimeoutError):
            until("a candidate", lambda: any(_passed(view) for view in client.candidates()), 90)
        for view in reversed(client.candidates()):
            if _passed(view):
                client.approve(view["candidate_id"], "for the drill")
                return


def _passed(view: dict[str, Any]) -> bool:
    return view["pipeline"] == PIPELINE and view["state"] == "GATED"


def _champion(rig: Rig) -> str:
    with rig.played.story.as_nobody() as client:
        arms = [arm for view in client.rollouts() if view["pipeline"] == PIPELINE for arm in view["arms"]]
    return next((arm["model_digest"] for arm in arms if arm["name"] == "champion" and arm["weight"] == 10_000), "")

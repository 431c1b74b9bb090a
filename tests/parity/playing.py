"""One world on the real broker: records go in, workers come and go, views are asked all the while, the archive follows."""

from __future__ import annotations

import pickle
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry

from headrace.chassis.bus import TopicPartition
from headrace.chassis.bus_confluent import ConfluentBus
from headrace.chassis.clock import SystemClock
from headrace.contracts.codec import Codec, ConfluentRegistry
from headrace.plan.ir import FeatureSet, Plan
from parity.importing import import_bases, lose_history
from parity.owned import REQUEST, RowAsker
from parity.producing import Sending
from parity.serving import Answers, SetAsker
from parity.worker import Life
from parity.workers import Crew, Workers
from parity.worlds import Mode, World
from svc_features.adapters.lake import DeltaLake, LakeReader
from svc_features.archive import Archive, Reached
from svc_features.handlers import event_feed
from svc_features.telemetry import FeaturesMetrics

STALLED_S = 240.0  # a worker that dies, restores and joins again takes some five, on a busy machine thirty
LONG_S = 5.0  # waits above are told in the report
REOPEN_SHARE = 0.02  # of the steps, per set
COMMIT_INTERVALS_MS = (5, 25, 100)
IMPORT_SHARES = (0.3, 0.6)  # of the steps lie in the base
Sent = tuple[Mapping[tuple[str, int], int], int]  # ends by (event, partition), and how many requests there are among it
Tell = Callable[[str, int], None]  # what, how many


@dataclass(frozen=True, slots=True)
class Played:
    """What is left of a world: answers by set name, the lake, and what happened on the way."""

    world: World
    answers: Mapping[str, Answers]
    lake: Path
    facts: Mapping[str, object]


def play(world: World, bootstrap: str, registry_url: str, folder: Path, seed: int, tell: Tell) -> Played:
    """Run it. Raises RuntimeError if the views stop moving or a worker ends otherwise than meant."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, bus, codec = random.Random(f"{seed}/{world.name}"), ConfluentBus(bootstrap), Codec(ConfluentRegistry(registry_url))
    bus.admin().ensure_topics(world.topics())
    sending = Sending(world, bootstrap, codec)
    askers = [_asker(world, s, bus, codec, folder, rng) for s in world.plan.feature_sets]
    crew = _crew(world, bootstrap, registry_url, folder, rng)
    lake, imported = folder / "lake", dict[str, str]()

    def prepare() -> None:
        """What the archive holds becomes the bases, and leaves the log."""
        archive(world.plan, bus, codec, lake, rng)
        imported.update(import_bases(world.plan, bus, codec, lake, folder, rng))
        lose_history(bootstrap, world.plan, LakeReader(lake))

    begins = (rng.uniform(*IMPORT_SHARES), prepare) if world.mode is Mode.IMPORTED else (0.0, lambda: None)
    driver = Driver(world, crew, sending, askers, rng, tell, begins)
    try:
        driver.run()
    finally:
        crew.stop()
        for asker in askers:
            asker.close()
    archived = archive(world.plan, bus, codec, lake, rng)
    facts: dict[str, object] = {
        "mode": world.mode.value,
        "records": dict(sending.sent),
        "archived": archived,
        "workers_killed": crew.died(),
        "disks_lost": crew.disks_lost(),
        "tasks_moved": crew.moves(),
        "imported": sum(a.bases() == {imported[a.feature_set.name]} for a in askers if isinstance(a, SetAsker) and imported),
        "rows_answered": sum(len(a.answers.times_ms) for a in askers if isinstance(a, RowAsker)),
        "rows_answered_twice": sum(a.twice for a in askers if isinstance(a, RowAsker)),
        "views_reopened": sum(a.reopened for a in askers),
        "cuts": sum(len(a.answers.cuts) for a in askers),
        "asked_in_play": driver.in_play,
        "sending_s": round(driver.sending_s, 1),
        "asking_s": round(driver.asking_s, 1),
        "long_waits_s": [round(s, 1) for s in driver.long_waits_s],
    }
    return Played(world, {a.feature_set.name: a.answers for a in askers}, lake, facts)


def _asker(
    world: World, feature_set: FeatureSet, bus: ConfluentBus, codec: Codec, folder: Path, rng: random.Random
) -> SetAsker | RowAsker:
    if feature_set.placement == "owned":
        return RowAsker(world, feature_set, bus, codec)
    return SetAsker(world, feature_set, bus, codec, folder / "views", random.Random(rng.random()))


def _crew(world: World, bootstrap: str, registry_url: str, folder: Path, rng: random.Random) -> Crew:
    """One process, or two of one group of which the second comes later and leaves before the end."""
    plan = folder / "plan.pickle"  # not JSON: the ranges of generated worlds go beyond what a compiled plan allows
    plan.write_bytes(pickle.dumps(world.plan))
    spans = [(0.0, 1.0), (0.25, 0.75)] if world.mode is Mode.TWO else [(0.0, 1.0)]
    transactions = 2 * world.steps_count * len(world.plan.feature_sets)
    objects = str(folder / "objects") if world.mode is Mode.IMPORTED else None
    members = []
    for number, (first, last) in enumerate(spans):
        room = folder / f"worker-{number}"
        life = Life(
            str(plan), bootstrap, registry_url, str(room / "state"), 0, world.rows_max, rng.choice(COMMIT_INTERVALS_MS), None,
            f"parity-{number}", objects,
        )  # fmt: skip
        deaths = -(-world.deaths // len(spans))
        share = int(transactions * (last - first) / len(spans)) or 1
        members.append((Workers(room, life, deaths, share, rng), first, last))
    return Crew(members)


class Driver:
    """Sends a step ahead of the views; what has come due is asked whenever a view moves."""

    def __init__(
        self, world: World, crew: Crew, sending: Sending, askers: Sequence[SetAsker | RowAsker], rng: random.Random, tell: Tell,
        begins: tuple[float, Callable[[], None]] = (0.0, lambda: None),
    ) -> None:  # fmt: skip
        """begins: the share of the steps that are sent before the workers are there, and what is done then."""
        self._world, self._crew, self._sending, self._askers = world, crew, sending, askers
        self._rng, self._tell, self._begins = rng, tell, begins
        self.in_play = 0
        self.sending_s = self.asking_s = 0.0
        self.long_waits_s: list[float] = []  # nothing came due so long: a death and what follows, mostly

    def run(self) -> None:
        sent: Sent = ({}, 0)
        share, prepare = self._begins
        waiting = True  # for the moment the workers begin
        for number, step in enumerate(self._world.steps()):
            done = number / self._world.steps_count
            if waiting and done >= share:
                prepare()
                waiting = False
            if not waiting:
                self._crew.reached(done)
            began = time.monotonic()
            self._sending.send(step)
            self.sending_s += time.monotonic() - began
            if not waiting:
                self._until(sent)  # where the step before this one ended: a step is always under way
            sent = self._sent()
            for asker in self._askers:
                if self._rng.random() < REOPEN_SHARE:
                    asker.reopen()
            self._tell("steps", 1)
            self._tell("records", sum(len(s.records) for s in step))
        self._until(sent)
        for asker in self._askers:
            self._tell("asked", asker.ask_due(everything=True))
        left = {a.feature_set.name: a.left for a in self._askers if a.left}
        if left:
            raise RuntimeError(f"never asked: {left}")

    def _sent(self) -> Sent:
        return dict(self._sending.ends), self._sending.decodable[REQUEST]

    def _until(self, sent: Sent) -> None:
        """Follow and ask until every set's views hold what was sent up to there."""
        moved = time.monotonic()
        while True:
            self._crew.poll()
            progressed = False
            for asker in self._askers:
                began = time.monotonic()
                asked = asker.step()
                self.in_play += asked
                progressed = progressed or asked > 0
                if asked:
                    self.asking_s += time.monotonic() - began
                    self._tell("asked", asked)
            if progressed:
                moved = self._moved(moved)
            if self._crew.settled() and all(a.holds(*sent) for a in self._askers):
                self._moved(moved)
                return
            if time.monotonic() - moved > STALLED_S:
                states = {a.feature_set.name: a.cut() for a in self._askers}
                raise RuntimeError(f"the views of {self._world.name} stand still at {states}, sent is up to {sent}")

    def _moved(self, before: float) -> float:
        now = time.monotonic()
        if now - before > LONG_S:
            self.long_waits_s.append(now - before)
        return now


def archive(plan: Plan, bus: ConfluentBus, codec: Codec, lake: Path, rng: random.Random) -> int:
    """The real archiver over the event topics, left without a goodbye a few times; returns the rows of the lake."""
    ends: dict[TopicPartition, int] = {}
    consumer = bus.consumer(None, "parity.archive-ends")
    for e in plan.events:
        ends |= {tp: consumer.watermarks(tp)[1] for tp in (TopicPartition(e.topic, p) for p in range(e.partitions))}
    consumer.close()
    crashes, rows = 3, 0
    while True:
        reached = Reached()
        made = Archive(
            f"parity.{plan.pipeline}", [event_feed(plan, e, codec) for e in plan.events], bus=bus, lake=DeltaLake(lake),
            reached=reached, clock=SystemClock(), metrics=FeaturesMetrics(CollectorRegistry()), interval_ms=300,
            rows_max=50_000, idle_s=0.1,
        )  # fmt: skip
        steps = rng.randint(1, 40) if crashes else -1
        while steps and reached.missing(ends):
            made.step()
            steps -= 1
        rows += sum(f.rows for f in reached.facts.values())
        if not reached.missing(ends):
            made.close()
            return rows
        crashes -= 1
        made._consumer.close()  # as a kill would: what is buffered is not flushed

"""`make chaos-stream`: a million events through streams whose workers, network and broker fail all the time.

Two workers, then three, then one. They die by SIGKILL at points drawn from the seed; a proxy between them and the broker
delays, cuts and loses answers, of EndTxn too; the broker is restarted once. A reader of committed records compares what came
out with DuckDB's answer over what went in: lost 0, doubled 0, wrong 0.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl
from rich.console import Console

from bench.stream import answers, compare, inputs, outputs
from bench.stream.broker import Progress
from bench.stream.ground import Ground
from bench.stream.inputs import Spec
from chaos.proxy import CALM, STORM, Proxy
from chaos.worker import NOTES
from headrace.chassis.bus_confluent import ConfluentBus
from headrace.contracts.catalogue import platform_topics
from headrace.contracts.codec import Codec
from headrace.declare import compile, load
from headrace.plan.avro import event_schema
from headrace.plan.ir import Plan
from headrace.plan.topics import plan_topics, worker_group
from headrace_local import Ports, Stack, clone_root
from headrace_local.prepare import DOOR_ENV
from parity.worker import POINTS, Life

DECLARATION = Path(__file__).parent / "pipelines" / "storm"
PHASES = (("a", "b"), ("a", "b", "c"), ("a",))
PER_SECOND = 3_000  # records to a second of event time
SLICES = 40
DRAINED_S_MAX = 600.0
ROWS_MAX = (50, 500, 5_000, 20_000)
COLUMNS = {"window_start": "start", "window_end": "end", "rows": "count"}
console = Console()


@dataclass
class Troupe:
    """The workers of one phase and what befell them."""

    plan_file: Path
    stack: Stack
    door: int
    folder: Path
    rng: random.Random
    alive: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    lives: int = 0
    kills: list[tuple[int, str]] = field(default_factory=list)  # wall clock ms, instance
    failed: list[str] = field(default_factory=list)

    def start(self, instance: str, *, mortal: bool) -> None:
        self.lives += 1
        death = (self.rng.choice(POINTS), self.rng.randint(1, 60)) if mortal else None
        life = Life(
            str(self.plan_file), f"127.0.0.1:{self.door}", self.stack.registry_url, str(self.folder / f"state-{instance}"),
            self.rng.randrange(1 << 30), ROWS_MAX, 100, death, instance,
        )  # fmt: skip
        file = self.folder / f"life-{self.lives}.json"
        life.write(file)
        log = (self.folder / f"worker-{self.lives}-{instance}.log").open("wb")
        env = dict(os.environ, PYTHONPATH=os.pathsep.join(p for p in sys.path if p))
        self.alive[instance] = subprocess.Popen(
            [sys.executable, "-m", "chaos.worker", str(file)], stdin=subprocess.PIPE, stdout=log, stderr=log, env=env
        )

    def look(self, *, mortal: bool) -> None:
        """Whoever is gone begins its next life."""
        for instance, child in list(self.alive.items()):
            code = child.poll()
            if code is None:
                continue
            if code == -signal.SIGKILL:
                self.kills.append((int(time.time() * 1000), instance))
            else:
                log = max(self.folder.glob(f"worker-*-{instance}.log"), key=lambda path: path.stat().st_mtime)
                self.failed.append(f"{instance} ended with {code}: {log.read_text()[-2_000:]}")
            self.start(instance, mortal=mortal)

    def kill(self) -> None:
        child = self.alive[self.rng.choice(sorted(self.alive))]
        child.kill()
        child.wait(30)

    def leave(self, instance: str) -> None:
        child = self.alive.pop(instance)
        assert child.stdin is not None
        child.stdin.close()
        try:
            child.wait(60)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait(30)

    def recoveries_s(self) -> list[float]:
        """From each death to the first commit of that instance after it."""
        notes = [line.split(" ", 2) for line in (self.folder / NOTES).read_text().splitlines()]
        on = [(int(at), who) for at, who, what in notes if what.startswith("goes on")]
        after = [min((at for at, who in on if who == instance and at >= died), default=None) for died, instance in self.kills]
        return [(at - died) / 1000 for at, (died, _) in zip(after, self.kills, strict=True) if at is not None]


def main() -> int:
    """Returns 0 if nothing was lost, doubled or wrong."""
    parser = argparse.ArgumentParser(prog="make chaos-stream", description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--kills", type=int, default=12, help="at least so many")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 20))
    parser.add_argument("--report", type=Path, default=clone_root() / ".headrace" / "reports" / "chaos-stream.json")
    options = parser.parse_args()
    console.print(f"seed {options.seed}: the same one plays the same inputs, deaths and weather")
    ports = Ports.free()
    os.environ[DOOR_ENV] = f"{ports.postgres}:{ports.zipkin}"  # two ports of the block that nobody else takes here
    began = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="headrace-chaos-") as name,
        Stack(home=Path(name) / "stack", ports=ports, ephemeral=True) as stack,
    ):
        stack.start(("kafka", "registry"))
        proxy = Proxy(ports.zipkin, ports.postgres, options.seed)
        proxy.start()
        found = Storm(options, stack, proxy, Path(name)).play()
        proxy.stop()
    found["wall_s"] = round(time.monotonic() - began, 1)
    options.report.parent.mkdir(parents=True, exist_ok=True)
    options.report.write_text(json.dumps({"verb": "chaos-stream", "seed": options.seed, "figures": found}, indent=2) + "\n")
    console.print_json(json.dumps(found))
    return 0 if not (found["lost"] or found["duplicated"] or found["wrong"] or found["failed"]) else 1


class Storm:
    """One run."""

    def __init__(self, options: argparse.Namespace, stack: Stack, proxy: Proxy, folder: Path) -> None:
        self._options, self._stack, self._proxy, self._folder = options, stack, proxy, folder
        self._rng = random.Random(options.seed)
        self._plan: Plan = compile(load(DECLARATION))
        self._ground = Ground(stack.bootstrap, stack.registry_url, folder / "ground")
        self._readings = inputs.readings(Spec("storm", options.events * 6 // 10, PER_SECOND, seed=options.seed, keys=500))
        self._trade = inputs.trade(options.events * 2 // 10, PER_SECOND, seed=options.seed)
        self._sent = self._restarts = 0

    def play(self) -> dict[str, object]:
        bus, codec = ConfluentBus(self._stack.bootstrap), Codec(self._ground.registry)
        bus.admin().ensure_topics([*platform_topics(), *plan_topics(self._plan)])
        for event in self._plan.events:
            codec.register_event(event_schema(self._plan, event))
        plan_file = self._folder / "plan.pickle"
        plan_file.write_bytes(pickle.dumps(self._plan))
        door = self._stack.settings.ports.zipkin
        troupe = Troupe(plan_file, self._stack, door, self._folder, self._rng)
        (self._folder / NOTES).touch()
        producing = threading.Thread(target=self._produce, daemon=True)
        producing.start()
        kills_each = -(-self._options.kills // len(PHASES))
        for number, instances in enumerate(PHASES):
            self._phase(troupe, number, instances, kills_each)
        producing.join()
        console.print(f"{self._sent:,} events sent, {len(troupe.kills)} deaths, {dict(self._proxy.faults)}; calm from here")
        self._proxy.weather = CALM
        self._drain(troupe)
        for instance in list(troupe.alive):
            troupe.leave(instance)
        return self._judged(troupe)

    def _phase(self, troupe: Troupe, number: int, instances: tuple[str, ...], kills: int) -> None:
        console.print(f"workers {', '.join(instances)}")
        for gone in [i for i in troupe.alive if i not in instances]:
            troupe.leave(gone)
        for instance in instances:
            if instance not in troupe.alive:
                troupe.start(instance, mortal=True)
        until, wanted = time.monotonic() + 300, len(troupe.kills) + kills
        restart_at = len(troupe.kills) + 1 if number == 1 else None
        next_kill = time.monotonic() + self._rng.uniform(6, 12)
        while (len(troupe.kills) < wanted or restart_at is not None) and time.monotonic() < until:
            self._proxy.weather = STORM if int(time.monotonic() / 5) % 2 else CALM
            if time.monotonic() >= next_kill:  # whoever does not die by itself
                troupe.kill()
                next_kill = time.monotonic() + self._rng.uniform(6, 12)
            if restart_at is not None and len(troupe.kills) >= restart_at:
                restart_at = None
                console.print("the broker is killed and comes back")
                self._stack.kill("kafka")
                self._restarts += 1
            troupe.look(mortal=True)
            time.sleep(0.1)

    def _produce(self) -> None:
        """Slice by slice, while everything else fails; straight to the broker, for it is not what is tested."""
        sides = (("readings", self._readings), ("orders", self._trade.orders), ("payments", self._trade.payments))
        ids = {n: self._ground.register(f"storm.{n}.v1", self._schema(n)) for n, _ in sides}
        for i in range(SLICES):
            for name, frame in sides:
                part = frame[frame.height * i // SLICES : frame.height * (i + 1) // SLICES]
                if name == "readings":
                    keys = inputs.keys_of(part)
                    values = inputs.encoded_readings(part, keys, ids[name])
                else:
                    keys = inputs.parties_of(part)
                    values = inputs.encoded_side(part, keys, ids[name])
                self._ground.broker.fill(f"storm.{name}.v1", values, keys, part["partition"].to_numpy())
                self._sent += part.height
            time.sleep(1.0)

    def _schema(self, name: str) -> dict[str, object]:
        event = next(e for e in self._plan.events if e.name == name)
        return event_schema(self._plan, event).avro

    def _drain(self, troupe: Troupe) -> None:
        """Until every group stands at the ends of its inputs."""
        topics = {e.name: e.topic for e in self._plan.events}
        waits = [
            (s, Progress(self._ground.broker, worker_group(self._plan, s), [topics[p.event] for p in s.inputs]))
            for s in self._plan.streams
        ]
        total = {topics["readings"]: self._readings.height, topics["orders"]: self._trade.orders.height}
        total[topics["payments"]] = self._trade.payments.height
        until = time.monotonic() + DRAINED_S_MAX
        for stream, progress in waits:
            wanted = sum(total[topics[p.event]] for p in stream.inputs)
            while progress.committed() < wanted:
                troupe.look(mortal=False)
                if time.monotonic() > until:
                    raise RuntimeError(f"{stream.name} stands at {progress.committed():,} of {wanted:,}")
                time.sleep(0.5)

    def _judged(self, troupe: Troupe) -> dict[str, object]:
        windows = ("key", "start", "end")
        wanted = {
            "ten_seconds": (answers.windows(self._readings, "judged", 10_000, 10_000), windows),
            "minute": (answers.windows(self._readings, "judged", 60_000, 5_000), windows),
            "visit": (answers.sessions(self._readings, "judged", 2_000), windows),
            "matched": (answers.pairs(self._trade), ("order_id",)),
        }
        told: dict[str, compare.Compared] = {}
        for stream in self._plan.streams:
            answer, identity = wanted[stream.name]
            told[stream.name] = self._compared(stream.output, answer, identity)
            console.print(f"{stream.name}: {told[stream.name].told()}")
        recoveries = troupe.recoveries_s()
        return {
            "events": self._sent, "kills": len(troupe.kills), "lives": troupe.lives, "failed": troupe.failed,
            "network": dict(self._proxy.faults), "broker_restarts": self._restarts,
            "results": sum(c.found for c in told.values()),
            "lost": sum(c.missing for c in told.values()),
            "duplicated": sum(c.doubled for c in told.values()),
            "wrong": sum(c.wrong + c.unexpected for c in told.values()),
            "recovery_s": round(statistics.median(recoveries), 2) if recoveries else None,
            "recovery_s_max": round(max(recoveries), 2) if recoveries else None,
        }  # fmt: skip

    def _compared(self, output: str, answer: pl.DataFrame, identity: tuple[str, ...]) -> compare.Compared:
        topic = next(e.topic for e in self._plan.events if e.name == output)
        reader = outputs.Reader(self._ground.broker, topic)
        reader.drain(3.0)
        reader.close()
        found = outputs.decoded(reader.values, self._ground.schema)
        found = answer.clear() if found.is_empty() else found.rename(COLUMNS, strict=False)
        return compare.compare(answer, found, identity)


if __name__ == "__main__":
    raise SystemExit(main())

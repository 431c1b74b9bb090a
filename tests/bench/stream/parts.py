"""The parts of the report: each measures its contenders one after the other and gives figures by name.

Figures of ours have no contender in their names: `w1_rec_s` beside `w1_kafka_streams_warm_rec_s`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Protocol

from bench.stream import idle, jobs, latency, peers, restore
from bench.stream.ground import Ground, Job, Outcome
from bench.stream.latency import Serves
from bench.stream.ours import Headrace
from bench.stream.sizes import Size

Say = Callable[[str], None]
Make = Callable[[Ground, int, Say], Job]
JOBS: Mapping[str, Make] = {"w1": jobs.w1, "w2": jobs.w2, "w3": jobs.w3, "w4": jobs.w4}
NAMES = {"headrace": "", "kafka_streams": "kafka_streams_", "quix": "quix_"}
COMMITS_MS = (100, 20)
OURS = "headrace"


class Runs(Protocol):
    """A contender that can run a job to its end."""

    name: str

    def run(self, job: Job) -> list[Outcome]: ...


@dataclass(frozen=True, slots=True)
class Floor:
    """What the parts stand on: who takes part, and where."""

    ground: Ground
    size: Size
    contenders: Sequence[str]
    service_env: Mapping[str, str]
    key: Path
    java: Path
    quix: Path
    say: Say

    def ours(self, guarantee: str = "exactly_once") -> Headrace:
        return Headrace(self.ground, self.service_env, self.key, guarantee)

    def peer(self, name: str, **values: object) -> peers.KafkaStreams | peers.Quix:
        if name == "kafka_streams":
            return peers.KafkaStreams(self.ground, self.java, **values)
        return peers.Quix(self.ground, self.quix, **values)

    def everyone(self) -> list[Headrace | peers.KafkaStreams | peers.Quix]:
        return [self.ours() if name == OURS else self.peer(name) for name in self.contenders]


def workload(floor: Floor, name: str) -> dict[str, Any]:
    """Every contender over the records of its size; medians over the runs, all runs beside them."""
    figures: dict[str, Any] = {}
    made: dict[int, Job] = {}
    for contender in floor.everyone():
        own = contender.name == OURS
        records = getattr(floor.size, name if own else f"{name}_{contender.name}", 0)
        if not records:
            continue
        if records not in made:
            made[records] = JOBS[name](floor.ground, records, floor.say)
        job = made[records]
        slow = contender.name == "quix" or (contender.name == "kafka_streams" and name != "w1")
        figures |= _told(floor, name, contender, job, floor.size.slow_runs if slow else floor.size.runs)
    if name == "w1":
        figures |= _bare(floor, next(iter(made.values())))
    for job in made.values():
        floor.ground.drop_job(job)
    return figures


def _told(floor: Floor, name: str, contender: Runs, job: Job, runs: int) -> dict[str, Any]:
    outcomes: dict[str, list[Outcome]] = {}
    for number in range(runs):
        for outcome in contender.run(job):
            outcomes.setdefault(outcome.contender, []).append(outcome)
            run = outcome.run
            floor.say(
                f"{name} {outcome.contender} run {number + 1} of {runs}: {run.rate:,.0f} records/s, {run.cpu_us:.2f} us of "
                f"processor each, peak {run.peak_bytes / 1e6:,.0f} MB; {outcome.compared.told()}"
            )
    figures: dict[str, Any] = {}
    for label, found in outcomes.items():
        prefix = f"{name}_" if label == OURS else f"{name}_{label}_"
        figures |= summary(prefix, found, job.total)
    return figures


def summary(prefix: str, found: Sequence[Outcome], records: int) -> dict[str, Any]:
    """Medians of one contender's runs over one job."""
    return {
        f"{prefix}rec_s": median(o.run.rate for o in found),
        f"{prefix}cpu_us": median(o.run.cpu_us for o in found),
        f"{prefix}peak_mb": max(o.run.peak_bytes for o in found) / 1e6,
        f"{prefix}records": records,
        f"{prefix}runs": [round(o.run.rate) for o in found],
        f"{prefix}results": found[0].compared.found,
        **{f"{prefix}{name}": max(o.notes[name] for o in found) for name in found[0].notes},
        f"{prefix}faults": sum(not (o.compared.right and o.run.complete) for o in found),
    }


def _bare(floor: Floor, job: Job) -> dict[str, Any]:
    found = [peers.bare(floor.ground, job) for _ in range(floor.size.runs)]
    rate = median(f["records"] / f["wall_s"] for f in found)
    floor.say(f"bare loop: {rate:,.0f} records/s")
    return {
        "control_bare_rec_s": rate, "control_bare_cpu_us": median(f["cpu_s"] / f["records"] * 1e6 for f in found),
        "control_bare_peak_mb": max(f["peak_bytes"] for f in found) / 1e6,
    }  # fmt: skip


def guarantees(floor: Floor) -> dict[str, Any]:
    """What exactly-once costs: W1 with and without, run by run in turn."""
    job, figures = jobs.w1(floor.ground, floor.size.guarantees, floor.say), {}
    ways: dict[str, list[tuple[str, Runs]]] = {}
    if OURS in floor.contenders:
        ways[""] = [("eos_", floor.ours()), ("alo_", floor.ours("at_least_once"))]
    if "kafka_streams" in floor.contenders:
        ways["kafka_streams_"] = [
            ("eos_", floor.peer("kafka_streams")), ("alo_", floor.peer("kafka_streams", guarantee="at_least_once")),
        ]  # fmt: skip
    for name, pair in ways.items():
        rates: dict[str, list[float]] = {"eos_": [], "alo_": []}
        faults = 0
        for _ in range(floor.size.slow_runs if name else floor.size.runs):
            for label, contender in pair:
                outcome = contender.run(job)[-1]  # of a JVM the warm one
                rates[label].append(outcome.run.rate)
                faults += not (outcome.compared.right and outcome.run.complete)
                floor.say(f"{name}{label[:-1]}: {outcome.run.rate:,.0f} records/s; {outcome.compared.told()}")
        eos, alo = median(rates["eos_"]), median(rates["alo_"])
        figures |= {f"eos_{name}rec_s": eos, f"alo_{name}rec_s": alo, f"eos_{name}cost_share": 1 - eos / alo}
        figures[f"eos_{name}faults"] = faults
    floor.ground.drop_job(job)
    return figures


def latencies(floor: Floor) -> dict[str, Any]:
    """p50 and p99 of each contender at each commit interval; the median run of each percentile.

    Not of Quix: one core of it does not keep up with the rate, and a growing queue has no latency.
    """
    figures: dict[str, Any] = {}
    for contender in (c for c in floor.everyone() if c.name != "quix"):
        for commit_ms in COMMITS_MS:
            found = [_latency(floor, contender, commit_ms) for _ in range(floor.size.slow_runs)]
            prefix = f"latency_{NAMES[contender.name]}{commit_ms}_"
            figures |= {f"{prefix}{p}_ms": median(f[f"{p}_ms"] for f in found) for p in latency.PERCENTILES}
            figures[f"{prefix}cpu_share"] = median(f["cpu_share"] for f in found)
            figures[f"{prefix}faults"] = sum(f["missing"] + f["doubled"] > 0 for f in found)
            figures["latency_rate"] = min(figures.get("latency_rate", 1e9), *(f["rate"] for f in found))
    return figures


def _latency(floor: Floor, contender: Serves, commit_ms: int) -> dict[str, float]:
    found = latency.measure(floor.ground, contender, commit_ms, floor.size.latency_s)
    floor.say(
        f"{contender.name} at {commit_ms} ms commits: p50 {found['p50_ms']:.1f} ms, p99 {found['p99_ms']:.1f} ms, of "
        f"{found['answers']:,.0f}; missing {found['missing']:,.0f}, doubled {found['doubled']:,.0f}"
    )
    return found


def restores(floor: Floor) -> dict[str, Any]:
    """Keys a second back from the changelog."""
    keys, runs, figures = floor.size.restore_keys, floor.size.slow_runs, {}
    topic = restore.filled(floor.ground, keys)
    if OURS in floor.contenders:
        ours = restore.of_headrace(floor.ground, floor.ours(), topic, keys, floor.size.runs)
        figures |= {"restore_keys_s": ours.cold_keys_s, "restore_keys": keys}
        floor.say(f"headrace: {ours.cold_keys_s:,.0f} keys/s")
    if "kafka_streams" in floor.contenders:
        theirs = restore.of_kafka_streams(floor.ground, floor.java, topic, keys, runs)
        figures |= {
            "restore_kafka_streams_cold_keys_s": theirs.cold_keys_s,
            "restore_kafka_streams_warm_keys_s": theirs.warm_keys_s,
        }
        floor.say(f"kafka_streams: {theirs.cold_keys_s:,.0f} keys/s cold, {theirs.warm_keys_s:,.0f} warm")
    floor.ground.broker.drop(topic)
    return figures


def idles(floor: Floor) -> dict[str, Any]:
    """W1 with nothing more to do."""
    job, figures = jobs.w1(floor.ground, 50_000, floor.say), {}
    for contender in floor.everyone():
        found = idle.measure(floor.ground, contender, job, floor.size.idle_s)
        figures |= {f"idle_{NAMES[contender.name]}{name}": value for name, value in found.items()}
        floor.say(f"{contender.name}: {found['transactions_10s']:.2f} transactions in 10 s, {found['cpu_share']:.2%} of a core")
    floor.ground.drop_job(job)
    return figures


PARTS: Mapping[str, Callable[[Floor], dict[str, Any]]] = {
    **{name: (lambda floor, name=name: workload(floor, name)) for name in JOBS},
    "eos": guarantees, "latency": latencies, "restore": restores, "idle": idles,
}  # fmt: skip

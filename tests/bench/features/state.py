"""Feature-state throughput of one core: events that wait on the broker are turned into state of uniformly drawn cards.

The payments are keyed by their own id, the state by card: one rekey. One worker alone hands its tiles from stage to stage in
memory; `by_log` makes every tile travel through the partials topic, as it does between workers. Both are measured, each
pinned to one core beside the broker. Control: a bare loop that consumes the same events and does nothing with them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from bench.features.processes import Process, sent, worker
from bench.features.sender import Sending
from bench.features.stream_worker import Working
from bench.features.streams import plan_of
from headrace.chassis.bus_confluent import ConfluentBus
from headrace.plan.topics import partials_topic, plan_topics, state_topic
from headrace_local import Stack

CARDS = 10_000_000

Say = Callable[[str], None]


def measure(stack: Stack, folder: Path, runs: int, events: int, by_log_events: int, say: Say) -> dict[str, float]:
    """Figures of both ways; `events` and `by_log_events` are those of one run."""
    out = _way(stack, folder, "state", False, runs, events, say)
    return out | _way(stack, folder, "state_by_log", True, runs, by_log_events, say)


def _way(stack: Stack, folder: Path, name: str, by_log: bool, runs: int, events: int, say: Say) -> dict[str, float]:
    pipeline = f"bench-{name.replace('_', '-')}"
    plan, log = plan_of(pipeline), folder / f"{name}.log"
    feature_set, topic = plan.feature_sets[0], plan.events[0].topic
    ConfluentBus(stack.bootstrap).admin().ensure_topics(plan_topics(plan))
    state, partials = state_topic(plan, feature_set), partials_topic(plan, feature_set)
    core = max(os.sched_getaffinity(0))
    address: dict[str, Any] = {"bootstrap": stack.bootstrap, "registry_url": stack.registry_url, "pipeline": pipeline}
    working = Working(**address, state_dir=str(folder / name), cpu=core, by_log=by_log)
    legs: list[dict[str, float]] = []
    bare: list[float] = []
    with worker(working, log) as child:
        for run in range(runs):
            sent(Sending(**address, count=events, cards=CARDS, first=run * events), log)
            before = {t: bytes_of(stack, t) for t in (state, partials)}
            told = child.ask({"until": (run + 1) * events})
            grown = {t: bytes_of(stack, t) - size for t, size in before.items()}
            legs.append(told | {"state_bytes": grown[state] / events, "partials_bytes": grown[partials] / events})
            bare.append(_bare(child, events))
            told_s = f"{told['events'] / told['wall_s']:,.0f} events/s, {told['events'] / told['cpu_s']:,.0f} per CPU second"
            say(f"{name} run {run + 1} of {runs}: {told_s}, bare consumer {bare[-1]:,.0f}")
        disk = sum(p.stat().st_size for p in (folder / name).rglob("*") if p.is_file())
    sent_all = runs * events
    figures = {
        f"{name}_events_s": median(leg["events"] / leg["wall_s"] for leg in legs),
        f"{name}_events_per_cpu_s": median(leg["events"] / leg["cpu_s"] for leg in legs),
        f"{name}_events": float(sent_all),
        f"{name}_resident_mb": max(leg["resident_bytes"] for leg in legs) / 1e6,
        f"{name}_topic_bytes_per_event": median(leg["state_bytes"] for leg in legs),
        f"{name}_partials_bytes_per_event": median(leg["partials_bytes"] for leg in legs),
        f"{name}_disk_bytes_per_event": disk / sent_all,
        f"control_{name}_bare_events_s": median(bare),
        f"{name}_event_bytes": bytes_of(stack, topic) / sent_all,
    }
    figures[f"{name}_bytes_per_event"] = figures[f"{name}_topic_bytes_per_event"] + figures[f"{name}_partials_bytes_per_event"]
    if not by_log:
        figures["bytes_per_event"] = figures[f"{name}_bytes_per_event"]
        figures["state_distinct_cards_expected"] = float(round(CARDS * (1 - (1 - 1 / CARDS) ** sent_all)))
    return figures


def _bare(child: Process, events: int) -> float:
    told = child.ask({"bare": events})
    return told["events"] / told["wall_s"]


def bytes_of(stack: Stack, topic: str) -> int:
    """What the broker holds of a topic on disk, markers and batch headers included, indexes not."""
    folders = (stack.layout.data / "kafka" / "log").glob(f"{topic}-*")
    return sum(p.stat().st_size for f in folders if f.name[len(topic) + 1 :].isdigit() for p in f.glob("*.log"))

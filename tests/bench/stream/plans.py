"""Our plan of one workload: a single stream of the declaration, on the topics of one job, under a name of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from headrace.declare import compile, load
from headrace.plan.hashes import sealed
from headrace.plan.ir import Plan, Stream

DECLARATION = Path(__file__).parent / "pipelines" / "streams"
STREAMS = {
    "w1": "ten_seconds", "w2": "minute", "w4": "visit", "w3": "matched", "open": "open_day", "map": "passed",
}  # fmt: skip
COLUMNS = {"window_start": "start", "window_end": "end", "rows": "count"}


def plan_of(workload: str, pipeline: str, run: str) -> Plan:
    """Its one stream and the output are called after the run, so that no run finds what another left."""
    declared = compile(load(DECLARATION))
    found = next(s for s in declared.streams if s.name == STREAMS[workload])
    stream = replace(found, name=f"{found.name}_{run}", output=f"{found.output}_{run}")
    read = {part.event for part in stream.inputs}
    events = [
        replace(e, topic=e.topic.replace(f"{declared.pipeline}.", f"{pipeline}.", 1)) for e in declared.events if e.name in read
    ]
    made = next(e for e in declared.events if e.name == found.output)
    topic = f"{pipeline}.{stream.name.replace('_', '-')}.v1"
    events.append(replace(made, name=stream.output, topic=topic))
    return sealed(replace(declared, pipeline=pipeline, events=tuple(events), streams=(stream,)))


def stream_of(plan: Plan) -> Stream:
    return plan.streams[0]


def out_topic(plan: Plan) -> str:
    return next(e.topic for e in plan.events if e.name == stream_of(plan).output)

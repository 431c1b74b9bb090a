"""What `headrace plan` says before anything runs: topology, topics, state, reads, latency, and what a change means.

Everything is computed from the plan, and from rates where they are given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from headrace.plan.costs import set_cost
from headrace.plan.difference import changes, impact, topics
from headrace.plan.expressions import parse
from headrace.plan.hashes import hash8
from headrace.plan.ir import FeatureSet, Plan
from headrace.plan.problems import Problem
from headrace.plan.report_streams import operator_text, stream_lines, stream_warnings, tree_lines
from headrace.plan.validate import duration_text, scopes
from headrace.plan.view_sizes import bytes_text, rates_of, view_problems

COMMIT_INTERVAL_MS = 25  # svc-stream's default
COMMIT_MS = (4, 16)  # flush, offsets and commit, p50 and p99, measured on a local broker
BATCH_ROWS = 32_000  # svc-stream's default
KEPT_TILES_MANY, KEPT_WINDOWS_MANY = 1_000, 8  # above both, short windows and long ones had better be two sets
COMMITS_ON_THE_WAY = 2  # event -> partials, partials -> state
WORST_MS = COMMITS_ON_THE_WAY * COMMIT_MS[1]  # with the shortest interval
AGAINST_NOTHING = "changes against nothing (--live or --against says what to compare with)"
FRESHNESS_MS = 5_000  # where nobody says how soon an event must be readable


@dataclass(frozen=True, slots=True)
class Edge:
    """One arrow of the topology."""

    source: str
    target: str
    what: str


@dataclass(frozen=True, slots=True)
class Load:
    """What only the user knows. Nothing given: bounds per key and per event are all that is said.

    keys: entities by set or by entity field. events_a_day: of one key, by event. history: rows in the log, by event.
    freshness_ms: how soon an event must be readable, in place of what sets declare. What is given stands in place of what
    is declared.
    """

    keys: Mapping[str, int] = field(default_factory=dict)
    events_a_day: Mapping[str, float] = field(default_factory=dict)
    history: Mapping[str, int] = field(default_factory=dict)
    freshness_ms: int | None = None

    def keys_of(self, item: FeatureSet) -> int | None:
        """Entities of a set, if they are known."""
        return self.keys.get(item.name, self.keys.get(",".join(item.entity), item.keys_expected))

    def freshness_of(self, plan: Plan) -> int:
        """The soonest that is asked for."""
        declared = [item.freshness_ms for item in plan.feature_sets if item.freshness_ms is not None]
        return self.freshness_ms or min(declared, default=FRESHNESS_MS)


def topology(plan: Plan) -> list[Edge]:
    """Sources to events to streams to feature sets to models, in plan order."""
    events = {event.name: event for event in plan.events}
    edges = [Edge(source.name, events[source.event].topic, source.kind.replace("_", " ")) for source in plan.sources]
    for item in plan.streams:
        edges += [Edge(events[read.event].topic, item.name, f"by {', '.join(read.key) or 'one key'}") for read in item.inputs]
        edges.append(Edge(item.name, events[item.output].topic, operator_text(item)))
    for feature_set in plan.feature_sets:
        entity = ", ".join(feature_set.entity)
        edges += [Edge(events[event].topic, feature_set.name, f"by {entity}") for event in feature_set.events]
    for model in plan.models:
        edges.append(Edge(events[model.request].topic, model.name, "requests"))
        used = dict.fromkeys(item.feature_set for item in model.inputs if item.feature_set is not None)
        edges += [Edge(name, model.name, f"{sum(i.feature_set == name for i in model.inputs)} features") for name in used]
        edges.append(Edge(events[model.label.event].topic, model.name, f"label `{model.label.where}`"))
    return edges


def mode_lines(plan: Plan, freshness_ms: int) -> list[str]:
    """How it runs, and how long an event takes to be readable."""
    readers = {event.name: sum(event.name in item.events for item in plan.feature_sets) for event in plan.events}
    shared = ", ".join(f"{name} {count}x" for name, count in readers.items() if count)
    most = (freshness_ms // (2 * COMMITS_ON_THE_WAY)) or 1
    interval = min(COMMIT_INTERVAL_MS, most)
    typical = COMMITS_ON_THE_WAY * (interval // 2 + COMMIT_MS[0])
    worst = COMMITS_ON_THE_WAY * (interval + COMMIT_MS[1])
    return [
        f"micro-batches: a transaction every {interval} ms or {BATCH_ROWS:,} rows; an event is judged once per set that reads "
        f"it ({shared or 'none'})",
        f"hops: event -> partials -> state -> view; {COMMITS_ON_THE_WAY} commits of {COMMIT_MS[0]} ms (p99 {COMMIT_MS[1]} ms)",
        f"an event is readable after some {typical} ms, {worst} ms at p99, when nothing waits; readable within "
        f"{duration_text(freshness_ms)} needs a commit interval of at most {duration_text(most)}",
        "batch: training sets and backfill read the archive with the same verdicts, tiles and lowering",
    ]


def size_lines(plan: Plan, load: Load) -> list[str]:
    """State in total and per key, for the rates given; views; what it writes per event."""
    lines = []
    for item, cost in ((item, set_cost(plan, item)) for item in plan.feature_sets):
        events = dict.fromkeys(level.event for level in cost.levels)
        written = ", ".join(f"{cost.bytes_per_event(event):,} per event of {event}" for event in events)
        lines.append(f"{cost.name}: writes at most {written} (bytes; less where one key comes often in a transaction)")
        rates = rates_of(item, load.events_a_day)
        per_key = cost.projected_bytes_per_key(rates)
        given = [f"{rates[event]:g} {event} a day" for event in events if event in rates]
        lines.append(
            f"{cost.name}: projected {per_key:,} bytes per key with {' and '.join(given) if given else 'every tile filled'}, "
            "from bytes measured by encoding its blocks"
        )
        keys = load.keys_of(item)
        if keys is not None:
            total = keys * per_key
            everywhere = f"in every svc-serve replica (at most {bytes_text(item.view_bytes_max)})"
            where = everywhere if item.placement == "replicated" else "spread over the stream's workers"
            lines.append(
                f"{cost.name}: projected view of {keys:,} keys: {bytes_text(total)} {where}, "
                f"{bytes_text(total // cost.partitions)} in each of {cost.partitions} partitions"
            )
        elif item.placement == "replicated":
            lines.append(
                f"{cost.name}: how large it is in every svc-serve replica is not known: declare keys= (or give --keys); above "
                f"{bytes_text(item.view_bytes_max)} it is refused"
            )
    return lines


def refusals(plan: Plan, load: Load) -> list[Problem]:
    """Replicated sets that are too large under this load; `validate` says so of what is declared alone."""
    return [
        problem for item in plan.feature_sets for problem in view_problems(plan, item, load.keys_of(item), load.events_a_day)
    ]


def backfill_lines(plan: Plan, live: Plan | None, load: Load) -> list[str]:
    """What has to be read again for streams and sets that are new."""
    fates = impact(plan, live).sets | impact(plan, live).streams
    lines = []
    for stream in plan.streams:
        if fates[f"{stream.name} {hash8(stream.hash)}"] == "new":
            lines.append(f"{stream.name} {hash8(stream.hash)} reads {_history([r.event for r in stream.inputs], load)}")
    for item in plan.feature_sets:
        if fates[f"{item.name} {hash8(item.hash)}"] != "new":
            continue
        lines.append(f"{item.name} {hash8(item.hash)} reads {_history(item.events, load)}")
    return lines


def _history(events: Sequence[str], load: Load) -> str:
    known = [f"{load.history[event]:,} rows of {event}" for event in events if event in load.history]
    return ", ".join([*known, *(f"all {event} in the log" for event in events if event not in load.history)])


def impact_lines(plan: Plan, live: Plan) -> list[str]:
    """Names by fate."""
    found = impact(plan, live)
    named = {"new": "new", "stays": "stays as it is", "goes": "goes when nothing uses it any more"}
    return [f"{named[fate]}: {', '.join(found.of(fate)) or 'nothing'}" for fate in ("new", "stays", "goes")]


def text(plan: Plan, live: Plan | None = None, load: Load | None = None) -> str:
    """The report as plain text, stable from run to run."""
    load = load or Load()
    lines = [f"pipeline {plan.pipeline}  plan {hash8(plan.hash)}  semantics {plan.semantics_version}  owner {plan.owner}", ""]
    lines += ["topology", *(f"  {edge.source} -> {edge.target}  ({edge.what})" for edge in topology(plan)), ""]
    lines.append("topics")
    for name, partitions, what in topics(plan):
        lines.append(f"  {name}  {f'{partitions} partitions  ' if partitions else ''}{what}")
    for title, found in (("streams, from topics to readers", tree_lines(plan)), ("streams", stream_lines(plan, load))):
        lines += ["", title, *(f"  {line}" for line in found)] if plan.streams else []
    lines += ["", "feature sets, per key"]
    for cost in (set_cost(plan, item) for item in plan.feature_sets):
        lines.append(
            f"  {cost.name} {hash8(cost.hash)}  by {', '.join(cost.entity)}  {cost.placement}  {cost.features} features  "
            f"at most {cost.tiles_per_key} tiles, {cost.bytes_per_key} bytes  {cost.reads_per_request} reads a request"
        )
    for title, found in (
        ("size", size_lines(plan, load)),
        ("how it runs", mode_lines(plan, load.freshness_of(plan))),
        ("backfill", backfill_lines(plan, live, load)),
        ("models", model_lines(plan)),
        ("warnings", warnings(plan)),
    ):
        lines += ["", title, *(f"  {line}" for line in found)] if found else []
    lines += ["", AGAINST_NOTHING if live is None else f"changes against {hash8(live.hash)}"]
    for change in changes(plan, live):
        what = f" ({', '.join(change.what)})" if change.what else ""
        lines.append(f"  {change.kind} {change.name} {change.verb}{what}: {change.effect}")
    if not changes(plan, live):
        lines.append("  none")
    elif live is not None:
        lines += [f"  {line}" for line in impact_lines(plan, live)]
    return "\n".join(lines) + "\n"


def model_lines(plan: Plan) -> list[str]:
    """Inputs, reads and deadline per model."""
    costs = {item.name: set_cost(plan, item).reads_per_request for item in plan.feature_sets}
    lines = []
    for model in plan.models:
        used = {item.feature_set for item in model.inputs if item.feature_set is not None}
        lines.append(
            f"{model.name} {hash8(model.hash)}  {len(model.inputs)} inputs from {len(used)} sets  "
            f"{sum(costs[name] for name in used)} reads a request  deadline {model.deadline_ms} ms  "
            f"{model.sample_bp / 100:g}% of requests"
        )
    return lines


def warnings(plan: Plan) -> list[str]:
    """What works but may surprise."""
    found = []
    for item in plan.feature_sets:
        if item.freshness_ms is not None and item.freshness_ms < WORST_MS:
            found.append(
                f"{item.name} promises {duration_text(item.freshness_ms)} at p99, but two commits one after the other take up "
                f"to {duration_text(WORST_MS)}"
            )
    for cost in (set_cost(plan, item) for item in plan.feature_sets):
        for level in cost.levels:
            if level.tiles > KEPT_TILES_MANY and cost.ttl_ms > KEPT_WINDOWS_MANY * level.window_ms:
                found.append(
                    f"{cost.name} keeps {level.tiles:,} tiles of {duration_text(level.hop_ms)} per key for its ttl of "
                    f"{duration_text(cost.ttl_ms)}, read over {duration_text(level.window_ms)} only: a set of their own with a "
                    "shorter ttl would keep fewer"
                )
    for event in plan.events:
        if not event.topic.startswith(f"{plan.pipeline}."):
            found.append(f"topic {event.topic} is adopted: append time is its Kafka timestamp, whatever the timestamp's type")
    for model in plan.models:
        set_of = {item.name: item.feature_set for item in model.inputs if item.feature_set is not None}
        for item, scope in zip(model.inputs, scopes(plan, model), strict=False):
            if item.kind != "on_demand" or item.expression is None:
                continue
            columns = parse(item.expression, scope, allow_float=True).columns
            touched = sorted({set_of[column] for column in columns if column in set_of})
            if len(touched) > 1:
                found.append(f"input {item.name} mixes sets {', '.join(touched)}: each is read at its own cut")
    return found + stream_warnings(plan)

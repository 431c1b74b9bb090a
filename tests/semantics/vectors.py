"""What the golden file holds: calls of every function and operator over awkward rows, and every aggregate over one log."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

from headrace.plan import ir, offline
from headrace.plan.expression_functions import Call
from headrace.plan.expression_nodes import Node
from headrace.plan.expressions import Expression, parse
from headrace.plan.oracle import Oracle
from headrace.plan.read import read_features
from headrace.plan.tiles import Block, BlockKey, apply, lift
from headrace.plan.verdicts import SourceState
from support.expression_calls import CALLS, POOLS
from support.law_worlds import EVENTS, HOUR, MIN, Passport, World, database, frame_of, judge_frame, make_world
from unit.plan.engines import FIELDS, by_duckdb, by_polars

ROWS = 60
OPERATORS = [text.strip() for text in """
a + b; a - d; d * p; b // a; d // 7; a % b; d % p; -d; a = b; a <> 0; d < p; f <= g; t > z; a >= d; f = 0; q and a > 0
q or a > 0; not q; a between -7 and 7; a not in (1, 50); s in ('x', ''); u is null; s is not null; q is not true; q is false
a is distinct from b; case when q then a when a > 0 then d end; case s when 'x' then 1 else 2 end; coalesce(a, b, 0)
least(a, b, 0); greatest(f, g); abs(d); abs(f); nullif(a, 0); if(q, 1, 2); f + g; f * g; f - 0.1; a / b; f / g; d / 3; -f
t - z; t + interval '5 minutes'; timestamp '2013-06-01 09:00:00' - t; s = r; s || r || 'x'; n.deep.k * 2; n.c = s
""".replace("\n", ";").split(";") if text.strip()]  # fmt: skip
EXPRESSIONS = tuple(dict.fromkeys([*OPERATORS, *CALLS]))
ENGINES = ("polars", "duckdb", "python")
WORLD_SEED = 11


def rows() -> list[dict[str, Any]]:
    """Each field walks through its pool by its own multiplicative hash, so that pairs of awkward values meet."""
    names = list(POOLS)
    return [
        {name: POOLS[name][(i * (2 * k + 1) + i // 7 + k) % len(POOLS[name])] for k, name in enumerate(names)}
        for i in range(ROWS)
    ]


def functions_of(expression: Expression) -> list[str]:
    """Names of the functions an expression calls, outermost first; none for operators alone."""
    return list(dict.fromkeys(_functions(expression.root)))


def _functions(node: Node) -> Iterator[str]:
    if isinstance(node, Call):
        yield node.function.name
    for child in node.children:
        yield from _functions(child)


def evaluated(text: str, engine: str, given: list[dict[str, Any]]) -> list[Any]:
    expression = parse(text, FIELDS, allow_float=True)
    if engine == "python":
        evaluate = expression.compile()
        return [evaluate(row) for row in given]
    return by_polars(expression, given) if engine == "polars" else by_duckdb(expression, given)


# ---------------------------------------------------------------- aggregates


def feature_set() -> ir.FeatureSet:
    """One feature for each kind of aggregate, over records and over items, and for each step and combination."""
    full: tuple[ir.SlotKind, ...] = ("rows", "nonnull", "sum", "square_lo", "square_hi", "min", "max", "last")
    measures = (
        ir.Measure("m0", "departures", "delay", "delay < 1000", full),
        ir.Measure("m1", "departures", "delay", None, ("first",)),
        ir.Measure("m2", "departures", "delay", None, ("recent",), size=4),
        ir.Measure("m3", "departures", "carrier", None, ("distinct",), size=16),
        ir.Measure("m4", "departures", "flight_id", None, ("registers",), size=16),
        ir.Measure("m5", "departures", "delay", None, ("histogram",), edges=(0, 15, 60)),
        ir.Measure("m6", "departures", "EACH(bags)", "EACH(bags) > 0", ("nonnull", "sum", "max"), scale=1),
        ir.Measure("m7", "departures", "EACH(crew)", None, ("distinct",), size=16),
        ir.Measure("m8", "departures", "EACH(bags)", None, ("recent",), scale=1, size=3),
        ir.Measure("m9", "departures", None, "plane.model = 'A320'", ("rows",)),
        ir.Measure("m10", "departures", "fare", None, ("nonnull", "sum"), scale=2),
    )
    of = {
        "count": ("m0", 0), "sum": ("m0", 0), "mean": ("m0", 0), "variance": ("m0", 0), "stddev": ("m0", 0), "min": ("m0", 0),
        "max": ("m0", 0), "last": ("m0", 0), "first": ("m1", 0), "since": ("m0", 60_000), "distinct": ("m3", 0),
        "quantile": ("m5", 9_000), "bucket": ("m5", 1), "top": ("m5", 0), "recent": ("m2", 1), "recent_sum": ("m2", 0),
        "recent_mean": ("m2", 0),
    }  # fmt: skip
    assert set(of) == set(get_args(ir.AggregateKind)), "a new aggregate wants a golden vector"
    features = [ir.Feature(kind, (_term(name, kind, argument),)) for kind, (name, argument) in of.items()]  # type: ignore[arg-type]
    mean, count, dear = _term("m0", "mean"), _term("m0", "count"), _term("m10", "mean")
    features += [
        ir.Feature("distinct_estimate", (_term("m4", "distinct"),)),
        ir.Feature("each_sum", (_term("m6", "sum"),)),
        ir.Feature("each_max", (_term("m6", "max"),)),
        ir.Feature("each_distinct", (_term("m7", "distinct"),)),
        ir.Feature("each_recent", (_term("m8", "recent", 1),)),
        ir.Feature("nested_count", (_term("m9", "count"),)),
        ir.Feature("ratio", (_term("m9", "count"), count), "ratio"),
        ir.Feature("difference", (dear, mean), "difference"),
        ir.Feature("imputed", (mean,), impute="-1.5"),
        ir.Feature("clipped", (mean,), steps=(ir.Step("clip", "0.25", "20"),)),
        ir.Feature("outlier", (mean,), steps=(ir.Step("outlier", None, "20"),)),
        ir.Feature("bucketed", (mean,), steps=(ir.Step("bucket", edges=("0", "0.5", "15")),)),
    ]
    return ir.FeatureSet(
        "golden", ("origin",), ("departures",), measures, tuple(features), ttl_ms=30 * HOUR, stale_after_ms=HOUR
    )


def _term(measure: str, kind: ir.AggregateKind, argument: int = 0) -> ir.Term:
    endless = kind in ("last", "since")
    return ir.Term(measure, kind, 6 * HOUR, 0 if endless else 15 * MIN, argument)


def world() -> World:
    return make_world(WORLD_SEED, 120)


def asked(known: World) -> list[tuple[str, int]]:
    """(entity, t): three origins at eight times of the log."""
    times = [known.start_ms + known.span_ms * i // 8 for i in range(1, 9)]
    return [(origin, t) for origin in ("EWR", "JFK", "never") for t in times]


Answers = list[tuple[list[float | None], list[int]]]


def aggregated(engine: str, known: World) -> Answers:
    return aggregated_of(engine, known, asked(known))


def aggregated_of(engine: str, known: World, questions: list[tuple[str, int]]) -> Answers:
    """Values and statuses of each question, everything under the cut: served from tiles, by SQL, by the oracle."""
    wanted, cut = feature_set(), {(r.event, r.partition): r.offset + 1 for r in known.log}
    if engine == "python":
        oracle = Oracle(list(EVENTS.values()), known.log)
        found = [oracle.answer(wanted, entity, t, cut, None) for entity, t in questions]
        return [(values, [int(s) for s in statuses]) for values, statuses in found]
    if engine == "duckdb":
        passports = [Passport(entity, t, cut, [], []) for entity, t in questions]
        rows_ = offline.as_served(database(known, passports), wanted, EVENTS, None).features
        return list(zip(rows_.rows(), rows_.statuses.tolist(), strict=True))
    return _served(known, wanted, questions)


def _served(known: World, wanted: ir.FeatureSet, questions: list[tuple[str, int]]) -> Answers:
    blocks: dict[BlockKey, Block] = {}
    tops: list[int] = []
    for partition in range(EVENTS["departures"].partitions):
        records, state = known.records("departures", partition), SourceState()
        frame = frame_of(EVENTS["departures"], records)
        for partial in lift(
            wanted, EVENTS["departures"], frame.filter(judge_frame(state, EVENTS["departures"], frame).accepted)
        ):
            apply(wanted, partial, blocks)
        tops += [] if state.maximum_ms is None else [state.maximum_ms]
    entities, times = [e for e, _ in questions], [t for _, t in questions]
    found = read_features(wanted, entities, times, lambda keys: [blocks.get(k) for k in keys], {"departures": max(tops)}, None)
    return list(zip(found.rows(), found.statuses.tolist(), strict=True))

"""Rules of accumulators, terms and steps: what each aggregate keeps, and which parameters it takes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from headrace.plan.expression_nodes import ValueType
from headrace.plan.expressions import Expression, ExpressionError, parse
from headrace.plan.ir import SIZED_SLOTS, AggregateKind, EventType, Feature, Measure, SlotKind, Step, Term
from headrace.plan.lower import ORDERED
from headrace.plan.problems import Path, Problem, decimal_of

SAFE_INTEGER = 2**53 - 1  # what JSON can carry exactly
SUM_MAGNITUDE = 2**40  # eight million such values fit one int64 sum
SQUARE_MAGNITUDE = 2**31  # a square splits into two 32-bit limbs
EDGES_MAX = 255
RECENT_MAX = 64
DISTINCT_MAX = 1024
REGISTERS = tuple(2**bits for bits in range(4, 13))

# What each aggregate keeps per tile; counts of non-null values tell nothing from zero.
SLOTS_OF: dict[str, tuple[SlotKind, ...]] = {
    "count": ("rows",), "count_value": ("nonnull",), "sum": ("nonnull", "sum"), "mean": ("nonnull", "sum"),
    "variance": ("nonnull", "sum", "square_lo", "square_hi"), "stddev": ("nonnull", "sum", "square_lo", "square_hi"),
    "min": ("nonnull", "min"), "max": ("nonnull", "max"), "first": ("first",), "last": ("last",), "since": ("last",),
    "distinct": ("distinct",), "estimate": ("registers",), "quantile": ("histogram",), "bucket": ("histogram",),
    "top": ("histogram",), "recent": ("recent",), "recent_sum": ("recent",), "recent_mean": ("recent",),
}  # fmt: skip
# Kinds whose tiles nothing else shares: they live in the tile of hop 0, or hold another form of the value.
ALONE: frozenset[SlotKind] = frozenset({"last", "recent", "distinct", "registers", "histogram"})
RATIO: frozenset[AggregateKind] = frozenset({"count", "sum", "bucket", "distinct", "recent_sum"})
TEXT_SLOTS: frozenset[SlotKind] = frozenset({"distinct", "registers"})


def slots_for(kind: str, has_value: bool) -> tuple[SlotKind, ...]:
    """The slots an aggregate needs; `estimate` is a distinct count from registers."""
    return SLOTS_OF["count_value" if kind == "count" and has_value else kind]


def measure_problems(here: Path, measure: Measure, event: EventType) -> Iterator[Problem]:
    """Value and where are canonical, fit what accumulators hold, and cannot overflow."""
    fields = {field.name: field for field in event.fields}
    parsed: dict[str, Expression] = {}
    for part, text in (("value", measure.value), ("where", measure.where)):
        if text is None:
            continue
        try:
            parsed[part] = parse(text, fields)
        except ExpressionError as error:
            yield Problem(here, str(error))
            continue
        if parsed[part].canonical != text:
            yield Problem(here, f"{part} `{text}` is not canonical", f"write `{parsed[part].canonical}`")
    arrays = sorted({array for expression in parsed.values() for array in expression.arrays})
    if len(arrays) > 1:
        yield Problem(here, f"items of {' and of '.join(arrays)} at once", "value and where read items of one array")
    if "where" in parsed and parsed["where"].type.kind != "boolean":
        yield Problem(here, f"where `{measure.where}` is a {parsed['where'].type}", "it must be a condition")
    yield from shape_problems(here, measure)
    value = parsed["value"].type if "value" in parsed else None
    if value is not None:
        yield from _accumulator_problems(here, measure, value)


def _accumulator_problems(here: Path, measure: Measure, value: ValueType) -> Iterator[Problem]:
    if TEXT_SLOTS & set(measure.slots) and value.kind == "string":
        return  # it is hashed
    if value.kind not in ("integer", "timestamp"):
        yield Problem(
            here,
            f"value `{measure.value}` is a {value}",
            "accumulators hold integers and decimals; write `case when ... then 1 else 0 end`",
        )
        return
    if value.scale != measure.scale:
        yield Problem(here, f"scale {measure.scale}, but `{measure.value}` has {value.scale}")
    reach = max(abs(value.minimum), abs(value.maximum))
    for slot, limit in (("sum", SUM_MAGNITUDE), ("square_lo", SQUARE_MAGNITUDE), ("recent", SUM_MAGNITUDE)):
        if slot in measure.slots and reach > limit:
            hint = f"declare a range within +-{limit} (scaled), for example Annotated[Long, Range(0, 1_000_000)]"
            yield Problem(here, f"`{measure.value}` may overflow when summed", hint)
            return


def shape_problems(here: Path, measure: Measure) -> Iterator[Problem]:
    """Size and edges belong to the kinds that use them."""
    sized = SIZED_SLOTS & set(measure.slots)
    alone = sorted(ALONE & set(measure.slots))
    if alone and len(measure.slots) > 1:
        yield Problem(here, f"a {alone[0]} beside other slots", "make it a measure of its own")
        return
    if not sized and measure.size:
        yield Problem(here, f"size {measure.size} of {', '.join(measure.slots)}")
    if "recent" in sized and not 1 <= measure.size <= RECENT_MAX:
        yield Problem(here, f"{measure.size} recent values", f"1 to {RECENT_MAX}")
    if "distinct" in sized and not 2 <= measure.size <= DISTINCT_MAX:
        yield Problem(here, f"distinct values exact to {measure.size}", f"2 to {DISTINCT_MAX}")
    if "registers" in sized and measure.size not in REGISTERS:
        yield Problem(here, f"{measure.size} registers", f"a power of two from {REGISTERS[0]} to {REGISTERS[-1]}")
    if ("histogram" in measure.slots) != bool(measure.edges):
        yield Problem(
            here, f"{len(measure.edges)} edges of {', '.join(measure.slots)}", "a histogram has edges, nothing else has"
        )
    if len(measure.edges) > EDGES_MAX:
        yield Problem(here, f"{len(measure.edges)} edges", f"at most {EDGES_MAX}")
    if any(a >= b for a, b in pairwise(measure.edges)):
        yield Problem(here, "edges do not ascend")
    if any(abs(edge) > SAFE_INTEGER for edge in measure.edges):
        yield Problem(here, "an edge beyond 2**53")


def term_problems(here: Path, term: Term, measure: Measure) -> Iterator[Problem]:
    """A term finds its slots, and its argument means something."""
    kind = "estimate" if term.kind == "distinct" and "registers" in measure.slots else term.kind
    if missing := set(slots_for(kind, measure.value is not None)) - set(measure.slots):
        yield Problem(here, f"measure {measure.id} lacks {', '.join(sorted(missing))}")
    if measure.value is None and term.kind not in ("count", "since"):
        yield Problem(here, f"{term.kind} of no value")
    low, high = _argument_range(term.kind, measure)
    if not low <= term.argument <= high:
        yield Problem(here, f"argument {term.argument} of {term.kind}", f"{low} to {high}")


def _argument_range(kind: AggregateKind, measure: Measure) -> tuple[int, int]:
    if kind in ("bucket", "top"):
        return 0, len(measure.edges)
    if kind == "recent":
        return 0, max(0, measure.size - 1)
    return {"quantile": (1, 10_000), "since": (1, SAFE_INTEGER)}.get(kind, (0, 0))


def windowed(term: Term) -> bool:
    """Whether hop and window fit the kind: the newest values have no hop, all others do."""
    return (term.kind in ORDERED) == (term.hop_ms == 0) and term.window_ms > 0 and term.hop_ms >= 0


def lowering_problems(here: Path, feature: Feature) -> Iterator[Problem]:
    """How terms combine, and the steps after."""
    if len(feature.terms) != (1 if feature.lowering == "value" else 2):
        yield Problem(here, f"{len(feature.terms)} terms for a {feature.lowering}")
        return
    kinds = [term.kind for term in feature.terms]
    if feature.lowering == "ratio" and not RATIO.issuperset(kinds):
        yield Problem(here, "a ratio of something else than counts and sums", "mean and variance divide already")
    if feature.lowering == "difference" and {"stddev", "top"} & set(kinds):
        yield Problem(here, f"a difference of {' and '.join(kinds)}", "roots and places do not subtract exactly")
    if feature.impute is not None and decimal_of(feature.impute) is None:
        yield Problem(here, f"impute '{feature.impute}' is not a number")
    for number, step in enumerate(feature.steps):
        rooted = kinds[0] == "stddev" and all(s.kind == "clip" for s in feature.steps[:number])
        yield from _step_problems(here, step, rooted)


def _step_problems(here: Path, step: Step, rooted: bool) -> Iterator[Problem]:
    bounds = [text for text in (step.low, step.high) if text is not None]
    if (step.kind == "bucket") != bool(step.edges) or (step.kind == "bucket") == bool(bounds):
        yield Problem(here, f"{step.kind} with {len(bounds)} bounds and {len(step.edges)} edges")
        return
    numbers = [decimal_of(text) for text in (*bounds, *step.edges)]
    known = [number for number in numbers if number is not None]
    if len(known) < len(numbers) or any(abs(number) > SAFE_INTEGER for number in known):
        yield Problem(here, f"{step.kind} {', '.join((*bounds, *step.edges))}", "decimal numbers up to 2**53")
    elif any(b < a or (b == a and step.kind == "bucket") for a, b in pairwise(known)):
        yield Problem(here, f"{step.kind} {', '.join((*bounds, *step.edges))} does not ascend")
    elif rooted and any(number < 0 for number in known):
        yield Problem(here, f"{step.kind} below zero of a standard deviation", "it is never negative")

"""The plan: the immutable, typed form of a declaration. Pure data, no I/O, no floats.

All durations and times are int64 milliseconds; event times are UTC. A plan serialises to
canonical JSON (RFC 8785) and is never changed in place: see hashes.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SEMANTICS_VERSION = 1  # moves when a golden vector moves
VIEW_BYTES_MAX = 16 << 30  # every svc-serve replica holds it on disk, and reads it again after losing that

ItemType = Literal["string", "int", "long", "float", "double", "boolean", "timestamp", "decimal"]
FieldType = Literal["string", "int", "long", "float", "double", "boolean", "timestamp", "decimal", "array"]
SlotKind = Literal[
    "rows", "nonnull", "sum", "square_lo", "square_hi", "min", "max", "last",
    "first", "recent", "distinct", "registers", "histogram",
]  # fmt: skip
AggregateKind = Literal[
    "count", "sum", "mean", "variance", "min", "max", "last",
    "first", "since", "stddev", "distinct", "quantile", "bucket", "top", "recent", "recent_sum", "recent_mean",
]  # fmt: skip
StepKind = Literal["clip", "outlier", "bucket"]
InputKind = Literal["feature", "request", "on_demand"]
Placement = Literal["replicated", "owned"]

# int64 slots each kind takes in an accumulator vector, or one of its parts does (`slot_width`); `last` and `first` are
# (event_time_ms, topic index, partition, offset, value), ordered by the first four. FORMATS.md describes all of them.
SLOT_WIDTH: dict[str, int] = {
    "rows": 1,
    "nonnull": 1,
    "sum": 1,
    "square_lo": 1,
    "square_hi": 1,
    "min": 1,
    "max": 1,
    "last": 5,
    "first": 5,
    "recent": 5,  # Measure.size of these, newest first
    "distinct": 1,  # Measure.size of these, the greatest hashes
    "registers": 1,  # Measure.size of these
    "histogram": 1,  # one more than Measure.edges
}
SIZED_SLOTS = frozenset({"recent", "distinct", "registers"})


@dataclass(frozen=True, slots=True)
class Field:
    """One value of an event. `decimal` is an Avro long holding value * 10**scale.

    A field of a nested record has its path as name, `address.city`; it may also be null where the record may. Of an
    array, unit, scale and range are those of its items, which are never null.
    """

    name: str
    type: FieldType
    nullable: bool = False
    unit: str = ""
    scale: int = 0
    minimum: int | None = None
    maximum: int | None = None
    doc: str = ""
    item: ItemType | None = None  # of an array
    items_max: int = 0  # of an array: a longer one is out of range


@dataclass(frozen=True, slots=True)
class NestedRecord:
    """A record inside an event. Its fields stand in `EventType.fields` under their paths; null, it is one of nulls."""

    path: str  # e.g. "address", "customer.address"
    record: str  # Avro record name, e.g. "Address"
    nullable: bool = False
    required: tuple[str, ...] = ()  # of a nullable one: paths that are not null where it is present
    doc: str = ""


@dataclass(frozen=True, slots=True)
class EventType:
    """One event topic and its law: key, event time, lateness, poison bound, duplicate horizon."""

    name: str  # plural noun of the topic, e.g. "departures"
    record: str  # Avro record name, e.g. "Departed"
    topic: str  # e.g. "flights.departures.v1"
    key: str  # field that is the message key
    time: str  # field that is the event time (timestamp)
    fields: tuple[Field, ...]
    lateness_ms: int
    poison_bound_ms: int  # <= lateness_ms
    dedup_id: str | None = None  # field; null values are never duplicates
    dedup_horizon_ms: int = 0
    partitions: int = 2
    available_after_ms: int | None = None  # declared delay of loaded history; None = live source
    records: tuple[NestedRecord, ...] = ()  # outer before inner


@dataclass(frozen=True, slots=True)
class Measure:
    """One accumulator over the accepted events of one type: what a tile holds.

    Where value or where read `EACH(array)`, it is over the items of that array, in order: see plan/items.py.
    """

    id: str  # "m0", "m1", ... unique within the set, in canonical order
    event: str  # EventType.name
    value: str | None  # canonical SQL row expression giving an integer; None counts rows
    where: str | None  # canonical SQL row predicate; null counts as false
    slots: tuple[SlotKind, ...]
    scale: int = 0  # value is scaled by 10**scale
    size: int = 0  # values of `recent`, hashes of `distinct`, `registers` (a power of two)
    edges: tuple[int, ...] = ()  # of the histogram, scaled and ascending: value v is in bucket number (edges <= v)


@dataclass(frozen=True, slots=True)
class Term:
    """One windowed aggregate. hop_ms 0 means the last value, window_ms its max age."""

    measure: str  # Measure.id
    kind: AggregateKind
    window_ms: int
    hop_ms: int
    # since: the unit in ms. quantile: 1/10000. bucket: its number. top: 0 is the most frequent. recent: 0 is the newest.
    argument: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """What happens to an exact value before its one rounding. Bounds and edges are decimal text.

    clip: into [low, high]. outlier: 1 outside [low, high], else 0. bucket: how many edges are <= the value.
    """

    kind: StepKind
    low: str | None = None
    high: str | None = None
    edges: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Feature:
    """A value lowered from one term, or the ratio or difference of two; missing becomes `impute` if given."""

    name: str
    terms: tuple[Term, ...]  # one, or two for a ratio or a difference
    lowering: Literal["value", "ratio", "difference"] = "value"
    impute: str | None = None  # decimal text such as "0" or "-1.5"; the steps do not touch it
    steps: tuple[Step, ...] = ()  # in order


@dataclass(frozen=True, slots=True)
class FeatureSet:
    """Features of one entity, atomic: they share state, cut and progress."""

    name: str  # snake_case, e.g. "origin_load"
    entity: tuple[str, ...]  # fields of the events (and of the request) that form the entity
    events: tuple[str, ...]  # EventType names read, sorted; index = topic index in `last` keys
    measures: tuple[Measure, ...]
    features: tuple[Feature, ...]
    ttl_ms: int
    stale_after_ms: int
    placement: Placement = "replicated"
    partitions: int = 2
    owner: str = ""
    hash: str = ""  # SHA-256 hex over all that can change a value
    keys_expected: int | None = None  # entities; None = not said
    events_a_day: tuple[tuple[str, str], ...] = ()  # of one entity: (EventType name, decimal text), sorted
    view_bytes_max: int = VIEW_BYTES_MAX  # a replicated set projected above that is refused
    freshness_ms: int | None = None  # promised: an event is readable within that, 99 of 100; None = not said

    def __hash__(self) -> int:
        """By name and hash: sets key the caches of compiled reads, and walking 200 features costs more than a read."""
        return hash((self.name, self.hash, len(self.features)))


@dataclass(frozen=True, slots=True)
class Label:
    """The outcome: predicate over `event`, joined by `join`, known `mature_ms` after t."""

    event: str
    where: str
    join: str
    mature_ms: int
    exclude: str | None = None  # predicate: no outcome (cancelled, diverted), never 0
    unlabelled: Literal["drop", "negative", "keep"] = "drop"  # a mature request without an outcome: out, false, or null


@dataclass(frozen=True, slots=True)
class Input:
    """One column of the model's row, in order. `expression` is SQL over request fields and feature names."""

    name: str
    kind: InputKind
    feature_set: str | None = None
    feature: str | None = None
    expression: str | None = None


@dataclass(frozen=True, slots=True)
class Rollout:
    steps: tuple[int, ...]  # per cent of routing keys, growing, ending in 100
    dwell_decisions: int  # matured decisions of the challenger before a step is judged
    alpha_bp: int = 500  # error rate of a fail verdict, in 1/10000


@dataclass(frozen=True, slots=True)
class Watch:
    inputs: tuple[str, ...]  # Input names watched for drift
    window_ms: int  # event time
    psi_permille: int  # effect size that matters, 200 = 0.2
    alpha_bp: int  # false findings a year, in 1/10000
    retrain: bool = True


@dataclass(frozen=True, slots=True)
class Model:
    name: str
    request: str  # EventType name: a record is scored as it arrives; t = its event time
    sample_bp: int  # share of requests decided, by hash of the routing key, 1/10000
    routing_key: str  # request field
    request_id: str  # request field
    when: str | None  # predicate over request fields: only these are decided; None = all
    label: Label
    inputs: tuple[Input, ...]
    trainer: str  # "gradient_boosting"
    trainer_parameters: tuple[tuple[str, str], ...]
    threshold: str  # decimal text: decision is score >= threshold
    gate: tuple[tuple[str, str], ...]  # e.g. ("auc", ">= champion - 0.002"), ("parity", "exact")
    deadline_ms: int
    rules: str  # SQL predicate over input names: the fallback decision
    rules_score: str  # input name whose value ranks requests for the rule's AUC
    default_decision: bool
    explain_top: int
    rollout: Rollout
    watch: Watch
    owner: str
    team: str = ""
    tier: str = "medium"
    hash: str = ""


@dataclass(frozen=True, slots=True)
class Source:
    """How svc-ingest reads one kind of outside record into events of one type."""

    name: str
    event: str
    kind: Literal["http_json_lines", "csv_folder"]
    columns: tuple[tuple[str, str], ...] = ()  # (event field, source column); empty = same names


WindowKind = Literal["tumbling", "hopping", "sliding", "session", "count"]
Emit = Literal["close", "update", "both"]
JoinKind = Literal["interval", "as_of", "table"]
JoinHow = Literal["inner", "left", "outer"]
OutputSource = Literal["key", "window_start", "window_end", "time", "final", "aggregate", "column"]
StoreKind = Literal["rocksdb", "memory"]


@dataclass(frozen=True, slots=True)
class Carried:
    """A value that an input's rows carry to the operator."""

    name: str  # unique within the input
    expression: str  # canonical SQL row expression over the event's fields; over an item of `each`: EACH(array)


@dataclass(frozen=True, slots=True)
class StreamInput:
    """What a stream reads of one event type. Rows whose key has a null part have no place: they are counted and left out."""

    event: str  # EventType.name
    key: tuple[str, ...]  # fields; their texts joined make the key. None: one key for all rows
    where: str | None = None  # canonical SQL predicate; null counts as false
    each: str | None = None  # array field: one row per item, in order; the row of an empty or null array is none
    columns: tuple[Carried, ...] = ()
    table: bool = False  # right side of a table join: a value of null deletes the message key at its append time


@dataclass(frozen=True, slots=True)
class Window:
    """Which rows of a key are aggregated together. All windows are [start, end) in event time, ms.

    tumbling: size_ms, from multiples of it. hopping: size_ms, from multiples of hop_ms. sliding: one window per distinct
    event time t, (t - size_ms, t]. session: rows at most gap_ms apart, end = last + 1. count: `rows` rows in the order of
    (event time, partition, offset, item), end = last + 1.
    """

    kind: WindowKind
    size_ms: int = 0
    hop_ms: int = 0
    gap_ms: int = 0
    rows: int = 0
    emit: Emit = "close"  # one final result, one per transaction that changed it, or both


@dataclass(frozen=True, slots=True)
class Join:
    """inputs[0] is the left side, inputs[1] the right one; both have the same key.

    interval: right.time in [left.time - before_ms, left.time + after_ms]; how says whose unmatched rows come with nulls,
    once the watermark says that no match can follow. as_of and table: the newest right row (by event time, partition,
    offset, item) with right.time <= left.time, of as_of not older than max_age_ms; decided once the watermark has passed
    left.time.
    """

    kind: JoinKind
    how: JoinHow = "inner"
    before_ms: int = 0
    after_ms: int = 0
    max_age_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Distinct:
    """Of the rows of a key, in the order of (event time, partition, offset, item), those pass whose predecessor is more than
    horizon_ms older, or that have none."""

    horizon_ms: int


@dataclass(frozen=True, slots=True)
class OutputField:
    """Where a field of the result comes from.

    key: part `index` of the key, -1 for its text. window_start, window_end. time: event time of the result: window_end - 1
    (of an update the newest event time in the window), the later one of a join's rows, else the row's own. final: false for
    updates. aggregate: `kind` over `measure`, null over nothing but for counts. column: `column` of inputs[index].
    """

    name: str
    source: OutputSource
    index: int = 0
    column: str = ""
    measure: str = ""
    kind: AggregateKind | None = None
    argument: int = 0  # as Term.argument


@dataclass(frozen=True, slots=True)
class Stream:
    """Events made of events: rows filtered, mapped and rekeyed, then at most one of window, join and distinct."""

    name: str  # snake_case
    output: str  # EventType.name of what it writes; nobody else writes that topic
    inputs: tuple[StreamInput, ...]
    fields: tuple[OutputField, ...]  # one per field of the output event, in its order
    window: Window | None = None
    join: Join | None = None
    distinct: Distinct | None = None
    measures: tuple[Measure, ...] = ()  # of the window
    partitions: int = 2  # of its state, and of its output topic
    store: StoreKind = "rocksdb"
    tick_ms: int | None = None  # a stream silent for so long is closed by the clock; None = only events move time
    owner: str = ""
    hash: str = ""  # SHA-256 hex over all that can change a result


@dataclass(frozen=True, slots=True)
class Plan:
    pipeline: str
    owner: str
    events: tuple[EventType, ...]
    sources: tuple[Source, ...]
    feature_sets: tuple[FeatureSet, ...]
    models: tuple[Model, ...]
    semantics_version: int = SEMANTICS_VERSION
    hash: str = ""  # SHA-256 hex of the canonical JSON with this field empty
    retained: tuple[Plan, ...] = ()  # older versions, cut down to models still in use: see retained.py
    streams: tuple[Stream, ...] = ()  # a stream stands after those whose output it reads


def slot_width(measure: Measure, kind: SlotKind) -> int:
    """int64 slots that one kind takes for this measure."""
    parts = len(measure.edges) + 1 if kind == "histogram" else measure.size if kind in SIZED_SLOTS else 1
    return SLOT_WIDTH[kind] * parts

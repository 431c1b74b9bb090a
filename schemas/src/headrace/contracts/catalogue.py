"""Every topic of the platform by name: what it carries, who writes it, what Kafka is told about it.

The facts come from schemas/topics (packaged as topics.json). A file's name is the topic, or a
pattern with [pipeline], [set], [hash8], [topic] or [group] in it. Plans come in by their
attributes only: contracts knows no plan.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Protocol

from headrace.contracts.errors import Fatal
from headrace.contracts.topics import TopicSpec, compaction_waits_ms

PIPELINES = "governance.pipelines.v1"
ROLLOUTS = "governance.rollouts.v1"
AUDIT_ENTRIES = "governance.audit-entries.v1"
PLAN_ACKS = "platform.plan-acks.v1"
FINDINGS = "platform.findings.v1"
ROLLOUT_ACKS = "serve.rollout-acks.v1"
DATASET_REQUESTS = "features.dataset-requests.v1"
DATASETS = "features.datasets.v1"
BASES = "features.bases.v1"
TRAINING_REQUESTS = "train.requests.v1"
TRAINING_RUNS = "train.runs.v1"
MODEL_CANDIDATES = "train.model-candidates.v1"
PERFORMANCE = "monitor.performance.v1"
ROLLOUT_VERDICTS = "monitor.rollout-verdicts.v1"

STATE = "[pipeline].[set]-state.[hash8]"
PARTIALS = "[pipeline].[set]-partials.[hash8]"
ROWS = "[pipeline].[stream]-rows.[hash8]"
SEGMENTS = "[pipeline].[stream]-segments.[hash8]"
PREDICTIONS = "[pipeline].predictions.v1"
SCORING_INPUTS = "[pipeline].scoring-inputs.v1"
LATE = "[pipeline].late.v1"
TIME_ADVANCES = "[pipeline].time-advances.v1"
DLQ = "[topic].[group].dlq"

SERVICES = ("svc-ingest", "svc-stream", "svc-features", "svc-train", "svc-serve", "svc-monitor", "svc-governance")
# First words of topics that are nobody's pipeline.
PLATFORM_DOMAINS = frozenset({"platform", *(service.removeprefix("svc-") for service in SERVICES)})
# Services that read or write every event topic, each with a dead-letter topic of its own.
EVENT_GROUPS = ("svc-ingest", "svc-stream", "svc-features", "svc-serve", "svc-monitor")
# Event-time stamps would let retention delete replayed history, so the broker stamps.
LOG_APPEND_TIME = ("message.timestamp.type", "LogAppendTime")

_WORD = {
    "pipeline": r"[a-z0-9][a-z0-9-]*",
    "set": r"[a-z0-9][a-z0-9-]*",
    "stream": r"[a-z0-9][a-z0-9-]*",
    "hash8": r"[0-9a-f]{8}",
    "topic": r"[a-z0-9][a-z0-9.-]*",
    "group": r"svc-[a-z]+(?:\.[a-z-]+)?",
}


class NamedSet(Protocol):
    """What topics need of a feature set: name, full hash, partitions."""

    @property
    def name(self) -> str: ...
    @property
    def hash(self) -> str: ...
    @property
    def partitions(self) -> int: ...
    @property
    def placement(self) -> str: ...


class NamedStream(Protocol):
    """What topics need of a stream; a feature set has it too."""

    @property
    def name(self) -> str: ...
    @property
    def hash(self) -> str: ...
    @property
    def partitions(self) -> int: ...


class NamedEvent(Protocol):
    """What topics need of an event type."""

    @property
    def topic(self) -> str: ...
    @property
    def partitions(self) -> int: ...


class NamedPlan(Protocol):
    """What topics need of a plan."""

    @property
    def pipeline(self) -> str: ...
    @property
    def events(self) -> Sequence[NamedEvent]: ...
    @property
    def feature_sets(self) -> Sequence[NamedSet]: ...
    @property
    def streams(self) -> Sequence[NamedStream]: ...


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic file."""

    name: str  # topic or pattern
    doc: str
    owner: str
    record: str  # full name of the record; RecordRejected's for dead letters
    key: str
    partitions: int
    compacted: bool
    retention_ms: int
    compatibility: str
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    by_record_name: bool = False  # subject: TopicRecordName
    carries: tuple[str, ...] = ()  # full names of all records, inner ones of an envelope included
    config: tuple[tuple[str, str], ...] = ()
    purges: tuple[str, ...] = ()  # services that delete its beginning once nobody needs it
    reads_back: tuple[str, ...] = ()  # services that read what they said in an earlier life, without a group or dead letters

    @property
    def is_pattern(self) -> bool:
        return "[" in self.name

    def spec(self, name: str | None = None, partitions: int | None = None) -> TopicSpec:
        """For the broker; a pattern needs its name."""
        config = (LOG_APPEND_TIME, *self.config)
        return TopicSpec(name or self.name, partitions or self.partitions, self.compacted, self.retention_ms, config)

    def subject(self, topic: str, record: str) -> str:
        """Registry subject of a record type on this topic. Fatal if the topic does not carry it."""
        if record == self.record and not self.by_record_name:
            return f"{topic}-value"
        if record in self.carries:
            return f"{topic}-{record}"
        raise Fatal(f"topic {topic} does not carry {record}: it carries {', '.join({self.record, *self.carries})}")


def _read(entry: dict[str, Any]) -> Topic:
    return Topic(
        name=entry["topic"],
        doc=entry["doc"],
        owner=entry["owner"],
        record=entry["record"],
        key=entry["key"],
        partitions=entry["partitions"],
        compacted=entry["cleanup"] == "compact",
        retention_ms=entry["retention_ms"],
        compatibility=entry["compatibility"],
        producers=tuple(entry["producers"]),
        consumers=tuple(entry["consumers"]),
        by_record_name=entry.get("subject") == "TopicRecordName",
        carries=tuple(entry.get("carries", ())),
        config=tuple((key, str(value)) for key, value in entry.get("config", {}).items()),
        purges=tuple(entry.get("purges", ())),
        reads_back=tuple(entry.get("reads_back", ())),
    )


@cache
def topics() -> dict[str, Topic]:
    """All topic files by name or pattern."""
    text = files("headrace.contracts").joinpath("topics.json").read_text()
    return {name: _read(entry) for name, entry in json.loads(text).items()}


@cache
def schemas() -> dict[str, dict[str, Any]]:
    """Avro schemas of all platform records by full name, as registered."""
    return json.loads(files("headrace.contracts").joinpath("schemas.json").read_text())


@cache
def _patterns() -> list[tuple[re.Pattern[str], Topic]]:
    known = [topic for topic in topics().values() if topic.is_pattern]
    known.sort(key=lambda topic: topic.name != DLQ)  # a dead-letter topic's name contains another topic's
    return [(re.compile(re.sub(r"\\\[(\w+)\\\]", lambda m: _WORD[m[1]], re.escape(t.name))), t) for t in known]


@cache
def describe(topic: str) -> Topic | None:
    """The topic file that holds for a topic; None for users' event topics."""
    exact = topics().get(topic)
    if exact is not None:
        return exact
    return next((known for pattern, known in _patterns() if pattern.fullmatch(topic)), None)


def compaction_lag_ms(topic: str) -> int | None:
    """How long compaction leaves a record of a topic alone, as its file says; None if it says nothing, or is nobody's."""
    known = describe(topic)
    return None if known is None else compaction_waits_ms(dict(known.config))


def state_topic(plan: NamedPlan, feature_set: NamedSet | str) -> str:
    """`<pipeline>.<set>-state.<hash8>`."""
    return _of_set(STATE, plan, feature_set)


def partials_topic(plan: NamedPlan, feature_set: NamedSet | str) -> str:
    """`<pipeline>.<set>-partials.<hash8>`."""
    return _of_set(PARTIALS, plan, feature_set)


def _of_set(pattern: str, plan: NamedPlan, feature_set: NamedSet | str) -> str:
    if isinstance(feature_set, str):
        feature_set = next(s for s in plan.feature_sets if s.name == feature_set)
    return set_topic(pattern, plan.pipeline, feature_set.name, feature_set.hash)


def set_topic(pattern: str, pipeline: str, set_name: str, set_hash: str) -> str:
    """A topic of one feature set, from plain words: STATE or PARTIALS, snake_case name, full hash."""
    if len(set_hash) < 8:
        raise Fatal(f"feature set {set_name} has no hash: compile the plan first")
    name = pattern.replace("[pipeline]", pipeline).replace("[set]", set_name.replace("_", "-"))
    return name.replace("[hash8]", set_hash[:8])


def rows_topic(plan: NamedPlan, stream: NamedStream) -> str:
    """`<pipeline>.<stream>-rows.<hash8>`."""
    return _of_stream(ROWS, plan, stream)


def segments_topic(plan: NamedPlan, stream: NamedStream) -> str:
    """`<pipeline>.<stream>-segments.<hash8>`."""
    return _of_stream(SEGMENTS, plan, stream)


def _of_stream(pattern: str, plan: NamedPlan, stream: NamedStream) -> str:
    if len(stream.hash) < 8:
        raise Fatal(f"stream {stream.name} has no hash: compile the plan first")
    name = pattern.replace("[pipeline]", plan.pipeline).replace("[stream]", stream.name.replace("_", "-"))
    return name.replace("[hash8]", stream.hash[:8])


def predictions_topic(pipeline: str) -> str:
    return PREDICTIONS.replace("[pipeline]", pipeline)


def scoring_inputs_topic(pipeline: str) -> str:
    return SCORING_INPUTS.replace("[pipeline]", pipeline)


def late_topic(pipeline: str) -> str:
    return LATE.replace("[pipeline]", pipeline)


def time_advances_topic(pipeline: str) -> str:
    return TIME_ADVANCES.replace("[pipeline]", pipeline)


def dlq_topic(topic: str, group: str) -> str:
    """Dead letters of one topic and consumer group; svc-ingest's are those of the topic it would have produced to."""
    return DLQ.replace("[topic]", topic).replace("[group]", group)


def _dead_letters(topic: str, groups: Sequence[str]) -> Iterator[TopicSpec]:
    for group in groups:
        yield topics()[DLQ].spec(dlq_topic(topic, group))


def _consuming_services(topic: Topic) -> list[str]:
    return [name for name in topic.consumers if name in SERVICES]


def platform_topics() -> list[TopicSpec]:
    """Topics that exist before any pipeline, with a dead-letter topic per consuming service.

    Compacted control topics have none: they are read whole, and a bad record there parks or is skipped.
    """
    specs: list[TopicSpec] = []
    for topic in topics().values():
        if topic.is_pattern:
            continue
        specs.append(topic.spec())
        if not topic.compacted:
            specs += _dead_letters(topic.name, _consuming_services(topic))
    return specs


def worker_group(plan: NamedPlan, part: NamedStream) -> str:
    """Consumer group of the workers of a feature set or a stream."""
    return f"svc-stream.{plan.pipeline}.{part.name.replace('_', '-')}.{part.hash[:8]}"


def plan_topics(plan: NamedPlan) -> list[TopicSpec]:
    """Topics of one plan: events, feature sets, streams, late, predictions, answers of owned sets, dead letters."""
    specs: list[TopicSpec] = []
    for event in plan.events:
        specs.append(TopicSpec(event.topic, event.partitions, config=(LOG_APPEND_TIME,)))
        specs += _dead_letters(event.topic, EVENT_GROUPS)
    known = topics()
    for feature_set in plan.feature_sets:
        specs.append(known[PARTIALS].spec(partials_topic(plan, feature_set), feature_set.partitions))
        specs.append(known[STATE].spec(state_topic(plan, feature_set), feature_set.partitions))
    for stream in plan.streams:
        specs.append(known[ROWS].spec(rows_topic(plan, stream), stream.partitions))
        specs.append(known[SEGMENTS].spec(segments_topic(plan, stream), stream.partitions))
    specs += [
        known[LATE].spec(late_topic(plan.pipeline)),
        known[TIME_ADVANCES].spec(time_advances_topic(plan.pipeline)),
        known[PREDICTIONS].spec(predictions_topic(plan.pipeline)),
    ]
    specs += _dead_letters(predictions_topic(plan.pipeline), _consuming_services(known[PREDICTIONS]))
    if any(feature_set.placement == "owned" for feature_set in plan.feature_sets):
        topic = scoring_inputs_topic(plan.pipeline)
        specs += [known[SCORING_INPUTS].spec(topic), *_dead_letters(topic, _consuming_services(known[SCORING_INPUTS]))]
    return specs

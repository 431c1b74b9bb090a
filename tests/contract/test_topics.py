"""The topic files: complete, named by the rules, true to the records; and the catalogue made of them."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import pytest

from headrace.contracts import catalogue, generate
from headrace.contracts.errors import Fatal
from headrace.contracts.records import RECORDS

FILES = generate.load_topics(generate.SCHEMAS / "topics")
NEEDED = {
    "topic", "doc", "owner", "record", "key", "partitions", "cleanup", "retention_ms", "compatibility", "producers",
    "consumers",
}  # fmt: skip
OPTIONAL = {"subject", "carries", "config", "purges", "reads_back"}
OUTSIDE = {"people", "callers"}


@dataclass(frozen=True)
class TinyEvent:
    topic: str
    partitions: int


@dataclass(frozen=True)
class TinySet:
    name: str
    hash: str
    partitions: int
    placement: str = "owned"  # so that every pattern has a topic


@dataclass(frozen=True)
class TinyStream:
    name: str
    hash: str
    partitions: int


@dataclass(frozen=True)
class TinyPlan:
    pipeline: str
    events: tuple[TinyEvent, ...]
    feature_sets: tuple[TinySet, ...]
    streams: tuple[TinyStream, ...] = ()


PLAN = TinyPlan(
    "flights",
    (TinyEvent("flights.departures.v1", 2),),
    (TinySet("origin_load", "0a1b2c3d" + "0" * 56, 3),),
    (TinyStream("hourly_delays", "4e5f6071" + "0" * 56, 4),),
)


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_topic_file_is_complete(name: str) -> None:
    entry = FILES[name]
    assert set(entry) >= NEEDED
    assert set(entry) <= NEEDED | OPTIONAL
    assert entry["owner"] in {*catalogue.SERVICES, "platform"}
    assert set(entry["producers"]) <= set(catalogue.SERVICES)
    assert entry["producers"], "nobody writes it"
    assert set(entry["consumers"]) <= {*catalogue.SERVICES, *OUTSIDE}
    assert entry["consumers"], "nobody reads it"
    assert set(entry.get("purges", ())) <= set(entry["producers"])
    assert set(entry.get("reads_back", ())) <= set(entry["producers"]) - set(entry["consumers"])
    assert entry["owner"] == "platform" or entry["owner"] in {*entry["producers"], *entry["consumers"]}
    assert {entry["record"], *entry.get("carries", ())} <= set(RECORDS)
    assert entry["cleanup"] in {"compact", "delete"}
    assert entry["compatibility"] == "FULL_TRANSITIVE"
    assert entry["partitions"] >= 1
    assert entry["doc"].endswith(".")
    assert entry["key"]
    assert entry.get("subject", "TopicRecordName") == "TopicRecordName"
    if entry.get("subject"):
        assert entry["record"] in entry["carries"]


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_topic_is_named_by_the_rules(name: str) -> None:
    """`<domain>.<plural-noun>.v<major>`, or what hangs on a plan's hash or another topic; never an underscore."""
    assert re.fullmatch(
        r"(\[pipeline\]|platform|ingest|stream|features|train|serve|monitor|governance)\.[a-z]+(-[a-z]+)*\.v\d+"
        r"|\[pipeline\]\.\[set\]-(state|partials)\.\[hash8\]|\[pipeline\]\.\[stream\]-(rows|segments)\.\[hash8\]|\[topic\]\.\[group\]\.dlq",
        name,
    )
    if "[" not in name:
        assert FILES[name]["owner"] in {f"svc-{name.partition('.')[0]}", name.partition(".")[0]}


def test_every_record_travels_on_some_topic() -> None:
    carried = {name for entry in FILES.values() for name in (entry["record"], *entry.get("carries", ()))}
    assert set(RECORDS) - carried == set()


def test_the_constants_are_topics_and_every_plain_topic_has_one() -> None:
    constants = {value for name, value in vars(catalogue).items() if name.isupper() and isinstance(value, str)}
    assert constants == set(FILES)


def test_names_made_from_a_plan_lead_back_to_their_files() -> None:
    made = {
        catalogue.state_topic(PLAN, "origin_load"): catalogue.STATE,
        catalogue.partials_topic(PLAN, PLAN.feature_sets[0]): catalogue.PARTIALS,
        catalogue.rows_topic(PLAN, PLAN.streams[0]): catalogue.ROWS,
        catalogue.segments_topic(PLAN, PLAN.streams[0]): catalogue.SEGMENTS,
        catalogue.predictions_topic("flights"): catalogue.PREDICTIONS,
        catalogue.late_topic("flights"): catalogue.LATE,
        catalogue.dlq_topic("flights.departures.v1", "svc-stream"): catalogue.DLQ,
        catalogue.dlq_topic(catalogue.predictions_topic("flights"), "svc-features.backfill"): catalogue.DLQ,
        catalogue.FINDINGS: catalogue.FINDINGS,
    }
    assert list(made) == [
        "flights.origin-load-state.0a1b2c3d", "flights.origin-load-partials.0a1b2c3d",
        "flights.hourly-delays-rows.4e5f6071", "flights.hourly-delays-segments.4e5f6071", "flights.predictions.v1",
        "flights.late.v1", "flights.departures.v1.svc-stream.dlq",
        "flights.predictions.v1.svc-features.backfill.dlq", "platform.findings.v1",
    ]  # fmt: skip
    for name, pattern in made.items():
        found = catalogue.describe(name)
        assert found is not None
        assert found.name == pattern, name
    assert catalogue.describe("flights.departures.v1") is None


def test_a_set_without_a_hash_has_no_topic() -> None:
    with pytest.raises(Fatal, match="no hash"):
        catalogue.state_topic(PLAN, replace(PLAN.feature_sets[0], hash=""))


def test_a_plan_gets_all_its_topics_with_its_own_partitions() -> None:
    specs = {spec.name: spec for spec in catalogue.plan_topics(PLAN)}
    assert len(specs) == len(catalogue.plan_topics(PLAN))
    assert specs["flights.departures.v1"].partitions == 2
    assert specs["flights.origin-load-state.0a1b2c3d"].partitions == 3
    assert specs["flights.origin-load-state.0a1b2c3d"].compacted
    assert specs["flights.origin-load-partials.0a1b2c3d"].partitions == 3
    assert specs["flights.hourly-delays-rows.4e5f6071"].partitions == 4
    assert not specs["flights.hourly-delays-segments.4e5f6071"].compacted
    assert {"flights.late.v1", "flights.predictions.v1", "flights.departures.v1.svc-stream.dlq"} <= set(specs)


def test_all_our_topics_are_stamped_by_the_broker() -> None:
    """Event-time stamps would let retention delete replayed history."""
    for spec in [*catalogue.platform_topics(), *catalogue.plan_topics(PLAN)]:
        assert catalogue.LOG_APPEND_TIME in spec.config, spec.name


def test_every_topic_read_with_a_group_has_its_dead_letters() -> None:
    names = {spec.name for spec in [*catalogue.platform_topics(), *catalogue.plan_topics(PLAN)]}
    for topic in catalogue.topics().values():
        if topic.is_pattern or topic.compacted:
            continue
        for service in set(topic.consumers) & set(catalogue.SERVICES):
            assert catalogue.dlq_topic(topic.name, service) in names


def test_topics_that_carry_a_rejected_record_take_its_largest_value() -> None:
    """A rejected value may have 1 MiB, the broker's default, before the rest of the record is added."""
    for name in (catalogue.DLQ, catalogue.LATE):
        assert int(dict(catalogue.topics()[name].config)["max.message.bytes"]) > 1_500_000

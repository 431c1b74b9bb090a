"""Declared topics against a broker's: every kind of drift is told, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.chassis.admin_confluent import topic_config
from headrace.client.drift import EXTRA, MISSING, PARTITIONS, Actual, Declared, Plans, compare, declared_topics
from headrace.contracts.catalogue import plan_topics, platform_topics
from headrace.plan.ir import Plan
from support.law_worlds import EVENTS, GATE_LOAD, ORIGIN_LOAD

PLAN = Plan("flights", "ops", tuple(EVENTS.values()), (), (replace(ORIGIN_LOAD, hash="1" * 64),), (), hash="3" * 64)
EARLIER = replace(PLAN, feature_sets=(replace(GATE_LOAD, hash="2" * 64),))
ADOPTING = replace(
    PLAN, pipeline="shop", feature_sets=(), events=(replace(EVENTS["weather"], topic="company.weather"),), hash="4" * 64
)
PLANS = Plans((PLAN,), (EARLIER, PLAN))


def as_declared(declared: dict[str, Declared]) -> dict[str, Actual]:
    return {name: Actual(topic.spec.partitions, topic_config(topic.spec)) for name, topic in declared.items()}


def test_declared_are_the_platforms_topics_and_those_of_plans_in_force_with_what_they_retain() -> None:
    assert {spec.name for spec in (*platform_topics(), *plan_topics(PLAN))} == set(declared_topics([PLAN]))
    retaining = replace(PLAN, retained=(EARLIER,))
    assert set(declared_topics([retaining])) == set(declared_topics([PLAN])) | {spec.name for spec in plan_topics(EARLIER)}


def test_a_broker_as_declared_has_no_drift() -> None:
    declared = declared_topics([PLAN])
    checked = compare(declared, as_declared(declared), PLANS)
    assert (checked.topics, list(checked.drift), list(checked.left_over), checked.foreign) == (len(declared), [], [], 0)


@given(st.data())
def test_exactly_what_was_changed_is_told(data: st.DataObject) -> None:
    """Oracle: the changes themselves. Method: some topics dropped, some given other partitions, some another setting."""
    declared = declared_topics([PLAN])
    actual = as_declared(declared)
    expected: set[tuple[str, str]] = set()
    for name in data.draw(st.lists(st.sampled_from(sorted(declared)), unique=True, max_size=6)):
        change = data.draw(st.sampled_from([MISSING, PARTITIONS, "cleanup.policy", "message.timestamp.type"]))
        if change == MISSING:
            del actual[name]
        elif change == PARTITIONS:
            actual[name] = replace(actual[name], partitions=actual[name].partitions + 1)
        else:
            actual[name] = replace(actual[name], config={**actual[name].config, change: "compact,delete"})
        expected.add((name, change))
    assert {(item.topic, item.what) for item in compare(declared, actual, PLANS).drift} == expected


@pytest.mark.parametrize(
    ("setting", "value", "drifts"),
    [
        ("retention.ms", "604800000", True), ("max.message.bytes", "1048576", True), ("max.message.bytes", "9999999", False),
        ("compression.type", "zstd", False),
    ],
)  # fmt: skip
def test_a_setting_drifts_where_less_is_kept_or_taken_than_declared(setting: str, value: str, drifts: bool) -> None:
    declared = declared_topics([PLAN])
    actual = as_declared(declared)
    actual["flights.late.v1"] = replace(actual["flights.late.v1"], config={**actual["flights.late.v1"].config, setting: value})
    drift = compare(declared, actual, PLANS).drift
    assert [(item.topic, item.what, item.found) for item in drift] == ([("flights.late.v1", setting, value)] if drifts else [])


def test_a_state_topic_may_wait_longer_for_compaction_and_not_shorter() -> None:
    declared = declared_topics([PLAN])
    name = next(name for name in declared if "-state." in name)
    for waits, drifts in (("1", True), ("999999999", False)):
        actual = as_declared(declared)
        actual[name] = replace(actual[name], config={**actual[name].config, "min.compaction.lag.ms": waits})
        assert bool(compare(declared, actual, PLANS).drift) is drifts


def test_what_no_plan_named_is_extra_what_an_earlier_one_named_is_left_over_and_others_are_not_judged() -> None:
    declared = declared_topics([PLAN])
    old = next(spec.name for spec in plan_topics(EARLIER) if "-state." in spec.name)
    more = {
        name: Actual(1) for name in ("flights.typo.v1", "governance.typo.v1", old, "billing.invoices", "__consumer_offsets")
    }
    checked = compare(declared, as_declared(declared) | more, PLANS)
    assert [(item.topic, item.what) for item in checked.drift] == [("flights.typo.v1", EXTRA), ("governance.typo.v1", EXTRA)]
    assert list(checked.left_over) == [old]
    assert checked.foreign == 1


def test_topics_of_a_retired_pipeline_are_left_over() -> None:
    declared = declared_topics([])
    checked = compare(declared, as_declared(declared_topics([PLAN])), Plans((), (PLAN,)))
    assert list(checked.drift) == []
    assert set(checked.left_over) == {spec.name for spec in plan_topics(PLAN)}


def test_an_adopted_topic_keeps_its_settings_and_may_grow_but_not_shrink_or_compact() -> None:
    declared = declared_topics([ADOPTING])
    plans = Plans((ADOPTING,), (ADOPTING,))
    for partitions, config, drifts in (
        (9, {"cleanup.policy": "delete", "retention.ms": "3600000", "message.timestamp.type": "CreateTime"}, []),
        (1, {"cleanup.policy": "delete"}, [PARTITIONS]),
        (2, {"cleanup.policy": "compact"}, ["cleanup.policy"]),
    ):
        actual = as_declared(declared) | {"company.weather": Actual(partitions, config)}
        assert [item.what for item in compare(declared, actual, plans).drift] == drifts

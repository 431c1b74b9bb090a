"""The label join against a naive one that sees everything at once."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from svc_monitor.domain.labels import Decision, LabelJoin, Matured, Outcome

MATURE = 100


def decision(key: str, t: int) -> Decision:
    return Decision(f"request-{key}", t, key, "champion", "model", 0.5, None, True)


KEYS = st.sampled_from("abcdef")
DECISIONS = st.dictionaries(KEYS, st.integers(0, 500))
OUTCOMES = st.lists(
    st.tuples(KEYS, st.integers(0, 150), st.one_of(st.none(), st.booleans())), max_size=20
)  # key, ms after its request, label


def naive(
    decisions: dict[str, int], outcomes: list[tuple[str, Outcome]], watermark: int
) -> list[tuple[str, bool | None, bool]]:
    rows = []
    for key, t in decisions.items():
        if t + MATURE > watermark:
            continue
        own = sorted((o.offset, o.partition, o.event_time_ms, o.label) for k, o in outcomes if k == key)
        if not own or own[0][2] > t + MATURE:
            rows.append((key, None, False))
        else:
            rows.append((key, own[0][3], own[0][3] is None))
    return sorted(rows, key=lambda row: (decisions[row[0]], row[0]))


def told(matured: list[Matured]) -> list[tuple[str, bool | None, bool]]:
    return [(row.decision.routing_key, row.label, row.excluded) for row in matured]


@given(DECISIONS, OUTCOMES, st.randoms(use_true_random=False), st.integers(0, 800))
def test_the_join_equals_a_naive_one_whatever_the_order_of_records(
    decisions: dict[str, int], raw: list[tuple[str, int, bool | None]], shuffle: random.Random, watermark: int
) -> None:
    outcomes = [(k, Outcome(label, decisions.get(k, 0) + d, offset, 0)) for offset, (k, d, label) in enumerate(raw)]
    steps: list[tuple[str, object]] = [("decide", decision(k, t)) for k, t in decisions.items()]
    steps += [("observe", item) for item in outcomes]
    shuffle.shuffle(steps)
    join = LabelJoin(MATURE)
    for kind, body in steps:
        if kind == "decide":
            assert isinstance(body, Decision)
            assert join.decide(body.routing_key, body)
        else:
            assert isinstance(body, tuple)
            join.observe(*body)
    expected = naive(decisions, outcomes, watermark)
    assert told(join.advance(watermark)) == expected
    assert join.open_decisions == len(decisions) - len(expected)


@given(DECISIONS, OUTCOMES)
def test_advancing_step_by_step_gives_the_same_as_at_once_for_records_in_event_time_order(
    decisions: dict[str, int], raw: list[tuple[str, int, bool | None]]
) -> None:
    outcomes = [(k, Outcome(label, decisions.get(k, 0) + d, offset, 0)) for offset, (k, d, label) in enumerate(raw)]
    outcomes = sorted(outcomes, key=lambda item: item[1].event_time_ms)
    outcomes = [(k, Outcome(o.label, o.event_time_ms, offset, 0)) for offset, (k, o) in enumerate(outcomes)]
    join, got = LabelJoin(MATURE), []
    events = [(t, 0, k, None) for k, t in decisions.items()] + [(o.event_time_ms, 1, k, o) for k, o in outcomes]
    for at, _, key, outcome in sorted(events, key=lambda event: event[:3]):
        got += join.advance(at - 1)
        if outcome is None:
            assert join.decide(key, decision(key, at))
        else:
            join.observe(key, outcome)
    got += join.advance(10_000)
    assert told(got) == naive(decisions, outcomes, 10_000)


def test_nothing_is_handed_out_before_its_maturity_although_its_outcome_is_known() -> None:
    join = LabelJoin(MATURE)
    join.decide("a", decision("a", 0))
    join.observe("a", Outcome(True, 10, 0, 0))
    assert join.advance(MATURE - 1) == []
    assert told(join.advance(MATURE)) == [("a", True, False)]
    assert join.advance(MATURE) == []


def test_the_first_outcome_by_offset_wins_even_if_it_is_read_last() -> None:
    join = LabelJoin(MATURE)
    join.decide("a", decision("a", 0))
    for offset, label in ((7, True), (3, False), (5, True)):
        join.observe("a", Outcome(label, 10, offset, 0))
    assert told(join.advance(MATURE)) == [("a", False, False)]


def test_repeats_and_latecomers_are_counted_and_not_joined() -> None:
    join = LabelJoin(MATURE)
    assert join.decide("a", decision("a", 0))
    assert not join.decide("a", decision("a", 50))
    assert told(join.advance(MATURE)) == [("a", None, False)]
    assert not join.decide("a", decision("a", 0))
    assert not join.observe("b", Outcome(True, 0, 1, 0))
    assert join.counts == Counter(decisions=1, duplicates=1, unlabelled=1, late_decisions=1, late_outcomes=1)


def test_a_watermark_never_goes_back_and_outcomes_are_forgotten() -> None:
    join = LabelJoin(MATURE)
    join.observe("a", Outcome(True, 10, 0, 0))
    join.advance(10 + MATURE)
    join.advance(5)
    assert join.watermark_ms == 10 + MATURE
    assert not join._outcomes  # bounded memory: an outcome nobody asked about does not stay

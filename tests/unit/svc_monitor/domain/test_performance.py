"""Performance figures against sums and pairs counted one by one."""

from __future__ import annotations

import math
import random
from datetime import UTC, datetime
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from svc_monitor.domain.labels import Decision, Matured
from svc_monitor.domain.performance import PerformanceTable, auc, month_of, week_of

DAY_MS = 86_400_000
SCORES = st.one_of(st.sampled_from([0.0, 0.25, 0.5, 1.0, -math.inf]), st.floats(0, 1))


def naive_auc(rows: list[tuple[bool, float]]) -> Fraction | None:
    wins = [
        Fraction(2 if mine > theirs else 1 if mine == theirs else 0, 2)
        for truth, mine in rows
        if truth
        for other, theirs in rows
        if not other
    ]
    return sum(wins, Fraction()) / len(wins) if wins else None


@given(st.lists(st.tuples(st.booleans(), SCORES), max_size=40))
def test_auc_equals_the_pairs_counted_one_by_one(rows: list[tuple[bool, float]]) -> None:
    expected = naive_auc(rows)
    got = auc([truth for truth, _ in rows], [score for _, score in rows])
    assert got == (None if expected is None else float(expected))


def test_auc_refuses_nan() -> None:
    with pytest.raises(ValueError, match="NaN"):
        auc([True, False], [math.nan, 0.5])


MATURED = st.builds(
    lambda t, score, rule, decided, label: Matured(
        Decision("r", t, "k", "", "model", score, rule, decided), None if label == "excluded" else label, label == "excluded"
    ),
    st.integers(0, 30 * DAY_MS),
    st.one_of(st.none(), st.floats(0, 1)),
    st.one_of(st.none(), st.just(math.nan), st.integers(-3, 3).map(float)),
    st.booleans(),
    st.sampled_from([True, False, None, "excluded"]),
)


@given(st.lists(MATURED, max_size=30), st.integers(0, 5), st.randoms(use_true_random=False))
def test_figures_equal_naive_ones_in_any_order(rows: list[Matured], waiting: int, shuffle: random.Random) -> None:
    table = PerformanceTable(lambda t: (t // (7 * DAY_MS), t // (7 * DAY_MS) + 1))
    for row in rows:
        table.decide(row.decision)
    for _ in range(waiting):
        table.decide(Decision("r", 0, "k", "", "model", 0.5, 0.0, True))
    shuffled = list(rows)
    shuffle.shuffle(shuffled)
    for row in shuffled:
        table.mature(row)
    report = {line.from_ms: line for line in table.report()}
    periods = {row.decision.t_ms // (7 * DAY_MS) for row in rows} | ({0} if waiting else set())
    assert set(report) == periods
    for period, line in report.items():
        mine = [row for row in rows if row.decision.t_ms // (7 * DAY_MS) == period]
        known = [row for row in mine if row.label is not None]
        scored = [row for row in known if row.decision.score is not None]
        truths = [bool(row.label) for row in scored]
        rules = [row.decision.rule_score for row in scored]
        ranks = [-math.inf if rule is None or math.isnan(rule) else rule for rule in rules]
        asked = len(mine) + (waiting if period == 0 else 0)
        hits = sum(bool(row.label) and row.decision.decision for row in known)
        decided, late = sum(row.decision.decision for row in known), sum(bool(row.label) for row in known)
        squares = [(Fraction(row.decision.score or 0.0) - int(bool(row.label))) ** 2 for row in scored]
        assert (line.decisions, line.matured, line.labelled) == (asked, len(mine), len(known))
        assert line.excluded == sum(row.excluded for row in mine)
        assert line.maturity == len(mine) / asked
        assert line.precision == (hits / decided if decided else None)
        assert line.recall == (hits / late if late else None)
        expected, expected_rule = (
            naive_auc(list(zip(truths, values, strict=True))) for values in ([r.decision.score or 0.0 for r in scored], ranks)
        )
        assert line.auc == (None if expected is None else float(expected))
        assert line.rule_auc == (None if expected_rule is None else float(expected_rule))
        assert line.brier == (pytest.approx(float(sum(squares) / len(squares)), abs=1e-15) if squares else None)


def test_groups_are_kept_apart() -> None:
    table = PerformanceTable()
    row = Matured(Decision("r", 0, "k", "", "model", 0.9, 0.1, True), True, excluded=False)
    table.decide(row.decision, "one")
    table.mature(row, "one")
    table.decide(row.decision, "two")
    assert [(line.group, line.labelled, line.maturity) for line in table.report()] == [("one", 1, 1.0), ("two", 0, 0.0)]


def test_changed_tells_what_was_touched_since_it_was_last_asked() -> None:
    table = PerformanceTable()
    early, late = (Matured(Decision("r", day * DAY_MS, "k", "", "model", 0.9, 0.1, True), True, False) for day in (0, 20))
    table.decide(early.decision)
    table.decide(late.decision)
    assert table.changed() == table.report()
    assert table.changed() == []
    table.mature(late)
    (line,) = table.changed()
    assert line == table.report()[1]
    assert (line.matured, line.maturity) == (1, 1.0)


def utc(*day: int) -> int:
    return int(datetime(*day, tzinfo=UTC).timestamp() * 1000)  # type: ignore[arg-type, misc]


@pytest.mark.parametrize(
    ("t_ms", "monday", "month"),
    [
        (utc(2013, 6, 1), (2013, 5, 27), ((2013, 6, 1), (2013, 7, 1))),
        (utc(2013, 6, 3) - 1, (2013, 5, 27), ((2013, 6, 1), (2013, 7, 1))),
        (utc(2013, 6, 3), (2013, 6, 3), ((2013, 6, 1), (2013, 7, 1))),
        (utc(2013, 12, 31), (2013, 12, 30), ((2013, 12, 1), (2014, 1, 1))),
        (0, (1969, 12, 29), ((1970, 1, 1), (1970, 2, 1))),
    ],
)
def test_periods_are_weeks_from_monday_and_months_of_utc(
    t_ms: int, monday: tuple[int, ...], month: tuple[tuple[int, ...], tuple[int, ...]]
) -> None:
    assert week_of(t_ms) == (utc(*monday), utc(*monday) + 7 * DAY_MS)
    assert month_of(t_ms) == (utc(*month[0]), utc(*month[1]))


@given(st.lists(MATURED, max_size=30), st.integers(0, 30))
def test_closing_periods_changes_no_figure(rows: list[Matured], closed_day: int) -> None:
    """A closed period keeps its figures and nothing else; open ones go on."""
    tables = [PerformanceTable(lambda t: (t // DAY_MS * DAY_MS, t // DAY_MS * DAY_MS + DAY_MS)) for _ in range(2)]
    for table in tables:
        for row in rows:
            table.decide(row.decision)
            table.mature(row)
    tables[1].close(closed_day * DAY_MS)
    assert tables[1].report() == tables[0].report()
    assert tables[1].changed() == tables[0].changed()
    days = {row.decision.t_ms // DAY_MS for row in rows}
    assert tables[1].open_periods == len({day for day in days if day + 1 > closed_day})

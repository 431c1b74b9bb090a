"""The offline answers against plain Python, and a comparison that finds what is not right."""

from __future__ import annotations

from collections import defaultdict

import polars as pl
import pytest

from bench.stream import answers, inputs
from bench.stream.answers import Edition
from bench.stream.compare import compare
from bench.stream.inputs import AFTER_MS, Kind, Spec

DENSE, SPARSE = inputs.readings(Spec("test", 20_000, 1_500)), inputs.readings(Spec("test", 6_000, 40))
EDITIONS: tuple[Edition, ...] = ("judged", "plain")
IDENTITY = ("key", "start", "end")


@pytest.mark.parametrize("edition", EDITIONS)
@pytest.mark.parametrize(("size", "hop"), [(10_000, 10_000), (60_000, 5_000)])
def test_windows_are_those_of_plain_python(edition: Edition, size: int, hop: int) -> None:
    naive: dict[tuple[str, int, int], list[int]] = defaultdict(lambda: [0, 0])
    for key, at, value in _counted(DENSE, edition):
        newest = at - at % hop
        for start in range(newest, newest - size, -hop):
            found = naive[key, start, start + size]
            found[0] += 1
            found[1] += value
    assert _told(answers.windows(DENSE, edition, size, hop)) == {(*k, *v) for k, v in naive.items()}


@pytest.mark.parametrize("edition", EDITIONS)
def test_sessions_are_those_of_plain_python(edition: Edition) -> None:
    gap, by_key = 30_000, defaultdict(list)
    for key, at, value in _counted(SPARSE, edition):
        by_key[key].append((at, value))
    naive: set[tuple[object, ...]] = set()
    for key, rows in by_key.items():
        rows.sort()
        open_: list[tuple[int, int]] = []
        for at, value in [*rows, (1 << 60, 0)]:
            if open_ and at - open_[-1][0] > gap:
                naive.add((key, open_[0][0], open_[-1][0] + 1, len(open_), sum(v for _, v in open_)))
                open_ = []
            open_.append((at, value))
    assert len(naive) > 100
    assert _told(answers.sessions(SPARSE, edition, gap)) == naive


def test_an_edition_without_verdicts_counts_second_copies() -> None:
    judged, plain = (int(answers.windows(DENSE, e, 10_000, 10_000)["count"].sum()) for e in EDITIONS)
    assert plain - judged == DENSE.filter(pl.col("kind") == Kind.DUPLICATE).height > 0


def test_pairs_are_those_of_plain_python() -> None:
    found = inputs.trade(2_000, 500)
    orders = {o["order"]: o for o in found.orders.iter_rows(named=True)}
    naive = set()
    for payment in found.payments.iter_rows(named=True):
        order = orders[payment["order"]]
        if order["at"] <= payment["at"] <= order["at"] + AFTER_MS:
            naive.add((f"{order['order']:010d}", order["at"], payment["at"], order["amount"], payment["amount"]))
    assert 1_700 < len(naive) < 1_900
    assert _told(answers.pairs(found)) == naive


def test_equal_results_in_another_order_are_right() -> None:
    expected = answers.windows(DENSE, "judged", 10_000, 10_000)
    compared = compare(expected, expected.sample(fraction=1.0, shuffle=True, seed=1), IDENTITY)
    assert compared.right
    assert compared.told().endswith("every one right")


def test_a_missing_a_doubled_an_unexpected_and_a_wrong_result_are_each_found() -> None:
    expected = answers.windows(DENSE, "judged", 10_000, 10_000)
    assert _faults(expected, expected[1:]) == (1, 0, 0, 0)
    assert _faults(expected, pl.concat([expected, expected[:2]])) == (0, 2, 0, 0)
    other = expected[:1].with_columns(pl.col("start") - 1)
    assert _faults(expected, pl.concat([expected, other])) == (0, 0, 1, 0)
    changed = expected.with_columns(total=pl.col("total") + (pl.int_range(pl.len()) == 7).cast(pl.Int64))
    assert _faults(expected, changed) == (0, 0, 0, 1)
    nothing = expected.with_columns(total=pl.when(pl.int_range(pl.len()) == 7).then(None).otherwise("total"))
    assert _faults(expected, nothing) == (0, 0, 0, 1)


def test_a_second_copy_with_another_value_is_doubled_and_wrong() -> None:
    expected = answers.windows(DENSE, "judged", 10_000, 10_000)
    again = expected[:1].with_columns(pl.col("count") + 1)
    assert _faults(expected, pl.concat([expected, again])) == (0, 1, 0, 1)


def test_no_results_at_all_are_all_missing() -> None:
    expected = answers.windows(DENSE, "judged", 10_000, 10_000)
    assert _faults(expected, expected.clear()) == (len(expected), 0, 0, 0)


def _counted(frame: pl.DataFrame, edition: Edition) -> list[tuple[str, int, int]]:
    wanted = (Kind.PLAIN,) if edition == "judged" else (Kind.PLAIN, Kind.DUPLICATE)
    return [(f"k{key:05d}", at, value) for key, at, value, kind in frame.select("key", "at", "value", "kind").iter_rows()
            if kind in wanted]  # fmt: skip


def _told(frame: pl.DataFrame) -> set[tuple[object, ...]]:
    rows = frame.rows()
    assert len(set(rows)) == len(rows)
    return set(rows)


def _faults(expected: pl.DataFrame, found: pl.DataFrame) -> tuple[int, int, int, int]:
    compared = compare(expected, found, IDENTITY)
    assert compared.right == (not any((compared.missing, compared.doubled, compared.unexpected, compared.wrong)))
    return compared.missing, compared.doubled, compared.unexpected, compared.wrong

"""Aggregates from the declaration to their values, and what is said when one makes no sense."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from headrace.declare import DeclarationError, compile, load, log_buckets
from headrace.plan import ir, tiles
from headrace.plan.hashes import from_json, to_json
from headrace.plan.read import read_features
from headrace.plan.validate import validate

HEAD = """
from __future__ import annotations
from headrace.declare import *

class Paid(Event, topic="payments", key="id", time="at", lateness="1h"):
    id: str
    at: Timestamp
    user: str
    cents: Annotated[Long, Range(0, 1_000_000)]
    fee: Nullable[Annotated[Decimal, Scale(2), Range(0, 100)]]
    shop: Nullable[Text]

WORDS = ["books", "Food & Drink", "tools"]
HOUR = dict(window="1h", hop="5m")

@feature_set(entity="user", ttl="3d")
class UserLoad:
"""
TAIL = """
shop = Pipeline("shop", owner="ops", events=[Paid], feature_sets=[UserLoad])
"""
ALL = """
    first_cents = Paid.cents.first().over(**HOUR)
    cents_spread = Paid.cents.stddev().over(**HOUR)
    rise = Paid.cents.max().over(**HOUR) - Paid.cents.min().over(**HOUR)
    trend = Paid.cents.mean().over(**HOUR) - Paid.cents.mean().over("1d", hop="1h")
    quiet = Paid.since(max_age="2d", unit="1s")
    quiet_big = Paid.cents.since(where="cents > 100", max_age="2d")
    shops = Paid.shop.distinct(exact_to=8).over(**HOUR)
    shops_about = Paid.shop.distinct_estimate(registers=64).over(**HOUR)
    fee_median = Paid.fee.quantile("0.5", buckets=["0.50", 1, 2, 4]).over(**HOUR)
    fee_high = Paid.fee.bucket_count(4, buckets=["0.50", 1, 2, 4]).over(**HOUR)
    came = Paid.shop.word_counts(WORDS).over(**HOUR).impute(0)
    food_share = Paid.shop.word_count("Food & Drink", WORDS).over(**HOUR) / Paid.count().over(**HOUR)
    usual = Paid.shop.mode(WORDS).over(**HOUR)
    ranking = Paid.shop.top(2, WORDS).over(**HOUR)
    paid = Paid.cents.last_values(2, max_age="1d")
    paid_sum = Paid.cents.last_sum(2, max_age="1d")
    paid_mean = Paid.cents.last_mean(3, max_age="1d")
    clipped = Paid.cents.max().over(**HOUR).clip(high="250.5")
    odd = Paid.cents.max().over(**HOUR).outlier(0, 250)
    size = Paid.cents.sum().over(**HOUR).bucket([100, 500, 1000])
"""


def compiled(folder: Path, body: str) -> ir.Plan:
    file = folder / "pipeline.py"
    file.write_text(HEAD + body + TAIL)
    return compile(load(file))


def test_every_aggregate_is_declared_accumulated_and_read(tmp_path: Path) -> None:
    """Four payments whose features a person can compute."""
    plan = compiled(tmp_path, ALL)
    validate(from_json(to_json(plan)))
    feature_set, event, at = plan.feature_sets[0], plan.events[0], 1_700_000_000_000 // 3_600_000 * 3_600_000
    frame = pl.DataFrame(
        {
            "id": ["a", "b", "c", "d"], "at": [at, at + 1_000, at + 2_000, at + 3_000], "user": ["u"] * 4,
            "cents": [100, 400, 200, 50], "fee": [20, 100, None, 450],
            "shop": ["tools", "Food & Drink", None, "tools"],
            "__partition": [0] * 4, "__offset": [0, 1, 2, 3], "__time": [at, at + 1_000, at + 2_000, at + 3_000],
        }
    )  # fmt: skip
    blocks: dict[tiles.BlockKey, tiles.Block] = {}
    for partial in tiles.lift(feature_set, event, frame):
        tiles.apply(feature_set, partial, blocks)
    rows = read_features(
        feature_set, ["u"], [at + 10_500], lambda keys: [blocks.get(k) for k in keys], {"payments": at + 3_000}, None
    )
    found = dict(zip([f.name for f in feature_set.features], rows.rows()[0], strict=True))
    assert found.pop("shops_about") == pytest.approx(2, rel=0.1)
    assert found == {
        "first_cents": 100, "cents_spread": 17_968.75**0.5, "rise": 350, "trend": 0, "quiet": 7.5, "quiet_big": 8_500,
        "shops": 2, "fee_median": 1.5, "fee_high": 1, "came_books": 0, "came_food_drink": 1, "came_tools": 2,
        "food_share": 0.25, "usual": 2, "ranking_1": 2, "ranking_2": 1, "paid_1": 50, "paid_2": 200, "paid_sum": 250,
        "paid_mean": 650 / 3, "clipped": 250.5, "odd": 1, "size": 2,
    }  # fmt: skip


def test_aggregates_share_what_they_can(tmp_path: Path) -> None:
    """Two quantiles and a bucket of the same edges are one histogram; other edges are another."""
    plan = compiled(
        tmp_path,
        """
    low = Paid.fee.quantile("0.1", buckets=[1, 2]).over("1h", hop="5m")
    high = Paid.fee.quantile("0.9", buckets=[1, 2]).over("1h", hop="5m")
    many = Paid.fee.bucket_count(0, buckets=[1, 2]).over("1d", hop="1h")
    other = Paid.fee.quantile("0.5", buckets=[1, 3]).over("1h", hop="5m")
    last = Paid.fee.last(max_age="1d")
    since = Paid.fee.since(max_age="1d")
    recent = Paid.fee.last_values(2, max_age="1d")
""",
    )
    kept = [(m.slots, m.size, m.edges) for m in plan.feature_sets[0].measures]
    assert kept == [
        (("last",), 0, ()), (("recent",), 2, ()), (("histogram",), 0, (100, 200)), (("histogram",), 0, (100, 300)),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "detail"),
    [
        (
            'x = Paid.cents.stddev().over("1h", hop="5m") - Paid.cents.min().over("1h", hop="5m")',
            "a difference of min and stddev",
        ),
        ('x = Paid.count().over("1h", hop="5m").impute(0) - Paid.count().over("1h", hop="5m")', "a difference after impute"),
        ('x = Paid.cents.quantile("1.5", buckets=[1]).over("1h", hop="5m")', "quantile('1.5')"),
        ('x = Paid.cents.quantile(0.5, buckets=[1]).over("1h", hop="5m")', "quantile(0.5)"),
        ('x = Paid.cents.quantile("0.5", buckets=[2, 1]).over("1h", hop="5m")', "edges do not ascend"),
        ('x = Paid.cents.quantile("0.5", buckets=["1.5"]).over("1h", hop="5m")', "lies between two values"),
        ('x = Paid.cents.quantile("0.5", buckets=[]).over("1h", hop="5m")', "0 edges"),
        ('x = Paid.cents.bucket_count(3, buckets=[1, 2]).over("1h", hop="5m")', "argument 3 of bucket"),
        ('x = Paid.shop.distinct(exact_to=1).over("1h", hop="5m")', "exact to 1"),
        ('x = Paid.shop.distinct_estimate(registers=100).over("1h", hop="5m")', "100 registers"),
        ('x = Paid.shop.word_counts(["a"]).over("1h", hop="5m")', "a vocabulary of 1 words"),
        ('x = Paid.shop.word_counts(["a b", "A-b"]).over("1h", hop="5m")', "one feature name"),
        ('x = Paid.shop.word_count("c", ["a", "b"]).over("1h", hop="5m")', "'c' is not in the vocabulary"),
        ('x = Paid.shop.word_counts(["a", "b"])', "has no window"),
        ('x = Paid.cents.last_values(65, max_age="1d")', "65 recent values"),
        ('x = Paid.cents.max().over("1h", hop="5m").clip(3, 2)', "does not ascend"),
        ('x = Paid.cents.max().over("1h", hop="5m").clip()', "0 bounds"),
        ('x = Paid.cents.max().over("1h", hop="5m").bucket([1, 1])', "does not ascend"),
        ('x = Paid.cents.stddev().over("1h", hop="5m").clip(-1)', "below zero of a standard deviation"),
        ('x = Paid.shop.first().over("1h", hop="5m")', "accumulators hold integers"),
    ],
)
def test_what_makes_no_sense_is_told_at_its_line(tmp_path: Path, line: str, detail: str) -> None:
    """The line of the feature, also for what only the plan's rules find."""
    with pytest.raises(DeclarationError) as caught:
        compiled(tmp_path, "    " + line)
    assert detail in str(caught.value)
    assert {c.where.line for c in caught.value.complaints} == {HEAD.count("\n") + 1}


def test_log_buckets_grow_by_whole_numbers() -> None:
    """Never the same edge twice, and the last is not below the end."""
    assert log_buckets(1, 10, "1.5") == (1, 2, 3, 4, 6, 9, 13)
    assert log_buckets(1, 10**9)[-1] >= 10**9
    with pytest.raises(DeclarationError):
        log_buckets(0, 10)

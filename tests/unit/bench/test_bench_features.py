"""The bench measures right answers: what it writes is read as walking its tiles says, and its joins agree."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from bench.features import declared, joins, judged, live, streams
from bench.features.__main__ import FULL, QUICK, Kept
from bench.features.measure import figures, percentile
from headrace.contracts.codec import Codec, MemoryRegistry
from headrace.contracts.partition import partition_for
from headrace.plan.avro import event_schema
from headrace.plan.tiles import decode_key
from svc_features.reading import SetReader, head_of


def test_every_card_of_the_state_is_read_as_its_tiles_say(tmp_path: Path) -> None:
    """On RocksDB, 200 features of each card, twice: from blocks and from what is kept of them."""
    size = declared.fill(tmp_path, 6)
    codec = declared.codec_of()
    parts, views = declared.bodies(codec), declared.views(tmp_path, codec)
    stored = [(k, v) for view in views for k, v in view.store.range(b"\x01")]
    assert sum(len(k) + len(v) for k, v in stored) == size
    assert {decode_key(declared.SET, k).entity for k, _ in stored} == {declared.card(n) for n in range(6)}
    reader = SetReader(declared.SET, views, codec, head_of(codec, declared.TOPIC))
    for number in (*range(6), *range(6)):
        (values,) = reader.read([declared.card(number)], [declared.NOW]).rows.rows()
        assert values == list(declared.expected(parts, number).values())
    for view in views:
        view.store.close()


def test_the_point_in_time_joins_agree(tmp_path: Path) -> None:
    """Every value of ours is plain DuckDB's; answers of others are compared the same way, one wrong value or row is seen."""
    joins.write(tmp_path, 3_000, 300, 40)
    told = joins.measure(tmp_path, 1, lambda _: None)
    assert set(told) == {"pit_rows_s", "pit_join_rows_s", "pit_duckdb_asof_rows_s", "pit_rows", "pit_rows_differing"}
    assert (told["pit_rows"], told["pit_rows_differing"]) == (300, 0)
    values = joins.asof(joins.database(tmp_path, str(tmp_path)), tmp_path)
    columns = {name: pl.Series(values[:, i], dtype=pl.Float64).fill_nan(None) for i, name in enumerate(joins.VALUES)}
    right = pl.DataFrame({"pid": range(300), **columns})
    for theirs, wrong in (
        (right.reverse(), 0),
        (right.with_columns(v3=pl.when(pl.col("pid") == 7).then(9_999.0).otherwise("v3")), 1),
        (right.head(298), 2),
    ):
        theirs.write_parquet(tmp_path / "theirs.parquet")
        assert joins.differing(tmp_path, tmp_path / "theirs.parquet") == wrong


def test_payments_put_together_from_parts_are_what_the_codec_writes() -> None:
    plan, codec = streams.plan_of("bench-x"), Codec(MemoryRegistry())
    payments, schema = streams.Payments(plan, codec), event_schema(plan, plan.events[0])
    codec.register_event(schema)
    value = payments.value(b"p000000000012", b"card-00000007", payments.time(1_700_000_000_123), 2_345)
    told = {"payment_id": "p000000000012", "card": "card-00000007", "paid_at": 1_700_000_000_123, "amount": 345}
    assert codec.decode_event(schema, value) == told
    homes = {partition_for(probe, plan.feature_sets[0].partitions) for probe in streams.PROBES}
    assert homes == set(range(plan.feature_sets[0].partitions)), "each state partition has a probe"


def test_an_event_is_readable_with_the_first_answer_that_counts_it() -> None:
    """Three events of one probe, the answers skip a count; events of an earlier leg do not take part."""
    probe, other = streams.PROBES
    seen = live.Seen()
    for at_ms, count in ((1, 1), (2, 2), (10, 2), (30, 4), (40, 4), (50, 5)):
        seen.take(probe, count, at_ms * 1_000_000)
    before = {probe: 2, other: 0}
    moments = {probe: [5_000_000, 8_000_000, 9_000_000], other: []}
    assert seen.waits_ms(moments, before) == [25.0, 22.0, 41.0]
    with pytest.raises(RuntimeError, match="event 6"):
        seen.waits_ms({probe: [*moments[probe], 9_500_000]}, before)


def test_the_judgement_names_the_best_whoever_it_is_and_holds_only_what_was_measured() -> None:
    figures_ = {"inproc_200x1_p99_ms": 0.3, "feast_redis_200x1_p99_ms": 0.1, "pit_rows_s": 10.0, "feast_pit_rows_s": 5.0}
    assert [match.order[0][0] for match in judged.matches(figures_)] == [
        "Feast Redis, in process",
        "headrace, verdicts and join",
    ]
    assert judged.matches({"inproc_200x1_p99_ms": 0.3}) == []
    held = {check.name: check.ok for check in judged.checks(figures_, quick=False)}
    assert held == {"inproc_200x1_p99_ms below 0.2": False}
    assert judged.checks(figures_, quick=True) == []
    assert [c.ok for c in judged.checks({"feast_redis": "no redis-server"}, quick=True)] == [False]


def test_a_part_is_kept_for_its_commit_and_size_only(tmp_path: Path) -> None:
    kept = Kept(tmp_path, QUICK)
    kept.write("joins", {"pit_rows_s": 1.5}, 2.0, 0.5)
    again = Kept(tmp_path, QUICK).read("joins")
    assert again is not None and again["figures"] == {"pit_rows_s": 1.5}
    assert kept.read("reads") is None
    assert Kept(tmp_path, FULL).read("joins") is None


def test_a_percentile_is_a_value_that_was_measured() -> None:
    assert [percentile([5.0, 1.0, 3.0, 2.0], share) for share in (0.0, 0.5, 0.99)] == [1.0, 3.0, 5.0]
    asked: list[int] = []
    found = figures("x", asked.append, 10, warm_up=2)
    assert asked == [-1, -2, *range(10)] and found["x_reads"] == 10

"""The bench measures right answers: what it writes is read as walking its tiles says, and its joins agree."""

from __future__ import annotations

from pathlib import Path

from bench.features import declared, joins
from bench.features.measure import figures, percentile
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
    """`measure` compares every value of ours with DuckDB's."""
    joins.write(tmp_path, 3_000, 300, 40)
    assert set(joins.measure(tmp_path, 1)) == {"pit_rows_s", "pit_join_rows_s", "duckdb_asof_rows_s"}


def test_a_percentile_is_a_value_that_was_measured() -> None:
    assert [percentile([5.0, 1.0, 3.0, 2.0], share) for share in (0.0, 0.5, 0.99)] == [1.0, 3.0, 5.0]
    asked: list[int] = []
    found = figures("x", asked.append, 10, warm_up=2)
    assert asked == [-1, -2, *range(10)] and found["x_reads"] == 10

"""Rows of a stream are what its expressions say, row by row, and its results have the types of its output event."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import Any

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from headrace.plan.ir import Carried, Field, Join, OutputField, Stream
from headrace.plan.streams import oracle_joins
from headrace.plan.streams.frames import GONE, ITEM, KEY, OFFSET, PARTITION, SEPARATOR, TIME
from headrace.plan.streams.joins import operator
from headrace.plan.streams.memory_tables import MemoryTables
from headrace.plan.streams.prepare_rows import RowResults, build_prepare
from support.join_worlds import END_MS, FIELDS, event, frame_of, make_logs, record, side, stream

EVENTS = (event("payments"), event("offers"))


def _one(**more: object) -> Stream:
    return Stream("s", "matches", (side("payments", **more),), ())


def _rows(made: Stream, records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return build_prepare(made, 0, EVENTS)(frame_of(records)).to_dicts()


@given(st.integers(0, 1 << 32).map(Random), st.sampled_from((None, "amount > 0", "ok", "note <> '' OR rate < 0")))
def test_rows_are_those_of_the_oracle(rng: Random, where: str | None) -> None:
    """Filter, map, rekey by several fields and flat-map, against plain Python."""
    columns = (Carried("halved", "amount // 2"), Carried("share", "rate / 2"), Carried("short", "lower(note)"))
    made = _one(where=where, key=("shop", "ok", "card"), columns=columns)
    flat = replace(made, inputs=(replace(made.inputs[0], each="tags", columns=(Carried("tag", "EACH(tags)"), *columns)),))
    records = [r for log in make_logs(rng, 1) for r in log.records]
    for built in (made, flat):
        expected = oracle_joins.prepared(built, 0, EVENTS, records)
        assert _rows(built, records) == [{k: v for k, v in row.items() if k != GONE} for row in expected]


def test_rows_whose_key_has_a_null_part_are_counted() -> None:
    """After `where`, and once per item."""
    records = [record(Random(i), i, 0, i, False) | {"card": card, "tags": ["x", "y"], "amount": amount}
               for i, (card, amount) in enumerate([("a", 1), (None, 1), (None, 0), ("", 1)])]  # fmt: skip
    for each, count in ((None, 1), ("tags", 2)):
        prepare = build_prepare(_one(where="amount > 0", each=each), 0, EVENTS)
        assert prepare.keyless(frame_of(records)) == count
        assert set(prepare(frame_of(records))[KEY]) == {"a", ""}


def test_a_key_that_cannot_be_null_costs_no_second_look() -> None:
    fields = tuple(replace(f, nullable=False) if f.name == "card" else f for f in FIELDS)
    prepare = build_prepare(_one(where="amount > 0"), 0, (event("payments", fields),))
    assert prepare.keyless(pl.DataFrame()) == 0


def test_a_stream_without_a_key_has_one_for_all_rows() -> None:
    rows = _rows(_one(key=()), [record(Random(i), i, 0, i, False) for i in range(3)])
    assert [row[KEY] for row in rows] == [""] * 3


def test_items_can_be_the_key() -> None:
    """Rekeyed by what is in an array; the record of an empty one has no row."""
    records = [record(Random(1), 5, 0, i, False) | {"tags": tags} for i, tags in enumerate([["u", ""], [], ["u"]])]
    rows = _rows(_one(each="tags", key=("each(tags)", "shop"), columns=()), [r | {"shop": 7} for r in records])
    assert [(row[KEY], row[OFFSET], row[ITEM]) for row in rows] == [
        (f"u{SEPARATOR}7", 0, 0), (f"{SEPARATOR}7", 0, 1), (f"u{SEPARATOR}7", 2, 0),
    ]  # fmt: skip


def test_a_deletion_passes_whatever_is_asked_of_values() -> None:
    """Its event has none, so any condition on them is null."""
    nothing = dict.fromkeys(("shop", "amount", "rate", "note", "ok", "tags"))
    rows = _rows(_one(where="amount > 0", table=True), [record(Random(1), 5, 0, 1, True) | {"card": "a"} | nothing])
    assert [(row[KEY], row[TIME], row[GONE]) for row in rows] == [("a", 5, True)]


def test_results_of_a_stream_without_an_operator_are_its_rows() -> None:
    """Key parts as their own types again, integers as narrow as declared, the time that of the row."""
    fields = (
        (OutputField("ok", "key", 1), Field("ok", "boolean")), (OutputField("shop", "key", 0), Field("shop", "int")),
        (OutputField("when", "time"), Field("when", "timestamp")),
        (OutputField("tag", "column", 0, "tag"), Field("tag", "string")),
        (OutputField("rate", "column", 0, "rate"), Field("rate", "float", nullable=True)),
    )  # fmt: skip
    asked = side("payments", key=("shop", "ok"), each="tags", columns=(Carried("tag", "EACH(tags)"), Carried("rate", "rate")))
    made = Stream("s", "flat", (asked,), tuple(o for o, _ in fields))
    events = (*EVENTS, event("flat", [f for _, f in fields]))
    records = [record(Random(1), 9, 0, 1, False) | {"shop": 0, "ok": False, "tags": ["", "t"], "rate": -2.5}]
    found = RowResults(made, events)(build_prepare(made, 0, events)(frame_of(records)))
    assert found.schema == {
        "ok": pl.Boolean, "shop": pl.Int32, "when": pl.Int64, "tag": pl.String, "rate": pl.Float32
    }  # fmt: skip
    assert found.rows() == [(False, 0, 9, "", -2.5), (False, 0, 9, "t", -2.5)]
    rows = oracle_joins.prepared(made, 0, events, records)
    assert [r["tag"] for r in oracle_joins.results(made, [rows], END_MS)] == found["tag"].to_list()


def test_a_join_over_nothing_has_the_types_of_its_output() -> None:
    """An array stays an array where a side is null."""
    made, events = stream(Join("interval"))
    found = operator(made, events, MemoryTables()).take([], None).results
    assert found.schema["r_tags"] == pl.List(pl.String) and found.schema["at"] == pl.Int64
    assert found.columns == [f.name for f in made.fields]
    assert {PARTITION, OFFSET}.isdisjoint(found.columns)

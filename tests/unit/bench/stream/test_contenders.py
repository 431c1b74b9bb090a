"""What the contenders are told: our plan of each workload, and values as every side writes them."""

from __future__ import annotations

import io
from typing import Any

import fastavro
import pytest

from bench.stream import peers, records
from bench.stream.inputs import PARTITIONS
from bench.stream.outputs import decoded
from bench.stream.paced_side import varint
from bench.stream.plans import STREAMS, out_topic, plan_of, stream_of
from headrace.plan.avro import event_avro_schema
from headrace.plan.stream_costs import keyed_already


@pytest.mark.parametrize("workload", sorted(STREAMS))
def test_a_plan_has_one_stream_and_reads_what_is_generated(workload: str) -> None:
    """Field by field as the bench writes them: names, order, types; and in as many partitions."""
    plan = plan_of(workload, "bench-x-1", "r7")
    (stream,) = plan.streams
    assert out_topic(plan).startswith("bench-x-1.")
    written = {"w3": [records.ORDER, records.PAYMENT], "map": [records.MOMENT]}.get(workload, [records.READING])
    inputs = [e for e in plan.events if e.name != stream.output]
    assert len(inputs) == len(stream.inputs)
    for event, schema in zip(inputs, written, strict=True):
        ours = event_avro_schema(event, plan.pipeline)
        assert ours["name"] == schema["name"]
        assert [(f["name"], f["type"]) for f in ours["fields"]] == [(f["name"], f["type"]) for f in schema["fields"]]
        assert event.partitions == PARTITIONS
        assert event.topic.startswith("bench-x-1.")
    assert stream.partitions == PARTITIONS


def test_windows_need_no_rekey_and_the_join_does() -> None:
    for workload in ("w1", "w2", "w4", "open"):
        plan = plan_of(workload, "bench-x-1", "r1")
        assert keyed_already(plan, stream_of(plan))
    plan = plan_of("w3", "bench-x-1", "r1")
    assert not keyed_already(plan, stream_of(plan))


def test_two_runs_of_a_workload_share_nothing_but_the_input() -> None:
    one, two = (plan_of("w1", "bench-x-1", run) for run in ("r1", "r2"))
    assert out_topic(one) != out_topic(two)
    assert stream_of(one).name != stream_of(two).name
    assert {e.topic for e in one.events} & {e.topic for e in two.events} == {"bench-x-1.readings.v1"}


@pytest.mark.parametrize("value", [0, 1, 63, 64, 8_191, 8_192, 1_767_225_600_000, 1_767_225_600_000_000])
def test_the_sender_writes_longs_as_avro_does(value: int) -> None:
    assert varint(value) == _avro("long", value)


def test_results_of_several_schemas_are_read_as_columns() -> None:
    """Timestamps as milliseconds; a value without the frame is refused."""
    row = {"key": "k", "start": 1_000, "end": 11_000, "count": 2, "total": 7}
    values = [b"\x00\x00\x00\x00\x05" + _avro(records.WINDOW, row), b"\x00\x00\x00\x00\x06" + _avro(records.WINDOW, row)]
    found = decoded(values, lambda _id: records.WINDOW)
    assert found.rows(named=True) == [row, row]
    with pytest.raises(ValueError, match="Confluent frame"):
        decoded([b"\x01\x00\x00\x00\x05" + values[0][5:]], lambda _id: records.WINDOW)


def test_a_schema_without_logical_types_reads_the_same_bytes() -> None:
    plain = peers.without_logical_types(records.READING)
    assert [f["type"] for f in plain["fields"]] == ["string", "string", "long", "long"]
    assert records.READING["fields"][2]["type"] == records.TIMESTAMP


def _avro(schema: Any, value: object) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(schema), value)
    return out.getvalue()

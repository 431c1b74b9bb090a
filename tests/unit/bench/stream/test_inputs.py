"""The inputs hold what their description says, byte for byte."""

from __future__ import annotations

import io
from collections import Counter

import fastavro
import numpy as np
import pytest

from bench.stream import encode, inputs, records
from bench.stream.inputs import CLOSING_MS, DISORDER_MS, PARTITIONS, Kind, Spec
from headrace.contracts.partition import partition_for

SPEC = Spec("test", 40_000, 2_000)


@pytest.mark.parametrize("width", [1, 2, 3, 6, 8])
def test_longs_are_what_avro_writes(width: int) -> None:
    """Both ends of every width, and both signs."""
    low = 0 if width == 1 else 1 << (7 * (width - 1) - 1)
    high = min((1 << (7 * width - 1)) - 1, (1 << 63) - 1)
    values = np.array([low, -low - 1, high, -high - 1, (low + high) // 2], np.int64)
    written = encode.long(values, width)
    assert [row.tobytes() for row in written] == [_avro("long", v) for v in values.tolist()]


def test_a_long_of_another_width_is_refused() -> None:
    with pytest.raises(ValueError, match="not all 2 bytes"):
        encode.long(np.array([64, 63], np.int64), 2)
    with pytest.raises(ValueError, match="not all 2 bytes"):
        encode.long(np.array([8_191, 8_192], np.int64), 2)


def test_a_string_too_long_for_one_length_byte_is_refused() -> None:
    with pytest.raises(ValueError, match="at most 63"):
        encode.string(np.zeros((1, 64), np.uint8))


def test_values_are_what_avro_writes_behind_the_frame() -> None:
    """A reading and an order, each read back with the schema the registry gets."""
    frame = inputs.readings(SPEC)
    keys = inputs.keys_of(frame)
    values = encode.slices(inputs.encoded_readings(frame, keys, 77))
    for row in (0, 1, 17_000, len(frame) - 1):
        told = frame.row(row, named=True)
        value = {"id": f"{told['id']:010d}", "key": keys[row].tobytes().decode(), "at": told["at"], "value": told["value"]}
        assert values[row] == b"\x00\x00\x00\x00\x4d" + _avro(records.READING, value)
    orders = inputs.trade(100, 50).orders
    parties = inputs.parties_of(orders)
    for row, framed in enumerate(encode.slices(inputs.encoded_side(orders, parties, 8))):
        told = orders.row(row, named=True)
        value = {
            "id": f"{told['id']:010d}", "buyer": parties[row].tobytes().decode(), "order_id": f"{told['order']:010d}",
            "at": told["at"], "amount": told["amount"],
        }  # fmt: skip
        assert framed == b"\x00\x00\x00\x00\x08" + _avro(records.ORDER, value)


def test_every_record_lies_where_its_key_belongs() -> None:
    frame = inputs.readings(SPEC)
    names = inputs.texts(inputs.keys_of(frame))
    expected = {name: partition_for(name, PARTITIONS) for name in set(names)}
    assert [expected[name] for name in names] == frame["partition"].to_list()


def test_exactly_the_late_records_are_late_and_a_second_copy_is_in_time() -> None:
    """By a maximum that runs record by record in each partition, as verdicts are pronounced."""
    frame = inputs.readings(SPEC)
    newest: dict[int, int] = {}
    seen: set[int] = set()
    for row in frame.iter_rows(named=True):
        top = newest.get(row["partition"])
        late = top is not None and row["at"] < top - DISORDER_MS
        again = not late and row["id"] in seen
        assert (late, again) == (row["kind"] == Kind.LATE, row["kind"] == Kind.DUPLICATE), row
        newest[row["partition"]] = max(row["at"], row["at"] if top is None else top)
        seen.add(row["id"])


def test_there_are_as_many_of_each_kind_as_said() -> None:
    counts = Counter(inputs.readings(SPEC)["kind"].to_list())
    assert counts[Kind.DUPLICATE] == SPEC.records // 1_000
    assert counts[Kind.LATE] == (SPEC.records - counts[Kind.DUPLICATE]) // 10_000
    assert counts[Kind.CLOSING] == PARTITIONS
    assert sum(counts.values()) == SPEC.records + PARTITIONS


def test_a_closing_record_ends_each_partition_and_is_far_ahead() -> None:
    frame = inputs.readings(SPEC)
    newest = max(at for at, kind in frame.select("at", "kind").iter_rows() if kind != Kind.CLOSING)
    for partition in range(PARTITIONS):
        last = frame.filter(frame["partition"] == partition).row(-1, named=True)
        assert (last["kind"], last["at"]) == (Kind.CLOSING, newest + CLOSING_MS)


def test_the_same_seed_gives_the_same_records() -> None:
    assert inputs.readings(SPEC).equals(inputs.readings(SPEC))
    assert not inputs.readings(SPEC).equals(inputs.readings(Spec("test", 40_000, 2_000, seed=6)))


def test_keys_follow_zipf() -> None:
    """The first has a share of 1 / H(10,000), the tenth a tenth of that."""
    drawn = inputs.zipf(np.random.default_rng(1), 10_000, 400_000)
    shares = np.bincount(drawn, minlength=10_000) / len(drawn)
    assert shares[0] == pytest.approx(1 / 9.7876, rel=0.02)
    assert shares[9] == pytest.approx(0.1 / 9.7876, rel=0.05)
    assert drawn.max() < 10_000


def test_distinct_keys_are_distinct_and_at_home() -> None:
    frame = inputs.distinct_keys(5_000)
    names = inputs.texts(inputs.distinct_texts(frame["key"].to_numpy()))
    assert len(set(names)) == 5_000
    assert [partition_for(name, PARTITIONS) for name in names] == frame["partition"].to_list()


def _avro(schema: object, value: object) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(schema), value)  # pyright: ignore[reportArgumentType]
    return out.getvalue()

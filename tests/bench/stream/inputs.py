"""The inputs, drawn from a seed: the same records for every contender.

Readings: KEYS keys by Zipf's law (the hottest has a tenth of all), event time advancing by `per_second` records a second
and each record up to DISORDER_MS behind it. One in DUPLICATE_EVERY comes a second time soon after, with the same id; one in
LATE_EVERY is older than everything else by minutes, in no window with anything that is in time, so that every engine leaves
it out. At the end each partition gets a record an hour ahead that closes what is open; its own window stays open.

`per_second` decides how many records share a window, so how many results there are: a few per cent of the input.

Four partitions: what one core would hold of a topic made for a few instances, and enough that a contender which
works by partition has something to spread. Topics are keyed by the window's key; orders and payments are not.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt
import polars as pl

from bench.stream import encode
from headrace.contracts.partition import partitions_for

KEYS = 10_000
PARTITIONS = 4
BASE_MS = 1_767_225_600_000  # 2026-01-01T00:00:00Z
DISORDER_MS = 4_000
LATE_EVERY = 10_000
DUPLICATE_EVERY = 1_000
RESENT_MS = (100, 2_000)  # after the first
RESENT_AGE_MS = 1_500  # only records in such good time are sent again: a second copy is a duplicate, not late
LATE_MS = (200_000, 400_000)  # before everything else
CLOSING_MS = 3_600_000
VALUES = (64, 8_192)  # two bytes each as Avro
AFTER_MS = 10_000  # an order is settled within so long, to match
UNMATCHED_SHARE = 0.1
TIME_BYTES, VALUE_BYTES, ID_DIGITS = 6, 2, 10


class Kind(IntEnum):
    """Why a record is there."""

    PLAIN = 0
    LATE = 1
    DUPLICATE = 2
    CLOSING = 3


@dataclass(frozen=True, slots=True)
class Spec:
    """How many readings, and how many to a second of event time."""

    name: str
    records: int
    per_second: int
    seed: int = 5
    keys: int = KEYS


def key_texts(prefix: str, count: int) -> npt.NDArray[np.uint8]:
    """Keys by their number, as ASCII. Shape (count, 6)."""
    return np.concatenate(
        [np.full((count, 1), ord(prefix), np.uint8), encode.digits(np.arange(count, dtype=np.int64), 5)], axis=1
    )


def texts(matrix: npt.NDArray[np.uint8]) -> list[str]:
    return [row.decode() for row in encode.slices(matrix)]


def zipf(rng: np.random.Generator, keys: int, rows: int) -> npt.NDArray[np.int64]:
    """Numbers of keys, the k-th with a share of 1/k. Shape (rows,)."""
    shares = 1.0 / np.arange(1, keys + 1)
    edges = np.cumsum(shares) / shares.sum()
    return np.minimum(np.searchsorted(edges, rng.random(rows), side="right"), keys - 1)


def readings(spec: Spec) -> pl.DataFrame:
    """Shape (records + PARTITIONS, ...): id, key, at, value, kind, partition, in the order of arrival (partition by partition).

    id and key are numbers; key -1 - p is the closing record of partition p.
    """
    rng = np.random.default_rng([spec.seed, spec.per_second])
    copies = spec.records // DUPLICATE_EVERY
    rows = spec.records - copies
    clock = np.arange(rows) * (1000.0 / spec.per_second)
    lag = rng.integers(0, DISORDER_MS, rows)
    key, value = zipf(rng, spec.keys, rows), rng.integers(*VALUES, rows)
    kind, at = np.zeros(rows, np.int8), BASE_MS + clock.astype(np.int64) - lag
    late = rng.choice(np.arange(rows // 10, rows), rows // LATE_EVERY, replace=False)
    kind[late], at[late] = Kind.LATE, BASE_MS - rng.integers(*LATE_MS, len(late))
    again = rng.choice(np.flatnonzero((lag < RESENT_AGE_MS) & (kind == Kind.PLAIN)), copies, replace=False)
    arrival = np.concatenate([clock, clock[again] + rng.integers(*RESENT_MS, copies)])
    order = np.argsort(arrival, kind="stable")
    source = np.concatenate([np.arange(rows), again])[order]
    kinds = np.concatenate([kind, np.full(copies, Kind.DUPLICATE, np.int8)])[order]
    home = partitions_for(texts(key_texts("k", spec.keys)), PARTITIONS)
    frame = _frame(source, key[source], at[source], value[source], kinds, home[key[source]])
    return pl.concat([frame, _closing(rows, int(frame["at"].max()))])  # pyright: ignore[reportArgumentType]


def distinct_keys(keys: int, seed: int = 5) -> pl.DataFrame:
    """One reading per key within a minute, in one window that stays open: what a restore brings back. As `readings`."""
    rng = np.random.default_rng([seed, keys])
    at = BASE_MS + np.arange(keys, dtype=np.int64) * 60_000 // keys
    key = rng.permutation(keys).astype(np.int64)
    home = partitions_for(texts(distinct_texts(np.arange(keys))), PARTITIONS)
    return _frame(np.arange(keys), key, at, rng.integers(*VALUES, keys), np.zeros(keys, np.int8), home[key])


def distinct_texts(key: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """Names of more keys than five digits can tell apart. Shape (n, 8)."""
    return np.concatenate([np.full((len(key), 1), ord("d"), np.uint8), encode.digits(key, 7)], axis=1)


def _frame(number: object, key: object, at: object, value: object, kind: object, partition: object) -> pl.DataFrame:
    return pl.DataFrame(
        {"id": number, "key": key, "at": at, "value": value, "kind": kind, "partition": partition},
        schema={"id": pl.Int64, "key": pl.Int32, "at": pl.Int64, "value": pl.Int64, "kind": pl.Int8, "partition": pl.Int8},
    )


def _closing(first_id: int, newest_ms: int) -> pl.DataFrame:
    own = np.arange(PARTITIONS)
    rows = PARTITIONS
    at = np.full(rows, newest_ms + CLOSING_MS)
    return _frame(first_id + own, -1 - own, at, np.full(rows, VALUES[0]), np.full(rows, int(Kind.CLOSING), np.int8), own)


def closing_texts() -> npt.NDArray[np.uint8]:
    """Keys that live in partition 0, 1, ... Shape (PARTITIONS, 6)."""
    names = key_texts("c", 1_000)
    homes = partitions_for(texts(names), PARTITIONS)
    return names[[int(np.flatnonzero(homes == p)[0]) for p in range(PARTITIONS)]]


def keys_of(frame: pl.DataFrame) -> npt.NDArray[np.uint8]:
    """Texts of the keys of readings. Shape (n, 6)."""
    # A negative number counts from the end: the closing keys lie there, the first one last.
    names = np.concatenate([key_texts("k", KEYS), closing_texts()[::-1]])
    return names[frame["key"].to_numpy()]


def encoded_readings(frame: pl.DataFrame, keys: npt.NDArray[np.uint8], schema_id: int) -> npt.NDArray[np.uint8]:
    """Framed values. Shape (n, width)."""
    return encode.joined([
        encode.frame(schema_id, len(frame)), encode.string(encode.digits(frame["id"].to_numpy(), ID_DIGITS)),
        encode.string(keys), encode.long(frame["at"].to_numpy(), TIME_BYTES),
        encode.long(frame["value"].to_numpy(), VALUE_BYTES),
    ])  # fmt: skip


@dataclass(frozen=True, slots=True)
class Trade:
    """Orders and what settles them. Columns: id, party, order, at, amount, partition."""

    orders: pl.DataFrame
    payments: pl.DataFrame


def trade(orders: int, per_second: int, seed: int = 5) -> Trade:
    """As many payments as orders; UNMATCHED_SHARE of them come after the time that counts. `per_second` of each."""
    rng = np.random.default_rng([seed, orders])
    number = rng.permutation(orders).astype(np.int64)  # ids say nothing about time
    at = BASE_MS + (np.arange(orders) * (1000.0 / per_second)).astype(np.int64)
    delay = rng.integers(1, AFTER_MS + 1, orders)
    delay += np.where(rng.random(orders) < UNMATCHED_SHARE, AFTER_MS, 0)
    return Trade(_side(rng, number, at, 0), _side(rng, number, at + delay, orders))


def _side(rng: np.random.Generator, order: npt.NDArray[np.int64], at: npt.NDArray[np.int64], first_id: int) -> pl.DataFrame:
    rows = len(order)
    party, arrival = zipf(rng, KEYS, rows), at + rng.integers(0, DISORDER_MS, rows)
    home = partitions_for(texts(key_texts("p", KEYS)), PARTITIONS)
    frame = pl.DataFrame({
        "id": np.arange(first_id, first_id + rows), "party": party, "order": order, "at": at,
        "amount": rng.integers(*VALUES, rows), "partition": home[party].astype(np.int8),
    })  # fmt: skip
    return frame[np.argsort(arrival, kind="stable")]


def parties_of(frame: pl.DataFrame) -> npt.NDArray[np.uint8]:
    """Message keys of orders or payments. Shape (n, 6)."""
    return key_texts("p", KEYS)[frame["party"].to_numpy()]


def encoded_side(frame: pl.DataFrame, parties: npt.NDArray[np.uint8], schema_id: int) -> npt.NDArray[np.uint8]:
    """Framed values. Shape (n, width)."""
    return encode.joined([
        encode.frame(schema_id, len(frame)), encode.string(encode.digits(frame["id"].to_numpy(), ID_DIGITS)),
        encode.string(parties), encode.string(encode.digits(frame["order"].to_numpy(), ID_DIGITS)),
        encode.long(frame["at"].to_numpy(), TIME_BYTES), encode.long(frame["amount"].to_numpy(), VALUE_BYTES),
    ])  # fmt: skip

"""What is disturbed: a stream of each way to run, over the inputs of the bench."""

from __future__ import annotations

from headrace.declare import (
    Annotated,
    Event,
    Hopping,
    IntervalJoin,
    Long,
    Pipeline,
    Range,
    Session,
    Text,
    Timestamp,
    Tumbling,
    stream,
)

PARTITIONS = 4


class Reading(Event, topic="readings", key="key", time="at", lateness="4s", dedup=("id", "10s"), partitions=PARTITIONS):
    id: Text
    key: Text
    at: Timestamp
    value: Annotated[Long, Range(0, 10_000)]


class Ordered(Event, topic="orders", key="buyer", time="at", lateness="4s", partitions=PARTITIONS):
    id: Text
    buyer: Text
    order_id: Text
    at: Timestamp
    amount: Long


class Settled(Event, topic="payments", key="payer", time="at", lateness="4s", partitions=PARTITIONS):
    id: Text
    payer: Text
    order_id: Text
    at: Timestamp
    amount: Long


# Keyed already, state on disk.
@stream(Reading, window=Tumbling("10s"), partitions=PARTITIONS)
class TenSeconds:
    rows = Reading.count()
    total = Reading.value.sum()


# Rekeyed because its partitions differ, state in memory: the changelog is all there is.
@stream(Reading, window=Hopping("60s", hop="5s"), partitions=3, store="memory")
class Minute:
    rows = Reading.count()
    total = Reading.value.sum()


# Sessions on disk, rekeyed.
@stream(Reading, window=Session(gap="2s"), partitions=2)
class Visit:
    rows = Reading.count()
    total = Reading.value.sum()


# Two topics, rekeyed, rows on disk.
@stream(IntervalJoin(Ordered, Settled, by="order_id", after="10s"), partitions=PARTITIONS)
class Matched:
    ordered_at = Ordered.at
    settled_at = Settled.at
    ordered = Ordered.amount
    settled = Settled.amount


storm = Pipeline("storm", owner="chaos", events=[Reading, Ordered, Settled], streams=[TenSeconds, Minute, Visit, Matched])

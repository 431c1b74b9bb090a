"""What is measured of our own streams, declared as a user would: the bench runs one of them at a time, see ours.py."""

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

PARTITIONS = 4  # of every topic: a key's readings lie where its windows do, orders and payments must travel


class Reading(Event, topic="readings", key="key", time="at", lateness="4s", dedup=("id", "10s"), partitions=PARTITIONS):
    id: Text
    key: Text
    at: Timestamp
    value: Annotated[Long, Range(0, 10_000)]


class Moment(Event, topic="moments", key="key", time="at", lateness="4s", dedup=("id", "10s"), partitions=PARTITIONS):
    """A reading whose value is when it was sent, microseconds since 1970."""

    id: Text
    key: Text
    at: Timestamp
    value: Long


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


@stream(Reading, window=Tumbling("10s"), partitions=PARTITIONS)
class TenSeconds:
    rows = Reading.count()
    total = Reading.value.sum()


@stream(Reading, window=Hopping("60s", hop="5s"), partitions=PARTITIONS)
class Minute:
    rows = Reading.count()
    total = Reading.value.sum()


@stream(Reading, window=Session(gap="30s"), partitions=PARTITIONS)
class Visit:
    rows = Reading.count()
    total = Reading.value.sum()


@stream(Reading, window=Tumbling("1d"), partitions=PARTITIONS)
class OpenDay:
    rows = Reading.count()
    total = Reading.value.sum()


@stream(IntervalJoin(Ordered, Settled, by="order_id", after="10s"), partitions=PARTITIONS)
class Matched:
    ordered_at = Ordered.at
    settled_at = Settled.at
    ordered = Ordered.amount
    settled = Settled.amount


@stream(Moment, where="value >= 0", time="at", partitions=PARTITIONS)
class Passed:
    id = Moment.id
    value = Moment.value


streams = Pipeline(
    "streams",
    owner="bench",
    events=[Reading, Moment, Ordered, Settled],
    streams=[TenSeconds, Minute, Visit, OpenDay, Matched, Passed],
)

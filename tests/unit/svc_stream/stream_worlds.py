"""Generated logs of orders, shipments and rates, and streams of every kind over them."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Annotated, Any

from headrace.declare import Event, Long, Pipeline, Range, Timestamp, compile
from headrace.declare.operators import AsOfJoin, Count, Hopping, IntervalJoin, Session, Sliding, TableJoin, Tumbling
from headrace.declare.streams import stream
from unit.svc_stream.stream_rig import BEGIN, StreamRig

MINUTE = 60_000
LATENESS_MS = 5 * MINUTE
Cents = Annotated[Long, Range(-10_000, 10_000)]


class Ordered(Event, topic="orders", key="order_id", time="at", lateness="5m", poison_bound="1m", dedup=("line_id", "1h")):
    order_id: str
    line_id: str
    shop: str | None
    cents: Cents | None
    gift: bool
    at: Timestamp


class Shipped(Event, topic="shipments", key="order_id", time="at", lateness="5m", poison_bound="1m", partitions=3):
    order_id: str
    weight: int | None
    at: Timestamp


class Rate(Event, topic="rates", key="shop", time="at", lateness="30m", poison_bound="30m"):
    shop: str
    cents: Cents | None
    at: Timestamp


@stream(Ordered, where="cents > 100")
class LargeOrders:
    shop = Ordered.shop
    cents = Ordered.cents


@stream(IntervalJoin(Ordered, Shipped, by="order_id", before="2m", after="10m", how="left"))
class OrderShipped:
    cents = Ordered.cents
    weight = Shipped.weight


@stream(IntervalJoin(Ordered, Shipped, by="order_id", before="1m", after="5m", how="outer"), store="memory", partitions=3)
class OrderOrShipped:
    line_id = Ordered.line_id
    weight = Shipped.weight


@stream(AsOfJoin(Ordered, Rate, by="shop", max_age="30m", how="left"))
class OrderRated:
    cents = Ordered.cents
    rate = Rate.cents


@stream(TableJoin(Ordered, Rate, by="shop"), store="memory")
class OrderAtRate:
    line_id = Ordered.line_id
    rate = Rate.cents


@stream(Ordered, by="shop", distinct="10m")
class FirstOrders:
    cents = Ordered.cents


@stream(Ordered, by="order_id", window=Tumbling("1m"))
class OrderMinutes:
    orders = Ordered.count()
    cents = Ordered.cents.sum()


@stream(Ordered, by="shop", window=Hopping("10m", hop="2m"), emit="both", store="memory")
class ShopHops:
    orders = Ordered.count()
    most = Ordered.cents.max()
    mean = Ordered.cents.mean()


@stream(Ordered, by="shop", window=Session(gap="3m"))
class ShopSessions:
    orders = Ordered.count()
    cents = Ordered.cents.sum()


@stream(Ordered, by="shop", window=Sliding("4m"))
class ShopSlides:
    orders = Ordered.count()


@stream(Ordered, by=(), window=Tumbling("2m"))
class AllMinutes:
    orders = Ordered.count()
    gifts = Ordered.count(where="gift")


@stream(Ordered, by="shop", window=Count(3), store="memory")
class ShopThrees:
    cents = Ordered.cents.sum()


STREAMS = [
    LargeOrders, OrderShipped, OrderOrShipped, OrderRated, OrderAtRate, FirstOrders, OrderMinutes, ShopHops, ShopSessions,
    ShopSlides, AllMinutes, ShopThrees,
]  # fmt: skip
PLAN = compile(Pipeline(name="shop", events=[Ordered, Shipped, Rate], streams=STREAMS, owner="ops"))


def fill(rig: StreamRig, rng: random.Random, records: int) -> None:
    """A log with late, duplicate, tied, deleted, broken, null and falsy values, and poison; every partition ends with a
    record, so that event time goes on everywhere."""
    at_ms = BEGIN
    for number in range(records):
        at_ms += rng.choice((0, 0, 1_000, 20_000, MINUTE))
        time_ms = at_ms - rng.choice((0, 0, 0, 30_000, 4 * MINUTE, 6 * MINUTE)) + rng.choice((0, 0, 0, 0, 50_000, 3 * MINUTE))
        _record(rig, rng, number, time_ms, at_ms)
    at_ms += 45 * MINUTE  # so that the lateness of all of them has passed
    for event, partitions in (("orders", 2), ("shipments", 3), ("rates", 2)):
        for partition in range(partitions):
            at_ms += MINUTE
            _one(rig, event, partition, at_ms, {"order_id": "end", "line_id": f"end{partition}", "shop": "end"})


def _record(rig: StreamRig, rng: random.Random, number: int, time_ms: int, at_ms: int) -> None:
    event, partition = rng.choice((("orders", 2), ("orders", 2), ("shipments", 3), ("rates", 2)))
    partition = rng.randrange(partition)
    kind = rng.random()
    if kind < 0.03:
        rig.send(event, partition, None, at_ms)
    elif event == "rates" and kind < 0.15:
        rig.send(event, partition, None, at_ms, key=rng.choice(("a", "b", "")))
    else:
        order = rng.choice(("o1", "o2", "o3", ""))
        line = f"l{rng.choice((number, number, number, rng.randrange(records_back(number))))}"
        found = {"order_id": order, "line_id": line, "shop": rng.choice(("a", "a", "a", "b", "", None))}
        if event == "orders":
            partition = 0 if order in ("o1", "") else 1  # as a producer that partitions by key
        if event == "rates":
            found["shop"] = found["shop"] or ""
            time_ms = min(time_ms, at_ms)
        _one(rig, event, partition, time_ms, found, at_ms, rng)


def records_back(number: int) -> int:
    return max(number, 1)


def _one(
    rig: StreamRig, event: str, partition: int, time_ms: int, found: Mapping[str, Any], at_ms: int | None = None,
    rng: random.Random | None = None,
) -> None:  # fmt: skip
    number = None if rng is None else rng.choice((None, 0, 0, 5, 101, 250, -7))
    fields = {"cents": number, "weight": number, "gift": rng is not None and rng.random() < 0.5, "at": time_ms, **found}
    declared = {f.name for f in rig.events[event].fields}
    rig.send(event, partition, {k: v for k, v in fields.items() if k in declared}, time_ms if at_ms is None else at_ms)

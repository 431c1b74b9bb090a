"""Will this order come more than ten minutes late? Asked at the moment it is placed.

Change anything, then look at what the change costs: `headrace plan .`
"""

from __future__ import annotations

from headrace.declare import (
    Annotated,
    Canary,
    Decimal,
    Doc,
    Event,
    Flag,
    Gate,
    GradientBoosting,
    Int,
    Label,
    Minutes,
    Model,
    Pipeline,
    Range,
    Rules,
    Scale,
    Serve,
    Source,
    Text,
    Timestamp,
    Unit,
    Watch,
    feature_set,
    on_demand,
    request,
)


class Ordered(
    Event,
    topic="orders",
    key="order_id",
    time="ordered_at",
    lateness="1h",
    dedup=("order_id", "6h"),
    available_after="1m",
):
    order_id: Text
    ordered_at: Timestamp
    shop: Text
    courier: Text
    distance: Annotated[Decimal, Scale(1), Unit("km"), Range(0, 100)]
    items: Annotated[Int, Range(1, 100)]
    hour: Annotated[Int, Unit("h"), Range(0, 23), Doc("hour of the day, local at the shop")]
    ask: Annotated[Flag, Doc("whether a decision is wanted: not for orders of the past that are loaded to learn from")]


class Delivered(
    Event,
    topic="deliveries",
    key="order_id",
    time="delivered_at",
    lateness="1h",
    dedup=("order_id", "6h"),
    available_after="1m",
):
    order_id: Text
    delivered_at: Timestamp
    shop: Text
    courier: Text
    minutes_late: Annotated[Minutes, Doc("after the promised time; negative when early")]


@feature_set(entity="shop", ttl="2d", stale_after="12h", request_lag="6h")
class ShopPace:
    shop_deliveries_3h = Delivered.count().over("3h", hop="15m")
    shop_late_mean_3h = Delivered.minutes_late.mean().over("3h", hop="15m")
    shop_late_share_1d = Delivered.count(where=Delivered.minutes_late > 10).over("1d", hop="1h") / Delivered.count().over(
        "1d", hop="1h"
    )


@feature_set(entity="courier", ttl="3d", stale_after="12h", request_lag="6h")
class CourierPace:
    courier_late_mean_1d = Delivered.minutes_late.mean().over("1d", hop="1h")
    courier_last_late = Delivered.minutes_late.last(max_age="12h")


late_delivery = Model(
    request=Ordered,
    when="ask",
    label=Label(Delivered, "minutes_late > 10", join="order_id", mature="3h"),
    inputs=[
        ShopPace,
        CourierPace,
        request("distance", "items", "hour"),
        on_demand("shop_late_mean_3h * shop_late_share_1d", name="shop_pressure"),
    ],
    trainer=GradientBoosting(rounds=120, max_depth=4, learning_rate="0.08", min_child_weight=20),
    gate=Gate(auc=">= champion - 0.005", parity="exact"),
    serve=Serve(
        deadline="100ms",
        threshold="0.5",
        fallback=Rules("shop_late_mean_3h > 8", score="shop_late_mean_3h"),
        explain="top3",
        rollout=Canary([50, 100], dwell="50 decisions"),
    ),
    watch=Watch(drift=["shop_late_mean_3h", "courier_late_mean_1d"], window="7d"),
    owner="ops",
)

pipeline = Pipeline(
    "parcels",
    owner="ops",
    events=[Ordered, Delivered],
    sources=[Source("orders", Ordered, "http_json_lines"), Source("deliveries", Delivered, "http_json_lines")],
    feature_sets=[ShopPace, CourierPace],
    models=[late_delivery],
)

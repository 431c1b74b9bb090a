"""Is this card payment fraud? 212 features: what a card and a merchant did over six windows, under eight conditions.

Declared to be planned: how much state sixty million cards need, what a payment writes, what a request reads.
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
    Model,
    Pipeline,
    Range,
    Rules,
    Scale,
    Serve,
    Text,
    Timestamp,
    Watch,
    feature_set,
    request,
)

# Windows and their hops: two levels of tiles, fine for bursts and coarse for habits.
WINDOWS = {"10m": "1m", "1h": "1m", "6h": "1h", "1d": "1h", "7d": "1h", "30d": "1h"}
CONDITIONS = {
    "all": None,
    "abroad": "abroad",
    "online": "online",
    "night": "hour < 6",
    "declined": "declined",
    "large": "amount > 50000",
    "cash": "category = 'cash'",
    "travel": "category = 'travel'",
}


class Paid(
    Event,
    topic="payments",
    key="card",
    time="paid_at",
    lateness="1h",
    dedup=("payment_id", "1d"),
    partitions=256,
):
    payment_id: Text
    card: Annotated[Text, Doc("a token, never the number")]
    merchant: Text
    category: Text
    amount: Annotated[Decimal, Scale(2), Range(0, 10_000_000)]
    hour: Annotated[Int, Range(0, 23)]
    abroad: Flag
    online: Flag
    declined: Flag
    paid_at: Timestamp


class Disputed(Event, topic="outcomes", key="payment_id", time="known_at", lateness="1d", dedup=("payment_id", "30d")):
    payment_id: Text
    fraud: Flag
    known_at: Timestamp


def _velocity() -> dict[str, object]:
    """Four aggregates by six windows by eight conditions, and shares of two conditions in all."""
    found: dict[str, object] = {}
    for window, hop in WINDOWS.items():
        for name, where in CONDITIONS.items():
            amount = Paid.amount
            found[f"count_{name}_{window}"] = Paid.count(where=where).over(window, hop=hop)
            found[f"sum_{name}_{window}"] = amount.sum(where=where).over(window, hop=hop)
            found[f"mean_{name}_{window}"] = amount.mean(where=where).over(window, hop=hop)
            found[f"max_{name}_{window}"] = amount.max(where=where).over(window, hop=hop)
        for name in ("declined", "abroad"):
            some, every = Paid.count(where=CONDITIONS[name]), Paid.count()
            found[f"share_{name}_{window}"] = some.over(window, hop=hop) / every.over(window, hop=hop)
    return found


card_velocity = feature_set(entity="card", ttl="32d", stale_after="1h", placement="owned", partitions=256)(
    type("CardVelocity", (), _velocity())
)


@feature_set(entity="merchant", ttl="8d", stale_after="1h", partitions=64)
class MerchantDay:
    merchant_count_1h = Paid.count().over("1h", hop="5m")
    merchant_count_1d = Paid.count().over("1d", hop="1h")
    merchant_mean_1d = Paid.amount.mean().over("1d", hop="1h")
    merchant_variance_7d = Paid.amount.variance().over("7d", hop="1h")
    merchant_max_7d = Paid.amount.max().over("7d", hop="1h")
    merchant_declined_share_1d = Paid.count(where="declined").over("1d", hop="1h") / Paid.count().over("1d", hop="1h")
    merchant_abroad_share_1d = Paid.count(where="abroad").over("1d", hop="1h") / Paid.count().over("1d", hop="1h")
    merchant_night_share_7d = Paid.count(where="hour < 6").over("7d", hop="1h") / Paid.count().over("7d", hop="1h")


fraud = Model(
    request=Paid,
    request_id="payment_id",
    label=Label(Disputed, "fraud", join="payment_id", mature="30d"),
    inputs=[card_velocity, MerchantDay, request("amount", "hour", "abroad", "online")],
    trainer=GradientBoosting(rounds=600, max_depth=8),
    gate=Gate(auc=">= champion", parity="exact"),
    serve=Serve(
        deadline="20ms",
        threshold="0.9",
        fallback=Rules("count_all_10m > 10", score="count_all_10m"),
        rollout=Canary([1, 5, 20, 100], dwell="100000 decisions"),
    ),
    watch=Watch(drift=["count_all_1d", "sum_all_1d"]),
    tier="high",
)

cards = Pipeline("cards", owner="risk", events=[Paid, Disputed], feature_sets=[card_velocity, MerchantDay], models=[fraud])

"""Is this card payment fraud? Asked at the payment itself: of twenty in one second not all may see a count of nought.

What the card did just before is `owned`: the worker that holds the card's partition answers from the log up to the payment's
own row. What the merchant's day looks like may be some milliseconds old, and is `replicated`.
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

PARTITIONS = 4  # of both topics and the set: an entity's events lie in one partition of each


class Paid(
    Event,
    topic="payments",
    key="card",
    time="paid_at",
    lateness="10m",
    dedup=("payment_id", "1h"),
    partitions=PARTITIONS,
):
    payment_id: Text
    card: Annotated[Text, Doc("a token, never the number")]
    merchant: Text
    amount: Annotated[Decimal, Scale(2), Range(0, 100_000)]
    abroad: Flag
    paid_at: Timestamp


class LoggedIn(
    Event,
    topic="logins",
    key="card",
    time="at",
    lateness="10m",
    dedup=("login_id", "1h"),
    partitions=PARTITIONS,
):
    login_id: Text
    card: Text
    failed: Flag
    at: Timestamp


class Disputed(Event, topic="disputes", key="payment_id", time="known_at", lateness="1d", dedup=("payment_id", "30d")):
    payment_id: Text
    fraud: Flag
    known_at: Timestamp


@feature_set(entity="card", ttl="2d", stale_after="1h", placement="owned", partitions=PARTITIONS)
class CardPace:
    paid_1m = Paid.count().over("1m", hop="10s")
    paid_1h = Paid.count().over("1h", hop="1m")
    paid_1d = Paid.count().over("1d", hop="1h")
    amount_sum_1h = Paid.amount.sum().over("1h", hop="1m")
    amount_mean_1d = Paid.amount.mean().over("1d", hop="1h")
    amount_stddev_1d = Paid.amount.stddev().over("1d", hop="1h")
    amount_max_1d = Paid.amount.max().over("1d", hop="1h")
    amount_last = Paid.amount.last(max_age="1d")
    abroad_share_1d = Paid.count(where="abroad").over("1d", hop="1h") / Paid.count().over("1d", hop="1h")
    logins_failed_1h = LoggedIn.count(where="failed").over("1h", hop="1m")
    logins_failed_1d = LoggedIn.count(where="failed").over("1d", hop="1h")


@feature_set(entity="merchant", ttl="2d", stale_after="1h")
class MerchantDay:
    merchant_paid_1h = Paid.count().over("1h", hop="5m")
    merchant_mean_1d = Paid.amount.mean().over("1d", hop="1h")


fraud = Model(
    request=Paid,
    request_id="payment_id",
    label=Label(Disputed, "fraud", join="payment_id", mature="1d"),
    inputs=[CardPace, MerchantDay, request("amount", "abroad")],
    trainer=GradientBoosting(rounds=60),
    gate=Gate(auc=">= rule", parity="exact"),
    serve=Serve(
        deadline="250ms",
        threshold="0.5",
        fallback=Rules("paid_1m > 3", score="paid_1m"),
        rollout=Canary([20, 100], dwell="500 decisions"),
        explain="top5",
    ),
    watch=Watch(drift=["paid_1h", "amount_mean_1d"], window="1d"),
    tier="high",
)

payments = Pipeline(
    "payments", owner="risk", events=[Paid, LoggedIn, Disputed], feature_sets=[CardPace, MerchantDay], models=[fraud]
)

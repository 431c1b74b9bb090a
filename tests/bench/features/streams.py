"""What is streamed: payments keyed by their own id, and six features of a card: one rekey lies between event and feature."""

from __future__ import annotations

import io
from dataclasses import replace

import fastavro

from headrace.contracts.codec import Codec
from headrace.contracts.events import EventSchema
from headrace.plan.avro import event_schema
from headrace.plan.hashes import sealed
from headrace.plan.ir import EventType, Feature, FeatureSet, Field, Measure, Plan, Term

MIN, HOUR = 60_000, 3_600_000
DAY = 24 * HOUR
WINDOWS = ((HOUR, 5 * MIN), (DAY, HOUR))
KINDS = ("count", "sum", "max")
PROBES: tuple[str, ...] = ("probe-a", "probe-f")  # cards whose events are timed, one in each state partition
AMOUNTS = 1_000
COUNTED = "amount_count_24h"

_PAYMENTS = EventType(
    name="payments", record="Paid", topic="", key="payment_id", time="paid_at",
    fields=(
        Field("payment_id", "string"), Field("card", "string"), Field("paid_at", "timestamp"),
        Field("amount", "long", minimum=0, maximum=1_000_000),
    ),
    lateness_ms=HOUR, poison_bound_ms=MIN, partitions=2,
)  # fmt: skip
_SPENDING = FeatureSet(
    name="card_spending", entity=("card",), events=("payments",),
    measures=(Measure("m0", "payments", "amount", None, ("nonnull", "sum", "max")),),
    features=tuple(
        Feature(f"amount_{kind}_{window // HOUR}h", (Term("m0", kind, window, hop),))
        for kind in KINDS for window, hop in WINDOWS
    ),
    ttl_ms=2 * DAY, stale_after_ms=HOUR, partitions=2,
)  # fmt: skip


def plan_of(pipeline: str) -> Plan:
    """The same declaration under a pipeline's own topics."""
    payments = replace(_PAYMENTS, topic=f"{pipeline}.payments.v1")
    return sealed(Plan(pipeline, "ops", (payments,), (), (_SPENDING,), ()))


class Payments:
    """Values of payments, put together from parts: the codec's checks would cost the sender a quarter of a core."""

    def __init__(self, plan: Plan, codec: Codec) -> None:
        self._schema: EventSchema = event_schema(plan, plan.events[0])
        codec.register_event(self._schema)
        self._head = codec.encode_event(self._schema, {"payment_id": "", "card": "", "paid_at": 0, "amount": 0})[:5]
        self._amounts = [_avro("long", amount) for amount in range(AMOUNTS)]
        told = {"payment_id": "p000000000007", "card": PROBES[0], "paid_at": 1_800_000_000_000, "amount": 7}
        parts = self.value(told["payment_id"].encode(), PROBES[0].encode(), self.time(told["paid_at"]), 7)
        assert parts == codec.encode_event(self._schema, told), "the parts are not what the codec writes"

    def time(self, ms: int) -> bytes:
        """The time of a payment, to be used for all of that millisecond."""
        return _avro("long", ms)

    def value(self, payment_id: bytes, card: bytes, time: bytes, number: int) -> bytes:
        """Framed value; the amount follows from the number. Names shorter than 64 bytes."""
        amount = self._amounts[number % AMOUNTS]
        return b"".join((self._head, _LENGTHS[len(payment_id)], payment_id, _LENGTHS[len(card)], card, time, amount))


def _avro(kind: str, value: int) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, kind, value)
    return out.getvalue()


_LENGTHS = [_avro("long", n) for n in range(64)]

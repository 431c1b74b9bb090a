"""The records of the workloads, as Avro: what every contender reads, and what those write that are not ours.

A reading is W1, W2, W4 and the latency test; orders and payments meet in W3 by `order_id`, each keyed by somebody else.
Fields are such that every value of a topic is as long as every other: see encode.py.
"""

from __future__ import annotations

from typing import Any

TIMESTAMP = {"type": "long", "logicalType": "timestamp-millis"}


def schema(name: str, **fields: Any) -> dict[str, Any]:
    """An Avro record of the bench."""
    return {
        "type": "record", "name": name, "namespace": "bench",
        "fields": [{"name": field, "type": kind} for field, kind in fields.items()],
    }  # fmt: skip


READING = schema("Reading", id="string", key="string", at=TIMESTAMP, value="long")
MOMENT = READING | {"name": "Moment"}  # whose value is when it was sent
ORDER = schema("Ordered", id="string", buyer="string", order_id="string", at=TIMESTAMP, amount="long")
PAYMENT = schema("Settled", id="string", payer="string", order_id="string", at=TIMESTAMP, amount="long")
WINDOW = schema("WindowClosed", key="string", start=TIMESTAMP, end=TIMESTAMP, count="long", total="long")
PAIR = schema("Matched", order_id="string", ordered_at=TIMESTAMP, settled_at=TIMESTAMP, ordered="long", settled="long")


def of(topic: str) -> dict[str, Any]:
    """What lies in a topic of readings, or of moments."""
    return MOMENT if ".moments." in topic else READING

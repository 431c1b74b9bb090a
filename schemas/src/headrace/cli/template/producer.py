"""Stands for your producer: sends generated orders and deliveries to svc-ingest.

python producer.py history    the last thirty days, to learn from
python producer.py live       an order every half second, each asking for a decision, until Ctrl-C
python producer.py ask        one order sent to svc-serve itself, over REST: prints its answer
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from headrace.client.ingest import IngestClient, Refused, Unanswered
from headrace.client.local_stack import address

PIPELINE = "parcels"
SHOPS, COURIERS = [f"shop-{n}" for n in range(12)], [f"courier-{n}" for n in range(25)]


def order(moment: datetime, rng: random.Random, *, ask: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """One order, and its delivery: later from afar, at noon and in the evening, and where the shop is slow that day."""
    shop, courier = rng.choice(SHOPS), rng.choice(COURIERS)
    slow = random.Random(f"{shop} {moment:%Y-%m-%d}").gauss(0, 8) + random.Random(courier).gauss(0, 4)
    distance, rush = rng.randint(2, 90) / 10, moment.hour in (12, 13, 18, 19, 20)
    late = round(slow + 1.6 * distance + 6 * rush - 8 + rng.gauss(0, 4))
    order_id = f"{moment:%Y%m%d-%H%M%S}-{rng.randrange(1_000_000):06}"
    placed = {
        "order_id": order_id, "ordered_at": moment.isoformat(), "shop": shop, "courier": courier, "distance": distance,
        "items": rng.randint(1, 8), "hour": moment.hour, "ask": ask,
    }  # fmt: skip
    arrival = moment + timedelta(minutes=max(5, 30 + late))
    delivered = {"order_id": order_id, "delivered_at": arrival.isoformat(), "shop": shop, "courier": courier}
    return placed, delivered | {"minutes_late": late}


def history(until: datetime, days: int, seed: int = 1) -> Iterator[tuple[str, dict[str, Any]]]:
    """(source, row) in the order of event time; deliveries after `until` have not happened yet."""
    rng, moment = random.Random(seed), until - timedelta(days=days)
    rows: list[tuple[datetime, str, dict[str, Any]]] = []
    while (moment := moment + timedelta(seconds=rng.expovariate(1 / 300))) < until:
        placed, delivered = order(moment, rng, ask=False)
        rows += [(moment, "orders", placed), (datetime.fromisoformat(delivered["delivered_at"]), "deliveries", delivered)]
    rows.sort(key=lambda row: row[0])
    return ((source, row) for at, source, row in rows if at < until)


def ask() -> str:
    """The answer to one order at once: decimals as they are stored, times as milliseconds."""
    url = f"{address('HEADRACE_SERVE_URL')}/v1/{PIPELINE}/late_delivery/decisions"
    now = time.time_ns() // 1_000_000
    body = {
        "order_id": f"ask-{now}", "ordered_at": now, "shop": "shop-3", "courier": "courier-1", "distance": 42,
        "items": 2, "hour": 18, "ask": True,
    }  # fmt: skip
    try:
        return httpx.post(url, json=body, trust_env=False).text
    except httpx.TransportError as error:
        raise Unanswered(f"svc-serve does not answer at {url}: {error}: `make status` shows, `make up` starts it") from None


def main(what: str) -> None:
    if what == "ask":
        print(ask())
        return
    with IngestClient() as ingest:
        if what == "history":
            rows = list(history(datetime.now(UTC).replace(microsecond=0), days=30))
            for source in ("orders", "deliveries"):
                receipt = ingest.send(PIPELINE, source, [row for name, row in rows if name == source])
                print(f"{source}: {receipt.accepted} accepted, {receipt.rejected_total} rejected")
        while what == "live":
            placed, _ = order(datetime.now(UTC).replace(microsecond=0), random.Random(), ask=True)
            ingest.send(PIPELINE, "orders", [placed])
            print(placed["order_id"])
            time.sleep(0.5)


if __name__ == "__main__":
    try:
        main(sys.argv[1] if len(sys.argv) > 1 else "live")
    except (Refused, Unanswered) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(130)

"""Readings at a fixed rate, stamped with the moment they are handed to the client. `python paced_side.py '{...}'`.

A share of a second's readings every few milliseconds, at once; the value of a reading is its moment, microseconds since 1970.
Prints one JSON line at its end.
"""

from __future__ import annotations

import json
import random
import sys
import time

from confluent_kafka import Producer

TICK_S = 0.005
FLUSH_S = 30.0
KEYS = 1_000


def varint(value: int) -> bytes:
    """A long as Avro writes it; not negative."""
    left, out = value << 1, bytearray()
    while left > 0x7F:
        out.append(left & 0x7F | 0x80)
        left >>= 7
    out.append(left)
    return bytes(out)


def main() -> None:
    asked = json.loads(sys.argv[1])
    producer = Producer({
        "bootstrap.servers": asked["bootstrap"], "enable.idempotence": True, "linger.ms": 1,
        "socket.nagle.disable": True, "log_level": 3,
    })  # fmt: skip
    head = b"\x00" + int(asked["schema"]).to_bytes(4, "big")
    keys: list[tuple[bytes, bytes, int]] = [(k.encode(), varint(len(k)) + k.encode(), p) for k, p in asked["keys"]]
    rng, failed = random.Random(7), 0

    def told(error: object, _message: object) -> None:
        nonlocal failed
        failed += error is not None

    each, number, started = round(asked["rate"] * TICK_S), asked["first"], time.monotonic()
    for tick in range(round(asked["seconds"] / TICK_S)):
        left = started + tick * TICK_S - time.monotonic()
        if left > 0:
            time.sleep(left)
        now = time.time_ns() // 1_000
        tail, batch = varint(now // 1_000) + varint(now), []
        for name, text, partition in rng.choices(keys, k=each):
            batch.append(
                {"value": b"".join((head, b"\x14", b"%010d" % number, text, tail)), "key": name, "partition": partition}
            )
            number += 1
        producer.produce_batch(asked["topic"], batch, on_delivery=told)
        producer.poll(0)
    wall_s = time.monotonic() - started
    left = producer.flush(FLUSH_S)
    print(json.dumps({"sent": number - asked["first"], "failed": failed + left, "wall_s": wall_s}), flush=True)


if __name__ == "__main__":
    main()

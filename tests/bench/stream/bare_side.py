"""The bare loop: the client every Python contender stands on, consuming and doing nothing. `python bare_side.py '{...}'`.

Prints the records, seconds and processor seconds from the first batch to the last: what no engine on this client can be
faster than on this machine.
"""

from __future__ import annotations

import json
import resource
import sys
import time

from confluent_kafka import Consumer, TopicPartition


def main() -> None:
    asked = json.loads(sys.argv[1])
    consumer = Consumer({
        "bootstrap.servers": asked["bootstrap"], "group.id": "bench-bare-unused", "enable.auto.commit": False,
        "fetch.queue.backoff.ms": 1, "isolation.level": "read_committed",
    })  # fmt: skip
    consumer.assign([TopicPartition(asked["topic"], p, 0) for p in range(asked["partitions"])])
    first = len(consumer.consume(500, 60))
    taken, started, cpu = first, time.monotonic(), time.process_time()
    while taken < asked["total"]:
        taken += len(consumer.consume(500, 0.1))
    wall_s, cpu_s = time.monotonic() - started, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"records": taken - first, "wall_s": wall_s, "cpu_s": cpu_s, "peak_bytes": peak}), flush=True)
    consumer.close()


if __name__ == "__main__":
    main()

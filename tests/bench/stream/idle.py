"""What an application costs that has nothing to do: transactions and processor time."""

from __future__ import annotations

import time

from bench.stream.broker import Progress, transaction_records
from bench.stream.ground import Ground, Job
from bench.stream.latency import Serves
from bench.stream.watch import await_committed

SETTLE_S = 5.0


def measure(ground: Ground, contender: Serves, job: Job, seconds: float) -> dict[str, float]:
    """transactions_10s (at most so many: a transaction writes two records or more to the log that is counted), cpu_share."""
    with contender.serving(job.name, job.topics[0], **job.values) as served:
        await_committed(served.child, Progress(ground.broker, served.group, job.topics), job.total)
        time.sleep(SETTLE_S)
        before, cpu, began = transaction_records(ground.broker), served.child.cpu_s(), time.monotonic()
        time.sleep(seconds)
        wall = time.monotonic() - began
        begun = transaction_records(ground.broker) - before
        return {"transactions_10s": begun / 2 / wall * 10, "cpu_share": (served.child.cpu_s() - cpu) / wall}

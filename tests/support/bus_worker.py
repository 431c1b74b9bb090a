"""A whole small service for tests that kill it: copies one topic to another, exactly once. Run as a script."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from headrace.chassis.app import Chassis, Part, run_service
from headrace.chassis.bus import Record
from headrace.chassis.records import Outgoing
from headrace.chassis.settings import ServiceSettings
from headrace.chassis.transactional import BatchResult, TransactionalLoop
from headrace.chassis.worker import LoopThread

BATCH_RECORDS = 20
BATCH_S = 0.02  # slow enough to be killed inside a transaction


class CopySettings(ServiceSettings):
    service = "svc-copy"
    source: str
    sink: str


def build(chassis: Chassis[CopySettings]) -> Sequence[Part]:
    settings = chassis.settings

    def copy(records: Sequence[Record]) -> BatchResult:
        time.sleep(BATCH_S)
        return BatchResult([Outgoing(settings.sink, r.value, r.key) for r in records])

    def loop() -> TransactionalLoop:
        group = f"copy-{settings.source}"
        return TransactionalLoop(
            group=group,
            topics=[settings.source],
            consumer=chassis.bus.consumer(group, "copy", instance_id=settings.instance),
            make_producer=lambda: chassis.bus.producer("copy", transactional_id=f"{group}-{settings.instance}"),
            handle=copy,
            encode_rejected=lambda rejected: rejected.record.value or b"",
            clock=chassis.clock,
            metrics=chassis.metrics,
            records_max=BATCH_RECORDS,
        )

    return [LoopThread("copy", loop, chassis.health)]


if __name__ == "__main__":
    sys.exit(run_service(CopySettings, build))

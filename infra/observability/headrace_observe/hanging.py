"""Open transactions that hold readers back: list them, and abort the old ones through Kafka's own tool.

    python -m headrace_observe.hanging [--abort] [--older-than 60]

Against the local stack unless --bootstrap says otherwise. Aborting drops what the transaction has written; nothing else can
be done with one whose producer is gone.
"""

from __future__ import annotations

import argparse
import subprocess
import time
from dataclasses import dataclass

from headrace.chassis.access import AccessSettings
from headrace_local import Stack, dist

TOOL = "org.apache.kafka.tools.TransactionsCommand"
TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Open:
    """One producer's open transaction on one partition."""

    topic: str
    partition: int
    producer_id: int
    start_offset: int
    last_write_ms: int


def open_of(topic: str, partition: int, said: str) -> list[Open]:
    """What `describe-producers` printed: a header, then rows of producer id, epoch, coordinator epoch, last sequence, last
    timestamp, and the start of the current transaction or None."""
    found: list[Open] = []
    for line in said.splitlines():
        words = line.split()
        if len(words) == 6 and words[0].isdigit() and words[5].isdigit():
            found.append(Open(topic, partition, int(words[0]), int(words[5]), int(words[4])))
    return found


class Tool:
    """Kafka's transactions tool, run from the fetched distribution."""

    def __init__(self, stack: Stack, bootstrap: str) -> None:
        self._command = [
            *(dist.java(), "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp", dist.kafka_classpath(stack.layout)),
            *(TOOL, "--bootstrap-server", bootstrap),
        ]

    def describe(self, topic: str, partition: int) -> list[Open]:
        """Raises: RuntimeError with what the tool said."""
        return open_of(topic, partition, self._run("describe-producers", topic, partition))

    def abort(self, held: Open) -> None:
        """Raises: RuntimeError with what the tool said."""
        self._run("abort", held.topic, held.partition, "--start-offset", str(held.start_offset))

    def _run(self, verb: str, topic: str, partition: int, *more: str) -> str:
        command = [*self._command, verb, "--topic", topic, "--partition", str(partition), *more]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=TIMEOUT_S)
        if done.returncode or "Error" in done.stderr:
            raise RuntimeError(f"{verb} of {topic} [{partition}]: {done.stdout}{done.stderr}")
        return done.stdout


def held_back(bootstrap: str) -> list[tuple[str, int]]:
    """Partitions whose last stable offset is behind their end. Raises: KafkaException."""
    from headrace.client.lag import Looker

    looker = Looker(bootstrap, access=AccessSettings().kafka())
    try:
        found = looker.look()
    finally:
        looker.close()
    return sorted(at for at, end in found.ends.items() if found.stable.get(at, end) < end)


def main() -> int:
    """List, and abort where asked to; ends with 1 while something old is left open."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--bootstrap", default="")
    parser.add_argument("--abort", action="store_true", help="abort those that are old")
    parser.add_argument("--older-than", type=float, default=60.0, metavar="S", help="seconds since its last write")
    given = parser.parse_args()
    stack = Stack()
    bootstrap = given.bootstrap or stack.bootstrap
    tool = Tool(stack, bootstrap)
    left = 0
    for topic, partition in held_back(bootstrap):
        for held in tool.describe(topic, partition):
            age_s = time.time() - held.last_write_ms / 1000
            old = age_s >= given.older_than
            print(f"{topic} [{partition}] from offset {held.start_offset}, producer {held.producer_id}, {age_s:.0f} s silent")
            if old and given.abort:
                tool.abort(held)
                print("  aborted")
            left += old and not given.abort
    return 1 if left else 0


if __name__ == "__main__":
    raise SystemExit(main())

"""Decision diff: past decisions made again under a change, by svc-features, or from a lake at hand with the stack down."""

from __future__ import annotations

import heapq
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import orjson

from headrace.client.features import FeaturesClient
from headrace.contracts.errors import HeadraceError
from headrace.plan.hashes import to_json
from headrace.plan.ir import Plan

MODULE = "svc_features.replay_job"
POLL_S = 0.2
THREADS, MEMORY_MB = 2, 2_000

Json = dict[str, Any]
Progress = Callable[[str, int, int], None]  # phase, done, total


class NotReplayed(HeadraceError):
    """The question has no answer: the message says why."""


@dataclass(frozen=True, slots=True)
class Question:
    """A change and the days it is held against.

    span_ms: event time before the newest decision. model: a candidate (run id, digest, or the beginning of one) that
    answers every request. by: request fields whose values are counted apart.
    """

    plan: Plan
    span_ms: int
    model: str = ""
    by: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """page: counts, gains, cost, as JSON. flips: a file of one JSON object per line, in the order of t."""

    page: Json
    flips: Path

    def each(self) -> Iterator[Json]:
        """Every flip."""
        with self.flips.open("rb") as lines:
            for line in lines:
                yield orjson.loads(line)

    def largest(self, most: int) -> list[Json]:
        """At most so many flips: those whose score moved farthest, rules last, then by t."""
        found = heapq.nsmallest(most, enumerate(self.each()), key=lambda pair: (-_size(pair[1]), pair[0]))
        return [flip for _, flip in found]


def _size(flip: Json) -> float:
    old, new = flip["old"]["score"], flip["new"]["score"]
    return -1.0 if old is None or new is None else abs(new - old)


def ask(client: FeaturesClient, question: Question, folder: Path, progress: Progress) -> Answer:
    """Have svc-features do it; interrupted, it is told to stop. Raises: NotReplayed; Refused, Unreachable."""
    identity = client.order_replay(to_json(question.plan), question.span_ms, question.model, question.by)
    try:
        while (page := client.replay(identity))["state"] in ("waiting", "running"):
            _show(page.get("progress"), progress)
            time.sleep(POLL_S)
        _show(page.get("progress"), progress)
        if page["state"] == "failed":
            raise NotReplayed(page["result"]["error"])
        with (folder / "flips.ndjson").open("wb") as file:
            client.replay_flips(identity, file)
    finally:
        client.forget_replay(identity)
    return Answer(page["result"], folder / "flips.ndjson")


def run(home: Path, lake: Path, question: Question, folder: Path, progress: Progress) -> Answer:
    """Do it here, from a lake at hand, in a process of its own. Raises: NotReplayed.

    home: holds objects/ and keys/trusted/, as `make up` lays them out. folder: room to work in.
    """
    if find_spec(MODULE.partition(".")[0]) is None:
        raise NotReplayed(f"{MODULE} is not installed here: leave out --lake to ask svc-features")
    (folder / "plan.json").write_bytes(to_json(question.plan))
    job = {
        "lake": str(lake.absolute()), "objects": str((home / "objects").absolute()),
        "trusted_keys": str((home / "keys" / "trusted").absolute()), "span_ms": question.span_ms, "model": question.model,
        "by": list(question.by), "threads": THREADS, "memory_mb": MEMORY_MB,
    }  # fmt: skip
    (folder / "job.json").write_bytes(orjson.dumps(job))
    _wait([sys.executable, "-m", MODULE, str(folder)], folder, progress)
    page = orjson.loads((folder / "result.json").read_bytes())
    if "error" in page:
        raise NotReplayed(page["error"])
    return Answer(page, folder / "flips.ndjson")


def _wait(command: Sequence[str], folder: Path, progress: Progress) -> None:
    code = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}  # what this process can import
    with tempfile.TemporaryFile() as complaints:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=complaints, env=code)
        try:
            while process.poll() is None:
                _show(_read(folder / "progress.json"), progress)
                time.sleep(POLL_S)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        _show(_read(folder / "progress.json"), progress)
        if process.returncode:
            complaints.seek(0)
            raise NotReplayed(f"the replay failed: {complaints.read().decode(errors='replace')[-500:].strip()}")


def _read(path: Path) -> Json | None:
    return orjson.loads(path.read_bytes()) if path.exists() else None


def _show(found: Json | None, progress: Progress) -> None:
    if found is not None:
        progress(found["phase"], found["done"], found["total"])


__all__ = ["Answer", "NotReplayed", "Question", "ask", "run"]

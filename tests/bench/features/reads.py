"""The reading part: in process, over HTTP, cold and warm, beside bare-loop controls in the same run."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson

from bench.features import declared
from bench.features.caller import Caller
from bench.features.measure import figures
from bench.features.told import told
from headrace.chassis.state import BLOCK_CACHE_BYTES

HOT = 50  # cards read again and again: warm
ARROW = "application/vnd.apache.arrow.stream"

Say = Callable[[str], None]


def measure(work: Path, cards: int, reads: int, say: Say) -> dict[str, float]:
    """Figures named `<inproc|http|control>_200x<keys>[_cold|_arrow]_<p50|p99>_ms`, and the state's size."""
    state = work / "state"
    raw_bytes = declared.fill(state, cards, lambda done: say(f"state: {done:,} of {cards:,} cards"))
    file_bytes = sum(p.stat().st_size for p in state.rglob("*") if p.is_file())
    times = file_bytes / BLOCK_CACHE_BYTES
    say(f"state: {file_bytes / 1e6:,.0f} MB of files, {times:.2f} times the block cache")
    out = {"cards": float(cards), "state_bytes": float(raw_bytes), "state_file_bytes": float(file_bytes)}
    out["state_times_block_cache"] = round(times, 2)
    out |= told(_command("inproc", state, cards, reads), None, work / "inproc.log", say)
    for mode, prefix in (("http", "http"), ("echo", "control_http")):
        with _server(mode, state, cards, reads) as (port, bearer), Caller(port, bearer) as caller:
            out |= _over_http(caller, prefix, cards, reads, say)
    return out


def _over_http(caller: Caller, prefix: str, cards: int, reads: int, say: Say) -> dict[str, float]:
    warm = [caller.request([n]) for n in range(HOT)]
    body = orjson.loads(caller.call(warm[0]))
    assert len(body["values"][0] if prefix != "http" else body["sets"][declared.SET.name]["values"][0]) == 200
    out = figures(f"{prefix}_200x1", lambda i: caller.call(warm[i % HOT]), reads, say, warm_up=HOT * 2)
    if prefix != "http":
        return out
    out |= figures(f"{prefix}_200x1_cold", lambda i: caller.call(caller.request([(i * 7919) % cards])), reads, say)
    hundred, calls = caller.request(list(range(100))), max(10, reads // 20)
    out |= figures(f"{prefix}_200x100", lambda _: caller.call(hundred), calls, say)
    arrow = caller.request(list(range(100)), ARROW)
    out |= figures(f"{prefix}_200x100_arrow", lambda _: caller.call(arrow), max(10, reads // 100), say)
    chance = [caller.request([(i * 100 + n) * 7919 % cards for n in range(100)]) for i in range(max(10, reads // 50))]
    return out | figures(f"{prefix}_200x100_cold", lambda i: caller.call(chance[i % len(chance)]), len(chance), say)


def _command(mode: str, state: Path, cards: int, reads: int) -> list[str]:
    return [sys.executable, "-m", "bench.features.server", mode, str(state), str(cards), str(reads)]


@contextmanager
def _server(mode: str, state: Path, cards: int, reads: int) -> Iterator[tuple[int, str]]:
    child: Any = subprocess.Popen(_command(mode, state, cards, reads), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        ready = json.loads(child.stdout.readline())
        yield ready["port"], ready["token"]
    finally:
        child.stdin.close()
        child.wait(20)

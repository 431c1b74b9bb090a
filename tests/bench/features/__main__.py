"""`make bench-features [ARGS=--quick]`: reading features, beside Feast and a bare-loop control, in one run.

Writes .headrace/reports/bench-features.json and .png. Figures are medians of five runs; what is measured how is in `about`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import psutil

from bench.features import declared, joins
from bench.features.caller import Caller
from bench.features.measure import RUNS, figures
from bench.features.others import Redis, feast_python, feast_version
from bench.features.plot import plot
from headrace.chassis.state import BLOCK_CACHE_BYTES

ROOT = Path(__file__).parents[3]
FEAST_S_MAX = 3_000
CACHE_TIMES = 5.5  # the state's files against the block cache


def main() -> int:
    options = _options()
    folder = ROOT / ".headrace" / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    size = {"reads": 500, "cards": 400, "feast_cards": 200, "feast_reads": 50, "events": 20_000, "requests": 2_000, "runs": 1}
    if not options.quick:
        size = {"reads": 100_000, "cards": options.cards, "feast_cards": 2_000, "feast_reads": 5_000, "events": 1_000_000,
                "requests": 200_000, "runs": RUNS}  # fmt: skip
    report: dict[str, Any] = {"bench": "features", "quick": options.quick, "about": _about(size)}
    with tempfile.TemporaryDirectory(dir=folder) as name:
        work = Path(name)
        report |= _ours(work, size, report["about"])
        files = work / "join"
        files.mkdir()
        joins.write(files, size["events"], size["requests"], max(100, size["events"] // 100))
        report |= _said("point in time, ours and DuckDB", lambda: joins.measure(files, size["runs"]))
        if not options.no_feast:
            report |= _feast(folder, work, files, size, report["about"])
    report["wall_s"] = round(time.monotonic() - STARTED, 1)
    out: Path = options.out
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(orjson.dumps(report, option=orjson.OPT_INDENT_2) + b"\n")
    plot(report, out.with_suffix(".png"))
    for key in sorted(k for k, v in report.items() if k.endswith(("_p99_ms", "_rows_s")) and isinstance(v, float)):
        print(f"{key:40} {report[key]:>14,.3f}")
    print(f"{out} and {out.with_suffix('.png').name}")
    return 0


STARTED = time.monotonic()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench-features", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a minute: shows that it runs, not how fast we are")
    parser.add_argument("--no-feast", action="store_true", help="ours and the controls only")
    parser.add_argument("--cards", type=int, default=75_000, help="entities in the state")
    parser.add_argument("--out", type=Path, default=ROOT / ".headrace" / "reports" / "bench-features.json")
    return parser.parse_args()


def _ours(work: Path, size: dict[str, int], about: dict[str, Any]) -> dict[str, float]:
    state = work / "state"
    _said(f"state of {size['cards']:,} cards", lambda: {"bytes": float(declared.fill(state, size["cards"]))})
    about["state_file_bytes"] = sum(p.stat().st_size for p in state.rglob("*") if p.is_file())
    about["state_times_block_cache"] = round(about["state_file_bytes"] / BLOCK_CACHE_BYTES, 2)
    if size["runs"] == RUNS and about["state_times_block_cache"] < CACHE_TIMES - 0.5:
        raise SystemExit(f"the state is only {about['state_times_block_cache']} times the block cache: give more --cards")
    out = _said("in process", lambda: json.loads(_module("inproc", state, size)))
    for mode, prefix in (("http", "http"), ("echo", "control_http")):
        with _server(mode, state, size) as (port, bearer), Caller(port, bearer) as caller:
            out |= _said(f"over HTTP, {mode}", lambda c=caller, p=prefix: _over_http(c, p, size))
    return out


def _over_http(caller: Caller, prefix: str, size: dict[str, int]) -> dict[str, float]:
    hot, cards = 50, size["cards"]
    warm = [caller.request([n]) for n in range(hot)]
    body = orjson.loads(caller.call(warm[0]))
    assert len(body["values"][0] if prefix != "http" else body["sets"][declared.SET.name]["values"][0]) == 200
    out = figures(f"{prefix}_200x1", lambda i: caller.call(warm[i % hot]), size["reads"], warm_up=hot * 2)
    if prefix != "http":
        return out
    out |= figures(f"{prefix}_200x1_cold", lambda i: caller.call(caller.request([(i * 7919) % cards])), size["reads"])
    hundred = caller.request(list(range(100)))
    out |= figures(f"{prefix}_200x100", lambda _: caller.call(hundred), max(10, size["reads"] // 100))
    arrow = caller.request(list(range(100)), "application/vnd.apache.arrow.stream")
    out |= figures(f"{prefix}_200x100_arrow", lambda _: caller.call(arrow), max(10, size["reads"] // 100))
    chance = [caller.request([(i * 100 + n) * 7919 % cards for n in range(100)]) for i in range(max(10, size["reads"] // 500))]
    return out | figures(f"{prefix}_200x100_cold", lambda i: caller.call(chance[i % len(chance)]), len(chance))


def _feast(folder: Path, work: Path, files: Path, size: dict[str, int], about: dict[str, Any]) -> dict[str, float]:
    python = feast_python(ROOT / ".headrace" / "bench-venv")
    with Redis(folder) as redis:
        about["redis"] = redis.origin if redis.port else redis.why
        command = [
            str(python), str(Path(__file__).with_name("feast_side.py")), str(work), str(redis.port),
            str(size["feast_cards"]), str(size["feast_reads"]), str(files), str(size["runs"]),
        ]  # fmt: skip
        env = {"PATH": os.environ["PATH"], "HOME": str(work), "FEAST_USAGE": "False"}
        return _said("Feast", lambda: json.loads(_output(command, env).splitlines()[-1]))


def _module(mode: str, state: Path, size: dict[str, int]) -> str:
    return _output(_command(mode, state, size), None)


def _command(mode: str, state: Path, size: dict[str, int]) -> list[str]:
    return [sys.executable, "-m", "bench.features.server", mode, str(state), str(size["cards"]), str(size["reads"])]


def _output(command: list[str], env: dict[str, str] | None) -> str:
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=FEAST_S_MAX)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[:4])} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return done.stdout


@contextmanager
def _server(mode: str, state: Path, size: dict[str, int]) -> Iterator[tuple[int, str]]:
    process = subprocess.Popen(_command(mode, state, size), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None and process.stdout is not None
    try:
        told = json.loads(process.stdout.readline())
        yield told["port"], told["token"]
    finally:
        process.stdin.close()
        process.wait(20)


def _said(what: str, run: Any) -> dict[str, float]:
    started = time.monotonic()
    out = run()
    print(f"{what}: {time.monotonic() - started:.1f} s", flush=True)
    return out


def _about(size: dict[str, int]) -> dict[str, Any]:
    git = shutil.which("git")
    commit = subprocess.run([git or "git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    return {
        **size, "commit": commit.strip(), "cpus": os.cpu_count(), "machine": platform.processor() or platform.machine(),
        "memory_bytes": psutil.virtual_memory().total, "load_before": round(os.getloadavg()[0], 2), "feast": feast_version(),
        "block_cache_bytes": BLOCK_CACHE_BYTES,
        "method": "one caller, one call at a time; warm: 50 cards again and again, state standing still; cold: cards by "
        "chance; the system may cache the files. Feast through its SDK in process, on fewer cards; no service runs beside.",
    }  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())

"""`make bench-features [ARGS=...]`: features read, streamed and joined, beside Feast and bare-loop controls, in one run.

    reads   200 features of a card in process and over HTTP, one key and a hundred, warm and cold
    joins   point in time from a log, ours and plain DuckDB's
    feast   the same reads and the same join by Feast, on SQLite and on Redis
    plan    the large declaration as `headrace plan` prints it
    live    event to readable over HTTP at 20,000 events/s on a real broker
    state   feature state of 10M uniformly drawn keys by one core

Writes .headrace/reports/bench-features.json and .png. Each part is kept when it is done: `--only reads,live` measures these
again and reports them with what is kept of the others at the same commit and size; `--resume` measures what is not kept.
Speeds are judged by the median of five runs. Ends with 2 if a check does not hold.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console

from bench.features import feast_part, joins, judged, live, planned, reads, state
from bench.features.measure import RUNS
from bench.features.plot import plot
from headrace_demo import report
from headrace_local import Ports, Stack

ROOT = Path(__file__).parents[3]
PARTS = ("reads", "joins", "feast", "plan", "live", "state")
console = Console(highlight=False)
STARTED = time.monotonic()


@dataclass(frozen=True, slots=True)
class Size:
    """How much of everything."""

    cards: int  # in the state that is read
    reads: int  # of one key, each way
    feast_cards: int
    feast_reads: int
    join_events: int
    join_requests: int
    runs: int
    leg_s: int  # of the steady load
    state_events: int  # of one run
    state_by_log_events: int


FULL = Size(75_000, 100_000, 2_000, 5_000, 500_000, 50_000, RUNS, 15, 600_000, 300_000)
QUICK = Size(400, 500, 200, 50, 20_000, 2_000, 1, 3, 40_000, 20_000)


def main() -> int:
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    size, folder = QUICK if options.quick else FULL, ROOT / ".headrace" / "bench"
    kept = Kept(folder / ("parts-quick" if options.quick else "parts"), size)
    wanted = [p for p in options.only if not (options.resume and kept.read(p))]
    with _place(folder) as place:
        for part in wanted:
            started, load = time.monotonic(), os.getloadavg()[0]
            say(f"{part}: begins")
            figures = place.measure(part, size)
            kept.write(part, figures, time.monotonic() - started, load)
    return _report(options.quick, kept, size)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench-features", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="two minutes: shows that it runs, not how fast we are")
    parser.add_argument("--only", type=_parts, default=list(PARTS), metavar="PART,...", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--resume", action="store_true", help="leave out what is kept of the same commit and size")
    return parser.parse_args()


def _parts(text: str) -> list[str]:
    asked = text.split(",")
    if unknown := sorted(set(asked) - set(PARTS)):
        raise argparse.ArgumentTypeError(f"no such parts: {', '.join(unknown)}; known are {', '.join(PARTS)}")
    return [part for part in PARTS if part in asked]


def say(line: str) -> None:
    """Progress, a line at a time, with the seconds since the start."""
    console.print(f"{time.monotonic() - STARTED:7.1f} s  {line}", markup=False, soft_wrap=True)


class Kept:
    """What parts have measured, one file each."""

    def __init__(self, folder: Path, size: Size) -> None:
        self._folder, self._size = folder, asdict(size)
        self._commit = subprocess.run(
            ["git", "-C", str(ROOT), "rev-parse", "HEAD"], check=False, capture_output=True, text=True
        ).stdout.strip()

    def read(self, part: str) -> dict[str, Any] | None:
        """None where nothing is kept of this commit and size."""
        path = self._folder / f"{part}.json"
        found = orjson.loads(path.read_bytes()) if path.exists() else None
        return found if found and (found["commit"], found["size"]) == (self._commit, self._size) else None

    def write(self, part: str, figures: dict[str, Any], wall_s: float, load: float) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        page = {
            "commit": self._commit, "size": self._size, "ended": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "wall_s": round(wall_s, 1), "load_before": round(load, 2), "figures": figures,
        }  # fmt: skip
        aside = self._folder / f"{part}.part"
        aside.write_bytes(orjson.dumps(page))
        aside.rename(self._folder / f"{part}.json")


class Place:
    """Where parts run: a folder that goes with the run, and a broker from the first part that needs one."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._work, self._stack = folder, folder / "work", None
        shutil.rmtree(self._work, ignore_errors=True)
        self._work.mkdir(parents=True)

    def measure(self, part: str, size: Size) -> dict[str, Any]:
        work = self._work / part
        work.mkdir()

        def told(line: str) -> None:
            say(f"{part}: {line}")

        parts: dict[str, Callable[[], dict[str, Any]]] = {
            "reads": lambda: reads.measure(work, size.cards, size.reads, told),
            "joins": lambda: joins.measure(self._files(work, size), size.runs, told),
            "feast": lambda: feast_part.measure(
                self._folder, work, self._files(work, size), size.feast_cards, size.feast_reads, size.runs, told
            ),
            "plan": lambda: planned.measure(ROOT, told),
            "live": lambda: live.measure(self._broker(told), work, size.runs, size.leg_s, told),
            "state": lambda: state.measure(
                self._broker(told), work, size.runs, size.state_events, size.state_by_log_events, told
            ),
        }
        try:
            return parts[part]()
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def _files(self, work: Path, size: Size) -> Path:
        files = work / "files"
        files.mkdir()
        joins.write(files, size.join_events, size.join_requests, max(100, size.join_events // 100))
        return files

    def _broker(self, told: Callable[[str], None]) -> Stack:
        if self._stack is None:
            self._stack = Stack(root=ROOT, home=self._work / "stack", ports=Ports.free(), say=told, ephemeral=True)
            self._stack.start(("kafka", "registry"))
        return self._stack

    def close(self) -> None:
        if self._stack is not None:
            self._stack.__exit__(None, None, None)
        shutil.rmtree(self._work, ignore_errors=True)


@contextmanager
def _place(folder: Path) -> Iterator[Place]:
    place = Place(folder)
    try:
        yield place
    finally:
        place.close()


def _report(quick: bool, kept: Kept, size: Size) -> int:
    pages = {part: page for part in PARTS if (page := kept.read(part)) is not None}
    figures = {name: value for page in pages.values() for name, value in page["figures"].items()}
    held = judged.checks(figures, quick)
    verb = "bench-features-quick" if quick else "bench-features"
    document = report.frame(ROOT, verb, 0, time.monotonic() - STARTED, figures, held)
    wins = [match.told() for match in judged.matches(figures)]
    document |= {
        "who_wins": wins, "size": asdict(size), "missing_parts": [p for p in PARTS if p not in pages],
        "parts": {part: {k: page[k] for k in ("ended", "wall_s", "load_before")} for part, page in pages.items()},
        "method": METHOD,
    }  # fmt: skip
    rounded = {name: round(value, 3) if isinstance(value, float) else value for name, value in figures.items()}
    report.show(console, document | {"figures": rounded})
    for line in wins:
        console.print(f"  {line}", soft_wrap=True)
    path = report.write(document, ROOT / ".headrace" / "reports")
    plot(figures, path.with_suffix(".png"))
    console.print(f"report {path} and {path.with_suffix('.png').name}", soft_wrap=True)
    return 0 if all(check.ok for check in held) else 2


METHOD = (
    "Reads: one caller, one call at a time, each way five runs, the median run's percentile; warm: 50 cards again and again; "
    "cold: cards by chance over a state several times the block cache, which the system's file cache may hold; the state "
    "stands still (answers while it moves: `event_to_readable_answer`). Feast is asked "
    "through its SDK in its own process, over fewer cards and reads. Live: from the producer's call to the answer over HTTP "
    "that contains the event, the pause of the asking included; sender, broker, worker, view and caller share the machine. "
    "State: events that wait on the broker, cards drawn uniformly from 10M, worker pinned to one core; `state_events` were "
    "sent in all, so that `state_distinct_cards_expected` of the 10M keys exist at the end."
)

if __name__ == "__main__":
    raise SystemExit(main())

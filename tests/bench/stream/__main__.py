"""`make bench-stream [ARGS=...]`: streams beside Kafka Streams, Quix Streams and a bare consume loop, in one run.

    w1       tumbling windows of 10 s, count and sum, one final result each, 10,000 Zipf keys, 4 s disorder
    w2       windows of 60 s every 5 s, the same input
    w3       orders joined with what settles them within 10 s, both keyed by something else
    w4       sessions with a gap of 30 s
    eos      W1 exactly once and at least once
    latency  20,000 records/s through a filter: from produce to a committed read, at 100 ms and at 20 ms commits
    restore  a million keys read back by an application that lost its disk
    idle     transactions and processor time of an application with nothing to do

One core for the contender, another for broker, registry, sender and reader. Every result is compared with an answer that DuckDB
computes from the generated input. Writes .headrace/reports/bench-stream.json and .png. Each part is kept when it is done:
`--only w1,idle` measures these again and reports them with what is kept of the others at the same commit and size; `--resume`
measures what is not kept. Ends with 2 if a check does not hold.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console

from bench.stream import judged, kafka_streams, quix_env
from bench.stream.ground import Ground
from bench.stream.parts import NAMES, PARTS, Floor
from bench.stream.plot import plot
from bench.stream.process import BROKER_CORE, ENGINE_CORE
from bench.stream.sizes import FULL, QUICK, Size
from headrace_demo import report
from headrace_local import Ports, Stack

ROOT = Path(__file__).parents[3]
console = Console(highlight=False)
STARTED = time.monotonic()
SEED = 5  # of the inputs


def main() -> int:
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if not {BROKER_CORE, ENGINE_CORE} <= os.sched_getaffinity(0):
        console.print(f"two cores are needed, {BROKER_CORE} and {ENGINE_CORE}")
        return 1
    size, folder = QUICK if options.quick else FULL, ROOT / ".headrace" / "bench-stream"
    kept = Kept(folder / ("parts-quick" if options.quick else "parts"), size, options.contenders)
    wanted = [p for p in options.only if not (options.resume and kept.read(p))]
    if wanted:
        _measure(wanted, size, folder, kept, options.contenders)
    return _report(options.quick, kept, size)


def _measure(wanted: list[str], size: Size, folder: Path, kept: Kept, contenders: list[str]) -> None:
    java = kafka_streams.built(folder) if "kafka_streams" in contenders else folder
    quix = quix_env.python(folder / "quix") if "quix" in contenders else folder
    os.sched_setaffinity(0, {BROKER_CORE})  # what this process starts stays there, but for contenders
    for part in wanted:
        work = folder / f"work-{os.getpid()}"  # two runs in one clone slow each other down, no more
        shutil.rmtree(work, ignore_errors=True)
        started, load = time.monotonic(), os.getloadavg()[0]
        say(f"{part}: begins")

        def told(line: str, part: str = part) -> None:
            say(f"{part}: {line}")

        try:  # a broker of its own: no part reads what another left
            with Stack(root=ROOT, home=work / "stack", ports=Ports.free(), ephemeral=True, say=told) as stack:
                stack.start(("kafka", "registry"))
                ground = Ground(stack.bootstrap, stack.registry_url, work / "ground")
                key = stack.layout.keys / "private" / "svc-governance.pem"
                floor = Floor(ground, size, contenders, stack.service_env("svc-stream"), key, java, quix, told)
                figures = PARTS[part](floor)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        kept.write(part, figures, time.monotonic() - started, load)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench-stream", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a few minutes: shows that it runs, not how fast we are")
    parser.add_argument(
        "--only", type=_names(list(PARTS)), default=list(PARTS), metavar="PART,...", help=f"of {', '.join(PARTS)}"
    )
    parser.add_argument(
        "--contenders", type=_names(list(NAMES)), default=list(NAMES), metavar="NAME,...", help=f"of {', '.join(NAMES)}"
    )
    parser.add_argument("--resume", action="store_true", help="leave out what is kept of the same commit and size")
    return parser.parse_args()


def _names(known: list[str]) -> Any:
    def parse(text: str) -> list[str]:
        asked = text.split(",")
        if unknown := sorted(set(asked) - set(known)):
            raise argparse.ArgumentTypeError(f"not known: {', '.join(unknown)}; known are {', '.join(known)}")
        return [name for name in known if name in asked]

    return parse


def say(line: str) -> None:
    """Progress, a line at a time, with the seconds since the start."""
    console.print(f"{time.monotonic() - STARTED:7.1f} s  {line}", markup=False, soft_wrap=True)


class Kept:
    """What parts have measured, one file each."""

    def __init__(self, folder: Path, size: Size, contenders: list[str]) -> None:
        self._folder, self._of = folder, {"size": asdict(size), "contenders": contenders}
        self._of["commit"] = subprocess.run(
            ["git", "-C", str(ROOT), "rev-parse", "HEAD"], check=False, capture_output=True, text=True
        ).stdout.strip()

    def read(self, part: str) -> dict[str, Any] | None:
        """None where nothing is kept of this commit, size and choice of contenders."""
        path = self._folder / f"{part}.json"
        found = orjson.loads(path.read_bytes()) if path.exists() else None
        return found if found and {name: found[name] for name in self._of} == self._of else None

    def write(self, part: str, figures: Mapping[str, Any], wall_s: float, load: float) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        page = self._of | {
            "ended": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "wall_s": round(wall_s, 1),
            "load_before": round(load, 2), "figures": figures,
        }  # fmt: skip
        aside = self._folder / f"{part}.part"
        aside.write_bytes(orjson.dumps(page))
        aside.rename(self._folder / f"{part}.json")


def _report(quick: bool, kept: Kept, size: Size) -> int:
    pages = {part: page for part in PARTS if (page := kept.read(part)) is not None}
    figures: dict[str, Any] = {name: value for page in pages.values() for name, value in page["figures"].items()}
    held = judged.checks(figures, quick)
    document = report.frame(
        ROOT,
        "bench-stream-quick" if quick else "bench-stream",
        5,
        sum(page["wall_s"] for page in pages.values()),
        figures,
        held,
    )
    wins = [match.told() for match in judged.matches(figures)]
    document["machine"] |= {"processor": _processor()}
    document |= {
        "who_wins": wins, "size": asdict(size), "missing_parts": [p for p in PARTS if p not in pages],
        "parts": {part: {k: page[k] for k in ("ended", "wall_s", "load_before")} for part, page in pages.items()},
        "versions": {"kafka_streams": kafka_streams.version(), "quix": quix_env.version(), "python": platform.python_version()},
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


def _processor() -> str:
    """As the kernel names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())


METHOD = (
    "One core for the contender (taskset), the other for broker, registry, sender, reader and this program. Records lie in the "
    "topic before anyone starts; four partitions, lz4, Avro in the Confluent frame, the broker's own time stamps. A rate is "
    "records between the first commit anyone can see and the moment when the whole input is committed and a read-committed "
    "reader has every result, so start-up and the first interval count for nobody. Runs of a contender follow each other, each "
    "with groups, state and output of its own; medians. Every result of every run is compared with DuckDB's answer. Headrace "
    "judges each record (late, poison, duplicate by id within 10 s) and is held to the answer without second copies; the peers "
    "know no duplicates and are held to the answer with them (one record in a thousand). Late records, one in ten thousand, "
    "are in no answer. Kafka Streams: exactly_once_v2, 100 ms, one thread, final results of windows by "
    "EmitStrategy.onWindowClose (measured to cost less than suppress), of sessions by suppress (there it costs less), window "
    "retention of six hours, RocksDB with one shared cache, caching on, its own Avro decoder by hand; cold is the first run of "
    "a JVM, warm the second run of the same JVM over the same input. Headrace and Quix are started anew for each run. Restore: "
    "cold in a fresh process, warm in one that has done it before. Latency: open loop, each record through a filter, sender "
    "and reader on the broker's core; Quix is left out, for one core of it does not keep up with 20,000 records/s."
)

if __name__ == "__main__":
    raise SystemExit(main())

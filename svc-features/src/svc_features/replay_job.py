"""One replay in a process of its own: `python -m svc_features.replay_job FOLDER`.

FOLDER holds job.json and plan.json; progress.json says how far it is, flips.ndjson names every flip, result.json the rest.
A question that has no answer is a result too: {"error": ...}.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from headrace.chassis.objects import FolderObjectStore
from headrace.contracts.errors import HeadraceError
from headrace.contracts.signing import TrustedKeys
from headrace.plan.costs import set_cost
from headrace.plan.difference import changes
from headrace.plan.hashes import from_json, sealed
from headrace.plan.ir import Plan
from headrace.plan.report import impact_lines
from headrace.plan.retained import declared
from svc_features.adapters.lake import LakeReader
from svc_features.adapters.models import Shelf
from svc_features.domain.replay import Replayed
from svc_features.files import Teller, write_whole
from svc_features.history import history_of
from svc_features.replaying import Question, Replay
from svc_features.warehouse import connect

NICE = 10  # serving comes first


def main(arguments: list[str] | None = None) -> int:
    """Run; 0 if result.json says how it ended."""
    (name,) = arguments if arguments is not None else sys.argv[1:]
    folder = Path(name)
    os.nice(NICE)
    try:
        result = replay(folder)
    except (HeadraceError, ValueError, OSError) as error:
        result = {"error": str(error)}
    write_whole(folder / "result.json", orjson.dumps(result))
    return 0


def replay(folder: Path) -> dict[str, Any]:
    """job: lake, objects, trusted_keys, span_ms, model, by, threads, memory_mb."""
    job = orjson.loads((folder / "job.json").read_bytes())
    plan = declared(from_json((folder / "plan.json").read_bytes()))
    if plan != sealed(plan):
        raise ValueError("the plan's hashes do not match its content")
    lake, started = Path(job["lake"]), time.monotonic()
    if not lake.is_dir():
        raise ValueError(f"no lake at {lake}")
    shelf = Shelf(FolderObjectStore(job["objects"]), TrustedKeys(Path(job["trusted_keys"])))
    with (folder / "flips.ndjson").open("wb") as flips:
        run = Replay(
            connect(job["threads"], job["memory_mb"], folder / "spill", folder / "replay.duckdb"), LakeReader(lake), plan,
            history_of(lake, plan.pipeline), shelf.open, Question(job["span_ms"], job["model"], tuple(job["by"])),
            spare=lambda: connect(job["threads"], job["memory_mb"], folder / "spill-past", folder / "past.duckdb"),
            flip=_writer(flips), tell=Teller(folder),
        )  # fmt: skip
        page = run.run()
    wall_s = round(time.monotonic() - started, 2)
    return page | {"change": change(plan, run.baseline), "wall_s": wall_s}


def change(plan: Plan, baseline: Plan | None) -> dict[str, Any]:
    """What the declaration differs in from the one the newest decision was made under, and what state and reads cost."""
    costs = {
        side: [dict(zip(("set", "features", "tiles", "bytes", "reads"), (c.name, *c.numbers), strict=True)) for c in found]
        for side, found in (
            ("old", [set_cost(baseline, s) for s in baseline.feature_sets] if baseline else []),
            ("new", [set_cost(plan, s) for s in plan.feature_sets]),
        )
    }
    differences = [
        {"kind": c.kind, "name": c.name, "verb": c.verb, "what": list(c.what), "effect": c.effect}
        for c in (changes(plan, baseline) if baseline else [])
    ]
    return {"costs": costs, "differences": differences, "impact": impact_lines(plan, baseline) if baseline else []}


def _writer(file: BinaryIO) -> Any:
    def write(model: str, one: Replayed) -> None:
        file.write(orjson.dumps({"model": model, **one.page()}) + b"\n")

    return write


if __name__ == "__main__":
    raise SystemExit(main())

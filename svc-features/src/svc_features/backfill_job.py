"""One backfill in a process of its own: `python -m svc_features.backfill_job FOLDER`.

FOLDER holds order.json and plan.json, and whatever an earlier life has done; result.json says how it ended.
"""

from __future__ import annotations

import fcntl
import sys
from pathlib import Path

import orjson

from headrace.chassis.objects import FolderObjectStore
from headrace.contracts.errors import Fatal
from headrace.plan.hashes import from_json
from svc_features.adapters.lake import LakeReader
from svc_features.backfill import Backfill, SourcePin
from svc_features.files import Teller, write_whole
from svc_features.warehouse import connect


def run(folder: Path) -> None:
    """Do what the order says, or go on with it. A job that outlived its service is waited for, not joined."""
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        _run(folder)


def _run(folder: Path) -> None:
    if (folder / "result.json").exists():
        return
    order = orjson.loads((folder / "order.json").read_bytes())
    plan = from_json((folder / "plan.json").read_bytes())
    feature_set = next(s for s in plan.feature_sets if s.name == order["set"])
    connection = connect(order["threads"], order["memory_mb"], folder / "spill", folder / "lake.duckdb")
    job = Backfill(
        plan, feature_set, [SourcePin(**p) for p in order["sources"]], reader=LakeReader(Path(order["lake"])),
        objects=FolderObjectStore(order["objects"]), connection=connection, folder=folder, tell=Teller(folder),
    )  # fmt: skip
    try:
        base, stored, records = job.run()
    except Fatal as error:
        write_whole(folder / "result.json", orjson.dumps({"error": str(error)}))
        return
    finally:
        connection.close()
    page = {
        "reference": stored.reference, "digest": stored.digest, "blocks": stored.rows, "records": records,
        "floor_ms": base.floor_ms,
    }  # fmt: skip
    write_whole(folder / "result.json", orjson.dumps(page))


if __name__ == "__main__":
    run(Path(sys.argv[1]))

"""One data set in a process of its own: `python -m svc_features.dataset_job FOLDER`.

Reads FOLDER/job.json and plan.json, writes data.parquet, profile.json and result.json. The service stays responsive
meanwhile, its memory small, and a killed job leaves nothing half done. What cannot be built is a result too.
"""

from __future__ import annotations

import sys
from pathlib import Path

import orjson

from headrace.contracts.errors import Fatal
from headrace.plan.hashes import from_json
from svc_features.adapters.lake import LakeReader
from svc_features.building import Builder, Splits, Window
from svc_features.warehouse import connect

IN_MEMORY_RECORDS_MAX = 3_000_000  # some 100 bytes each; beyond the memory limit they spill


def run(folder: Path) -> None:
    """Build and lay out."""
    job = orjson.loads((folder / "job.json").read_bytes())
    plan = from_json((folder / "plan.json").read_bytes())
    model = next(m for m in plan.models if m.name == job["model"])
    cut = {topic: {int(p): n for p, n in parts.items()} for topic, parts in job["cut"].items()}
    splits = Splits(**job["splits"]) if job.get("splits") else None
    records = sum(sum(parts.values()) for parts in cut.values())
    # A file holds any number of them, at half as much time again.
    database = None if records <= IN_MEMORY_RECORDS_MAX else folder / "build.duckdb"
    connection = connect(job["threads"], job["memory_mb"], folder / "spill", database)
    builder = Builder(connection, LakeReader(Path(job["lake"])), plan, model, cut, folder / "data.parquet")
    try:
        made = builder.build(Window(**job["window"]), splits)
    except (ValueError, Fatal) as error:
        (folder / "result.json").write_bytes(orjson.dumps({"error": str(error)}))
        return
    (folder / "profile.json").write_bytes(orjson.dumps(made.profile))
    (folder / "result.json").write_bytes(orjson.dumps(made.counts()))


if __name__ == "__main__":
    run(Path(sys.argv[1]))

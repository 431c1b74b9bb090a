"""One round of continuous proof, in a process of its own: `python -m svc_features.proving JOB.json`.

Takes passports from where the last round ended, a hash sample of them, as far as the archive reaches their cuts; recomputes
them and compares the two modes. Prints one JSON object; what cannot be judged now ends with code 2 and is tried again.
"""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson
import polars as pl

from headrace.contracts.catalogue import PREDICTIONS, topics
from headrace.contracts.errors import HeadraceError
from headrace.plan.hashes import from_json
from headrace.plan.ir import Plan
from headrace.plan.offline import as_of
from headrace.plan.retained import declared
from headrace.plan.routing import sampled
from headrace.plan.topics import predictions_topic
from svc_features.adapters.lake import LakeReader
from svc_features.domain.served import served_of
from svc_features.domain.skew import skew_of
from svc_features.judged import Judged, open_kept
from svc_features.recompute import READ, SAMPLE_SALT, Choice, Recomputation
from svc_features.warehouse import register

NICE = 10  # serving comes first
CANNOT_JUDGE = 2
Positions = dict[int, int]  # partition of the passports' topic -> next offset to look at


def main(arguments: list[str] | None = None) -> int:
    """Run and print."""
    (path,) = arguments if arguments is not None else sys.argv[1:]
    os.nice(NICE)
    try:
        page = prove(orjson.loads(Path(path).read_bytes()))
    except (HeadraceError, ValueError, OSError) as error:
        print(f"proof cannot be given: {error}", file=sys.stderr)
        return CANNOT_JUDGE
    sys.stdout.buffer.write(orjson.dumps(page))
    return 0


def prove(job: dict[str, Any]) -> dict[str, Any]:
    """The round. job: lake, plan, kept, positions, sample_bp, passports_max, mismatches_max, rows_max, threads, memory_mb."""
    plan = declared(from_json(Path(job["plan"]).read_bytes()))  # what decisions name, whatever is retained beside it
    reader = LakeReader(Path(job["lake"]))
    positions = {int(p): int(n) for p, n in job["positions"].items()}
    taken, after = take(reader, plan, positions, job["sample_bp"], job["passports_max"])
    page: dict[str, Any] = {
        "positions": {str(p): n for p, n in after.items()},
        "sampled": len(taken),
        "unverifiable": 0,
        "skew": [],
    }
    mine = taken.filter(pl.col("plan_hash") == plan.hash)
    page["other_plans"] = len(taken) - len(mine)
    connection = open_kept(Path(job["kept"]), job["threads"], job["memory_mb"])
    try:
        judged = Judged(connection, reader, plan)
        page["judged"] = judged.extend()
        verifiable = judged.verifiable(mine).with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias("pid"))
        page["unverifiable"] = len(mine) - len(verifiable)
        run = Recomputation(connection, reader, plan, Choice(oracle=0))
        run.findings.mismatches_max = job["mismatches_max"]
        if len(verifiable):
            run.check(verifiable)
            page["skew"] = _skew(run, verifiable)
        page |= {"findings": run.findings.page(), "kinds": run.findings.kinds()}
        page["let_go"] = judged.let_go(job["rows_max"])
    finally:
        connection.close()
    return page


def take(
    reader: LakeReader, plan: Plan, positions: Positions, sample_bp: int, passports_max: int
) -> tuple[pl.DataFrame, Positions]:
    """Sampled passports from the positions on, and the positions after them.

    Stops in each partition before a passport whose cut the archive does not reach, and after passports_max samples.
    """
    parts = [
        pl.DataFrame(pl.from_arrow(batch)) for batch in reader.since(positions).batches(predictions_topic(plan.pipeline), READ)
    ]
    after = dict(positions)
    if not parts:
        return pl.DataFrame(), after
    found = pl.concat(parts).sort("part", "off")
    chosen = [bool(ok) and sampled(SAMPLE_SALT, r or "", sample_bp) for r, ok in found["request_id", "decodable"].iter_rows()]
    limit = -(-passports_max // topics()[PREDICTIONS].partitions)  # each partition its share, none waits for another
    archived: dict[tuple[str, int], int] = {}
    topic_of = {e.name: e.topic for e in plan.events}
    kept: list[bool] = []
    counts: dict[int, int] = {}
    stopped: set[int] = set()
    for (part, off, sets), wanted in zip(found["part", "off", "sets"].iter_rows(), chosen, strict=True):
        if part not in stopped and wanted:
            counts[part] = counts.get(part, 0) + 1
            if counts[part] > limit or not _reached(reader, archived, topic_of, sets):
                stopped.add(part)
        kept.append(part not in stopped and wanted)
        if part not in stopped:
            after[part] = off + 1
    return found.filter(pl.Series(kept, dtype=pl.Boolean)), after


def _reached(
    reader: LakeReader, archived: dict[tuple[str, int], int], topic_of: dict[str, str], sets: list[dict[str, Any]]
) -> bool:
    for cut in (c for read in sets for c in read["cut"]):
        place = cut["event"], cut["partition"]
        topic = topic_of.get(cut["event"])
        if topic is not None and place not in archived:
            archived[place] = reader.positions(topic, cut["partition"] + 1).get(cut["partition"], 0)
        if topic is not None and archived[place] < cut["next_offset"]:
            return False
    return True


def _skew(run: Recomputation, passports: pl.DataFrame) -> list[dict[str, Any]]:
    """as_served against as_of of the same keys and times."""
    events = {e.name: e for e in run.plan.events}
    out: list[dict[str, Any]] = []
    for feature_set in run.plan.feature_sets:
        served = served_of(passports, feature_set)
        if not len(served.asked):
            continue
        register(run.connection, "requests", served.asked.select("pid", "entity", "t"))
        rows = as_of(run.connection, feature_set, events)
        out += [asdict(s) for s in skew_of(feature_set, served, rows.features)]
    return out


if __name__ == "__main__":
    raise SystemExit(main())

"""One round of continuous proof, in a process of its own: `python -m svc_features.proving JOB.json`.

Takes passports from where the last round ended, a hash sample of them, as far as the archive reaches their cuts; recomputes
each under the version of the plan it names, the one in force or one that is retained, and compares the two modes. Prints
one JSON object; what cannot be judged now ends with code 2 and is tried again.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
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
from svc_features.incarnations import lake_topics
from svc_features.judged import Judged, kept_name, open_kept
from svc_features.lateness import USABLE, skews
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
    """The round. job: lake, plan, kept, positions, sample_bp, passports_max, mismatches_max, rows_max, threads, memory_mb.

    kept: the pipeline's folder of database files, one for each law of events that is in use; others are dropped.
    """
    plan = from_json(Path(job["plan"]).read_bytes())
    members = versions_of(plan)
    reader, folder = LakeReader(Path(job["lake"])), Path(job["kept"])
    positions = {int(p): int(n) for p, n in job["positions"].items()}
    taken, after = take(reader, plan, positions, job["sample_bp"], job["passports_max"])
    files: dict[str, list[Plan]] = {}
    for member in members:
        topics_there = lake_topics(reader, {e.name: e for e in member.events})
        files.setdefault(kept_name(member, members[0], topics_there), []).append(member)
    for path in folder.glob("*.duckdb*"):
        if not path.name.startswith(tuple(files)):
            path.unlink()
    page: dict[str, Any] = {
        "positions": {str(p): n for p, n in after.items()},
        "sampled": len(taken),
        "other_plans": len(taken.filter(~pl.col("plan_hash").is_in([m.hash for m in members]))) if len(taken) else 0,
        "judged": 0,
        "let_go": 0,
        "versions": [],
    }
    for name, sharing in files.items():
        asked = any(len(_of(taken, member)) for member in sharing)
        if asked or members[0] in sharing:  # what is only retained is judged when a decision needs it
            _prove(job, reader, folder / f"{name}.duckdb", sharing, taken, page)
    return page


def versions_of(plan: Plan) -> tuple[Plan, ...]:
    """What decisions may name: the plan as declared, whatever is retained beside it, then what it retains."""
    return (declared(plan), *plan.retained)


def _of(taken: pl.DataFrame, version: Plan) -> pl.DataFrame:
    return taken.filter(pl.col("plan_hash") == version.hash) if len(taken) else taken


def _prove(
    job: dict[str, Any], reader: LakeReader, file: Path, sharing: Sequence[Plan], taken: pl.DataFrame, page: dict[str, Any]
) -> None:
    """Versions whose events are judged alike, over one database; adds to the page."""
    connection = open_kept(file, job["threads"], job["memory_mb"])
    try:
        sets = {s.hash: s for version in sharing for s in version.feature_sets}
        judged = Judged(connection, reader, replace(sharing[0], feature_sets=tuple(sets.values())))
        page["judged"] += judged.extend()
        for version in sharing:
            mine = _of(taken, version)
            verifiable = judged.verifiable(mine).with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias("pid"))
            run = Recomputation(connection, reader, version, Choice(oracle=0))
            run.findings.mismatches_max = job["mismatches_max"]
            if len(verifiable):
                run.check(verifiable)
            page["versions"].append({
                "plan_hash": version.hash, "unverifiable": len(mine) - len(verifiable),
                "findings": run.findings.page(), "kinds": run.findings.kinds(),
                "skew": _skew(run, verifiable) if len(verifiable) else [],
            })  # fmt: skip
        page["let_go"] += judged.let_go(job["rows_max"])
    finally:
        connection.close()


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
    topics_of = {version.hash: {e.name: e.topic for e in version.events} for version in versions_of(plan)}
    columns = ["part", "off", "sets", "plan_hash"]
    kept: list[bool] = []
    counts: dict[int, int] = {}
    stopped: set[int] = set()
    for (part, off, sets, made_under), wanted in zip(found[columns].iter_rows(), chosen, strict=True):
        if part not in stopped and wanted:
            counts[part] = counts.get(part, 0) + 1
            if counts[part] > limit or not _reached(reader, archived, topics_of.get(made_under, {}), sets):
                stopped.add(part)
        kept.append(part not in stopped and wanted)
        if part not in stopped:
            after[part] = off + 1
    return found.filter(pl.Series(kept, dtype=pl.Boolean)), after


def _reached(
    reader: LakeReader, archived: dict[tuple[str, int], int], topic_of: Mapping[str, str], sets: list[dict[str, Any]]
) -> bool:
    """Whether the archive holds what these reads were made of; a topic the version does not know is no matter.

    One that was made anew since is not waited for: it is told.
    """
    for cut in (c for read in sets for c in read["cut"]):
        topic, part = topic_of.get(cut["event"]), cut["partition"]
        if topic is None:
            continue
        if (topic, part) not in archived:
            archived[topic, part] = reader.positions(topic, part + 1).get(part, 0)
        if archived[topic, part] < cut["next_offset"]:
            named, here = cut.get("topic_id"), reader.topic_id(topic)
            if not named or not here or named == here:
                return False
    return True


def _skew(run: Recomputation, passports: pl.DataFrame) -> list[dict[str, Any]]:
    """As served against as of t, of the same keys and times, by feature."""
    events = {e.name: e for e in run.plan.events}
    out: list[dict[str, Any]] = []
    for feature_set in run.plan.feature_sets:
        served = served_of(passports, feature_set)
        if not len(served.asked):
            continue
        register(run.connection, "requests", served.asked.select("pid", "entity", "t"))
        known = as_of(run.connection, feature_set, events).features
        found = skews(feature_set, served.values, known.values, np.isin(served.statuses, USABLE))
        out += [{**skew.page(), "set_hash": feature_set.hash} for skew in found]
    return out


if __name__ == "__main__":
    raise SystemExit(main())

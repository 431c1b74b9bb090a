"""What a reader gets: JSON for people, Arrow IPC for programs. N keys, F features of a set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import orjson
import pyarrow as pa

from headrace.contracts.records import Progress
from headrace.plan.ir import FeatureSet, Plan
from headrace.plan.lower import FeatureRows, Status
from svc_features.domain.asking import Asked

STATUS_NAMES = tuple(s.name.lower() for s in Status)
_NAMES = np.array(STATUS_NAMES, object)


class Answered(Protocol):
    """What one set answered; see reading.SetRows."""

    @property
    def feature_set(self) -> FeatureSet: ...
    @property
    def rows(self) -> FeatureRows: ...
    @property
    def partitions(self) -> Sequence[int]: ...
    @property
    def progress(self) -> Mapping[int, Progress | None]: ...


def as_json(plan: Plan, asked: Asked, times_ms: Sequence[int], answers: Sequence[Answered]) -> bytes:
    """One object: per set features, then values and statuses (N, F), and the cut of each partition read."""
    body: dict[str, Any] = {"pipeline": plan.pipeline, "plan_hash": plan.hash, "keys": asked.keys, "t_ms": list(times_ms)}
    sets: dict[str, Any] = {}
    for answer in answers:
        one = answer.feature_set
        values, statuses, names = _picked(answer, asked.picked[one.name])
        sets[one.name] = {
            "hash": one.hash,
            "features": names,
            "values": values.tolist(),  # orjson writes NaN as null
            "statuses": _NAMES[statuses].tolist(),
            "partitions": list(answer.partitions),
            "cuts": {str(p): cut_page(progress) for p, progress in answer.progress.items()},
        }
    body["sets"] = sets
    return orjson.dumps(body)


def as_arrow(plan: Plan, asked: Asked, times_ms: Sequence[int], answers: Sequence[Answered]) -> bytes:
    """An IPC stream of one batch: key fields, t_ms, then `<set>.<feature>` float64 (null where there is no value) and
    `<set>.<feature>.status` int8. Schema metadata `headrace` holds pipeline, plan hash, set hashes and cuts as JSON."""
    columns: dict[str, pa.Array] = {name: pa.array([k[name] for k in asked.keys]) for name in asked.keys[0]}
    columns["t_ms"] = pa.array(times_ms, pa.int64())
    about: dict[str, Any] = {"pipeline": plan.pipeline, "plan_hash": plan.hash, "sets": {}}
    for answer in answers:
        one = answer.feature_set
        values, statuses, names = _picked(answer, asked.picked[one.name])
        by_feature, by_status = np.ascontiguousarray(values.T), np.ascontiguousarray(statuses.T)
        for name, column, told in zip(names, by_feature, by_status, strict=True):
            columns[f"{one.name}.{name}"] = pa.array(column, from_pandas=True)
            columns[f"{one.name}.{name}.status"] = pa.array(told)
        about["sets"][one.name] = {
            "hash": one.hash,
            "partitions": list(answer.partitions),
            "cuts": {str(p): cut_page(progress) for p, progress in answer.progress.items()},
        }
    batch = pa.RecordBatch.from_arrays(list(columns.values()), list(columns))
    batch = batch.replace_schema_metadata({b"headrace": orjson.dumps(about)})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    return sink.getvalue().to_pybytes()


def cut_page(progress: Progress | None) -> dict[str, Any]:
    """Exactly which records a state contains; nothing was ever committed: an empty cut."""
    if progress is None:
        return {"commit_sequence": 0, "cut": []}
    return {
        "commit_sequence": progress.commit_sequence,
        "base_floor_ms": progress.base_floor_ms,
        "cut": [
            {"event": c.event, "partition": c.partition, "next_offset": c.next_offset, "maximum_ms": c.maximum_ms}
            for c in progress.cut
        ],
    }


def _picked(answer: Answered, positions: list[int] | None) -> tuple[Any, Any, list[str]]:
    features, rows = answer.feature_set.features, answer.rows
    if positions is None:
        return rows.values, rows.statuses, [f.name for f in features]
    return rows.values[:, positions], rows.statuses[:, positions], [features[i].name for i in positions]


def describe(plan: Plan, facts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What can be read: sets with entity, features, hash. facts: by set, how far its views are."""
    return {
        "pipeline": plan.pipeline,
        "plan_hash": plan.hash,
        "sets": {
            s.name: {
                "hash": s.hash, "entity": list(s.entity), "placement": s.placement, "owner": s.owner,
                "features": [f.name for f in s.features], **facts.get(s.name, {}),
            }
            for s in plan.feature_sets
        },
    }  # fmt: skip

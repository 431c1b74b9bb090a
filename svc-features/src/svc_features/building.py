"""Build one data set from the lake, under a pinned cut."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import duckdb
import numpy as np
import polars as pl
from numpy.typing import NDArray

from headrace.plan.assemble import Assembler
from headrace.plan.ir import EventType, FeatureSet, Model, Plan
from headrace.plan.lower import FeatureRows
from headrace.plan.offline import as_of, quoted
from headrace.plan.profile import reference_profile, to_json
from headrace.plan.tiles import ENTITY_SEPARATOR
from headrace.plan.topics import predictions_topic
from svc_features.adapters.lake import LakeReader
from svc_features.domain.dataset import AS_SERVED, Vectors, assemble, content_checksum, frame_of, labels_sql, requests_sql
from svc_features.domain.served import served_of
from svc_features.warehouse import load_verdicts, register

Cut = Mapping[str, Mapping[int, int]]  # topic -> partition -> next offset not included


@dataclass(frozen=True, slots=True)
class Window:
    """Requests with t in [from_ms, until_ms), outcomes known by mature_until_ms; event time, ms UTC."""

    from_ms: int
    until_ms: int
    mature_until_ms: int


@dataclass(frozen=True, slots=True)
class Dataset:
    """The data set and what was left out of it. profile: of the watched inputs, JSON-able."""

    frame: pl.DataFrame
    columns: list[str]
    profile: dict[str, object]
    content_checksum: str
    rows: int
    positives: int
    dropped_unlabelled: int
    excluded_ahead: int
    as_served_rows: int

    def counts(self) -> dict[str, object]:
        """All but frame and profile."""
        return {k: v for k, v in asdict(self).items() if k not in ("frame", "profile")}


class Builder:
    """One build. Raises: Fatal if the lake lacks a table; ValueError if the window holds nothing to learn from."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, reader: LakeReader, plan: Plan, model: Model, cut: Cut) -> None:
        self._connection, self._reader, self._plan, self._model, self._cut = connection, reader, plan, model, cut
        self._events = {e.name: e for e in plan.events}
        used = {c.feature_set for c in model.inputs if c.feature_set}
        self._sets = [s for s in plan.feature_sets if s.name in used]

    def build(self, window: Window) -> Dataset:
        """All steps."""
        request, outcome = self._events[self._model.request], self._events[self._model.label.event]
        for name in sorted({request.name, outcome.name, *(e for s in self._sets for e in s.events)}):
            event = self._events[name]
            load_verdicts(self._connection, self._reader, event, self._cut.get(event.topic, {}))
        requests, labels, unlabelled = self._labelled(request, outcome, window)
        if not len(requests):
            raise ValueError(f"no labelled request in [{window.from_ms}, {window.until_ms}): {unlabelled} without an outcome")
        values, served = self._values(requests, request)
        ahead = np.zeros(len(requests), np.bool_)
        for feature_set in self._sets:
            wanted = {c.feature for c in self._model.inputs if c.feature_set == feature_set.name}
            positions = [i for i, f in enumerate(feature_set.features) if f.name in wanted]
            ahead |= Vectors(values[feature_set.name], positions).ahead()
        kept = ~ahead
        mask = pl.Series(kept)
        x, scores = assemble(
            Assembler(self._plan, self._model),
            requests.filter(mask),
            {name: FeatureRows(rows.values[kept], rows.statuses[kept]) for name, rows in values.items()},
        )
        frame = frame_of(self._model, request, requests.filter(mask), x, scores, labels.filter(mask), served[kept])
        return self._described(frame, x, unlabelled, int(ahead.sum()))

    def _described(self, frame: pl.DataFrame, x: NDArray[np.float32], unlabelled: int, ahead: int) -> Dataset:
        names = [c.name for c in self._model.inputs]
        watched = list(self._model.watch.inputs) or names
        columns = [names.index(name) for name in watched]
        profile = reference_profile(watched, frame["t_ms"].to_numpy(), x[:, columns])
        return Dataset(
            frame=frame,
            columns=names,
            profile=to_json(profile),
            content_checksum=content_checksum(frame),
            rows=len(frame),
            positives=int(frame["label"].sum() or 0),
            dropped_unlabelled=unlabelled,
            excluded_ahead=ahead,
            as_served_rows=int((frame["mode"] == AS_SERVED).sum()),
        )

    def _labelled(self, request: EventType, outcome: EventType, window: Window) -> tuple[pl.DataFrame, pl.Series, int]:
        """Requests with a known outcome, their labels, and how many have none."""
        asked = requests_sql(self._model, request, window.from_ms, window.until_ms)
        found = labels_sql(self._model, outcome, window.mature_until_ms)
        fields = ", ".join(f"r.{quoted(f.name)}" for f in request.fields)
        found_rows = self._connection.sql(
            f"""select {fields}, l.label as headrace_label from ({asked}) r
            left join ({found}) l on l."join" = r.{quoted(self._model.label.join)}"""
        )
        frame = pl.DataFrame(pl.from_arrow(found_rows.to_arrow_table())).sort(request.time, self._model.request_id)
        labelled = frame.filter(pl.col("headrace_label").is_not_null())
        return labelled.drop("headrace_label"), labelled["headrace_label"], len(frame) - len(labelled)

    def _values(self, requests: pl.DataFrame, request: EventType) -> tuple[dict[str, FeatureRows], NDArray[np.bool_]]:
        """Values of every set: as of t, and as served where that is known. Returns the mask of served rows too."""
        passports = self._passports(requests, request)
        served = np.zeros(len(requests), np.bool_)
        served[passports["pid"].to_numpy()] = True
        out: dict[str, FeatureRows] = {}
        for feature_set in self._sets:
            values = np.full((len(requests), len(feature_set.features)), np.nan)
            statuses = np.zeros(values.shape, np.int8)
            if len(passports):
                known = served_of(passports, feature_set)
                at = known.asked["pid"].to_numpy()
                values[at], statuses[at] = known.values, known.statuses
            self._register_requests(requests, feature_set, request, ~served)
            rows = as_of(self._connection, feature_set, self._events)
            values[rows.pids], statuses[rows.pids] = rows.features.values, rows.features.statuses
            out[feature_set.name] = FeatureRows(values, statuses)
        return out, served

    def _register_requests(
        self, requests: pl.DataFrame, feature_set: FeatureSet, request: EventType, wanted: NDArray[np.bool_]
    ) -> None:
        register(self._connection, "asked", requests.with_row_index("pid").filter(pl.Series(wanted)).cast({"pid": pl.Int64}))
        entity = f" || chr({ord(ENTITY_SEPARATOR)}) || ".join(f"{quoted(f)}::varchar" for f in feature_set.entity)
        self._connection.execute(
            f"create or replace table requests as select pid, {entity} as entity, {quoted(request.time)} as t from asked"
        )

    def _passports(self, requests: pl.DataFrame, request: EventType) -> pl.DataFrame:
        """pid, t_ms, sets of the first passport per request, where it read every set under its present hash at the same t."""
        topic = predictions_topic(self._plan.pipeline)
        cut = self._cut.get(topic, {})
        wanted = requests.with_row_index("pid").select(
            pl.col("pid").cast(pl.Int64),
            pl.col(self._model.request_id).cast(pl.String).alias("request_id"),
            pl.col(request.time).alias("t"),
        )
        hashes = {s.hash for s in self._sets}
        found: list[pl.DataFrame] = []
        if self._reader.exists(topic):
            columns = ["part", "off", "decodable", "request_id", "model", "t_ms", "sets"]
            for batch in self._reader.batches(topic, columns):
                frame = pl.DataFrame(pl.from_arrow(batch)).filter(pl.col("decodable") & (pl.col("model") == self._model.name))
                under = [off < cut.get(part, 0) for part, off in frame.select("part", "off").rows()]
                found.append(frame.filter(pl.Series(under, dtype=pl.Boolean)).join(wanted, on="request_id"))
        if not found:
            return pl.DataFrame(schema={"pid": pl.Int64, "t_ms": pl.Int64, "sets": pl.List(pl.Null)})
        passports = pl.concat(found).sort("off", "part").unique("request_id", keep="first", maintain_order=True)
        read = pl.col("sets").list.eval(pl.element().struct.field("hash"))
        complete = pl.all_horizontal([read.list.contains(h) for h in sorted(hashes)]) if hashes else pl.lit(True)
        return passports.filter(complete & (pl.col("t") == pl.col("t_ms"))).select("pid", "t_ms", "sets").sort("pid")

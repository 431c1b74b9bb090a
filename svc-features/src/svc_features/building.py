"""Build one data set from the lake, under a pinned cut, a slice of its rows at a time.

    load -> select requests and labels -> admit records -> per slice: as served or as of, assemble -> Parquet, checksum

Tables lie in the connection's database, which spills; what is held as arrays is one slice. So memory does not grow with
the log: `tests/bench/dataset_scale.py` measures it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from headrace.plan.assemble import Assembler
from headrace.plan.ir import Model, Plan
from headrace.plan.lower import FeatureRows
from headrace.plan.offline import quoted
from headrace.plan.profile import DayHistograms, reference_profile, to_json
from headrace.plan.topics import predictions_topic
from svc_features.adapters.lake import LakeReader
from svc_features.domain.dataset import AS_SERVED, Checksum, Vectors, assemble, frame_of
from svc_features.domain.served import served_of
from svc_features.domain.splits import EMBARGO, NAMES, Splits
from svc_features.pointintime import PointInTime, load_seen
from svc_features.selection import Selected, Window, select

__all__ = ["Builder", "Cut", "Dataset", "Splits", "Window"]

SLICE_ROWS = 100_000  # requests whose values are held at once
PROFILE_ROWS = 1_000_000  # rows whose quantiles cut the profile's cells; beyond, every nth
_NOT_COUNTS = frozenset({"path", "profile"})

Cut = Mapping[str, Mapping[int, int]]  # topic -> partition -> next offset not included
Tell = Callable[[str, int, int], None]  # phase, done, total


@dataclass(frozen=True, slots=True)
class Dataset:
    """The data set, a Parquet file, and what was left out of it. profile: of the watched inputs, JSON-able."""

    path: Path
    columns: list[str]
    profile: dict[str, object]
    content_checksum: str
    rows: int
    positives: int
    dropped_unlabelled: int
    unlabelled_rows: int
    excluded_ahead: int
    as_served_rows: int
    train_rows: int
    validation_rows: int
    test_rows: int
    embargoed_rows: int

    @property
    def frame(self) -> pl.DataFrame:
        """All of it in memory."""
        return pl.read_parquet(self.path)

    def counts(self) -> dict[str, object]:
        """All but the rows and the profile."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _NOT_COUNTS}


@dataclass(slots=True)
class _Tally:
    rows: int = 0
    positives: int = 0
    ahead: int = 0
    as_served: int = 0
    splits: NDArray[np.int64] | None = None


class Builder:
    """One build. Raises: Fatal if the lake lacks a table; ValueError if the window holds nothing to learn from."""

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, reader: LakeReader, plan: Plan, model: Model, cut: Cut,
        path: Path | None = None, tell: Tell = lambda _phase, _done, _total: None, slice_rows: int = SLICE_ROWS,
    ) -> None:  # fmt: skip
        """path: the Parquet file to write, a temporary one if None."""
        self._connection, self._reader, self._plan, self._model, self._cut = connection, reader, plan, model, cut
        self._events = {e.name: e for e in plan.events}
        used = {c.feature_set for c in model.inputs if c.feature_set}
        self._sets = [s for s in plan.feature_sets if s.name in used]
        self._path = path or Path(tempfile.mkdtemp(prefix="headrace-dataset-")) / "data.parquet"
        self._tell, self._slice_rows = tell, slice_rows
        self._request = self._events[model.request]
        self._past = PointInTime(connection, self._sets, self._events)

    def build(self, window: Window, splits: Splits | None = None) -> Dataset:
        """All steps."""
        if splits is not None:
            splits.check(self._model.label.mature_ms)
        outcome = self._events[self._model.label.event]
        names = sorted({self._request.name, outcome.name, *(e for s in self._sets for e in s.events)})
        for number, name in enumerate(names):
            self._tell("load", number, len(names))
            load_seen(self._connection, self._reader, self._events[name], self._cut.get(self._events[name].topic, {}))
        selected = select(self._connection, self._model, self._request, outcome, window)
        if not selected.rows:
            raise ValueError(
                f"no labelled request in [{window.from_ms}, {window.until_ms}): {selected.dropped} without an outcome"
            )
        self._tell("admit", 0, 1)
        self._past.admit()
        self._load_passports()
        return self._written(selected, splits)

    def _written(self, selected: Selected, splits: Splits | None) -> Dataset:
        checksum, tally = Checksum(), _Tally()
        tally.splits = np.zeros(len(NAMES), np.int64)
        writer: pq.ParquetWriter | None = None
        try:
            for frame in self._frames(selected, splits, tally):
                checksum.add(frame)
                table = frame.to_arrow().cast(_plain(frame))
                writer = writer or pq.ParquetWriter(self._path, table.schema, compression="zstd")
                writer.write_table(table)
        finally:
            if writer is not None:
                writer.close()
        if not tally.rows:
            raise ValueError(f"all {selected.rows} labelled requests were left out: ahead of t, or in an embargo")
        counts = dict(zip(NAMES, tally.splits.tolist(), strict=True))
        return Dataset(
            path=self._path, columns=[c.name for c in self._model.inputs], profile=to_json(self._profile(tally.rows)),
            content_checksum=checksum.hexdigest(), rows=tally.rows, positives=tally.positives,
            dropped_unlabelled=selected.dropped, unlabelled_rows=selected.unlabelled, excluded_ahead=tally.ahead,
            as_served_rows=tally.as_served, train_rows=counts["train"], validation_rows=counts["validation"],
            test_rows=counts["test"], embargoed_rows=counts["embargo"],
        )  # fmt: skip

    # -- rows

    def _frames(self, selected: Selected, splits: Splits | None, tally: _Tally) -> Iterator[pl.DataFrame]:
        """Slices of the data set, in order."""
        for start in range(0, selected.rows, self._slice_rows):
            self._tell("rows", start, selected.rows)
            found = self._connection.sql(
                f"select * from selected where pid >= {start} and pid < {start + self._slice_rows} order by pid"
            )
            requests = pl.DataFrame(pl.from_arrow(found.to_arrow_table()))
            if splits is not None:
                parts = splits.of(requests[self._request.time].to_numpy())
                assert tally.splits is not None, "made with the tally"
                tally.splits[EMBARGO] += int((parts == EMBARGO).sum())
                requests = requests.filter(pl.Series(parts != EMBARGO))
            frame = self._slice(requests, splits, tally)
            if len(frame):
                yield frame
        self._tell("rows", selected.rows, selected.rows)

    def _slice(self, requests: pl.DataFrame, splits: Splits | None, tally: _Tally) -> pl.DataFrame:
        values, served = self._values(requests)
        ahead = np.zeros(len(requests), np.bool_)
        for feature_set in self._sets:
            wanted = {c.feature for c in self._model.inputs if c.feature_set == feature_set.name}
            positions = [i for i, f in enumerate(feature_set.features) if f.name in wanted]
            ahead |= Vectors(values[feature_set.name], positions).ahead()
        kept = ~ahead
        labels, requests = requests["headrace_label"], requests.drop("headrace_label", "pid").filter(pl.Series(kept))
        x, scores = assemble(
            Assembler(self._plan, self._model),
            requests,
            {name: FeatureRows(rows.values[kept], rows.statuses[kept]) for name, rows in values.items()},
        )
        frame = frame_of(self._model, self._request, requests, x, scores, labels.filter(pl.Series(kept)), served[kept])
        if splits is not None:
            parts = splits.of(frame["t_ms"].to_numpy())
            frame = frame.with_columns(pl.Series("split", [NAMES[i] for i in parts.tolist()], pl.String))
            assert tally.splits is not None, "made with the tally"
            tally.splits += np.bincount(parts, minlength=len(NAMES))
        tally.rows, tally.ahead = tally.rows + len(frame), tally.ahead + int(ahead.sum())
        tally.positives += int(frame["label"].sum() or 0)
        tally.as_served += int((frame["mode"] == AS_SERVED).sum())
        return frame

    def _values(self, requests: pl.DataFrame) -> tuple[dict[str, FeatureRows], NDArray[np.bool_]]:
        """Values of every set: as of t, and as served where that is known. Returns the mask of served rows too."""
        passports = self._passports(requests)
        served = np.zeros(len(requests), np.bool_)
        served[passports["pid"].to_numpy()] = True
        rest = np.flatnonzero(~served)
        out: dict[str, FeatureRows] = {}
        for feature_set in self._sets:
            values = np.full((len(requests), len(feature_set.features)), np.nan)
            statuses = np.zeros(values.shape, np.int8)
            if len(passports):
                known = served_of(passports, feature_set)
                at = known.asked["pid"].to_numpy()
                values[at], statuses[at] = known.values, known.statuses
            asked = requests[rest].drop("pid", "headrace_label")
            rows = self._past.values(feature_set, asked, self._request.time)
            values[rest], statuses[rest] = rows.values, rows.statuses
            out[feature_set.name] = FeatureRows(values, statuses)
        return out, served

    # -- passports

    def _load_passports(self) -> None:
        """CREATE decided: pid, t_ms, sets of each request's first passport, if it read every set under its hash at its t."""
        topic = predictions_topic(self._plan.pipeline)
        self._connection.execute("create or replace table decided (pid bigint)")
        if not self._reader.exists(topic):
            return
        columns = ["part", "off", "decodable", "request_id", "model", "t_ms", "sets"]
        self._connection.register("incoming", self._reader.batches(topic, columns))
        under = " or ".join(f"(part = {int(p)} and off < {int(n)})" for p, n in self._cut.get(topic, {}).items()) or "false"
        self._connection.execute(
            f"create or replace table passports as select part, off, request_id, t_ms, sets from incoming "
            f"where decodable and model = {_text(self._model.name)} and ({under})"
        )
        self._connection.unregister("incoming")
        hashes = ", ".join(_text(s.hash) for s in self._sets)
        complete = f"list_has_all(list_transform(sets, lambda s: s.hash), [{hashes}])" if hashes else "true"
        identity, t = quoted(self._model.request_id), quoted(self._request.time)
        self._connection.execute(f"""
create or replace table decided as
select pid, t_ms, sets from (
  select r.pid, r.{t} as t, p.t_ms, p.sets, row_number() over (partition by r.pid order by p.off, p.part) as nth
  from selected r join passports p on p.request_id = r.{identity}::varchar)
where nth = 1 and t = t_ms and {complete} order by pid""")
        self._connection.execute("drop table passports")

    def _passports(self, requests: pl.DataFrame) -> pl.DataFrame:
        """Those of this slice; pid counts from its first row."""
        empty = pl.DataFrame(schema={"pid": pl.Int64, "t_ms": pl.Int64, "sets": pl.List(pl.Null)})
        if not len(requests):
            return empty
        low, high = requests["pid"][0], requests["pid"][-1]
        found = self._connection.sql(f"select * from decided where pid between {low} and {high} order by pid").to_arrow_table()
        if not found.num_rows:
            return empty
        places = requests.select("pid").with_row_index("place").cast(pl.Int64)
        passports = pl.DataFrame(pl.from_arrow(found)).join(places, on="pid").sort("place")
        return passports.drop("pid").rename({"place": "pid"}).select("pid", "t_ms", "sets")

    # -- the profile

    def _profile(self, rows: int) -> DayHistograms:
        """Of the watched inputs, from the file: cells from a bounded sample of rows, counts from all."""
        names = [c.name for c in self._model.inputs]
        watched = list(self._model.watch.inputs) or names
        step = -(-rows // PROFILE_ROWS)
        sampled: list[pl.DataFrame] = []
        for start, frame in self._watched(watched):
            sampled.append(frame[(-start) % step :: step])
        sample = pl.concat(sampled)
        profile = reference_profile(watched, sample["t_ms"].to_numpy(), sample.select(watched).to_numpy())
        if step == 1:
            return profile
        profile = DayHistograms(profile.binning)
        for _, frame in self._watched(watched):
            profile.add(frame["t_ms"].to_numpy(), frame.select(watched).to_numpy())
        return profile

    def _watched(self, names: list[str]) -> Iterator[tuple[int, pl.DataFrame]]:
        start = 0
        file = pq.ParquetFile(self._path)
        for batch in file.iter_batches(self._slice_rows, columns=list(dict.fromkeys(["t_ms", *names]))):
            yield start, pl.DataFrame(pl.from_arrow(batch))
            start += batch.num_rows


def _plain(frame: pl.DataFrame) -> pa.Schema:
    """Polars' own string views are not what every reader of Parquet expects."""
    schema = frame.to_arrow().schema
    views = (pa.string_view(), pa.large_string())
    return pa.schema([pa.field(f.name, pa.large_string() if f.type in views else f.type) for f in schema])


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"

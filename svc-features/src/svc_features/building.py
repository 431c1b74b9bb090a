"""Build one data set from the lake, under a pinned cut, a slice of its rows at a time.

    load -> select requests and labels -> admit records -> per slice: as served or as of, assemble -> Parquet, checksum

Tables lie in the connection's database, which spills; what is held as arrays is one slice. So memory does not grow with
the log: `make bench-datasets` measures it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
from numpy.typing import NDArray

from headrace.plan.ir import Model, Plan
from headrace.plan.lower import FeatureRows
from headrace.plan.offline import quoted
from headrace.plan.profile import to_json
from headrace.plan.topics import predictions_topic
from svc_features.adapters.lake import LakeReader
from svc_features.domain.splits import EMBARGO, Splits
from svc_features.pointintime import PointInTime, load_seen
from svc_features.rows import LABEL, SLICE_ROWS, RowMaker, Written, fill_served, profile_of, write
from svc_features.selection import Selected, Window, select

__all__ = ["Builder", "Cut", "Dataset", "Splits", "Window"]

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
class LeftOut:
    """Requests that got no row."""

    selected: Selected
    ahead: int = 0
    embargoed: int = 0


def dataset(model: Model, path: Path, written: Written, left_out: LeftOut, slice_rows: int = SLICE_ROWS) -> Dataset:
    """What was written, with its profile. Raises: ValueError if no row was."""
    if not written.rows:
        raise ValueError(f"all {left_out.selected.rows} labelled requests were left out: ahead of t, or in an embargo")
    return Dataset(
        path=path, columns=[c.name for c in model.inputs],
        profile=to_json(profile_of(path, model, written.rows, slice_rows)), content_checksum=written.content_checksum,
        rows=written.rows, positives=written.positives, dropped_unlabelled=left_out.selected.dropped,
        unlabelled_rows=left_out.selected.unlabelled, excluded_ahead=left_out.ahead, as_served_rows=written.as_served,
        train_rows=written.splits["train"], validation_rows=written.splits["validation"],
        test_rows=written.splits["test"], embargoed_rows=left_out.embargoed,
    )  # fmt: skip


def nothing_labelled(selected: Selected, window: Window) -> str:
    """Why there is no data set."""
    return f"no labelled request in [{window.from_ms}, {window.until_ms}): {selected.dropped} without an outcome"


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
            raise ValueError(nothing_labelled(selected, window))
        self._tell("admit", 0, 1)
        self._past.admit()
        self._load_passports()
        return self._written(selected, splits)

    def _written(self, selected: Selected, splits: Splits | None) -> Dataset:
        left_out = LeftOut(selected)
        written = write(self._frames(selected, splits, left_out), self._path)
        return dataset(self._model, self._path, written, left_out, self._slice_rows)

    # -- rows

    def _frames(self, selected: Selected, splits: Splits | None, left_out: LeftOut) -> Iterator[pl.DataFrame]:
        """Slices of the data set, in order."""
        maker = RowMaker(self._plan, self._model, splits)
        for start in range(0, selected.rows, self._slice_rows):
            self._tell("rows", start, selected.rows)
            found = self._connection.sql(
                f"select * from selected where pid >= {start} and pid < {start + self._slice_rows} order by pid"
            )
            requests = pl.DataFrame(pl.from_arrow(found.to_arrow_table()))
            if splits is not None:
                parts = splits.of(requests[self._request.time].to_numpy())
                left_out.embargoed += int((parts == EMBARGO).sum())
                requests = requests.filter(pl.Series(parts != EMBARGO))
            values, served = self._values(requests)
            frame, kept = maker.rows(requests.drop("pid"), values, served)
            left_out.ahead += int((~kept).sum())
            if len(frame):
                yield frame
        self._tell("rows", selected.rows, selected.rows)

    def _values(self, requests: pl.DataFrame) -> tuple[dict[str, FeatureRows], NDArray[np.bool_]]:
        """Values of every set: as of t, and as served where that is known. Returns the mask of served rows too."""
        passports = self._passports(requests)
        served = np.zeros(len(requests), np.bool_)
        served[passports["pid"].to_numpy()] = True
        rest = np.flatnonzero(~served)
        asked = requests[rest].drop("pid", LABEL)
        out: dict[str, FeatureRows] = {}
        for feature_set in self._sets:
            values = np.full((len(requests), len(feature_set.features)), np.nan)
            held = FeatureRows(values, np.zeros(values.shape, np.int8))
            fill_served(passports, feature_set, held)
            rows = self._past.values(feature_set, asked, self._request.time)
            held.values[rest], held.statuses[rest] = rows.values, rows.statuses
            out[feature_set.name] = held
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


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"

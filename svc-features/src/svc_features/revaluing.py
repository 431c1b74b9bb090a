"""Feature values of past decisions under a changed declaration, a slice of decisions at a time.

    the set was read under this very hash  ->  kept: the passport's own values
    another hash, its events were read     ->  as served: the changed set under the cut the decision was made with
    events no set of the decision read     ->  as of t: what was available then, since there is no cut to go by

A changed set takes the cut of the set of the same name, and of another set for events that one did not read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import duckdb
import numpy as np
import polars as pl
from numpy.typing import NDArray

from headrace.plan.ir import EventType, FeatureSet, Plan
from headrace.plan.lower import FeatureRows, terms_of
from headrace.plan.offline import as_served, quoted
from headrace.plan.tiles import entity_of
from svc_features.adapters.lake import LakeReader
from svc_features.domain.served import CUT_SCHEMA
from svc_features.pointintime import PointInTime, load_seen
from svc_features.warehouse import load_verdicts, register

KEPT, AS_SERVED, AS_OF = "kept", "as_served", "as_of"

Json = Mapping[str, Any]
Cut = dict[tuple[str, int], int]
Reads = Sequence[Json]  # what a passport says of the sets it read
EventsOf = Callable[[str], frozenset[str] | None]  # events of a set by its hash; None if nobody knows the hash


@dataclass(frozen=True, slots=True)
class Asking:
    """One decision as a changed set sees it."""

    t_ms: int
    request: Json
    reads: Reads


@dataclass(frozen=True, slots=True)
class Ground:
    """What a set is recomputed from: its cut and base floor; cut None: no set of the decision read these events."""

    cut: Cut | None
    base_floor_ms: int | None


def ground_of(feature_set: FeatureSet, reads: Reads, events_of: EventsOf) -> Ground:
    """The cut a changed set would have been read at, had it stood where the sets of the decision did."""
    ordered = sorted(reads, key=lambda read: read["set"] != feature_set.name)
    cut: Cut = {}
    floors: list[int] = []
    for event in feature_set.events:
        source = next((r for r in ordered if event in _events(r, events_of)), None)
        if source is None:
            return Ground(None, None)
        cut |= {(event, c["partition"]): c["next_offset"] for c in source["cut"] if c["event"] == event}
        if source["base_floor_ms"] is not None:
            floors.append(source["base_floor_ms"])
    return Ground(cut, max(floors, default=None))


def _events(read: Json, events_of: EventsOf) -> frozenset[str]:
    """Events a set reads: as its plan says, else as its cut does (which lacks topics without records)."""
    known = events_of(read["hash"])
    return known if known is not None else frozenset(c["event"] for c in read["cut"])


@dataclass(slots=True)
class Revaluer:
    """Values of the sets of one plan. `spare` makes a second database, for values as of t."""

    connection: duckdb.DuckDBPyConnection
    reader: LakeReader
    plan: Plan
    events_of: EventsOf
    spare: Callable[[], duckdb.DuckDBPyConnection]
    modes: dict[str, dict[str, int]] = field(default_factory=dict)  # set -> how its values came -> decisions
    _events: dict[str, EventType] = field(init=False)
    _judged: dict[str, dict[int, int]] = field(default_factory=dict)  # event -> partition -> archived up to
    _past: PointInTime | None = None

    def __post_init__(self) -> None:
        self._events = {e.name: e for e in self.plan.events}

    def judge(self, event: str) -> None:
        """CREATE judged_<event>: all the lake holds of it, with verdicts; verdict_<event> is a view of it.

        Once; raises: Fatal if there is no table.
        """
        if event in self._judged:
            return
        found = self._events[event]
        load_verdicts(self.connection, self.reader, found)
        verdict, judged = quoted("verdict_" + event), quoted("judged_" + event)
        self.connection.execute(f"create or replace table {judged} as select * from {verdict} order by part, off")
        self.connection.execute(f"drop table {verdict}")
        self.connection.execute(f"create view {verdict} as select * from {judged}")
        self._judged[event] = self.reader.positions(found.topic, found.partitions)

    def values(self, feature_set: FeatureSet, asked: Sequence[Asking]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Values (N, F), NaN where missing; and which decisions have them: not those whose cut the archive does not reach."""
        width = len(feature_set.features)
        values, there = np.full((len(asked), width), np.nan), np.ones(len(asked), np.bool_)
        grounds: dict[int, Ground] = {}
        modes = self.modes.setdefault(feature_set.name, {KEPT: 0, AS_SERVED: 0, AS_OF: 0})
        for i, one in enumerate(asked):
            read = next((r for r in one.reads if r["hash"] == feature_set.hash and len(r["values"]) == width), None)
            if read is not None:
                values[i] = [np.nan if v is None else v for v in read["values"]]
                modes[KEPT] += 1
                continue
            grounds[i] = ground = ground_of(feature_set, one.reads, self.events_of)
            if ground.cut is not None:
                there[i] = self._reached(ground.cut)
        served = [i for i, g in grounds.items() if g.cut is not None and there[i]]
        cold = [i for i, g in grounds.items() if g.cut is None]
        modes[AS_SERVED] += len(served)
        modes[AS_OF] += len(cold)
        for floor in {grounds[i].base_floor_ms for i in served}:
            mine = [i for i in served if grounds[i].base_floor_ms == floor]
            values[mine] = self._as_served(feature_set, asked, mine, grounds, floor).values
        if cold:
            values[cold] = self._as_of(feature_set, [asked[i] for i in cold]).values
        return values, there

    def _reached(self, cut: Cut) -> bool:
        for event, _ in cut:
            self.judge(event)
        return all(self._judged[event].get(part, 0) >= end for (event, part), end in cut.items())

    # -- as served

    def _as_served(
        self, feature_set: FeatureSet, asked: Sequence[Asking], which: Sequence[int], grounds: Mapping[int, Ground],
        base_floor_ms: int | None,
    ) -> FeatureRows:  # fmt: skip
        rows = [(pid, entity_of(feature_set, asked[i].request), asked[i].t_ms) for pid, i in enumerate(which)]
        cuts = [(pid, event, part, end) for pid, i in enumerate(which) for (event, part), end in (grounds[i].cut or {}).items()]
        register(
            self.connection,
            "passports",
            pl.DataFrame(rows, {"pid": pl.Int64, "entity": pl.String, "t": pl.Int64}, orient="row"),
        )
        register(self.connection, "cuts", pl.DataFrame(cuts, CUT_SCHEMA, orient="row"))
        low = min(t for _, _, t in rows) - max((t.window_ms + t.hop_ms for t in terms_of(feature_set)), default=0)
        for event in feature_set.events:
            self._narrow(event, low)
        return as_served(self.connection, feature_set, self._events, base_floor_ms).features

    def _narrow(self, event: str, low_ms: int) -> None:
        """CREATE VIEW verdict_<event>: the part of judged_<event> that table `cuts` and windows from low_ms on can see.

        It also says how far the source was: what is older than low_ms cannot have raised M above what is not; and where
        all of it is older, so is M, and no window begins below M - ttl.
        """
        self.judge(event)
        ends = self.connection.execute("select part, max(next_offset) from cuts where event = ? group by part", [event])
        under = " or ".join(f"(part = {int(part)} and off < {int(end)})" for part, end in ends.fetchall()) or "false"
        self.connection.execute(
            f"create or replace view {quoted('verdict_' + event)} as select * from {quoted('judged_' + event)} "
            f"where et >= {int(low_ms)} and ({under})"
        )

    # -- as of

    def _as_of(self, feature_set: FeatureSet, asked: Sequence[Asking]) -> FeatureRows:
        if self._past is None:
            self._past = PointInTime((connection := self.spare()), self.plan.feature_sets, self._events)
            for name in sorted({e for s in self.plan.feature_sets for e in s.events}):
                load_seen(connection, self.reader, self._events[name], None)
            self._past.admit()
        entities = pl.Series([entity_of(feature_set, one.request) for one in asked], dtype=pl.String)
        return self._past.of_entities(feature_set, entities, pl.Series([one.t_ms for one in asked], dtype=pl.Int64))

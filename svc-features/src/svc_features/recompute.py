"""Parity: every decision of the lake recomputed from the raw events of the lake, and compared bit by bit.

Nothing but the lake and the plan is read: no Kafka, no state topic, no local store. Steps: verdicts of all events in
SQL; per chunk of passports and feature set what was served under the passport's own cut; the model's row assembled
again from those values; a hash sample asked of the naive oracle.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import duckdb
import numpy as np
import orjson
import polars as pl

from headrace.contracts.errors import Fatal
from headrace.contracts.records import DecisionSource
from headrace.plan.assemble import Assembler
from headrace.plan.ir import EventType, FeatureSet, Plan
from headrace.plan.lower import FeatureRows
from headrace.plan.offline import OfflineRows, as_served, quoted
from headrace.plan.routing import sampled
from headrace.plan.tiles import entity_of
from headrace.plan.topics import predictions_topic
from svc_features.adapters.lake import LakeReader
from svc_features.domain.findings import Findings, Mismatch, compare_rows, compare_set
from svc_features.domain.served import Served, cells, served_of
from svc_features.incarnations import lake_topics, of_other_topics
from svc_features.naive import answer_naively
from svc_features.warehouse import load_verdicts, register

CHUNK = 5_000  # passports recomputed at once: bounds memory
SAMPLE_SALT = "parity"
SCORED = frozenset({DecisionSource.MODEL.value, DecisionSource.PREVIOUS.value})
READ = [
    "part", "off", "decodable", "request_id", "model", "plan_hash", "request_body", "t_ms", "sets", "vector", "event_id",
    "decision_source",
]  # fmt: skip


# Feature set, passports (pid, entity, t), their cuts, and the base floor of all of them.
AsServed: TypeAlias = Callable[[FeatureSet, pl.DataFrame, pl.DataFrame, int | None], OfflineRows]


class NotReached(Fatal):
    """The archive does not hold yet what a passport says it was made of."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Which passports: a hash sample by request id in 1/10000, at most `limit`; of them `oracle` to the naive oracle."""

    limit: int | None = None
    sample_bp: int = 10_000
    oracle: int = 300


@dataclass(slots=True)
class Recomputation:
    """One run over the lake."""

    connection: duckdb.DuckDBPyConnection
    reader: LakeReader
    plan: Plan
    choice: Choice
    findings: Findings = field(default_factory=Findings)
    verdicts: dict[str, dict[str, int]] = field(default_factory=dict)
    other_plans: int = 0
    undecodable: int = 0
    tell: Callable[[str], None] = lambda _: None
    engine: AsServed | None = None  # what recomputes in place of DuckDB
    chunk: int = CHUNK
    _events: dict[str, EventType] = field(init=False)
    _assemblers: dict[str, Assembler] = field(init=False)
    _topics: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self._events = {e.name: e for e in self.plan.events}
        self._assemblers = {m.name: Assembler(self.plan, m) for m in self.plan.models}
        self._topics = lake_topics(self.reader, self._events)

    def run(self) -> Findings:
        """Raises: NotReached; Fatal if the lake lacks a table or holds a record twice."""
        passports = self.passports()
        self.tell(f"{len(passports)} passports")
        self.reached(passports)
        for event in self.plan.events:
            self.verdicts[event.name] = load_verdicts(self.connection, self.reader, event)
            self.tell(f"verdicts of {event.name}: {self.verdicts[event.name]}")
        return self.check(passports)

    def check(self, passports: pl.DataFrame) -> Findings:
        """Recompute these (columns of `passports`); the verdict tables hold all that their cuts and windows reach."""
        passports = self._of_these_topics(passports)
        picked = set(_smallest(passports["request_id"].to_list(), self.choice.oracle))
        for start in range(0, len(passports), self.chunk):
            self._chunk(passports.slice(start, self.chunk), picked)
            self.tell(f"{self.findings.checked} recomputed")
        return self.findings

    def _of_these_topics(self, passports: pl.DataFrame) -> pl.DataFrame:
        """Those that can be recomputed; the others were made of topics that the lake does not hold, and are told."""
        other = of_other_topics(passports, self._topics)
        made_of = {pid: (event, topic_id) for pid, event, topic_id in other.rows()}
        mine = pl.col("pid").is_in(list(made_of))
        for pid, request_id, t in passports.filter(mine).select("pid", "request_id", "t_ms").rows():
            event, topic_id = made_of[pid]
            served, here = f"{event} of topic {topic_id}", f"the lake holds topic {self._topics[event]}"
            self.findings.add(Mismatch("topic", request_id, t, served=served, recomputed=here))
        return passports.filter(~mine)

    # -- what is asked

    def passports(self) -> pl.DataFrame:
        """Passports of this plan in order of t, with `pid`; a request id decided twice is no matter here."""
        topic = predictions_topic(self.plan.pipeline)
        parts: list[pl.DataFrame] = []
        for batch in self.reader.batches(topic, READ):
            frame = pl.DataFrame(pl.from_arrow(batch))
            self.undecodable += int((~frame["decodable"]).sum())
            mine = frame.filter(pl.col("decodable") & (pl.col("plan_hash") == self.plan.hash))
            self.other_plans += len(frame) - len(mine) - int((~frame["decodable"]).sum())
            if self.choice.sample_bp < 10_000:
                chosen = [sampled(SAMPLE_SALT, r, self.choice.sample_bp) for r in mine["request_id"].to_list()]
                mine = mine.filter(pl.Series(chosen, dtype=pl.Boolean))
            parts.append(mine)
        if not parts:
            raise Fatal(f"the lake holds no passports of {self.plan.pipeline} yet")
        found = pl.concat(parts)
        if self.choice.limit is not None and len(found) > self.choice.limit:
            keep = set(_smallest(found["request_id"].to_list(), self.choice.limit))
            found = found.filter(pl.col("request_id").is_in(list(keep)))
        return found.sort("t_ms", "part", "off").with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias("pid"))

    def reached(self, passports: pl.DataFrame) -> None:
        """Raises: NotReached if a cut lies beyond the archive; those of other topics are no matter."""
        other = of_other_topics(passports, self._topics)["pid"].unique().to_list()
        wanted = (
            passports.filter(~pl.col("pid").is_in(other))
            .select(pl.col("sets").explode())
            .unnest("sets")
            .select(pl.col("cut").explode())
            .unnest("cut")
            .filter(pl.col("event").is_not_null())
            .group_by("event", "partition")
            .agg(pl.col("next_offset").max())
        )
        lacking = []
        for name, partition, next_offset in wanted.rows():
            event = self._events.get(name)
            if event is None:
                continue
            there = self.reader.positions(event.topic, partition + 1).get(partition, 0)
            if there < next_offset:
                lacking.append(f"{event.topic}-{partition}: a passport read up to {next_offset}, archived up to {there}")
        if lacking:
            raise NotReached("the archive does not reach the passports yet: " + "; ".join(sorted(lacking)))

    # -- one chunk

    def _chunk(self, passports: pl.DataFrame, picked: set[str]) -> None:
        asked = _Asked.of(passports)
        requests = self._requests(asked)
        values: dict[int, dict[str, list[float | None]]] = {pid: {} for pid in asked.pids}
        for feature_set in self.plan.feature_sets:
            served = served_of(passports, feature_set)
            for pid in served.misshapen:
                self._add("shape", asked, pid, feature_set, "values", str(len(feature_set.features)))
            if not len(served.asked):
                continue
            recomputed = self._recompute(feature_set, served)
            compare_set(self.findings, feature_set, served, recomputed, asked.request_ids)
            for (pid, entity, _, _), row in zip(served.asked.rows(), cells(recomputed.values), strict=True):
                values[pid][feature_set.name] = row
                expected = entity_of(feature_set, requests[pid])
                if entity != expected:
                    self._add("entity", asked, pid, feature_set, str(entity), str(expected))
            self._ask_oracle(feature_set, served, recomputed, asked, picked)
        self._rows(asked, requests, values)
        self.findings.checked += len(asked.pids)

    def _recompute(self, feature_set: FeatureSet, served: Served) -> FeatureRows:
        """In SQL, one statement per base floor (one, unless a state began in the middle of a log)."""
        values = np.empty_like(served.values)
        statuses = np.empty_like(served.statuses)
        floors = served.asked["base_floor_ms"]
        for floor in floors.unique().to_list():
            mask = floors.is_null() if floor is None else (floors == floor).fill_null(False)
            group = served.asked.filter(mask)
            asked, cuts = group.select("pid", "entity", "t"), served.cuts.filter(pl.col("pid").is_in(group["pid"].to_list()))
            rows = (self.engine or self._by_duckdb)(feature_set, asked, cuts, floor)
            at = np.flatnonzero(mask.to_numpy())
            values[at], statuses[at] = rows.features.values, rows.features.statuses
        return FeatureRows(values, statuses)

    def _by_duckdb(self, feature_set: FeatureSet, asked: pl.DataFrame, cuts: pl.DataFrame, floor: int | None) -> OfflineRows:
        register(self.connection, "passports", asked)
        register(self.connection, "cuts", cuts)
        return as_served(self.connection, feature_set, self._events, floor)

    def _requests(self, asked: _Asked) -> dict[int, Mapping[str, Any]]:
        """What was asked: the archived event where the request was one, else the passport's own body."""
        out: dict[int, Mapping[str, Any]] = dict(asked.bodies)
        for model in {m for m in asked.models.values() if m in self._assemblers}:
            event = self._events[self._assemblers[model].model.request]
            origins = {asked.origins[pid]: pid for pid in asked.pids if asked.models[pid] == model and pid in asked.origins}
            mine = {(int(part), int(off)): pid for (topic, part, off), pid in origins.items() if topic == event.topic}
            archived = self._events_at(event, list(mine))
            for place, pid in mine.items():
                found = archived.get(place)
                if found is None or found != dict(asked.bodies[pid]):
                    self._add("request", asked, pid, None, orjson.dumps(asked.bodies[pid]).decode(), str(found))
                out[pid] = found if found is not None else out[pid]
        for pid in asked.pids:
            assembler = self._assemblers.get(asked.models[pid])
            time = self._events[assembler.model.request].time if assembler else None
            if time is None or out[pid].get(time) != asked.times[pid]:
                self._add("request", asked, pid, None, f"t {asked.times[pid]}", f"t {out[pid].get(time or '')}")
        return out

    def _events_at(self, event: EventType, places: Sequence[tuple[int, int]]) -> dict[tuple[int, int], dict[str, Any]]:
        wanted = pl.DataFrame(list(places), {"part": pl.Int64, "off": pl.Int64}, orient="row")
        register(self.connection, "places", wanted)
        columns = ", ".join(quoted(f.name) for f in event.fields)
        self.connection.execute(
            f"select part, off, {columns} from {quoted('verdict_' + event.name)} join places using (part, off) where decodable"
        )
        names = [f.name for f in event.fields]
        return {(row[0], row[1]): dict(zip(names, row[2:], strict=True)) for row in self.connection.fetchall()}

    def _rows(
        self, asked: _Asked, requests: Mapping[int, Mapping[str, Any]], values: Mapping[int, Mapping[str, list[float | None]]]
    ) -> None:
        unread: dict[str, list[float | None]] = {
            s.name: [None] * len(s.features) for s in self.plan.feature_sets if s.placement == "owned"
        }
        for pid in asked.pids:
            assembler = self._assemblers.get(asked.models[pid])
            # An owner that does not answer a call in time leaves it to the rules: there its set may not have been read.
            given = values[pid] if asked.sources[pid] in SCORED else {**unread, **values[pid]}
            missing = {c.feature_set for c in assembler.model.inputs if c.feature_set} - set(given) if assembler else {"model"}
            if assembler is None or missing:
                self._add("shape", asked, pid, None, "sets", f"no read of {sorted(missing)}")
                continue
            row = assembler.row(requests[pid], given)
            names = [c.name for c in assembler.model.inputs]
            compare_rows(self.findings, names, asked.request_ids[pid], asked.times[pid], asked.vectors[pid], row)

    # -- the naive oracle

    def _ask_oracle(
        self, feature_set: FeatureSet, served: Served, recomputed: FeatureRows, asked: _Asked, picked: set[str]
    ) -> None:
        mask = [asked.request_ids[pid] in picked for pid in served.asked["pid"].to_list()]
        rows = np.flatnonzero(np.array(mask, np.bool_))
        if not len(rows):
            return
        group = served.asked.filter(pl.Series(mask))
        cuts = served.cuts.filter(pl.col("pid").is_in(group["pid"].to_list()))
        answers = answer_naively(self.connection, feature_set, self._events, group, cuts)
        for row, (pid, _, _, _) in zip(rows.tolist(), group.rows(), strict=True):
            values, statuses = answers[pid]
            self.findings.oracle_checked += 1
            ours = cells(recomputed.values[row : row + 1])[0]
            if [_bits(v) for v in values] != [_bits(v) for v in ours] or statuses != recomputed.statuses[row].tolist():
                self._add("oracle", asked, pid, feature_set, f"sql {ours}", f"oracle {values} {statuses}")

    def _add(self, kind: str, asked: _Asked, pid: int, feature_set: FeatureSet | None, served: str, recomputed: str) -> None:
        name = feature_set.name if feature_set else ""
        where = Mismatch(kind, asked.request_ids[pid], asked.times[pid], name, served=served[:500], recomputed=recomputed[:500])
        self.findings.add(where)

    def page(self) -> dict[str, Any]:
        """The result as JSON."""
        return {
            "pipeline": self.plan.pipeline,
            "plan_hash": self.plan.hash,
            **self.findings.page(),
            "verdicts": self.verdicts,
            "undecodable": self.undecodable,
            "other_plans": self.other_plans,
        }


@dataclass(frozen=True, slots=True)
class _Asked:
    """A chunk of passports by pid. origins: (topic, partition, offset) of requests that were events."""

    pids: list[int]
    request_ids: dict[int, str]
    times: dict[int, int]
    models: dict[int, str]
    bodies: dict[int, dict[str, Any]]
    sources: dict[int, str]
    origins: dict[int, tuple[str, str, str]]
    vectors: dict[int, np.ndarray]

    @classmethod
    def of(cls, passports: pl.DataFrame) -> _Asked:
        pids = passports["pid"].to_list()

        def by_pid(column: str) -> dict[int, Any]:
            return dict(zip(pids, passports[column].to_list(), strict=True))

        origins = {pid: tuple(e.rsplit("-", 2)) for pid, e in by_pid("event_id").items() if e is not None}
        bodies = {pid: orjson.loads(body) for pid, body in by_pid("request_body").items()}
        flat = passports["vector"].explode().to_numpy().astype(np.float32)
        edges = [0, *np.cumsum(passports["vector"].list.len().to_numpy(), dtype=np.int64).tolist()]
        vectors = {pid: flat[edges[i] : edges[i + 1]] for i, pid in enumerate(pids)}
        return cls(
            pids, by_pid("request_id"), by_pid("t_ms"), by_pid("model"), bodies, by_pid("decision_source"), origins, vectors
        )  # fmt: skip


def _smallest(request_ids: Sequence[str], n: int) -> list[str]:
    """A sample that depends on the ids alone, not on the order they lie in."""
    return sorted(set(request_ids), key=lambda r: hashlib.sha256(r.encode()).digest())[:n]


def _bits(value: float | None) -> str:
    return "none" if value is None else float(value).hex()

"""Replay: the decisions of the newest days, made again under a changed declaration or by another model.

    passports of the span --> slices --> values (kept, as served, as of) --> rows --> scores --> decisions --> flips, gains

Nothing but the lake and the models is read. What is held at once is a slice; tables spill.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import duckdb
import numpy as np
import orjson
import polars as pl
from numpy.typing import NDArray

from headrace.contracts.errors import Fatal
from headrace.plan.assemble import Assembled, Assembler
from headrace.plan.expressions import Expression, parse
from headrace.plan.ir import EventType, Model, Plan
from headrace.plan.offline import quoted
from headrace.plan.routing import DECISIONS_SALT, sampled
from headrace.plan.topics import predictions_topic
from svc_features.adapters.lake import LakeReader
from svc_features.domain.dataset import outcomes_sql
from svc_features.domain.replay import MODEL, PREVIOUS, Decided, Moved, Replayed, Tally, again, moved
from svc_features.domain.served import cells
from svc_features.history import History, KnownModel
from svc_features.ports import Scorer, Unusable
from svc_features.revaluing import Asking, Revaluer
from svc_features.warehouse import register

SLICE_ROWS = 5_000  # decisions held at once
_READ = [
    "part", "off", "decodable", "request_id", "model", "plan_hash", "request_body", "t_ms", "routing_key", "sets", "vector",
    "model_digest", "score", "decision", "decision_source", "rule_score", "door",
]  # fmt: skip

Open = Callable[[KnownModel | None, str], Scorer]
Tell = Callable[[str, int, int], None]  # phase, done, total
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Question:
    """What is replayed. span_ms: event time before the newest decision. model: a candidate that answers everything.

    by: request fields whose values are counted apart.
    """

    span_ms: int
    model: str = ""
    by: tuple[str, ...] = ()
    slice_rows: int = SLICE_ROWS


@dataclass(slots=True)
class _Case:
    """One decision on its way: what was, and its row under the change."""

    row: Json
    request: Json
    old: Decided
    assembled: Assembled
    moved: tuple[Moved, ...]
    label: bool | None
    score: float | None = None


@dataclass(slots=True)
class Replay:
    """One replay. flip: told of every decision that flips, in the order of t."""

    connection: duckdb.DuckDBPyConnection
    reader: LakeReader
    plan: Plan
    history: History
    open: Open
    question: Question
    spare: Callable[[], duckdb.DuckDBPyConnection]
    flip: Callable[[str, Replayed], None] = lambda _model, _one: None
    tell: Tell = lambda _phase, _done, _total: None
    newest_ms: int = 0
    repeated: int = 0
    baseline: Plan | None = None  # what the newest decision was made under
    tallies: dict[str, Tally] = field(default_factory=dict)
    _revaluer: Revaluer = field(init=False)
    _events: dict[str, EventType] = field(init=False)
    _models: dict[str, _Model] = field(init=False)

    def __post_init__(self) -> None:
        self._events = {e.name: e for e in self.plan.events}
        sets = {s.hash: frozenset(s.events) for p in self.history.plans.values() for s in p.feature_sets}
        self._revaluer = Revaluer(self.connection, self.reader, self.plan, sets.get, self.spare)
        candidate = self.history.find(self.question.model) if self.question.model else None
        if candidate is not None and all(m.name != candidate.model for m in self.plan.models):
            raise ValueError(f"{candidate.signed.model_digest[:8]} is a model of {candidate.model}, which is not declared")
        self._models = {
            m.name: _Model.of(self.plan, m, candidate if candidate is not None and candidate.model == m.name else None)
            for m in self.plan.models
            if candidate is None or candidate.model == m.name
        }

    def run(self) -> Json:
        """Raises: Fatal if the lake lacks a table or there is no decision; ValueError for a question without an answer."""
        total = self._gather()
        for number, made in enumerate(self._models.values()):
            self.tell("outcomes", number, len(self._models))
            self._outcomes(made.model)
        self._judge()
        for start in range(0, total, self.question.slice_rows):
            self.tell("replay", start, total)
            found = self.connection.sql(
                f"select * from decided where pid >= {start} and pid < {start + self.question.slice_rows} order by pid"
            )
            self._slice(pl.DataFrame(pl.from_arrow(found.to_arrow_table())))
        self.tell("replay", total, total)
        return self.page()

    # -- what was decided

    def _gather(self) -> int:
        """CREATE decided: the decisions of the span in order of t, each request once; returns how many there are."""
        topic = predictions_topic(self.plan.pipeline)
        self.tell("gather", 0, 2)
        newest: int | None = None
        for batch in self.reader.batches(topic, ["decodable", "t_ms"]):
            found = pl.DataFrame(pl.from_arrow(batch)).filter("decodable")["t_ms"].max()
            newest = found if newest is None or (isinstance(found, int) and found > newest) else newest  # type: ignore[assignment]
        if newest is None:
            raise Fatal(f"the lake holds no decisions of {self.plan.pipeline} yet")
        self.newest_ms = int(newest)
        self.tell("gather", 1, 2)
        self.connection.register("incoming", self.reader.batches(topic, _READ))
        named = [made.model.name for made in self._models.values() if made.candidate is not None]
        only = " and model = ?" if named else ""  # a candidate is asked about its own model's decisions
        self.connection.execute(
            f"""
create or replace table found as
select *, row_number() over (partition by request_id, model order by off, part) as nth from incoming
where decodable and t_ms > {self.newest_ms - self.question.span_ms}{only}""",
            named,
        )
        self.connection.unregister("incoming")
        self.connection.execute("""
create or replace table decided as select row_number() over () - 1 as pid, * exclude (nth, decodable) from (
  select * from found where nth = 1 order by t_ms, part, off)""")
        counts = "count(*) filter (nth = 1), count(*) filter (nth > 1)"
        ((total, self.repeated),) = self.connection.execute(f"select {counts} from found").fetchall()
        self.connection.execute("drop table found")
        if not total:
            raise Fatal(f"no decisions of {', '.join(named)} in this span")
        ((last,),) = self.connection.execute("select plan_hash from decided order by pid desc limit 1").fetchall()
        self.baseline = self.history.plans.get(last)
        return int(total)

    def _outcomes(self, model: Model) -> None:
        """CREATE outcomes_<model>: join, label, excluded, known_ms, the first outcome of each id."""
        event = self._events[model.label.event]
        self._revaluer.judge(event.name)
        name = quoted("outcomes_" + model.name)
        self.connection.execute(
            f'create or replace table {name} as select "join"::varchar as "join", label, excluded, known_ms '
            f"from ({outcomes_sql(model, event, Expression.to_duckdb)})"
        )
        ((until,),) = self.connection.execute(f"select max(m_after) from {quoted('judged_' + event.name)}").fetchall()
        self._models[model.name].known_until_ms = until if until is not None else 0

    def _judge(self) -> None:
        """Verdicts of what sets that no decision has read need."""
        found = self.connection.execute("select distinct s.hash from (select unnest(sets) as s from decided)").fetchall()
        known, used = {name for (name,) in found}, {name for made in self._models.values() for name in made.sets}
        changed = [s for s in self.plan.feature_sets if s.name in used and s.hash not in known]
        events = sorted({name for s in changed for name in s.events})
        for number, name in enumerate(events):
            self.tell("verdicts", number, len(events))
            self._revaluer.judge(name)

    # -- a slice

    def _slice(self, rows: pl.DataFrame) -> None:
        by_model: dict[str, list[Json]] = defaultdict(list)
        for row in rows.iter_rows(named=True):
            by_model[row["model"]].append(row)
        for name, mine in by_model.items():
            tally = self.tallies.setdefault(name, Tally(self.question.by))
            tally.decisions += len(mine)
            made = self._models.get(name)
            if made is None:
                for _ in mine:
                    tally.leave("model_not_declared", f"the declaration has no model {name}")
                continue
            self._score(made, tally, self._cases(made, tally, mine))

    def _cases(self, made: _Model, tally: Tally, rows: Sequence[Json]) -> list[_Case]:
        """Rows under the change, of the decisions that are asked for and can be assembled."""
        asked: list[tuple[Json, Json]] = []
        for row in rows:
            try:
                request = made.request(orjson.loads(row["request_body"]))
            except KeyError as error:
                tally.leave("request_lacks_field", f"requests lack {error.args[0]}, which the declaration needs")
                continue
            if made.asks(request, by_event=row["door"] == "EVENT"):
                asked.append((row, request))
            else:
                tally.not_asked += 1
        askings = [Asking(int(request[made.event.time]), request, row["sets"]) for row, request in asked]
        values: dict[str, list[list[float | None]]] = {}
        there = np.ones(len(asked), np.bool_)
        for feature_set in self.plan.feature_sets:
            if feature_set.name in made.sets:
                found, known = self._revaluer.values(feature_set, askings)
                there &= known
                values[feature_set.name] = cells(found)
        labels = self._labels(made, [request for _, request in asked])
        cases: list[_Case] = []
        for i, (row, request) in enumerate(asked):
            if not there[i]:
                tally.leave("archive_behind", "the archive does not reach the cut the decision was made at")
                continue
            assembled = made.assembler.assemble(request, {name: lines[i] for name, lines in values.items()})
            old = Decided(row["decision"], row["decision_source"], row["score"], row["rule_score"])
            cases.append(_Case(row, request, old, assembled, self._moved(made, row, assembled), labels[i]))
        return cases

    def _moved(self, made: _Model, row: Json, assembled: Assembled) -> tuple[Moved, ...]:
        """Inputs by name; those that only one of the two rows has are not compared."""
        plan = self.history.plans.get(row["plan_hash"])
        before = next((m for m in plan.models if m.name == made.model.name), None) if plan else made.model
        old = np.array(row["vector"], np.float32)
        names = [c.name for c in before.inputs] if before is not None else []
        if len(names) != len(old):
            return ()
        at = {name: i for i, name in enumerate(names)}
        shared = [(name, at[name], i) for i, name in enumerate(made.names) if name in at]
        return moved(
            [n for n, _, _ in shared], old[[i for _, i, _ in shared]], assembled.row[[i for _, _, i in shared]]
        )  # fmt: skip

    def _labels(self, made: _Model, requests: Sequence[Json]) -> list[bool | None]:
        """Outcomes of mature requests; null where there is none, it is excluded, or it may still come."""
        label = made.model.label
        keys = [request.get(label.join) for request in requests]
        frame = pl.DataFrame(
            [(i, None if k is None else str(k)) for i, k in enumerate(keys)],
            {"i": pl.Int64, "key": pl.String}, orient="row",
        )  # fmt: skip
        register(self.connection, "joining", frame)
        found = self.connection.execute(
            f'select i, label, excluded, known_ms from joining join {quoted("outcomes_" + made.model.name)} on key = "join"'
        ).fetchall()
        known = {i: (value, excluded, at) for i, value, excluded, at in found}
        out: list[bool | None] = []
        for i, request in enumerate(requests):
            ripe = int(request[made.event.time]) + label.mature_ms
            outcome = known.get(i)
            if outcome is not None and label.unlabelled != "drop" and outcome[2] > ripe:
                outcome = None  # too late to count as an outcome
            if ripe > made.known_until_ms or (outcome is not None and outcome[1]):
                out.append(None)
            elif outcome is None:
                out.append(False if label.unlabelled == "negative" else None)
            else:
                out.append(bool(outcome[0]))
        return out

    # -- scores and decisions

    def _score(self, made: _Model, tally: Tally, cases: Sequence[_Case]) -> None:
        by_digest: dict[str, list[_Case]] = defaultdict(list)
        done: list[tuple[_Case, str]] = []
        for case in cases:
            if made.candidate is not None:
                by_digest[made.candidate.signed.model_digest].append(case)
            elif case.old.source in (MODEL, PREVIOUS) and case.row["model_digest"]:
                by_digest[case.row["model_digest"]].append(case)
            else:
                done.append((case, case.old.source))
        for digest, mine in by_digest.items():
            try:
                scores = self._scores(made, digest, np.stack([case.assembled.row for case in mine]))
            except Unusable as error:
                for case in mine:
                    tally.leave(error.reason, error.detail)
                    tally.note(case.moved, flips=False)
                continue
            for case, score in zip(mine, scores.tolist(), strict=True):
                case.score = score
                done.append((case, case.old.source if made.candidate is None else MODEL))
        for case, rung in sorted(done, key=lambda pair: pair[0].row["pid"]):
            new = again(made.model, case.assembled, rung, case.score)
            fitted = made.candidate is not None and case.row["t_ms"] < made.candidate.fitted_until_ms
            one = Replayed(
                case.row["request_id"], case.row["t_ms"], case.request, case.old, new, case.moved, case.label, not fitted
            )
            tally.add(one)
            if one.flips:
                self.flip(made.model.name, one)

    def _scores(self, made: _Model, digest: str, rows: NDArray[np.float32]) -> NDArray[np.float64]:
        known = made.candidate or self.history.models.get(digest)
        scorer = self.open(known, digest)
        if scorer.columns == made.names:
            return scorer.scores(rows)
        lacking = [n for n in scorer.columns if n not in made.names]
        unknown = [n for n in made.names if n not in scorer.columns]
        if lacking or unknown:
            words = [f"does not know {', '.join(unknown)}"] * bool(unknown) + [f"needs {', '.join(lacking)}"] * bool(lacking)
            raise Unusable("model_does_not_fit", f"model {digest[:8]} {' and '.join(words)}: train one for this declaration")
        return scorer.scores(np.ascontiguousarray(rows[:, [made.names.index(n) for n in scorer.columns]]))

    def page(self) -> Json:
        """JSON-able."""
        return {
            "pipeline": self.plan.pipeline, "plan_hash": self.plan.hash,
            "baseline_hash": self.baseline.hash if self.baseline else None,
            "from_ms": self.newest_ms - self.question.span_ms + 1, "until_ms": self.newest_ms, "repeated": self.repeated,
            "candidate": next((_told(m.candidate) for m in self._models.values() if m.candidate is not None), None),
            "values": dict(sorted(self._revaluer.modes.items())),
            "models": {name: tally.page() for name, tally in sorted(self.tallies.items())},
        }  # fmt: skip


def _told(candidate: KnownModel) -> Json:
    """fitted_until_ms null: the audit does not tell, so outcomes it was fitted on may be among the gains."""
    digest, until = candidate.signed.model_digest, candidate.fitted_until_ms
    return {"model_digest": digest, "candidate_id": candidate.candidate_id, "fitted_until_ms": until or None}


@dataclass(slots=True)
class _Model:
    """A declared model, made ready."""

    model: Model
    event: EventType
    assembler: Assembler
    candidate: KnownModel | None
    names: tuple[str, ...]
    sets: frozenset[str]
    known_until_ms: int = 0
    _when: Callable[[Mapping[str, object]], object] | None = None

    @classmethod
    def of(cls, plan: Plan, model: Model, candidate: KnownModel | None) -> _Model:
        event = next(e for e in plan.events if e.name == model.request)
        when = parse(model.when, {f.name: f for f in event.fields}, allow_float=True).compile() if model.when else None
        used = frozenset(c.feature_set for c in model.inputs if c.feature_set)
        names = tuple(c.name for c in model.inputs)
        return cls(model, event, Assembler(plan, model), candidate, names, used, 0, when)

    def request(self, body: Json) -> Json:
        """The body as the declared event has it. Raises: KeyError with a field it lacks."""
        return {f.name: body.get(f.name) if f.nullable else body[f.name] for f in self.event.fields}

    def asks(self, request: Json, by_event: bool) -> bool:
        """Whether the declaration would have this request decided; callers over REST are not sampled."""
        if self._when is not None and self._when(request) is not True:
            return False
        return not by_event or sampled(DECISIONS_SALT, str(request[self.model.routing_key]), self.model.sample_bp)

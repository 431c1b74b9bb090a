"""From requests to passports: read, assemble, route, execute, explain, and say which rung answered.

model --fails, late--> previous --> rules --null--> default
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import orjson
from numpy.typing import NDArray

from headrace.chassis.clock import Clock
from headrace.chassis.logs import logger
from headrace.contracts.errors import Fatal, PipelineFault, Retryable
from headrace.contracts.records import ArmServed, Contribution, DecisionSource, PredictionMade, SetRead
from headrace.plan.assemble import Assembled, Assembler
from headrace.plan.ir import Model, Plan
from svc_serve.domain.request import Request
from svc_serve.domain.table import RULES, Table
from svc_serve.features import SetReader
from svc_serve.owned_reads import OwnedReads
from svc_serve.ports import LoadedModel

_log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Serving:
    """What answers now: one immutable value, swapped whole by epoch."""

    table: Table
    models: Mapping[str, LoadedModel]  # by arm name
    previous: LoadedModel | None = None
    previous_home: str = ""  # hash of the plan whose rows it takes


@dataclass(frozen=True, slots=True)
class _Answer:
    score: float | None
    decision: bool
    source: DecisionSource
    reason: str
    digest: str | None
    raw: float | None = None
    contributions: tuple[Contribution, ...] = ()
    method: str = ""


_Explanation: TypeAlias = tuple[float | None, tuple[Contribution, ...], str]  # raw score, contributions, method


class Decider:
    """Decides batches of requests of one model. Both doors call it, each from its thread; `serving` is swapped whole."""

    def __init__(
        self, plan: Plan, model: Model, readers: Sequence[SetReader], clock: Clock, owned: OwnedReads | None = None,
        *, older: Sequence[Decider] = (), declared_hash: str = "",
    ) -> None:  # fmt: skip
        """Decide requests of one model.

        Args:
            owned: what the owner of an owned set sends, where the model has one.
            older: the same model in retained versions of the plan, for arms trained for their rows.
            declared_hash: what passports name; the plan's hash when empty. Not that of a plan with what it retains, which
                comes and goes: a row is the declaration's.
        """
        self.plan, self.model, self.serving, self.owned = plan, model, Serving(Table.empty(), {}), owned
        self._older = {decider.plan.hash: decider for decider in older}
        self._declared_hash = declared_hash or plan.hash
        self._readers = list(readers)
        self._unread = {} if owned is None else {owned.feature_set.name: (None,) * len(owned.feature_set.features)}
        self._assembler = Assembler(plan, model)
        self._clock = clock
        self._threshold = float(model.threshold)
        self._names = [column.name for column in model.inputs]

    def decide(self, requests: Sequence[Request]) -> list[PredictionMade]:
        """One passport per request, in order. Never fails for want of a model.

        Raises: PipelineFault if the feature state cannot be read.
        """
        serving = self.serving
        arms = [serving.table.route(r.routing_key) for r in requests]
        homes: dict[str, list[int]] = defaultdict(list)
        for i, arm in enumerate(arms):
            homes[arm.plan_hash].append(i)
        out: dict[int, PredictionMade] = {}
        for home, members in homes.items():
            decider = self.of(home)
            made = decider.decide_by(serving, [requests[i] for i in members], [arms[i] for i in members])
            out.update(zip(members, made, strict=True))
        return [out[i] for i in range(len(requests))]

    def of(self, home: str) -> Decider:
        """The decider of a version of the plan by its hash, this one for none. Raises: ValueError if it is not retained."""
        if home and home not in self._older:
            raise ValueError(f"an arm takes rows of plan {home[:8]}, which {self.plan.hash[:8]} does not retain")
        return self._older[home] if home else self

    def decide_by(self, serving: Serving, requests: Sequence[Request], arms: Sequence[ArmServed]) -> list[PredictionMade]:
        """One passport per request, all answered with rows of this version of the plan."""
        started = time.perf_counter()
        reads = self._read(requests)
        rows = [
            self._assembler.assemble(r.fields, self._unread | {s.set: s.values for s in sets})
            for r, sets in zip(requests, reads, strict=True)
        ]
        read = [len(sets) == len(self._readers) + (self.owned is not None) for sets in reads]
        answers = self._answers(serving, requests, arms, rows, read)
        spent_us = int((time.perf_counter() - started) * 1e6 / max(len(requests), 1))
        return [
            self._passport(serving, request, sets, row, arm, answer, spent_us)
            for request, sets, row, arm, answer in zip(requests, reads, rows, arms, answers, strict=True)
        ]

    def _read(self, requests: Sequence[Request]) -> list[tuple[SetRead, ...]]:
        if not self._readers and self.owned is None:
            return [()] * len(requests)
        try:
            columns: list[list[SetRead | None]] = [list(reader.read(requests)) for reader in self._readers]
            if self.owned is not None:
                columns.append(self.owned.read(requests))
        except (Retryable, Fatal):
            raise
        except Exception as error:
            raise PipelineFault(self.plan.pipeline, f"feature state: {type(error).__name__}: {error}") from error
        return [tuple(read for read in reads if read is not None) for reads in zip(*columns, strict=True)]

    def _answers(
        self, serving: Serving, requests: Sequence[Request], arms: Sequence[ArmServed], rows: Sequence[Assembled],
        read: Sequence[bool],
    ) -> list[_Answer]:  # fmt: skip
        """One per request. Rows of one arm are executed together; the others fall to the rules with their reason.

        read: whether all sets were; no model is asked about a row whose owner did not answer.
        """
        out: list[_Answer | None] = [None] * len(rows)
        groups: dict[str, list[int]] = defaultdict(list)
        now = self._clock.monotonic_s()
        for i, (request, arm, row) in enumerate(zip(requests, arms, rows, strict=True)):
            if arm.name == RULES:
                out[i] = self._rules(row, "no_model" if serving.table.epoch == 0 else "arm")
            elif self.owned is not None and not self.owned.followed:
                out[i] = self._rules(row, "pending")
            elif now > request.deadline_s or not read[i]:
                out[i] = self._rules(row, "deadline")
            elif arm.name not in serving.models:
                out[i] = self._rules(row, "pending")
            else:
                groups[arm.name].append(i)
        for name, members in groups.items():
            latest = min(requests[i].deadline_s for i in members)
            for i, answer in zip(members, self._execute(serving, name, [rows[i] for i in members], latest), strict=True):
                out[i] = answer
        return [answer for answer in out if answer is not None]

    def _execute(self, serving: Serving, name: str, rows: Sequence[Assembled], deadline_s: float) -> list[_Answer]:
        matrix = np.stack([row.row for row in rows])
        ladder = [(serving.models[name], DecisionSource.MODEL, "")]
        other = serving.previous is not None and serving.previous is not serving.models[name]
        if serving.previous is not None and other and serving.previous_home == self.plan.hash:
            ladder.append((serving.previous, DecisionSource.PREVIOUS, "executor_error"))
        for loaded, source, reason in ladder:
            try:
                scores = loaded.executor.scores(matrix)
            except Retryable as error:
                _log.warning("executor_failed", model=self.model.name, digest=loaded.digest, error=str(error))
                continue
            explained = self._explain(loaded, matrix, deadline_s)
            return [
                _Answer(s, s >= self._threshold, source, reason, loaded.digest, *explanation)
                for s, explanation in zip(scores.tolist(), explained, strict=True)
            ]
        return [self._rules(row, "executor_error") for row in rows]

    def _explain(self, loaded: LoadedModel, matrix: NDArray[np.float32], deadline_s: float) -> list[_Explanation]:
        """With what is left of the deadline. A failing explainer costs the explanation, never the decision."""
        nothing: list[_Explanation] = [(None, (), "")] * len(matrix)
        if loaded.explainer is None or self.model.explain_top <= 0 or self._clock.monotonic_s() > deadline_s:
            return nothing
        try:
            shares = loaded.explainer.contributions(matrix)
        except Retryable as error:
            _log.warning("explainer_failed", model=self.model.name, digest=loaded.digest, error=str(error))
            return nothing
        order = np.argsort(-np.abs(shares[:, :-1]), axis=1, kind="stable").tolist()
        return [
            (sum(row), self._top(row, places), loaded.explainer.method)
            for row, places in zip(shares.tolist(), order, strict=True)
        ]

    def _top(self, shares: Sequence[float], order: Sequence[int]) -> tuple[Contribution, ...]:
        """The largest contributions, then what the others and the bias give: together the raw score."""
        top, rest = order[: self.model.explain_top], order[self.model.explain_top :]
        return (
            *(Contribution(input=self._names[i], value=shares[i]) for i in top),
            Contribution(input="rest", value=sum(shares[i] for i in rest)),
            Contribution(input="bias", value=shares[-1]),
        )

    def _rules(self, row: Assembled, reason: str) -> _Answer:
        if row.rule_score is None:
            return _Answer(None, self.model.default_decision, DecisionSource.DEFAULT, reason + ",rule_input_missing", None)
        return _Answer(None, row.rule_decision, DecisionSource.RULES, reason, None)

    def _passport(
        self,
        serving: Serving,
        request: Request,
        sets: Sequence[SetRead],
        row: Assembled,
        arm: ArmServed,
        answer: _Answer,
        spent_us: int,
    ) -> PredictionMade:
        parts = (request.traceparent or "").split("-")
        sampled = len(parts) == 4 and parts[3] == "01"
        return PredictionMade(
            request_id=request.request_id,
            pipeline=self.plan.pipeline,
            model=self.model.name,
            plan_hash=self._declared_hash,
            semantics_version=self.plan.semantics_version,
            request_body=orjson.dumps(request.fields, option=orjson.OPT_SORT_KEYS).decode(),
            t_ms=request.t_ms,
            routing_key=request.routing_key,
            sets=tuple(sets),
            vector=tuple(row.row.tolist()),
            model_digest=answer.digest,
            arm=arm.name,
            epoch=serving.table.epoch,
            score=answer.score,
            decision=answer.decision,
            decision_source=answer.source,
            source_reason=answer.reason,
            rule_score=row.rule_score,
            contributions=answer.contributions,
            contribution_method=answer.method,
            raw_score=answer.raw,
            event_id=request.event_id,
            trace_id=parts[1] if sampled else "",
            request_append_ms=request.append_ms,
            received_ms=request.received_ms,
            decided_ms=self._clock.now_ms(),
            door=request.door,
            owner=self.model.owner,
            team=self.model.team,
            cost_us=spent_us,
        )

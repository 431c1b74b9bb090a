"""From requests to passports: read, assemble, route, execute, explain, and say which rung answered.

model --fails, late--> previous --> rules --null--> default
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import orjson
from numpy.typing import NDArray

from headrace.chassis.clock import Clock
from headrace.contracts.errors import Retryable
from headrace.contracts.records import ArmServed, Contribution, DecisionSource, PredictionMade, SetRead
from headrace.plan.assemble import Assembled, Assembler
from headrace.plan.ir import Model, Plan
from svc_serve.domain.request import Request
from svc_serve.domain.table import RULES, Table
from svc_serve.features import SetReader
from svc_serve.ports import LoadedModel


@dataclass(frozen=True, slots=True)
class Serving:
    """What answers now: one immutable value, swapped whole by epoch."""

    table: Table
    models: Mapping[str, LoadedModel]  # by arm name
    previous: LoadedModel | None = None


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


class Decider:
    """Decides batches of requests of one model. Call from one thread; `serving` may be swapped from another."""

    def __init__(self, plan: Plan, model: Model, readers: Sequence[SetReader], clock: Clock) -> None:
        self.plan, self.model, self.serving = plan, model, Serving(Table.empty(), {})
        self._readers = list(readers)
        self._assembler = Assembler(plan, model)
        self._clock = clock
        self._threshold = float(model.threshold)
        self._names = [column.name for column in model.inputs]

    def decide(self, requests: Sequence[Request]) -> list[PredictionMade]:
        """One passport per request, in order. Never fails for want of a model."""
        started = time.perf_counter()
        serving = self.serving
        reads = (
            list(zip(*(reader.read(requests) for reader in self._readers), strict=True))
            if self._readers
            else [()] * len(requests)
        )
        rows = [
            self._assembler.assemble(r.fields, {s.set: s.values for s in sets}) for r, sets in zip(requests, reads, strict=True)
        ]
        arms = [serving.table.route(r.routing_key) for r in requests]
        answers = self._answers(serving, requests, arms, rows)
        spent_us = int((time.perf_counter() - started) * 1e6 / max(len(requests), 1))
        return [
            self._passport(serving, request, sets, row, arm, answer, spent_us)
            for request, sets, row, arm, answer in zip(requests, reads, rows, arms, answers, strict=True)
        ]

    def _answers(
        self, serving: Serving, requests: Sequence[Request], arms: Sequence[ArmServed], rows: Sequence[Assembled]
    ) -> list[_Answer]:
        out: list[_Answer] = [
            self._rules(row, "no_model" if arm.name == RULES else "pending") for arm, row in zip(arms, rows, strict=True)
        ]
        groups: dict[str, list[int]] = defaultdict(list)
        now = time.monotonic()
        for i, (request, arm) in enumerate(zip(requests, arms, strict=True)):
            if arm.name == RULES:
                out[i] = replace(out[i], reason="no_model" if serving.table.epoch == 0 else "arm")
            elif now > request.deadline_s:
                out[i] = replace(out[i], reason="deadline")
            elif arm.name in serving.models:
                groups[arm.name].append(i)
        for name, members in groups.items():
            matrix = np.stack([rows[i].row for i in members])
            for i, answer in zip(members, self._execute(serving, name, matrix, [rows[i] for i in members]), strict=True):
                out[i] = answer
        return out

    def _execute(self, serving: Serving, name: str, matrix: NDArray[np.float32], rows: Sequence[Assembled]) -> list[_Answer]:
        ladder = [(serving.models[name], DecisionSource.MODEL, "")]
        if serving.previous is not None and serving.previous is not serving.models[name]:
            ladder.append((serving.previous, DecisionSource.PREVIOUS, "executor_error"))
        for loaded, source, reason in ladder:
            try:
                scores = loaded.executor.scores(matrix)
            except Retryable:
                continue
            explained = self._explain(loaded, matrix)
            return [
                _Answer(float(s), bool(s >= self._threshold), source, reason, loaded.digest, *explained[i])
                for i, s in enumerate(scores.tolist())
            ]
        return [self._rules(row, "executor_error") for row in rows]

    def _explain(
        self, loaded: LoadedModel, matrix: NDArray[np.float32]
    ) -> list[tuple[float | None, tuple[Contribution, ...], str]]:
        if loaded.explainer is None or self.model.explain_top <= 0:
            return [(None, (), "")] * len(matrix)
        shares = loaded.explainer.contributions(matrix)
        return [(float(row.sum()), self._top(row), loaded.explainer.method) for row in shares]

    def _top(self, shares: NDArray[np.float64]) -> tuple[Contribution, ...]:
        inputs, bias = shares[:-1], shares[-1]
        order = np.argsort(-np.abs(inputs), kind="stable")
        top = [Contribution(input=self._names[i], value=float(inputs[i])) for i in order[: self.model.explain_top]]
        rest = float(inputs[order[self.model.explain_top :]].sum())
        return (*top, Contribution(input="rest", value=rest), Contribution(input="bias", value=float(bias)))

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
            plan_hash=self.plan.hash,
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

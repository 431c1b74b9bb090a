"""From feature values and a request to the model's row: one shared step, online and offline."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from headrace.plan.expressions import parse
from headrace.plan.ir import Field, Model, Plan

Row = Mapping[str, object]
Values = Mapping[str, Sequence[float | None]]  # feature set name -> values in plan order


@dataclass(slots=True)
class Assembler:
    """Builds rows of one model: float32, column order of `model.inputs`; missing is NaN.

    Inputs of kind `request` see the request's fields; `on_demand`, the rules and the rule's
    score see the request's fields and all inputs before them by name.
    """

    plan: Plan
    model: Model
    _steps: list[tuple[str, Callable[[Row], object]]] = field(init=False)
    _rules: Callable[[Row], object] = field(init=False)

    def __post_init__(self) -> None:
        event = next(e for e in self.plan.events if e.name == self.model.request)
        scope: dict[str, Field] = {f.name: f for f in event.fields}
        sets = {s.name: s for s in self.plan.feature_sets}
        self._steps = []
        for column in self.model.inputs:
            if column.kind == "feature":
                assert column.feature_set is not None
                position = [f.name for f in sets[column.feature_set].features].index(column.feature or "")
                self._steps.append((column.name, _feature(column.feature_set, position)))
            else:
                self._steps.append((column.name, parse(column.expression or "", scope, allow_float=True).compile()))
            scope[column.name] = Field(column.name, "double", nullable=True)
        self._rules = parse(self.model.rules, scope, allow_float=True).compile()

    def _scope(self, request: Row, values: Values) -> dict[str, object]:
        known: dict[str, object] = {**request, _VALUES: values}
        for name, step in self._steps:
            known[name] = step(known)
        return known

    def assemble(self, request: Row, values: Values) -> Assembled:
        """One row, the rule's decision and the rule's score, from the same evaluation."""
        known = self._scope(request, values)
        row = np.array([_number(known[name]) for name, _ in self._steps], dtype=np.float32)
        score = known[self.model.rules_score]
        return Assembled(row, bool(self._rules(known)), None if score is None else _number(score))

    def row(self, request: Row, values: Values) -> NDArray[np.float32]:
        """The model's row alone."""
        return self.assemble(request, values).row


@dataclass(frozen=True, slots=True)
class Assembled:
    """row: float32 (inputs,); rule_decision: null counts as false; rule_score: null if missing."""

    row: NDArray[np.float32]
    rule_decision: bool
    rule_score: float | None


_VALUES = "\x00values"


def _feature(set_name: str, position: int) -> Callable[[Row], object]:
    def read(known: Row) -> object:
        values = known[_VALUES]
        assert isinstance(values, Mapping)
        return values[set_name][position]

    return read


def _number(value: object) -> float:
    if value is None:
        return math.nan
    if isinstance(value, bool | int | float):
        return float(value)
    raise TypeError(f"input is {type(value).__name__}, not a number: write an expression that gives one")

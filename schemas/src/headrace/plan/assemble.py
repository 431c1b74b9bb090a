"""From feature values and a request to the model's row: one shared step, online and offline."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from headrace.plan.expressions import Expression, parse
from headrace.plan.ir import Field, Input, Model, Plan
from headrace.plan.validate_models import scopes

if TYPE_CHECKING:
    import polars as pl

Row = Mapping[str, object]
Values = Mapping[str, Sequence[float | None]]  # feature set name -> values in plan order


@dataclass(frozen=True, slots=True)
class Assembled:
    """row: float32 (inputs,); rule_decision: null counts as false; rule_score: null if missing."""

    row: NDArray[np.float32]
    rule_decision: bool
    rule_score: float | None


@dataclass(frozen=True, slots=True)
class _Step:
    """One column: where its feature stands in the values of a set, or the expression that gives it."""

    name: str
    feature_set: str
    position: int
    evaluate: Callable[[Row], object] | None
    expression: Expression | None = None


@dataclass(slots=True)
class Assembler:
    """Builds rows of one model: float32, column order of `model.inputs`; missing is NaN.

    Expressions see what `validate_models.scopes` typed them over: the request's fields, and every input before them as
    a nullable double, by name.
    """

    plan: Plan
    model: Model
    _steps: tuple[_Step, ...] = field(init=False)
    _rules: Callable[[Row], object] = field(init=False)

    def __post_init__(self) -> None:
        typed = scopes(self.plan, self.model)
        self._steps = tuple(self._step(column, scope) for column, scope in zip(self.model.inputs, typed, strict=False))
        self._rules = parse(self.model.rules, typed[-1], allow_float=True).compile()

    def _step(self, column: Input, scope: Mapping[str, Field]) -> _Step:
        if column.kind != "feature":
            expression = parse(column.expression or "", scope, allow_float=True)
            return _Step(column.name, "", 0, expression.compile(), expression)
        known = next(s for s in self.plan.feature_sets if s.name == column.feature_set)
        return _Step(column.name, known.name, [f.name for f in known.features].index(column.feature or ""), None)

    def assemble(self, request: Row, values: Values) -> Assembled:
        """One row, the rule's decision and the rule's score, from the same evaluation.

        Raises: TypeError if an input is not a number, which a validated plan excludes.
        """
        known: dict[str, object] = dict(request)
        numbers: list[float] = []
        for step in self._steps:
            value = values[step.feature_set][step.position] if step.evaluate is None else _double(step, step.evaluate(known))
            known[step.name] = value
            numbers.append(math.nan if value is None else value)
        score = known[self.model.rules_score]
        assert score is None or isinstance(score, float), "inputs are doubles"
        return Assembled(np.array(numbers, dtype=np.float32), bool(self._rules(known)), score)

    def table(self, requests: pl.DataFrame, values: Mapping[str, NDArray[np.float64]]) -> tuple[NDArray[np.float32], pl.Series]:
        """`assemble` of N requests at once, equal to it bit for bit: rows (N, inputs) and rule scores (N,), null if missing.

        Args:
            requests: the request's fields as columns, times as int64 ms.
            values: per set shape (N, features), NaN where there is none.
        """
        import polars as pl

        frame = requests
        for step in self._steps:
            if step.expression is None:
                column = pl.Series(step.name, values[step.feature_set][:, step.position], pl.Float64).fill_nan(None)
            else:
                column = step.expression.to_polars().cast(pl.Float64).alias(step.name)
            frame = frame.with_columns(column)
        names = [step.name for step in self._steps]
        rows = frame.select(pl.col(names).fill_null(math.nan)).to_numpy().astype(np.float32)
        return rows, frame[self.model.rules_score]

    def row(self, request: Row, values: Values) -> NDArray[np.float32]:
        """The model's row alone."""
        return self.assemble(request, values).row


def _double(step: _Step, value: object) -> float | None:
    """What later expressions read as a double must be one: integer arithmetic would differ beyond 2**53."""
    if value is None or isinstance(value, float):
        return value
    if isinstance(value, bool | int):
        return float(value)
    raise TypeError(f"input {step.name} is {type(value).__name__}, not a number: write an expression that gives one")

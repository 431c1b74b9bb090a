"""Sources, models and the pipeline that holds them. Only descriptions: compile.py checks and lowers them."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Any, Literal, TypeAlias

from headrace.declare.errors import Where, here, refuse
from headrace.declare.events import Event
from headrace.declare.feature_sets import FeatureSetDeclaration, FeatureSubset
from headrace.declare.fields import Expr, condition_text


@dataclass(frozen=True)
class Source:
    """How svc-ingest reads outside records into one event: JSON lines over HTTP, or CSV files of a folder."""

    name: str
    event: type[Event]
    kind: Literal["http_json_lines", "csv_folder"]
    columns: dict[str, str] = field(default_factory=dict)  # event field -> source column; empty = same names
    location: Where = field(default_factory=here, repr=False)


@dataclass(frozen=True)
class RequestInputs:
    names: tuple[str, ...]
    location: Where


@dataclass(frozen=True)
class OnDemandInput:
    name: str
    expression: str
    location: Where


def request(*names: str) -> RequestInputs:
    """Fields of the request as inputs: numbers and booleans."""
    return RequestInputs(names, here())


def on_demand(expression: str, *, name: str) -> OnDemandInput:
    """A SQL expression over request fields and feature names, computed at the request; doubles, `/` allowed."""
    return OnDemandInput(name, expression, here())


ModelInput: TypeAlias = FeatureSetDeclaration | FeatureSubset | RequestInputs | OnDemandInput


@dataclass(frozen=True)
class Label:
    """The outcome: `where` over the event joined by `join`, known `mature` after t.

    `exclude` names the rows that have no outcome (a cancelled flight is not a punctual one): they train nothing.
    `unlabelled` says what a request means whose outcome did not come within `mature`: "drop" it, "negative" (nobody
    disputed the payment), or "keep" it with a null label.
    """

    event: type[Event]
    where: str | Expr
    join: str
    mature: str
    exclude: str | Expr | None = None
    unlabelled: Literal["drop", "negative", "keep"] = "drop"
    location: Where = field(default_factory=here, repr=False)

    def __post_init__(self) -> None:
        for condition in (self.where, self.exclude):
            condition_text(self.event.__name__, condition)  # tells a condition over another event at its line


@dataclass(frozen=True)
class GradientBoosting:
    """Trees by XGBoost. Parameters are kept as text: plans hold no floats."""

    rounds: int = 200
    max_depth: int = 6
    learning_rate: str = "0.1"
    min_child_weight: int = 10
    subsample: str = "0.8"
    colsample: str = "0.8"
    validation_share: str = "0.2"
    seed: int = 1

    def parameters(self) -> tuple[tuple[str, str], ...]:
        return tuple(sorted((name, str(value)) for name, value in vars(self).items()))


@dataclass(frozen=True)
class Gate:
    """What a candidate must reach: metric by rule, such as auc=">= champion - 0.002", parity="exact"."""

    rules: tuple[tuple[str, str], ...]

    def __init__(self, **rules: str) -> None:
        object.__setattr__(self, "rules", tuple(sorted(rules.items())))


@dataclass(frozen=True)
class Rules:
    """The fallback decision while no model lives; `score` is the input that ranks requests for the rule's AUC."""

    where: str
    score: str


@dataclass(frozen=True)
class Canary:
    """Steps in per cent of routing keys; each is judged after `dwell` matured decisions of the challenger."""

    steps: Sequence[int]
    dwell: str = "2000 decisions"
    alpha: str = "0.05"


@dataclass(frozen=True)
class Serve:
    deadline: str
    fallback: Rules
    rollout: Canary
    threshold: str = "0.5"
    explain: str = "top5"
    default: bool = False


@dataclass(frozen=True)
class Watch:
    """Drift of the inputs: "features" or names; a finding needs the effect size and keeps the yearly false findings."""

    drift: Literal["features"] | Sequence[str] = "features"
    window: str = "7d"
    psi: str = "0.2"
    false_findings: str = "0.05"
    retrain: bool = True


@dataclass(frozen=True)
class Model:
    """A model over feature sets, scored as its request event arrives; t is the request's event time.

    `sample` is the share of requests decided, by hash of the routing key, and `when` a condition over the request that
    picks them; both apply. Routing key and request id default to the
    key of the request event; the name defaults to the variable the model is bound to.
    """

    request: type[Event]
    label: Label
    inputs: Sequence[ModelInput]
    trainer: GradientBoosting
    gate: Gate
    serve: Serve
    watch: Watch
    owner: str = ""
    team: str = ""
    tier: str = "medium"
    name: str = ""
    sample: str = "100%"
    when: str | Expr | None = None
    routing_key: str = ""
    request_id: str = ""
    location: Where = field(default_factory=here, repr=False)

    def __post_init__(self) -> None:
        condition_text(self.request.__name__, self.when)


class Pipeline:
    """What `headrace apply` compiles: one per file."""

    def __init__(
        self,
        name: str,
        *,
        owner: str,
        events: Sequence[type[Event]],
        feature_sets: Sequence[FeatureSetDeclaration] = (),
        models: Sequence[Model] = (),
        sources: Sequence[Source] = (),
        streams: Sequence[type[Event]] = (),
    ) -> None:
        self.name, self.owner = name, owner
        self.events, self.feature_sets, self.models, self.sources = (
            tuple(events),
            tuple(feature_sets),
            tuple(models),
            tuple(sources),
        )
        self.streams = tuple(streams)
        self.location = here()
        scope: dict[str, Any] = sys._getframe(1).f_locals
        self.model_names = [model.name or _bound_name(model, scope) for model in self.models]


def _bound_name(model: Model, scope: dict[str, Any]) -> str:
    for name, value in scope.items():
        if value is model and not name.startswith("_"):
            return name
    raise refuse(model.location, "a model without a name", 'bind it to a variable or write name="late_arrival"')


def leading_number(text: str, pattern: str, what: str, where: Where) -> int:
    """The one integer of a phrase such as "2000 decisions", "top5", "20%"."""
    match = re.fullmatch(pattern, text)
    if match is None:
        raise refuse(where, f"'{text}' is not {what}", f"such as {what}")
    return int(match.group(1))


def scaled(text: str, factor: int, where: Where) -> int:
    """A decimal text times a factor as a whole number: "0.05" in basis points is 500."""
    try:
        value = Decimal(text) * factor
    except InvalidOperation:
        raise refuse(where, f"'{text}' is not a number", 'decimal text such as "0.05"') from None
    if value != value.to_integral_value():
        raise refuse(where, f"'{text}' is too fine", f"at most {len(str(factor)) - 1} digits after the point")
    return int(value)

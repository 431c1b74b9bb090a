"""Conditions on a replay, for a check on a pull request: `flips>1%`, `broken>20`, `auc<-0.002`.

flips         decisions that change; % of those replayed
not_replayed  decisions that could not be replayed; % of all
corrected, broken         wrong before and right now, or the other way round; % of those with an outcome
false_alarms, misses      how many more there are now, negative if fewer; % of those with an outcome
accuracy, precision, recall, auc     new less old; % means hundredths
bytes, reads  state per key and reads per request, new less old; % of old
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from headrace.contracts.errors import HeadraceError

Json = Mapping[str, Any]
_FORM = re.compile(r"\s*([a-z_]+)\s*(>=|<=|>|<)\s*(-?\d+(?:\.\d+)?)\s*(%?)\s*")
_SIGNS: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le,
}  # fmt: skip
_RATES = ("accuracy", "precision", "recall", "auc")


class NotACondition(HeadraceError):
    """The text is none."""


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition; `text` as it was written."""

    text: str
    name: str
    sign: str
    number: float
    percent: bool

    @classmethod
    def parse(cls, text: str) -> Condition:
        """Raises: NotACondition."""
        match = _FORM.fullmatch(text)
        if match is None or match[1] not in _MEASURES:
            raise NotACondition(f"{text!r} is no condition: write flips>1%, with one of {', '.join(_MEASURES)}")
        return cls(text, match[1], match[2], float(match[3]), bool(match[4]))

    def holds(self, page: Json, model: str) -> bool | None:
        """Over one model of a replay; None where there is nothing to judge it by, such as gains without outcomes."""
        found = _MEASURES[self.name](self.name, page, page["models"][model])
        if found is None:
            return None
        value, whole = found
        if self.percent:
            if not whole:
                return None
            value = 100 * value / whole
        return _SIGNS[self.sign](value, self.number)


_Found = tuple[float, float] | None  # the value, and what it is a share of


def _flips(_: str, __: Json, model: Json) -> _Found:
    return (model["flips"], model["replayed"]) if model["replayed"] else None


def _not_replayed(_: str, __: Json, model: Json) -> _Found:
    return sum(reason["decisions"] for reason in model["not_replayed"]), model["decisions"]


def _outcomes(name: str, _: Json, model: Json) -> _Found:
    gains = model["gains"]
    if not gains["labelled"]:
        return None
    value = gains[name] if name in ("corrected", "broken") else gains["new"][name] - gains["old"][name]
    return value, gains["labelled"]


def _rate(name: str, _: Json, model: Json) -> _Found:
    gains = model["gains"]
    sides = gains["auc"] if name == "auc" else {side: gains[side][name] for side in ("old", "new")}
    old, new = sides["old"], sides["new"]
    return None if old is None or new is None else (new - old, 1.0)


def _cost(name: str, page: Json, _: Json) -> _Found:
    costs = page["change"]["costs"]
    if not costs["old"]:
        return None
    old, new = (sum(item[name] for item in costs[side]) for side in ("old", "new"))
    return new - old, old


_MEASURES: dict[str, Callable[[str, Json, Json], _Found]] = {
    "flips": _flips,
    "not_replayed": _not_replayed,
    **dict.fromkeys(("corrected", "broken", "false_alarms", "misses"), _outcomes),
    **dict.fromkeys(_RATES, _rate),
    **dict.fromkeys(("bytes", "reads"), _cost),
}

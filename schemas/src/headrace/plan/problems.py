"""One broken rule of a plan, and the checks that rules share."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from headrace.plan.expressions import Expression, ExpressionError, nearest, parse
from headrace.plan.ir import Field

Path = tuple[str, ...]
NAME = re.compile(r"[a-z][a-z0-9_]*")
PARTITIONS_MAX = 1024
UNITS_MS = (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1))


@dataclass(frozen=True, slots=True)
class Problem:
    """One broken rule: where in the plan, a short fact, and what to write instead."""

    path: Path
    detail: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{' '.join(self.path)}: {self.detail}" + (f"; {self.hint}" if self.hint else "")


def condition(here: Path, text: str, fields: Mapping[str, Field], *, allow_float: bool) -> Iterator[Problem]:
    try:
        expression = parse(text, fields, allow_float=allow_float)
    except ExpressionError as error:
        yield Problem(here, str(error))
        return
    yield from of_one_row(here, expression)
    kind = expression.type.kind
    if kind != "boolean":
        yield Problem(here, f"`{text}` is a {kind}", "it must be a condition")


def of_one_row(here: Path, expression: Expression) -> Iterator[Problem]:
    """Only aggregates have a row for each item of an array."""
    if expression.arrays:
        yield Problem(here, f"`{expression.canonical}` has a value for each item", "one row is asked for: array_contains(a, x)")


def known_as(here: Path, kind: str, name: str, known: Iterable[str], suffix: str = "") -> Iterator[Problem]:
    names = list(known)
    if name not in names:
        yield Problem(here, f"unknown {kind} '{name}'{suffix}", nearest(name, names))


def repeated(names: Iterable[str]) -> list[str]:
    seen = list(names)
    return sorted({name for name in seen if seen.count(name) > 1})


def decimal_of(text: str) -> Decimal | None:
    try:
        value = Decimal(text)
    except InvalidOperation:
        return None
    return value if value.is_finite() else None


def partition_problems(here: Path, partitions: int) -> Iterator[Problem]:
    if not 1 <= partitions <= PARTITIONS_MAX:
        yield Problem(here, f"{partitions} partitions", f"1 to {PARTITIONS_MAX}")


def duration_text(ms: int) -> str:
    """As people write it: 90_000 is "1m30s"."""
    parts = []
    for unit, size in UNITS_MS:
        count, ms = divmod(ms, size)
        parts += [f"{count}{unit}"] if count else []
    return "".join(parts) or "0s"

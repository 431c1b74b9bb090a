"""What an expression writes out: constants, times and durations; and errors that point at a place of its text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import TypeVar

from sqlglot import exp

from headrace.plan.expression_dialect import ExpressionError
from headrace.plan.expression_leaves import EPOCH, Constant
from headrace.plan.expression_nodes import BOOLEAN, Node, ValueType
from headrace.plan.expression_types import Misfit, bounded

T = TypeVar("T")
UNITS_MS = {"MILLISECOND": 1, "SECOND": 1_000, "MINUTE": 60_000, "HOUR": 3_600_000, "DAY": 86_400_000, "WEEK": 604_800_000}


class Literals:
    """Of one text: what needs no fields."""

    def __init__(self, text: str) -> None:
        self.text = text

    def error(self, tree: exp.Expr, detail: str, hint: str = "") -> ExpressionError:
        starts = [node.meta["start"] for node in tree.walk() if "start" in node.meta]
        return ExpressionError(detail, self.text, min(starts, default=-1), hint)

    def fitting(self, tree: exp.Expr, arguments: Sequence[exp.Expr], make: Callable[[], T], hint: str = "") -> T:
        """What `make` gives; a misfit becomes an error at the argument at fault, or at the tree."""
        try:
            return make()
        except Misfit as misfit:
            at = arguments[misfit.argument] if 0 <= misfit.argument < len(arguments) else tree
            raise self.error(at, misfit.detail, misfit.hint or hint) from None

    def bounded(self, tree: exp.Expr, value: ValueType) -> ValueType:
        return self.fitting(tree, (), lambda: bounded(value))

    def constant(self, tree: exp.Expr) -> Node:
        if isinstance(tree, exp.Null):
            return Constant(None, ValueType("null"))
        if isinstance(tree, exp.Boolean):
            return Constant(bool(tree.this), BOOLEAN)
        if tree.args["is_string"]:
            return Constant(str(tree.this), ValueType("string"))
        whole, _, fraction = str(tree.this).partition(".")
        fraction = fraction.rstrip("0")
        if not (whole + fraction).isdigit():
            raise self.error(tree, f"'{tree.this}' is not a plain number", "write it out, for example 1000 or 0.25")
        value = int(whole + fraction)
        return Constant(value, self.bounded(tree, ValueType("integer", len(fraction), value, value)))

    def moment(self, tree: exp.Expr, text: str) -> Node:
        """A constant time, in UTC."""
        hint = "write timestamp '2013-06-01 09:00:00', in UTC"
        try:
            at = datetime.fromisoformat(text.removesuffix("Z").strip())
        except ValueError:
            raise self.error(tree, f"'{text}' is not a time", hint) from None
        if at.tzinfo is not None or at.microsecond % 1000:
            raise self.error(tree, f"'{text}' has {'an offset' if at.tzinfo else 'more than milliseconds'}", hint)
        value = (at - EPOCH) // timedelta(milliseconds=1)
        return Constant(value, ValueType("timestamp", 0, value, value))

    def duration(self, tree: exp.Interval) -> Node:
        unit = str(tree.args.get("unit") or "").upper().removesuffix("S")
        count = str(tree.this.this) if isinstance(tree.this, exp.Literal) else ""
        if unit not in UNITS_MS or not count.removeprefix("-").isdigit():
            raise self.error(tree, "an interval without a fixed length", "write interval '5 minutes': milliseconds to weeks")
        value = int(count) * UNITS_MS[unit]
        return Constant(value, self.bounded(tree, ValueType("integer", 0, value, value)))

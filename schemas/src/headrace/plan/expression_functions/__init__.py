"""The white list: every function of row expressions, each with its type rule and three lowerings."""

from __future__ import annotations

from headrace.plan.expression_functions import arrays, bits, calendar, choice, numeric, text
from headrace.plan.expression_functions.left_out import LEFT_OUT
from headrace.plan.expression_functions.table import Call, Function

GROUPS: tuple[tuple[str, tuple[Function, ...]], ...] = (
    ("Numbers", numeric.FUNCTIONS),
    ("Bits", bits.FUNCTIONS),
    ("Text", text.FUNCTIONS),
    ("Time", calendar.FUNCTIONS),
    ("Arrays", arrays.FUNCTIONS),
    ("Choice, buckets, vocabularies", choice.FUNCTIONS),
)
FUNCTIONS: dict[str, Function] = {function.name: function for _, group in GROUPS for function in group}

__all__ = ["FUNCTIONS", "GROUPS", "LEFT_OUT", "Call", "Function"]

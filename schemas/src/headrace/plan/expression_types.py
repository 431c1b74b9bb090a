"""How operands are brought to one type, and how far results can reach: the proofs that int64 never overflows."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from headrace.plan.expression_leaves import Constant
from headrace.plan.expression_nodes import FLOAT, INT64_MAX, INT64_MIN, Floated, Node, Rescaled, ValueType

RANGE_HINT = "declare the range of its fields, for example Annotated[Long, Range(0, 1_000_000)]"
ARRAY_HINT = "take a value of it: array_length(a), array_at(a, 1), array_contains(a, x)"


class Misfit(Exception):
    """Operands that do not fit. `argument` is the index of the one at fault, -1 the whole."""

    def __init__(self, detail: str, hint: str = "", argument: int = -1) -> None:
        super().__init__(detail)
        self.detail, self.hint, self.argument = detail, hint, argument


def nearest(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """A hint that names the closest known name, or else says what to write, or lists what there is."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    return f"did you mean '{close[0]}'?" if close else otherwise or f"known: {', '.join(names) or 'none'}"


def bounded(value: ValueType) -> ValueType:
    """The type itself. Raises: Misfit if its interval leaves int64."""
    if value.minimum < INT64_MIN or value.maximum > INT64_MAX:
        raise Misfit("may overflow a 64-bit integer", RANGE_HINT)
    return value


def rescaled(node: Node, scale: int) -> Node:
    """A number at a larger scale. Raises: Misfit if that may overflow."""
    if node.type.kind == "null":
        return Constant(None, ValueType("integer", scale))
    factor = 10 ** (scale - node.type.scale)
    if factor == 1:
        return node
    value = ValueType("integer", scale, node.type.minimum * factor, node.type.maximum * factor)
    return Rescaled(node, factor, bounded(value))


def floated(node: Node) -> Node:
    if node.type.kind == "null":
        return Constant(None, FLOAT)
    return node if node.type.kind == "float" else Floated(node)


def unified(nodes: Sequence[Node]) -> tuple[list[Node], ValueType]:
    """All at one type: scales aligned, integers beside floats become floats, nulls typed; and the hull of their types."""
    brought = list(nodes)
    kinds = {node.type.kind for node in nodes} - {"null"}
    if "array" in kinds:
        raise Misfit("an array where one value is needed", ARRAY_HINT)
    if kinds == {"integer"}:
        scale = max(node.type.scale for node in nodes if node.type.kind == "integer")
        brought = [rescaled(node, scale) for node in nodes]
    elif kinds == {"integer", "float"}:
        brought = [floated(node) for node in nodes]
    elif len(kinds) != 1:
        names = " and ".join(sorted({str(node.type) for node in nodes}))
        raise Misfit(f"{names} do not go together" if kinds else "all values are null", _mixture_hint(kinds))
    first = next(node.type for node in brought if node.type.kind != "null")
    brought = [Constant(None, first) if node.type.kind == "null" else node for node in brought]
    present = [node.type for node in brought if not (isinstance(node, Constant) and node.value is None)]
    low, high = min(value.minimum for value in present), max(value.maximum for value in present)
    return brought, ValueType(first.kind, first.scale, low, high)


def _mixture_hint(kinds: set[str]) -> str:
    if kinds == {"integer", "timestamp"}:
        return "write a time as timestamp '2013-06-01 09:00:00', or the number as timestamp_ms(...)"
    if kinds == {"local", "timestamp"}:
        return "bring both to one zone: t at time zone 'America/New_York'"
    if kinds == {"integer", "string"}:
        return "write the value as 'text', or the text as try_cast(... as bigint)"
    if kinds == {"boolean", "integer"}:
        return "write cast(... as bigint), 1 for true and 0 for false"
    return ""


def interval(sign: str, left: ValueType, right: ValueType) -> ValueType:
    """Where the result of integer arithmetic can lie; exact corners, so never too narrow."""
    scale = left.scale + right.scale if sign == "*" else 0 if sign == "//" else left.scale
    if sign == "+":
        return ValueType("integer", scale, left.minimum + right.minimum, left.maximum + right.maximum)
    if sign == "-":
        return ValueType("integer", scale, left.minimum - right.maximum, left.maximum - right.minimum)
    if sign == "*":
        corners = [a * b for a in (left.minimum, left.maximum) for b in (right.minimum, right.maximum)]
        return ValueType("integer", scale, min(corners), max(corners))
    if sign == "%":  # the remainder has the divisor's sign and is nearer to zero
        return ValueType("integer", scale, min(right.minimum + 1, 0), max(right.maximum - 1, 0))
    divisors = [b for b in (right.minimum, right.maximum, -1, 1) if right.minimum <= b <= right.maximum and b] or [1]
    corners = [a // b for a in (left.minimum, left.maximum) for b in divisors]
    return ValueType("integer", scale, min(*corners, 0), max(*corners, 0))

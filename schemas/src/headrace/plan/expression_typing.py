"""One walk over sqlglot's tree that yields typed nodes, or the first error with its place and what to write instead."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import reduce
from typing import TypeVar

from sqlglot import exp

from headrace.plan.avro import TIME_MS_MAX, TIME_MS_MIN
from headrace.plan.expression_dialect import WEIGHT_MAX, ExpressionError
from headrace.plan.expression_functions import FUNCTIONS, LEFT_OUT, Call, Function
from headrace.plan.expression_functions.calendar import PARTS
from headrace.plan.expression_nodes import (
    BOOLEAN,
    EPOCH,
    FLOAT,
    INT64_MAX,
    INT64_MIN,
    Absolute,
    Column,
    Constant,
    IsNull,
    Item,
    Items,
    Negated,
    Node,
    ValueType,
)
from headrace.plan.expression_operators import Binary, Case, Choice, Inverted, Logic
from headrace.plan.expression_types import Misfit, bounded, floated, interval, nearest, unified
from headrace.plan.ir import Field

T = TypeVar("T")
INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1
ARITHMETIC: dict[type, str] = {exp.Add: "+", exp.Sub: "-", exp.Mul: "*", exp.IntDiv: "//", exp.Mod: "%", exp.Div: "/"}
COMPARISONS: dict[type, str] = {exp.EQ: "=", exp.NEQ: "<>", exp.LT: "<", exp.LTE: "<=", exp.GT: ">", exp.GTE: ">="}
SPECIAL = ("abs", "coalesce", "greatest", "if", "iff", "least", "nullif")  # functions that are nodes of their own
UNITS_MS = {"MILLISECOND": 1, "SECOND": 1_000, "MINUTE": 60_000, "HOUR": 3_600_000, "DAY": 86_400_000, "WEEK": 604_800_000}
HIDDEN = ("at_time_zone", "joined", "like", "to_integer", "to_text", "try_decimal", "try_integer")  # written as syntax
PART_NAMES = {part: part for part in PARTS} | {
    "dayofweek": "dow",
    "dayofmonth": "day",
    "dayofyear": "doy",
    "weekofyear": "week",
}
SYNTAX: dict[type, tuple[str, str]] = {
    exp.ILike: ("ilike", LEFT_OUT["ilike"][1]),
    exp.Pow: ("'**'", "power(x, 2)"),
    exp.BitwiseAnd: ("'&'", "AND between conditions, bit_and(a, b) of integers"),
    exp.BitwiseOr: ("'|'", "OR between conditions, bit_or(a, b) of integers"),
    exp.BitwiseNot: ("'~'", "NOT before a condition, bit_not(a) of an integer"),
    exp.BitwiseLeftShift: ("'<<'", "shift_left(a, n)"),
    exp.BitwiseRightShift: ("'>>'", "shift_right(a, n)"),
    exp.Escape: ("escape", "like without an escape, or contains(s, '%')"),
    exp.Window: ("over (...)", "an aggregate of the event, with .over(...)"),
    exp.Subquery: ("a subquery", "a row expression sees one row"),
    exp.Select: ("a subquery", "a row expression sees one row"),
    exp.Star: ("'*'", "name the fields"),
    exp.RegexpLike: ("'~'", "regexp_matches(s, '^...$')"),
}


def field_type(field: Field) -> ValueType:
    """The value type of a field, with its declared interval; a timestamp is within the years the codec accepts."""
    if field.type == "array":
        item = field_type(replace(field, type=field.item or "string"))
        return ValueType("array", 0, 0, field.items_max, item)
    if field.type in ("float", "double"):
        return FLOAT
    if field.type in ("string", "boolean"):
        return ValueType("string" if field.type == "string" else "boolean")
    low, high = (INT32_MIN, INT32_MAX) if field.type == "int" else (INT64_MIN, INT64_MAX)
    if field.type == "timestamp":
        low, high = TIME_MS_MIN, TIME_MS_MAX
    low = low if field.minimum is None else max(low, field.minimum)
    high = high if field.maximum is None else min(high, field.maximum)
    return ValueType("timestamp" if field.type == "timestamp" else "integer", field.scale, low, high)


def item_column(array: str) -> str:
    """The column that holds the item of the row at hand."""
    return f"each({array})"


class Typing:
    """Over the fields of one event; doubles only where `allow_float` says so."""

    def __init__(self, text: str, fields: Mapping[str, Field], allow_float: bool) -> None:
        self.text, self.fields, self.allow_float = text, fields, allow_float

    def root(self, tree: exp.Expr) -> Node:
        node = self.node(tree)
        if node.weight > WEIGHT_MAX:
            raise ExpressionError("nested too deeply", self.text, 0, "compute a part of it in the producer")
        return node

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

    def node(self, tree: exp.Expr) -> Node:
        kind = type(tree)
        if isinstance(tree, exp.Paren):
            return self.node(tree.this)
        if isinstance(tree, exp.Column):
            return self.column(tree)
        if isinstance(tree, exp.Literal | exp.Boolean | exp.Null):
            return self.constant(tree)
        if isinstance(tree, exp.Anonymous):
            return self.function(tree)
        if isinstance(tree, exp.Array):
            return self.array(tree)
        if kind in ARITHMETIC:
            return self.arithmetic(tree, ARITHMETIC[kind], self.node(tree.this), self.node(tree.expression))
        if kind in COMPARISONS:
            return self.comparison(tree, COMPARISONS[kind], self.node(tree.this), self.node(tree.expression))
        if isinstance(tree, exp.And | exp.Or):
            left, right = self.boolean(tree.this), self.boolean(tree.expression)
            return Logic("AND" if isinstance(tree, exp.And) else "OR", left, right)
        if isinstance(tree, exp.Not):
            return Inverted(self.boolean(tree.this))
        if isinstance(tree, exp.Between):
            value = self.node(tree.this)
            low = self.comparison(tree, ">=", value, self.node(tree.args["low"]))
            return self.perhaps_not(tree, Logic("AND", low, self.comparison(tree, "<=", value, self.node(tree.args["high"]))))
        if isinstance(tree, exp.In):
            return self.perhaps_not(tree, self.membership(tree))
        if isinstance(tree, exp.Is):
            return self.perhaps_not(tree, self.identity(tree))
        if isinstance(tree, exp.NullSafeEQ | exp.NullSafeNEQ):
            return self.distinct(tree)
        if isinstance(tree, exp.Case):
            return self.case(tree)
        if isinstance(tree, exp.Neg):
            return self.sign(tree, self.node(tree.this))
        return self.syntax(tree)

    def syntax(self, tree: exp.Expr) -> Node:
        """Functions with a spelling of their own."""
        if isinstance(tree, exp.Like):
            return self.perhaps_not(tree, self.call(tree, FUNCTIONS["like"], [tree.this, tree.expression]))
        if isinstance(tree, exp.DPipe):
            return self.call(tree, FUNCTIONS["joined"], [tree.this, tree.expression])
        if isinstance(tree, exp.AtTimeZone):
            return self.call(tree, FUNCTIONS["at_time_zone"], [tree.this, tree.args["zone"]])
        if isinstance(tree, exp.Extract):
            return self.extract(tree, str(tree.this.this).lower(), tree.expression)
        if isinstance(tree, exp.Cast):  # TryCast is one
            return self.cast(tree)
        if isinstance(tree, exp.Interval):
            return self.duration(tree)
        raise self.refusal(tree)

    def perhaps_not(self, tree: exp.Expr, node: Node) -> Node:
        return Inverted(node) if tree.args.get("negate") else node

    def refusal(self, tree: exp.Expr) -> ExpressionError:
        found, hint = SYNTAX.get(type(tree), (f"'{type(tree).__name__.lower()}'", "the reference page lists what is"))
        return self.error(tree, f"{found} is not in the expression language", f"write {hint}" if type(tree) in SYNTAX else hint)

    def column(self, tree: exp.Column) -> Node:
        path = ".".join(part.name for part in tree.parts)
        field = self.fields.get(path)
        if field is None:
            name = tree.sql(dialect="duckdb")
            if inner := sorted(known for known in self.fields if known.startswith(path + ".")):
                raise self.error(tree, f"'{name}' is a record", f"name a field of it: {', '.join(inner)}")
            if tree.name in LEFT_OUT and not tree.table:
                raise self.error(tree, f"'{name}' is left out: {LEFT_OUT[tree.name][0]}", f"write {LEFT_OUT[tree.name][1]}")
            raise self.error(tree, f"unknown column '{name}'", nearest(path, self.fields))
        value = field_type(field)
        if value.kind == "float" and not self.allow_float:
            raise self.error(tree, f"'{tree.name}' is a {field.type}", "declare a Decimal: accumulators take no floats")
        return Column(path, value)

    def array(self, tree: exp.Array) -> Node:
        """[3, 1, 2]: constants of one type, so that each stands as it is written."""
        written = tuple(self.node(item) for item in tree.expressions)
        plain = all(isinstance(node, Constant) and node.value is not None for node in written)
        if not written or not plain or len({(node.type.kind, node.type.scale) for node in written}) > 1:
            raise self.error(tree, "an array of other than constants of one type", "write [3, 1, 2] or ['AA', 'UA']")
        _, item = unified(written)
        values = tuple(node.value for node in written if isinstance(node, Constant) and node.value is not None)
        return Items(values, written, ValueType("array", 0, len(values), len(values), item))

    def item(self, tree: exp.Expr, arguments: Sequence[exp.Expr]) -> Node:
        """EACH(array): one item of the row at a time."""
        array = self.node(arguments[0]) if len(arguments) == 1 else None
        if not isinstance(array, Column) or array.type.item is None:
            at = arguments[0] if arguments else tree
            raise self.error(at, "each takes an array field", "write each(items)")
        if array.type.item.kind == "float":
            raise self.error(tree, f"items of '{array.name}' are doubles", "declare them Decimal: accumulators take no floats")
        return Item(item_column(array.name), array.type.item, array.name)

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

    def bounded(self, tree: exp.Expr, value: ValueType) -> ValueType:
        return self.fitting(tree, (), lambda: bounded(value))

    def boolean(self, tree: exp.Expr) -> Node:
        node = self.node(tree)
        if node.type.kind == "null":
            return Constant(None, BOOLEAN)
        if node.type.kind != "boolean":
            raise self.error(tree, f"{node.type} where a condition is needed", "compare it with something")
        return node

    def arithmetic(self, tree: exp.Expr, sign: str, left: Node, right: Node) -> Node:
        kinds = {left.type.kind, right.type.kind}
        if kinds & {"timestamp", "local"}:
            return self.shifted(tree, sign, left, right)
        if not kinds <= {"integer", "float"}:
            hint = "write a || b to join texts" if kinds == {"string"} and sign == "+" else "arithmetic takes numbers"
            raise self.error(tree, f"'{sign}' over {left.type} and {right.type}", hint)
        if sign == "/" and not self.allow_float:
            raise self.error(
                tree, "'/' gives a float", "write // (it floors), divide(a, b, 2, 'half_even'), or divide two windows"
            )
        if sign == "/" or "float" in kinds:
            if sign in ("//", "%"):
                raise self.error(tree, f"'{sign}' over floats", "use /, or integers")
            return Binary(sign, floated(left), floated(right), FLOAT)  # type: ignore[arg-type]
        if sign != "*":
            (left, right), _ = self.fitting(tree, (), lambda: unified([left, right]))
        return Binary(sign, left, right, self.bounded(tree, interval(sign, left.type, right.type)))  # type: ignore[arg-type]

    def shifted(self, tree: exp.Expr, sign: str, left: Node, right: Node) -> Node:
        """time - time is integer ms; time +- integer ms is a time. Local times alike: on their own clock."""
        times = [node.type.kind for node in (left, right) if node.type.kind != "integer"]
        both = left.type.kind == right.type.kind
        plain = len(set(times)) == 1 and not any(node.type.scale for node in (left, right))
        allowed = left.type.kind == times[0] if sign == "-" else sign == "+" and not both
        if not (plain and allowed):
            hint = "timestamps subtract, or shift by integer ms or interval '5 minutes'"
            raise self.error(tree, f"'{sign}' over {left.type} and {right.type}", hint)
        reach = self.bounded(tree, interval(sign, left.type, right.type))
        kind = "integer" if both else times[0]
        return Binary(sign, left, right, ValueType(kind, 0, reach.minimum, reach.maximum))  # type: ignore[arg-type]

    def comparison(self, tree: exp.Expr, sign: str, left: Node, right: Node) -> Node:
        if "null" in (left.type.kind, right.type.kind):
            raise self.error(tree, "a comparison with null is never true", "write `is null`")
        (left, right), common = self.fitting(tree, (), lambda: unified([left, right]))
        if common.kind in ("string", "boolean") and sign not in ("=", "<>"):
            raise self.error(tree, f"'{sign}' over {common}", "only = and <> compare these")
        return Binary(sign, left, right, BOOLEAN)  # type: ignore[arg-type]

    def membership(self, tree: exp.In) -> Node:
        if not tree.expressions:
            raise self.error(tree, "IN takes a list of values", "write x in (1, 2)")
        value = self.node(tree.this)
        tests = [self.comparison(tree, "=", value, self.node(item)) for item in tree.expressions]
        return reduce(lambda left, right: Logic("OR", left, right), tests)

    def identity(self, tree: exp.Is) -> Node:
        """IS NULL; IS TRUE and IS FALSE, which are never null."""
        if isinstance(tree.expression, exp.Null):
            return IsNull(self.node(tree.this))
        if not isinstance(tree.expression, exp.Boolean):
            raise self.error(tree, "IS takes NULL, TRUE or FALSE", "write = for values")
        value = self.boolean(tree.this)
        decided = value if tree.expression.this else Inverted(value)
        return Choice("COALESCE", (decided, Constant(False, BOOLEAN)), BOOLEAN)

    def distinct(self, tree: exp.Expr) -> Node:
        """IS [NOT] DISTINCT FROM: a comparison in which null is a value."""
        left, right = self.node(tree.this), self.node(tree.expression)
        if "null" in (left.type.kind, right.type.kind):
            raise self.error(tree, "a comparison with a constant null", "write `is null`")
        both = Logic("AND", IsNull(left), IsNull(right))
        same = Choice("COALESCE", (self.comparison(tree, "=", left, right), both), BOOLEAN)
        return same if isinstance(tree, exp.NullSafeEQ) else Inverted(same)

    def function(self, tree: exp.Anonymous) -> Node:
        name, arguments = str(tree.name).lower(), tree.expressions
        if name == "each":
            return self.item(tree, arguments)
        if name in SPECIAL:
            return self.special(tree, name, arguments)
        if name in PART_NAMES and len(arguments) == 1:
            return self.extract(tree, PART_NAMES[name], arguments[0])
        if name in FUNCTIONS and name not in HIDDEN and name != "extract":
            return self.call(tree, FUNCTIONS[name], arguments)
        if name in LEFT_OUT:
            why, instead = LEFT_OUT[name]
            raise self.error(tree, f"'{name}' is left out: {why}", f"write {instead}")
        known = {key: function.label for key, function in FUNCTIONS.items() if key not in HIDDEN}
        known |= {word: f"{word}(...)" for word in SPECIAL}
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean '{known[close[0]]}'?" if close else f"known functions: {', '.join(sorted(known))}"
        raise self.error(tree, f"unknown function '{name}'", hint)

    def call(self, tree: exp.Expr, function: Function, arguments: Sequence[exp.Expr]) -> Node:
        nodes = tuple(self.node(argument) for argument in arguments)
        return self.made(tree, function, arguments, nodes)

    def made(self, tree: exp.Expr, function: Function, arguments: Sequence[exp.Expr], nodes: tuple[Node, ...]) -> Node:
        typed = self.fitting(tree, arguments, lambda: function.typed(nodes), f"write {function.label}")
        return Call(function, nodes, typed.operands, typed.settings, typed.type)

    def special(self, tree: exp.Expr, name: str, arguments: Sequence[exp.Expr]) -> Node:
        least, most = {"abs": (1, 1), "nullif": (2, 2), "if": (3, 3), "iff": (3, 3)}.get(name, (1, 1_000))
        if not least <= len(arguments) <= most:
            wanted = f"{least} or more" if most > least else str(least)
            raise self.error(
                tree, f"{len(arguments)} arguments where {name} takes {wanted}", f"write {name}({_letters(least)})"
            )
        if name in ("if", "iff"):
            condition, *choices = self.boolean(arguments[0]), *(self.node(argument) for argument in arguments[1:])
            (then, otherwise), value = self.fitting(tree, (), lambda: unified(choices))
            return Case(((condition, then),), otherwise, value)
        nodes = [self.node(argument) for argument in arguments]
        if name == "abs":
            return self.sign(tree, nodes[0], absolute=True)
        if name == "nullif":
            same = self.comparison(tree, "=", nodes[0], nodes[1])
            (null, value), hull = unified([Constant(None, ValueType("null")), nodes[0]])
            return Case(((same, null),), value, hull)
        items, value = self.fitting(tree, (), lambda: unified(nodes))
        if name != "coalesce" and value.kind not in ("integer", "float", "timestamp", "local"):
            raise self.error(tree, f"{name} over {value}", "it takes numbers or timestamps")
        return Choice(name.upper(), tuple(items), value)  # type: ignore[arg-type]

    def case(self, tree: exp.Case) -> Node:
        whens = tree.args["ifs"]
        if tree.this is None:
            conditions = [self.boolean(when.this) for when in whens]
        else:
            conditions = [self.comparison(when, "=", self.node(tree.this), self.node(when.this)) for when in whens]
        default = tree.args.get("default")
        results = [self.node(when.args["true"]) for when in whens] + [self.node(default or exp.Null())]
        results, value = self.fitting(tree, (), lambda: unified(results))
        return Case(tuple(zip(conditions, results[:-1], strict=True)), results[-1], value)

    def sign(self, tree: exp.Expr, operand: Node, *, absolute: bool = False) -> Node:
        if operand.type.kind not in ("integer", "float"):
            raise self.error(tree, f"a sign over {operand.type}", "it takes a number")
        kind, scale, low, high = operand.type.kind, operand.type.scale, operand.type.minimum, operand.type.maximum
        if absolute:
            reach = max(abs(low), abs(high))
            value = FLOAT if kind == "float" else ValueType(kind, scale, max(0, low, -high), reach)
            return Absolute(operand, self.bounded(tree, value))
        value = FLOAT if kind == "float" else ValueType(kind, scale, -high, -low)
        if isinstance(operand, Constant) and isinstance(operand.value, int):
            return Constant(-operand.value, self.bounded(tree, value))
        return Negated(operand, self.bounded(tree, value))

    def extract(self, tree: exp.Expr, part: str, operand: exp.Expr) -> Node:
        if part not in PART_NAMES:
            raise self.error(tree, f"extract of '{part}'", nearest(part, PARTS, f"known parts: {', '.join(PARTS)}"))
        nodes = (Constant(PART_NAMES[part], ValueType("string")), self.node(operand))
        if nodes[1].type.kind not in ("timestamp", "local"):
            raise self.error(operand, f"extract over {nodes[1].type}", "it takes a timestamp, or t at time zone 'Area/City'")
        return self.made(tree, FUNCTIONS["extract"], (operand, operand), nodes)

    def cast(self, tree: exp.Cast) -> Node:
        kind, attempt = tree.args["to"].this, isinstance(tree, exp.TryCast)
        literal = isinstance(tree.this, exp.Literal) and tree.this.args["is_string"]
        if kind in (exp.DType.TIMESTAMP, exp.DType.TIMESTAMPNTZ) and literal:
            return self.moment(tree, str(tree.this.this))
        if kind == exp.DType.DATE and literal:
            return self.moment(tree, f"{tree.this.this} 00:00:00")
        node = self.node(tree.this)
        if kind == exp.DType.BIGINT and attempt and node.type.kind == "string":
            return self.made(tree, FUNCTIONS["try_integer"], [tree.this], (node,))
        if kind == exp.DType.BIGINT and not attempt and node.type.kind == "boolean":
            return self.made(tree, FUNCTIONS["to_integer"], [tree.this], (node,))
        if kind == exp.DType.DECIMAL and attempt and node.type.kind == "string":
            sizes = [size.this for size in tree.args["to"].expressions]
            return self.made(tree, FUNCTIONS["try_decimal"], [tree.this, *sizes], (node, *map(self.node, sizes)))
        if kind in (exp.DType.TEXT, exp.DType.VARCHAR) and not attempt and node.type.kind == "integer":
            return self.made(tree, FUNCTIONS["to_text"], [tree.this], (node,))
        raise self.error(tree, f"a {'try_' * attempt}cast of {node.type} to {str(kind.value).lower()}", CAST_HINT)

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


CAST_HINT = (
    "try_cast(text as bigint), try_cast(text as decimal(12, 2)), cast(condition as bigint), cast(integer as varchar); "
    "decimals change by round, floor and ceil"
)


def _letters(count: int) -> str:
    return ", ".join("abc"[:count])


__all__ = ["Typing", "field_type"]

"""Row expressions: SQL text to a typed tree that Polars, DuckDB and plain Python evaluate alike.

The white list: + - * // % and comparisons, AND OR NOT, IS NULL, CASE, IN, BETWEEN, COALESCE, ABS, LEAST, GREATEST,
EXTRACT(HOUR | DOW FROM timestamp), literals; `/` and doubles only where `allow_float` says so. Text never reaches an
engine: each node has its own lowering. Overflow of int64 is refused from the declared ranges of the fields.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import TYPE_CHECKING, Any

import sqlglot
from sqlglot import exp
from sqlglot.errors import ParseError, SqlglotError

from headrace.plan.expression_nodes import (
    BOOLEAN,
    FLOAT,
    INT64_MAX,
    INT64_MIN,
    Absolute,
    Column,
    Constant,
    Extracted,
    Floated,
    IsNull,
    Negated,
    Node,
    Rescaled,
    Row,
    ValueType,
)
from headrace.plan.expression_operators import Binary, Case, Choice, Inverted, Logic
from headrace.plan.ir import Field

if TYPE_CHECKING:
    import polars as pl

TEXT_CHARACTERS_MAX = 4_000  # bounds the depth of the tree, and so recursion
INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1
FUNCTIONS = ("abs", "coalesce", "least", "greatest", "extract(hour from ...)", "extract(dow from ...)")
ARITHMETIC: dict[type, str] = {exp.Add: "+", exp.Sub: "-", exp.Mul: "*", exp.IntDiv: "//", exp.Mod: "%", exp.Div: "/"}
COMPARISONS: dict[type, str] = {exp.EQ: "=", exp.NEQ: "<>", exp.LT: "<", exp.LTE: "<=", exp.GT: ">", exp.GTE: ">="}
CHOICES: dict[type, str] = {exp.Coalesce: "COALESCE", exp.Least: "LEAST", exp.Greatest: "GREATEST"}


class ExpressionError(ValueError):
    """An expression that is not in the language or does not fit the fields.

    Attributes: detail (a short fact), text (the expression), position (0-based, -1 unknown), hint (what to write).
    """

    def __init__(self, detail: str, text: str, position: int = -1, hint: str = "") -> None:
        where = f" at character {position + 1}" if position >= 0 else ""
        super().__init__(f"{detail}{where} of `{text}`" + (f"; {hint}" if hint else ""))
        self.detail, self.text, self.position, self.hint = detail, text, position, hint


def nearest(name: str, known: Mapping[str, object] | list[str]) -> str:
    """A hint that names the closest known name, or lists what there is."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(sorted(known)) or 'none'}"


@dataclass(frozen=True)
class Expression:
    """A parsed, typed row expression."""

    root: Node

    @property
    def type(self) -> ValueType:
        return self.root.type

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """Names of the fields it reads, sorted."""
        return tuple(sorted(self.root.column_names()))

    @cached_property
    def canonical(self) -> str:
        """SQL that parses back to an equal expression: the form that plans keep and hash."""
        return self.root.canonical

    def to_polars(self) -> pl.Expr:
        """Over columns named as the fields; timestamps as int64 ms (or Datetime('ms')), decimals as scaled longs."""
        lowered = self.root.polars()
        if self.type.kind != "float":
            return lowered
        import polars as pl

        return pl.when(lowered == 0).then(0.0).otherwise(lowered)  # the optimiser drops `+ 0.0`

    def to_duckdb(self, prefix: str = "") -> str:
        """SQL text for DuckDB; prefix such as "e." goes before every column; timestamps as BIGINT ms."""
        lowered = self.root.duckdb(prefix)
        if self.type.kind != "float":
            return lowered
        return f"(CASE WHEN {lowered} = 0 THEN CAST(0 AS DOUBLE) ELSE {lowered} END)"

    def compile(self) -> Callable[[Row], Any]:
        """A function of one row. KeyError where the row lacks a column; nulls are None."""
        evaluate = self.root.evaluator()
        if self.type.kind != "float":
            return evaluate

        def unsigned_zero(row: Row) -> float | None:
            value = evaluate(row)
            return None if value is None else value + 0.0

        return unsigned_zero


def parse(text: str, fields: Mapping[str, Field], *, allow_float: bool = False) -> Expression:
    """Read SQL text as an expression over the fields.

    Raises: ExpressionError with the position and what to write instead.
    """
    if len(text) > TEXT_CHARACTERS_MAX:
        raise ExpressionError("too long", text[:40] + "...", hint=f"at most {TEXT_CHARACTERS_MAX} characters")
    try:
        tree = sqlglot.parse_one(text, dialect="duckdb")
        return Expression(_Typing(text, fields, allow_float).node(tree))
    except ParseError as error:
        first: dict[str, Any] = error.errors[0] if error.errors else {}
        start = len(first.get("start_context") or "") if first.get("line") == 1 else -1
        raise ExpressionError("not a SQL expression", text, start, "see the list of operators in the README") from None
    except SqlglotError:
        raise ExpressionError("not a SQL expression", text) from None
    except RecursionError:
        raise ExpressionError("nested too deeply", text) from None


def field_type(field: Field) -> ValueType:
    """The value type of a field, with its declared interval."""
    if field.type in ("float", "double"):
        return FLOAT
    if field.type in ("string", "boolean"):
        return ValueType("string" if field.type == "string" else "boolean")
    low, high = (INT32_MIN, INT32_MAX) if field.type == "int" else (INT64_MIN, INT64_MAX)
    low = low if field.minimum is None else max(low, field.minimum)
    high = high if field.maximum is None else min(high, field.maximum)
    return ValueType("timestamp" if field.type == "timestamp" else "integer", field.scale, low, high)


class _Typing:
    """One walk over sqlglot's tree that yields typed nodes or the first error."""

    def __init__(self, text: str, fields: Mapping[str, Field], allow_float: bool) -> None:
        self.text, self.fields, self.allow_float = text, fields, allow_float

    def error(self, tree: exp.Expr, detail: str, hint: str = "", name: str = "") -> ExpressionError:
        starts = [node.meta["start"] for node in tree.walk() if "start" in node.meta]
        position = self.text.find(name) if name else (min(starts) if starts else -1)
        return ExpressionError(detail, self.text, position, hint)

    def node(self, tree: exp.Expr) -> Node:
        if isinstance(tree, exp.Paren):
            return self.node(tree.this)
        if isinstance(tree, exp.Column):
            return self.column(tree)
        if isinstance(tree, exp.Literal | exp.Boolean | exp.Null):
            return self.constant(tree)
        if type(tree) in ARITHMETIC:
            return self.arithmetic(tree, ARITHMETIC[type(tree)], self.node(tree.this), self.node(tree.expression))
        if type(tree) in COMPARISONS:
            return self.comparison(tree, COMPARISONS[type(tree)], self.node(tree.this), self.node(tree.expression))
        if type(tree) in CHOICES:
            return self.choice(tree, CHOICES[type(tree)])
        if isinstance(tree, exp.And | exp.Or):
            left, right = self.boolean(tree.this), self.boolean(tree.expression)
            return Logic("AND" if isinstance(tree, exp.And) else "OR", left, right)
        if isinstance(tree, exp.Not):
            return Inverted(self.boolean(tree.this))
        if isinstance(tree, exp.Is) and isinstance(tree.expression, exp.Null):
            return IsNull(self.node(tree.this))
        if isinstance(tree, exp.Between):
            value = self.node(tree.this)
            low = self.comparison(tree, ">=", value, self.node(tree.args["low"]))
            return Logic("AND", low, self.comparison(tree, "<=", value, self.node(tree.args["high"])))
        if isinstance(tree, exp.In):
            return self.membership(tree)
        if isinstance(tree, exp.Case):
            return self.case(tree)
        if isinstance(tree, exp.Neg | exp.Abs):
            return self.sign(tree)
        if isinstance(tree, exp.Extract | exp.Hour | exp.DayOfWeek):
            return self.extract(tree)
        raise self.refusal(tree)

    def refusal(self, tree: exp.Expr) -> ExpressionError:
        if isinstance(tree, exp.Func):
            name = tree.name if isinstance(tree, exp.Anonymous) else tree.sql_name().lower()
            known = {function.split("(")[0]: function for function in FUNCTIONS}
            close = difflib.get_close_matches(name.lower(), list(known), n=1)
            hint = f"did you mean '{known[close[0]]}'?" if close else f"known functions: {', '.join(FUNCTIONS)}"
            return self.error(tree, f"unknown function '{name.lower()}'", hint)
        return self.error(tree, f"'{type(tree).__name__.lower()}' is not in the expression language")

    def column(self, tree: exp.Column) -> Node:
        field = self.fields.get(tree.name)
        if tree.table or field is None:
            name = tree.sql(dialect="duckdb")
            raise self.error(tree, f"unknown column '{name}'", nearest(tree.name, self.fields), name=tree.name)
        value = field_type(field)
        if value.kind == "float" and not self.allow_float:
            raise self.error(
                tree, f"'{tree.name}' is a {field.type}", "declare a Decimal: accumulators take no floats", tree.name
            )
        return Column(tree.name, value)

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
        if value.minimum < INT64_MIN or value.maximum > INT64_MAX:
            hint = "declare the range of its fields, for example Annotated[Long, Range(0, 1_000_000)]"
            raise self.error(tree, "may overflow a 64-bit integer", hint)
        return value

    def boolean(self, tree: exp.Expr) -> Node:
        node = self.node(tree)
        if node.type.kind == "null":
            return Constant(None, BOOLEAN)
        if node.type.kind != "boolean":
            raise self.error(tree, f"{node.type} where a condition is needed", "compare it with something")
        return node

    def rescaled(self, tree: exp.Expr, node: Node, scale: int) -> Node:
        if node.type.kind == "null":
            return Constant(None, ValueType("integer", scale))
        factor = 10 ** (scale - node.type.scale)
        if factor == 1:
            return node
        value = ValueType("integer", scale, node.type.minimum * factor, node.type.maximum * factor)
        return Rescaled(node, factor, self.bounded(tree, value))

    def floated(self, node: Node) -> Node:
        if node.type.kind == "null":
            return Constant(None, FLOAT)
        return node if node.type.kind == "float" else Floated(node)

    def unified(self, tree: exp.Expr, nodes: list[Node]) -> tuple[list[Node], ValueType]:
        """Bring all to one type: scales aligned, integers beside floats become floats, nulls typed."""
        kinds = {node.type.kind for node in nodes} - {"null"}
        if kinds == {"integer"}:
            scale = max(node.type.scale for node in nodes if node.type.kind == "integer")
            nodes = [self.rescaled(tree, node, scale) for node in nodes]
        elif kinds == {"integer", "float"}:
            nodes = [self.floated(node) for node in nodes]
        elif len(kinds) != 1:
            names = " and ".join(sorted(str(node.type) for node in nodes))
            raise self.error(tree, f"{names} do not go together" if kinds else "all values are null")
        first = next(node.type for node in nodes if node.type.kind != "null")
        nodes = [Constant(None, first) if node.type.kind == "null" else node for node in nodes]
        present = [node.type for node in nodes if not (isinstance(node, Constant) and node.value is None)]
        low, high = min(value.minimum for value in present), max(value.maximum for value in present)
        return nodes, ValueType(first.kind, first.scale, low, high)

    def arithmetic(self, tree: exp.Expr, sign: str, left: Node, right: Node) -> Node:
        kinds = {left.type.kind, right.type.kind}
        if "timestamp" in kinds:
            return self.shifted(tree, sign, left, right)
        if not kinds <= {"integer", "float"}:
            raise self.error(tree, f"'{sign}' over {left.type} and {right.type}", "arithmetic takes numbers")
        if sign == "/" and not self.allow_float:
            raise self.error(tree, "'/' gives a float", "write // (it floors), or divide two windows")
        if sign == "/" or "float" in kinds:
            if sign in ("//", "%"):
                raise self.error(tree, f"'{sign}' over floats", "use /, or integers")
            return Binary(sign, self.floated(left), self.floated(right), FLOAT)  # type: ignore[arg-type]
        if sign != "*":
            (left, right), _ = self.unified(tree, [left, right])
        return Binary(sign, left, right, self.bounded(tree, _interval(sign, left.type, right.type)))  # type: ignore[arg-type]

    def shifted(self, tree: exp.Expr, sign: str, left: Node, right: Node) -> Node:
        """timestamp - timestamp is integer ms; timestamp +- integer ms is a timestamp."""
        both = left.type.kind == right.type.kind
        plain = all(
            node.type.kind == "timestamp" or (node.type.kind == "integer" and not node.type.scale) for node in (left, right)
        )
        allowed = left.type.kind == "timestamp" if sign == "-" else sign == "+" and not both
        if not (plain and allowed):
            raise self.error(tree, f"'{sign}' over {left.type} and {right.type}", "timestamps subtract, or shift by integer ms")
        interval = self.bounded(tree, _interval(sign, left.type, right.type))
        kind = "integer" if both else "timestamp"
        return Binary(sign, left, right, ValueType(kind, 0, interval.minimum, interval.maximum))  # type: ignore[arg-type]

    def comparison(self, tree: exp.Expr, sign: str, left: Node, right: Node) -> Node:
        if "null" in (left.type.kind, right.type.kind):
            raise self.error(tree, "a comparison with null is never true", "write `is null`")
        (left, right), common = self.unified(tree, [left, right])
        if common.kind in ("string", "boolean") and sign not in ("=", "<>"):
            raise self.error(tree, f"'{sign}' over {common}", "only = and <> compare these")
        return Binary(sign, left, right, BOOLEAN)  # type: ignore[arg-type]

    def membership(self, tree: exp.In) -> Node:
        if not tree.expressions:
            raise self.error(tree, "IN takes a list of values")
        value = self.node(tree.this)
        tests = [self.comparison(tree, "=", value, self.node(item)) for item in tree.expressions]
        return reduce(lambda left, right: Logic("OR", left, right), tests)

    def choice(self, tree: exp.Expr, function: str) -> Node:
        items, value = self.unified(tree, [self.node(item) for item in (tree.this, *tree.expressions)])
        if function != "COALESCE" and value.kind not in ("integer", "float", "timestamp"):
            raise self.error(tree, f"{function.lower()} over {value}", "it takes numbers or timestamps")
        return Choice(function, tuple(items), value)  # type: ignore[arg-type]

    def case(self, tree: exp.Case) -> Node:
        whens = tree.args["ifs"]
        if tree.this is None:
            conditions = [self.boolean(when.this) for when in whens]
        else:
            conditions = [self.comparison(when, "=", self.node(tree.this), self.node(when.this)) for when in whens]
        default = tree.args.get("default")
        results = [self.node(when.args["true"]) for when in whens] + [self.node(default or exp.Null())]
        results, value = self.unified(tree, results)
        return Case(tuple(zip(conditions, results[:-1], strict=True)), results[-1], value)

    def sign(self, tree: exp.Expr) -> Node:
        operand = self.node(tree.this)
        if operand.type.kind not in ("integer", "float"):
            raise self.error(tree, f"a sign over {operand.type}", "it takes a number")
        kind, scale, low, high = operand.type.kind, operand.type.scale, operand.type.minimum, operand.type.maximum
        if isinstance(tree, exp.Abs):
            reach = max(abs(low), abs(high))
            value = FLOAT if kind == "float" else ValueType(kind, scale, max(0, low, -high), reach)
            return Absolute(operand, self.bounded(tree, value))
        value = FLOAT if kind == "float" else ValueType(kind, scale, -high, -low)
        if isinstance(operand, Constant) and isinstance(operand.value, int):
            return Constant(-operand.value, self.bounded(tree, value))
        return Negated(operand, self.bounded(tree, value))

    def extract(self, tree: exp.Expr) -> Node:
        names = {exp.Hour: "hour", exp.DayOfWeek: "dow"}
        part = names.get(type(tree)) or str(tree.this.this).lower()
        operand = self.node(tree.expression if isinstance(tree, exp.Extract) else tree.this)
        if part not in ("hour", "dow"):
            raise self.error(tree, f"extract of '{part}'", "known parts: hour, dow (Sunday is 0), in UTC")
        if operand.type.kind != "timestamp":
            raise self.error(tree, f"extract over {operand.type}", "it takes a timestamp")
        return Extracted(part, operand)  # type: ignore[arg-type]


def _interval(sign: str, left: ValueType, right: ValueType) -> ValueType:
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

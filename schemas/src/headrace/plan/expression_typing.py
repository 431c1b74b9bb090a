"""One walk over sqlglot's tree that yields typed nodes, or the first error with its place and what to write instead."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from functools import reduce

from sqlglot import exp

from headrace.plan.expression_dialect import WEIGHT_MAX, ExpressionError
from headrace.plan.expression_fields import field_type, item_column
from headrace.plan.expression_functions import FUNCTIONS, LEFT_OUT, Call, Function
from headrace.plan.expression_functions.calendar import PARTS
from headrace.plan.expression_leaves import Column, Constant, Item, Items
from headrace.plan.expression_literals import Literals
from headrace.plan.expression_nodes import BOOLEAN, FLOAT, Absolute, IsNull, Negated, Node, ValueType
from headrace.plan.expression_operators import Binary, Case, Choice, Inverted, Logic
from headrace.plan.expression_types import floated, interval, nearest, unified
from headrace.plan.ir import Field

ARITHMETIC: dict[type, str] = {exp.Add: "+", exp.Sub: "-", exp.Mul: "*", exp.IntDiv: "//", exp.Mod: "%", exp.Div: "/"}
COMPARISONS: dict[type, str] = {exp.EQ: "=", exp.NEQ: "<>", exp.LT: "<", exp.LTE: "<=", exp.GT: ">", exp.GTE: ">="}
SPECIAL = ("abs", "coalesce", "greatest", "if", "iff", "least", "nullif")  # functions that are nodes of their own
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


class Typing(Literals):
    """Over the fields of one event; doubles only where `allow_float` says so."""

    def __init__(self, text: str, fields: Mapping[str, Field], allow_float: bool) -> None:
        super().__init__(text)
        self.fields, self.allow_float = fields, allow_float

    def root(self, tree: exp.Expr) -> Node:
        node = self.node(tree)
        if node.weight > WEIGHT_MAX:
            raise ExpressionError("nested too deeply", self.text, 0, "compute a part of it in the producer")
        return node

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


CAST_HINT = (
    "try_cast(text as bigint), try_cast(text as decimal(12, 2)), cast(condition as bigint), cast(integer as varchar); "
    "decimals change by round, floor and ceil"
)


def _letters(count: int) -> str:
    return ", ".join("abc"[:count])

"""One row of the white list, the node that calls it, and the checks its type rules share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

from headrace.plan.expression_engines import duckdb_let
from headrace.plan.expression_leaves import Constant
from headrace.plan.expression_nodes import Evaluator, Node, Row, ValueType
from headrace.plan.expression_types import Misfit

if TYPE_CHECKING:
    import polars as pl

Setting: TypeAlias = Any  # a constant argument as the lowerings take it: int, str or a tuple of these


@dataclass(frozen=True, slots=True)
class Typed:
    """Arguments that fit: what is evaluated per row, what is constant, and the type of the result."""

    operands: tuple[Node, ...]
    settings: tuple[Setting, ...]
    type: ValueType


Writer: TypeAlias = Callable[[Sequence[Node]], str]


@dataclass(frozen=True, slots=True, eq=False)
class Function:
    """A function of the language.

    Attributes:
        typed: the type rule; raises Misfit.
        polars, duckdb, python: lowerings, each called with the lowered operands and then the settings. Polars and DuckDB
            must give null where an operand is null; Python is not called then, unless `strict` is false.
        examples: text and value, checked in all three engines.
        written: the canonical text where it is not NAME(arguments).
        repeats: how often a lowering writes an operand; those above one are bound to a name in SQL.
    """

    name: str
    signature: str
    doc: str
    typed: Callable[[Sequence[Node]], Typed]
    polars: Callable[..., Any]
    duckdb: Callable[..., str]
    python: Callable[..., Any]
    examples: tuple[tuple[str, object], ...] = ()
    strict: bool = True
    written: Writer | None = None
    atomic: bool = True
    repeats: int = 1

    @property
    def label(self) -> str:
        """What a person writes, the first of several ways."""
        return self.signature.partition(" -> ")[0]


@dataclass(frozen=True)
class Call(Node):
    """A function over arguments as written; operands are those evaluated, brought to the types the function takes."""

    function: Function
    arguments: tuple[Node, ...]
    operands: tuple[Node, ...]
    settings: tuple[Setting, ...]
    type: ValueType

    @property
    def atomic(self) -> bool:  # type: ignore[override]
        return self.function.atomic

    @property
    def children(self) -> tuple[Node, ...]:
        return self.operands

    @cached_property
    def weight(self) -> int:
        return 1 + self.function.repeats * sum(operand.weight for operand in self.operands)

    @property
    def canonical(self) -> str:
        if self.function.written is not None:
            return self.function.written(self.arguments)
        return f"{self.function.name.upper()}({', '.join(argument.canonical for argument in self.arguments)})"

    def polars(self) -> pl.Expr:
        if not self.column_names():  # many Polars functions of literals give one row, whatever the height of the frame
            return Constant(self.evaluator()({}), self.type).polars()
        return self.function.polars(*(operand.polars() for operand in self.operands), *self.settings)

    def duckdb(self, prefix: str) -> str:
        texts = [operand.duckdb(prefix) for operand in self.operands]
        if self.function.repeats == 1:
            return self.function.duckdb(*texts, *self.settings)
        return duckdb_let(texts, lambda *names: self.function.duckdb(*names, *self.settings))

    def evaluator(self) -> Evaluator:
        operands, settings, apply = [o.evaluator() for o in self.operands], self.settings, self.function.python
        if not self.function.strict:
            return lambda row: apply(*(operand(row) for operand in operands), *settings)
        if len(operands) == 1:
            first = operands[0]

            def evaluate_one(row: Row) -> Any:
                value = first(row)
                return None if value is None else apply(value, *settings)

            return evaluate_one

        def evaluate(row: Row) -> Any:
            values = [operand(row) for operand in operands]
            return None if None in values else apply(*values, *settings)

        return evaluate


def counted(arguments: Sequence[Node], least: int, most: int | None = None) -> None:
    """Raises: Misfit unless there are between least and most arguments; None is no limit, 0 only `least`."""
    top = least if most == 0 else most
    if len(arguments) < least or (top is not None and len(arguments) > top):
        wanted = str(least) if top == least else f"at least {least}" if top is None else f"{least} to {top}"
        raise Misfit(f"{len(arguments)} arguments where {wanted} {'is' if wanted == '1' else 'are'} needed")


def of_kind(arguments: Sequence[Node], index: int, wanted: str, *kinds: str) -> Node:
    node = arguments[index]
    if node.type.kind not in kinds:
        raise Misfit(f"{node.type} where {wanted} is needed", argument=index)
    return node


def number(arguments: Sequence[Node], index: int) -> Node:
    """An integer or decimal."""
    node = arguments[index]
    if node.type.kind == "float":
        hint = "functions round integers and decimals; compare a double, or clamp and bucket it"
        raise Misfit("a double where an integer or decimal is needed", hint, index)
    return of_kind(arguments, index, "a number", "integer")


def integer(arguments: Sequence[Node], index: int) -> Node:
    node = of_kind(arguments, index, "an integer", "integer")
    if node.type.scale:
        raise Misfit(f"{node.type} where an integer is needed", "write floor(...), or round(..., 0, 'half_even')", index)
    return node


def string(arguments: Sequence[Node], index: int) -> Node:
    return of_kind(arguments, index, "text", "string")


def constant_text(arguments: Sequence[Node], index: int, *, empty: bool = False) -> str:
    node = arguments[index]
    if not isinstance(node, Constant) or not isinstance(node.value, str):
        raise Misfit("not a constant text", "write it in quotes: 'abc'", index)
    if not node.value and not empty:
        raise Misfit("an empty text", "write at least one character", index)
    return node.value


def one_of(arguments: Sequence[Node], index: int, words: Sequence[str]) -> str:
    """A constant word of a list, written in lower case."""
    value = constant_text(arguments, index)
    if value not in words:
        raise Misfit(f"'{value}' where one word of a list is needed", f"one of {', '.join(map(repr, words))}", index)
    return value


def constant_integer(arguments: Sequence[Node], index: int, low: int, high: int) -> int:
    node = arguments[index]
    if not isinstance(node, Constant) or isinstance(node.value, bool | str | None) or node.type.scale:
        raise Misfit("not a constant integer", f"write a number from {low} to {high}", index)
    if not low <= node.value <= high:
        raise Misfit(f"{node.value} is not from {low} to {high}", argument=index)
    return node.value


def constants(nodes: Sequence[Node], first: int) -> tuple[int, ...]:
    """The values of constant numbers or times already brought to one type. `first` is the index of the first."""
    found: list[int] = []
    for offset, node in enumerate(nodes):
        factor = 1
        while hasattr(node, "factor"):  # a constant brought to a larger scale
            factor, node = factor * node.factor, node.operand  # type: ignore[attr-defined]
        if not isinstance(node, Constant) or not isinstance(node.value, int) or isinstance(node.value, bool):
            raise Misfit("not a constant", "write a number", first + offset)
        found.append(node.value * factor)
    return tuple(found)

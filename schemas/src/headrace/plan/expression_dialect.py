"""What is parsed: DuckDB's grammar with no function known to the parser, so that each is one of ours or refused."""

from __future__ import annotations

from typing import Any, ClassVar

import sqlglot
from sqlglot import exp
from sqlglot.dialects.duckdb import DuckDB
from sqlglot.errors import ParseError, SqlglotError

TEXT_CHARACTERS_MAX = 4_000  # bounds the depth of the tree, and so recursion
WEIGHT_MAX = 20_000  # nodes of a lowered expression


class ExpressionError(ValueError):
    """An expression that is not in the language or does not fit the fields.

    Attributes: detail (a short fact), text (the expression), position (0-based, -1 unknown), hint (what to write).
    """

    def __init__(self, detail: str, text: str, position: int = -1, hint: str = "") -> None:
        where = f" at character {position + 1}" if position >= 0 else ""
        super().__init__(f"{detail}{where} of `{text}`" + (f"; {hint}" if hint else ""))
        self.detail, self.text, self.position, self.hint = detail, text, position, hint

    @property
    def located(self) -> str:
        """Detail and place without the hint."""
        where = f"at character {self.position + 1} of" if self.position >= 0 else "in"
        return f"{self.detail} {where} `{self.text}`"


def _chosen(parsers: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: parsers[name] for name in names}


class RowExpressions(DuckDB):
    """Its special spellings stay: EXTRACT(part FROM t), CAST, TRY_CAST, CASE."""

    class Parser(DuckDB.Parser):
        FUNCTIONS: ClassVar[dict[str, Any]] = {}
        FUNCTION_PARSERS: ClassVar[dict[str, Any]] = _chosen(DuckDB.Parser.FUNCTION_PARSERS, "EXTRACT", "CAST", "TRY_CAST")
        NO_PAREN_FUNCTION_PARSERS: ClassVar[dict[str, Any]] = _chosen(DuckDB.Parser.NO_PAREN_FUNCTION_PARSERS, "CASE")
        NO_PAREN_FUNCTIONS: ClassVar[dict[Any, Any]] = {}


def tree_of(text: str) -> exp.Expr:
    """Raises: ExpressionError where the text is no SQL expression."""
    if len(text) > TEXT_CHARACTERS_MAX:
        raise ExpressionError("too long", text[:40] + "...", hint=f"at most {TEXT_CHARACTERS_MAX} characters")
    try:
        return sqlglot.parse_one(text, dialect=RowExpressions)
    except ParseError as error:
        first: dict[str, Any] = error.errors[0] if error.errors else {}
        raise ExpressionError("not a SQL expression", text, _position(text, first), "see the expression reference") from None
    except SqlglotError:
        raise ExpressionError("not a SQL expression", text) from None
    except RecursionError:
        raise ExpressionError("nested too deeply", text) from None


def _position(text: str, error: dict[str, Any]) -> int:
    """Where the parser stopped: its column is that of the token's last character."""
    line, column = error.get("line"), error.get("col")
    if not line or not column:
        return len(text)
    before = sum(len(part) + 1 for part in text.split("\n")[: line - 1])
    return max(0, before + column - len(error.get("highlight") or " "))

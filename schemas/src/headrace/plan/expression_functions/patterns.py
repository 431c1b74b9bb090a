"""LIKE, and the regular expressions that Rust's regex, RE2 and Python's re read alike.

The common part: characters, `.`, classes of ASCII characters, `* + ?` and `{m,n}` after one of these, `^` and `$` at the
ends, alternatives by `|` at the top. No groups: without them nothing nests, so no engine backtracks for long.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from headrace.plan.expression_types import Misfit

if TYPE_CHECKING:
    import polars as pl

GRAMMAR = (
    "Patterns have characters, `.`, classes such as `[A-Z0-9_]` and `[^,]`, `* + ? {2} {1,3}` after one of these, `^` at the "
    "start, `$` at the end, `|` between whole patterns, and `\\` before a sign; no groups, no `\\d`, at most two open repeats."
)
PATTERN_CHARACTERS_MAX = 200
REPEATS_MAX = 2  # open repeats in one alternative: matching stays below the third power of the length
COUNT_MAX = 50
SIGNS = r"\\[.^$*+?()\[\]{}|\\/\-]"  # a sign that stands for itself
CLASS_ITEM = r"(?:[A-Za-z0-9 _,:;/@#%=<>!.+*?()$|'\"]|\\[\[\]\\^\-])"
CLASS = rf"\[\^?(?:{CLASS_ITEM}-{CLASS_ITEM}|{CLASS_ITEM})+\]"
PLAIN = r"[^.^$*+?()\[\]{}|\\\x00-\x1f]"
COUNT = r"\{([0-9]{1,2})(,([0-9]{0,2}))?\}"
ATOM = re.compile(rf"({SIGNS}|{CLASS}|{PLAIN}|\.)([*+?]|{COUNT})?")
RANGE = re.compile(rf"({CLASS_ITEM})-({CLASS_ITEM})")


def check(pattern: str, argument: int) -> None:
    """Raises: Misfit unless the pattern is in the common part."""

    def refuse(detail: str, hint: str) -> Misfit:
        return Misfit(f"pattern '{pattern}': {detail}", hint, argument)

    if len(pattern) > PATTERN_CHARACTERS_MAX:
        raise refuse("too long", f"at most {PATTERN_CHARACTERS_MAX} characters")
    position, repeats = 0, 0
    while position < len(pattern):
        sign = pattern[position]
        if sign == "|":
            repeats = 0
        elif (sign == "^" and (position == 0 or pattern[position - 1] == "|")) or (
            sign == "$" and (position + 1 == len(pattern) or pattern[position + 1] == "|")
        ):
            pass
        else:
            atom = ATOM.match(pattern, position)
            if atom is None:
                raise refuse(f"'{pattern[position : position + 2]}' is not in the common part", GRAMMAR)
            if atom[1].startswith("[") and any(_last(a) > _last(b) for a, b in RANGE.findall(atom[1])):
                raise refuse(f"a range of {atom[1]} runs backwards", "write the smaller character first")
            repeats += _open(atom, refuse)
            if repeats > REPEATS_MAX:
                raise refuse("too many open repeats", f"at most {REPEATS_MAX} of * + {{m,}}; write like, or split_part")
            position = atom.end()
            continue
        position += 1


def _last(item: str) -> str:
    return item[-1]


def _open(atom: re.Match[str], refuse: object) -> bool:
    suffix = atom[2] or ""
    if suffix.startswith("{"):
        low, high = int(atom[3]), int(atom[5]) if atom[5] else None
        if max(low, high or 0) > COUNT_MAX or (high is not None and high < low):
            raise refuse(f"count {suffix}", f"from 0 to {COUNT_MAX}, the smaller first")  # type: ignore[operator]
        return atom[4] is not None and high is None
    return suffix in ("*", "+")


@lru_cache(maxsize=512)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(anchored(pattern))


def anchored(pattern: str, end: str = "Z") -> str:
    """The pattern with each closing `$` as `\\Z` (as `\\z` in Java), told from an escaped one by walking the atoms."""
    parts, position = [], 0
    while position < len(pattern):
        atom = ATOM.match(pattern, position)
        if atom is not None:
            parts.append(atom[0])
            position = atom.end()
        else:
            parts.append("\\" + end if pattern[position] == "$" else pattern[position])
            position += 1
    return "".join(parts)


def polars_matches(value: pl.Expr, pattern: str) -> pl.Expr:
    return value.str.contains(f"(?:{pattern})")


def duckdb_matches(value: str, pattern: str) -> str:
    escaped = pattern.replace("'", "''")
    return f"regexp_matches({value}, '(?:{escaped})')"


def python_matches(value: str, pattern: str) -> bool:
    return _compiled(pattern).search(value) is not None


def full_match(value: str, pattern: str) -> bool:
    """Of one of our own patterns, over ASCII."""
    return re.fullmatch(pattern, value, re.ASCII) is not None


@lru_cache(maxsize=512)
def _like(pattern: str) -> re.Pattern[str]:
    parts = (".*" if sign == "%" else "." if sign == "_" else re.escape(sign) for sign in re.sub("%+", "%", pattern))
    return re.compile("".join(parts), re.DOTALL)


def polars_like(value: pl.Expr, pattern: str) -> pl.Expr:
    parts = (
        "(?s:.*)" if sign == "%" else "(?s:.)" if sign == "_" else _rust_escape(sign) for sign in re.sub("%+", "%", pattern)
    )
    return value.str.contains(rf"\A{''.join(parts)}\z")


def python_like(value: str, pattern: str) -> bool:
    return _like(pattern).fullmatch(value) is not None


def _rust_escape(sign: str) -> str:
    return "\\" + sign if sign in r"\.+*?()|[]{}^$#&-~" else sign

"""Small and capital letters. The engines follow different Unicode versions, and disagree on some 200 code points (one
knows special casing, one does not), so the mapping is ours: alphabets whose pairs have not moved since Unicode 5."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl

# Basic Latin to Latin Extended-B up to U+01BF, the caron and dot pairs to U+0233, Greek, Cyrillic, Armenian, Latin Additional
BLOCKS = ((0x41, 0x1BF), (0x1CD, 0x233), (0x386, 0x3CE), (0x400, 0x52F), (0x531, 0x586), (0x1E00, 0x1E95), (0x1EA0, 0x1EF9))


@cache
def _pairs() -> tuple[tuple[str, str], ...]:
    """(capital, small): both one code point, each the only image of the other."""
    found = []
    for low, high in BLOCKS:
        for capital in map(chr, range(low, high + 1)):
            small = capital.lower()
            if small != capital and len(small) == 1 and small.upper() == capital:
                found.append((capital, small))
    return tuple(found)


@cache
def _tables(lower: bool) -> tuple[list[str], list[str], dict[int, int]]:
    sources, targets = [list(side) for side in zip(*_pairs(), strict=True)]
    if not lower:
        sources, targets = targets, sources
    return sources, targets, str.maketrans("".join(sources), "".join(targets))


def pairs(lower: bool) -> tuple[list[str], list[str]]:
    """Letters and what each becomes, one code point for one."""
    return _tables(lower)[:2]


def polars_lower(value: pl.Expr) -> pl.Expr:
    sources, targets, _ = _tables(True)
    return value.str.replace_many(sources, targets)


def polars_upper(value: pl.Expr) -> pl.Expr:
    sources, targets, _ = _tables(False)
    return value.str.replace_many(sources, targets)


def duckdb_lower(value: str) -> str:
    return _duckdb(value, "lower", True)


def duckdb_upper(value: str) -> str:
    return _duckdb(value, "upper", False)


def _duckdb(value: str, ascii_function: str, lower: bool) -> str:
    """`translate` builds its table for each row, some 80 us: for texts that are not ASCII alone."""
    sources, targets, _ = _tables(lower)
    translated = f"translate({value}, '{''.join(sources)}', '{''.join(targets)}')"
    return f"CASE WHEN strlen({value}) = length({value}) THEN {ascii_function}({value}) ELSE {translated} END"


def python_lower(value: str) -> str:
    return value.translate(_tables(True)[2])


def python_upper(value: str) -> str:
    return value.translate(_tables(False)[2])

"""Results against the offline answer, record by record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import polars as pl


@dataclass(frozen=True, slots=True)
class Compared:
    """How many results were expected and found, and what is not right about them."""

    expected: int
    found: int
    missing: int  # expected, never seen
    unexpected: int  # seen, never expected
    doubled: int  # seen again
    wrong: int  # of the right identity with another value
    example: str = ""

    @property
    def right(self) -> bool:
        return not (self.missing or self.unexpected or self.doubled or self.wrong)

    def told(self) -> str:
        faults = {name: count for name, count in asdict(self).items() if name not in ("expected", "found", "example") and count}
        rest = ", ".join(f"{count:,} {name}" for name, count in faults.items())
        return f"{self.found:,} results, {rest or 'every one right'}" + (f"; {self.example}" if rest else "")


def compare(expected: pl.DataFrame, found: pl.DataFrame, identity: Sequence[str]) -> Compared:
    """Both have the same columns; `identity` are those that tell a result from another, unique in `expected`.

    A result that was seen twice counts as doubled once per further copy; each copy's values are compared.
    """
    found = found.select(expected.columns).cast(dict(expected.schema))  # pyright: ignore[reportArgumentType]
    keys, values = list(identity), [c for c in expected.columns if c not in identity]
    assert expected.select(pl.struct(keys).is_unique().all()).item(), "the answer itself has doubles"
    missing = expected.join(found, keys, "anti", nulls_equal=True)
    unexpected = found.join(expected, keys, "anti", nulls_equal=True)
    both = found.join(expected, keys, "inner", suffix="_expected", nulls_equal=True)
    differs = pl.any_horizontal([pl.col(c).ne_missing(pl.col(f"{c}_expected")) for c in values] or [pl.lit(False)])
    wrong = both.filter(differs)
    doubled = len(found) - found.select(keys).unique().height
    first = next((f"first {name}: {frame.row(0, named=True)}" for name, frame in (
        ("missing", missing), ("unexpected", unexpected), ("wrong", wrong)) if len(frame)), "")  # fmt: skip
    return Compared(len(expected), len(found), len(missing), len(unexpected), doubled, len(wrong), first)

"""An archive somebody has changed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deltalake import DeltaTable, write_deltalake


def alter(lake: Path, topic: str, part: int, off: int, changes: Mapping[str, Any]) -> None:
    """Rewrite one row of a table, positions untouched."""
    table = DeltaTable(str(lake / topic))
    rows = table.to_pyarrow_dataset().to_table()
    altered = [{**r, **changes} if (r["part"], r["off"]) == (part, off) else r for r in rows.to_pylist()]
    write_deltalake(table, type(rows).from_pylist(altered, rows.schema), mode="overwrite")

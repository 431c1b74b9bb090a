"""Feast's part: its own environment, its two local stores, the same join over the same files; its answers are compared."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.features import joins
from bench.features.others import Redis, feast_python, feast_version
from bench.features.told import told

Say = Callable[[str], None]


def measure(folder: Path, work: Path, files: Path, cards: int, reads: int, runs: int, say: Say) -> dict[str, Any]:
    """feast_sqlite_* and feast_redis_* as ours are named, feast_pit_rows_s, feast_pit_rows_differing.

    Where there is no Redis, `feast_redis` says why.
    """
    say("its environment")
    python = feast_python(folder / "venv")
    with Redis(folder) as redis:
        say(f"Redis: {redis.origin if redis.port else redis.why}")
        command = [
            str(python), str(Path(__file__).with_name("feast_side.py")), str(work), str(redis.port), str(cards), str(reads),
            str(files), str(runs),
        ]  # fmt: skip
        env = {"PATH": os.environ["PATH"], "HOME": str(work), "FEAST_USAGE": "False"}
        out: dict[str, Any] = told(command, env, work / "feast.log", say)
    out |= {"feast": feast_version(), "feast_redis": "measured" if redis.port else redis.why, "feast_cards": cards}
    return out | {"feast_pit_rows_differing": float(joins.differing(files, files / "feast.parquet"))}

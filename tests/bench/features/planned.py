"""The large declaration, as `headrace plan` prints it: 200 features and more, 60M cards by projection."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CARDS = 60_000_000
ASKED = ("--keys", "card=60M", "--keys", "merchant=2M", "--rate", "payments=3", "--history", "payments=22B")
PLAN_S_MAX = 120.0

Say = Callable[[str], None]


def measure(root: Path, say: Say) -> dict[str, Any]:
    """plan_features, plan_cards, plan_bytes_per_card, plan_view, plan_s; what was printed is said."""
    started = time.monotonic()
    command = [sys.executable, "-m", "headrace.cli.main", "plan", str(root / "schemas" / "pipelines" / "cards"), *ASKED]
    env = {k: v for k, v in os.environ.items() if not k.startswith("HEADRACE_")}
    env |= {"PYTHONPATH": str(root / "schemas" / "src"), "COLUMNS": "160"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=PLAN_S_MAX)
    for line in done.stdout.splitlines():
        say(line)
    view = re.search(r"card_velocity: projected view of ([\d,]+) keys: (.*)", done.stdout)
    per_key = re.search(r"card_velocity: projected ([\d,]+) bytes per key with", done.stdout)
    features = re.findall(r"^ (card_velocity|merchant_day) *│ *fraud *│ (\d+) features", done.stdout, re.MULTILINE)
    assert view is not None and per_key is not None and features, "the plan does not say what it should"
    return {
        "plan_features": sum(int(count) for _, count in features), "plan_cards": _number(view[1]),
        "plan_bytes_per_card": _number(per_key[1]), "plan_view": view[2].strip(), "plan_s": time.monotonic() - started,
    }  # fmt: skip


def _number(text: str) -> int:
    return int(text.replace(",", ""))

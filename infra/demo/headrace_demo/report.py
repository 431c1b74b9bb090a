"""The closing report: figures read back from what the run left, checks over them, printed and written as JSON."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table

from headrace_demo.checks import Check, checks
from headrace_demo.evidence import percentiles
from headrace_demo.findings import Findings


def figures(found: Findings) -> dict[str, Any]:
    """The figures of the report, by the names tools read."""
    sources = found.decisions["decision_source"].value_counts()
    parity = found.parity
    return {
        "events": found.sent,
        "duplicates": found.duplicates_in + found.verdicts("duplicate"),
        "dead_letters": dict(sorted(found.letters.items())),
        "late": found.verdicts("late"),
        "decisions": dict(sorted(zip(sources["decision_source"].to_list(), sources["count"].to_list(), strict=True))),
        "latency_ms": percentiles(found.latency_ms),
        "rest_latency_ms": percentiles(found.rest_ms),
        "auc_by_month": {m.month: round(m.model, 4) for m in found.months if m.model is not None},
        "rule_auc_by_month": {m.month: round(m.rule, 4) for m in found.months if m.rule is not None},
        "parity": {name: parity.get(name) for name in ("checked", "values", "fresh", "bits_differing")},
        "findings": len(found.drift),
        "models": len(found.governance["candidates"]),
        "promotions": len(found.promoted),
        "audit": {"entries": found.audit["entries"], "verified": found.audit["verified"]},
        "peak_memory_mb": round(found.peak_memory_mb),
        **({"refused": {who: refusal["counted"] for who, refusal in found.intruders.items()}} if found.intruders else {}),
        "trace_id": found.followed.get("trace_id", ""),
        "play_s": round(found.play_s, 1),
        "first_decision_s": None if found.first_decision_s is None else round(found.first_decision_s, 1),
    }


def document(found: Findings, root: Path) -> dict[str, Any]:
    """The demo's report as written to disk."""
    return frame(root, found.verb, found.seed, found.wall_s, figures(found), checks(found))


def frame(root: Path, verb: str, seed: int, wall_s: float, told: dict[str, Any], held: Sequence[Check]) -> dict[str, Any]:
    """The shape every verb's report has."""
    return {
        "verb": verb,
        "commit": _commit(root),
        "machine": {"cpus": os.cpu_count(), "memory_gib": round(_memory_gib(), 1), "system": platform.platform()},
        "seed": seed,
        "wall_s": round(wall_s, 1),
        "figures": told,
        "checks": [{"name": c.name, "ok": c.ok, "detail": c.detail} for c in held],
    }


def write(report: dict[str, Any], folder: Path) -> Path:
    """Write `<verb>.json`, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{report['verb']}.json"
    aside = path.with_suffix(".part")
    aside.write_bytes(orjson.dumps(report, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS))
    return aside.rename(path)


def show(console: Console, report: dict[str, Any]) -> None:
    """The report on a terminal."""
    table = Table(
        title=f"{report['verb']}: {report['wall_s']:.0f} s, seed {report['seed']}",
        title_justify="left",
        box=None,
        show_header=False,
    )
    for name, value in report["figures"].items():
        table.add_row(name.replace("_", " "), _told(value))
    console.print(table)
    for check in report["checks"]:
        mark = "[green]\u2713[/]" if check["ok"] else "[red]\u2717[/]"
        console.print(f"  {mark} {check['name']}: [dim]{check['detail']}[/]", highlight=False, soft_wrap=True)


def _told(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_told(inner)}" for name, inner in value.items()) or "none"
    if isinstance(value, bool) or not isinstance(value, int):
        return str(value)
    return f"{value:,}"


def _commit(root: Path) -> str:
    done = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], check=False, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30

"""The closing report: figures read back from what the run left, checks over them, printed and written as JSON."""

from __future__ import annotations

import os
import platform
import subprocess
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import polars as pl
from rich.console import Console
from rich.table import Table

PARITY_DECISIONS_MIN = 10_000
PLAY_S_MAX = 185.0  # three minutes, and the step under way
FIRST_DECISION_S_MAX = 30.0  # after the stack is up
FEATURE_LAG_MS_MAX = 3_600_000
MONTH_LABELLED_MIN = 300  # fewer labelled decisions are no evidence about a month


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that must be true."""

    name: str
    ok: bool
    detail: str


@dataclass
class Findings:
    """Everything the report is made of."""

    null: bool
    seed: int
    wall_s: float
    facts: dict[str, Any]
    decisions: pl.DataFrame
    outcomes: pl.DataFrame
    months: list[Any]
    latency_ms: list[float]
    rest_ms: list[float]
    letters: Counter[str]
    parity: dict[str, Any]
    audit: dict[str, Any]
    governance: dict[str, Any]  # candidates, findings, trainings, rollouts, as svc-governance shows them
    followed: dict[str, Any]  # flight, passport, spans, arrival
    sent: int  # events acknowledged, by svc-ingest or by the broker
    archived: int  # records of the event topics in the archive
    asked: set[str]  # request ids of play that had to be answered
    peak_memory_mb: float
    first_decision_s: float | None
    play_s: float
    feature_lag_ms: int
    duplicates_in: int
    weights: list[tuple[int, int, str]] = field(default_factory=list)
    looks: list[dict[str, Any]] = field(default_factory=list)

    @property
    def verb(self) -> str:
        return "demo-null" if self.null else "demo"

    @property
    def drift(self) -> list[dict[str, Any]]:
        return [finding for finding in self.governance["findings"] if finding["kind"] == "drift"]

    @property
    def promoted(self) -> list[dict[str, Any]]:
        return [view for view in self.governance["candidates"] if view["state"] in ("PROMOTED", "SUPERSEDED")]

    def verdicts(self, name: str) -> int:
        """Records of a verdict over all event topics, as the archive's recomputation pronounced them."""
        return sum(counts.get(name, 0) for counts in self.parity.get("verdicts", {}).values())


def figures(found: Findings) -> dict[str, Any]:
    """The figures of the report, by the names tools read."""
    from headrace_demo.evidence import percentiles

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
        "trace_id": found.followed.get("trace_id", ""),
        "play_s": round(found.play_s, 1),
        "first_decision_s": None if found.first_decision_s is None else round(found.first_decision_s, 1),
    }


def checks(found: Findings) -> list[Check]:
    """What must be true of a run, the null run included."""
    out = [*_flow(found), *_parity(found), *_people(found), *_quality(found), *_loop(found), *_following(found)]
    return out


def _flow(found: Findings) -> list[Check]:
    facts = found.facts
    resent, malformed = facts.get("resent", {}), facts.get("malformed", [])
    wrong = [bad["what"] for bad in malformed if bad["expected"] != bad["told"]]
    ids = found.decisions["request_id"]
    missing = found.asked - set(ids.to_list())
    lag_min = found.feature_lag_ms / 60_000
    return [
        Check("every event is in the archive, once", found.archived == found.sent, f"{found.sent:,} acknowledged, {found.archived:,} archived"),
        Check("a batch sent again is all duplicates", bool(resent) and resent["accepted"] == 0, f"{resent.get('rows', 0):,} rows sent again"),
        Check("malformed rows get their reason", bool(malformed) and not wrong, f"{len(malformed)} kinds" + (f"; not: {', '.join(wrong)}" if wrong else "")),
        Check("an event too late is judged late", found.verdicts("late") >= facts.get("late_sent", 1), f"{found.verdicts('late')} late"),
        Check("one passport per request", ids.n_unique() == len(ids), f"{len(ids):,} passports, {ids.n_unique():,} requests"),
        Check("every request asked in play is answered", not missing, f"{len(found.asked):,} asked, {len(missing)} without an answer"),
        Check("features at most an hour behind a request", found.feature_lag_ms <= FEATURE_LAG_MS_MAX, f"{lag_min:.0f} min at most"),
        Check("play within three minutes", found.play_s <= PLAY_S_MAX, f"{found.play_s:.0f} s"),
        Check(
            "first decision of the rules within 30 s",
            found.first_decision_s is not None and found.first_decision_s <= FIRST_DECISION_S_MAX,
            f"{found.first_decision_s or float('nan'):.1f} s after the stack was up",
        ),
    ]  # fmt: skip


def _parity(found: Findings) -> list[Check]:
    parity = found.parity
    checked, values, fresh = (parity.get(name) or 0 for name in ("checked", "values", "fresh"))
    return [
        Check("parity: decisions recomputed from the archive", checked >= PARITY_DECISIONS_MIN, f"{checked:,} of at least {PARITY_DECISIONS_MIN:,}"),
        Check("parity: at least half of the values fresh", values > 0 and 2 * fresh >= values, f"{fresh:,} of {values:,}"),
        Check("parity: bits differing 0", parity.get("bits_differing") == 0, f"{parity.get('bits_differing')} bits, {parity.get('differing')} differences of any kind"),
        Check("parity: nothing else differs", parity.get("differing") == 0, parity.get("error", "") or f"{parity.get('oracle_checked', 0)} answers asked of the naive oracle too"),
    ]  # fmt: skip


def _people(found: Findings) -> list[Check]:
    refused = found.facts.get("refused", {})
    anonymous, proposer = refused.get("anonymous", {}), refused.get("proposer", {})
    parked = found.facts.get("parked", [])
    return [
        Check("approval without a name is refused", anonymous.get("status") == 401, str(anonymous.get("detail", "never tried"))[:120]),
        Check("the proposer's own approval is refused", proposer.get("status") == 403, str(proposer.get("detail", "never tried"))[:120]),
        Check("the faulty pipeline is parked, flights go on", parked == ["svc-ingest"], f"parked in {', '.join(parked) or 'no service'}"),
        Check("the audit chain verifies", bool(found.audit["verified"]) and found.audit["heads"] > 0, f"{found.audit['entries']} entries, {found.audit['heads']} heads kept outside found again {found.audit['problem']}"),
    ]  # fmt: skip


def _quality(found: Findings) -> list[Check]:
    judged = [m for m in found.months if m.labelled >= MONTH_LABELLED_MIN and m.model is not None and m.rule is not None]
    worse = [m.month for m in judged if not m.model > m.rule]
    told = "; ".join(f"{m.month} {m.model:.3f} against {m.rule:.3f} ({m.labelled:,})" for m in judged)
    return [
        Check(
            "the model beats the rule on months it was not trained on",
            bool(judged) and not worse,
            told or "no month with labels",
        )
    ]


def _loop(found: Findings) -> list[Check]:
    answers = [training for training in found.governance["trainings"] if training["trigger_kind"] == "finding"]
    first = bool(found.promoted)
    if found.null:
        return [
            Check("null run: the first model is promoted", first, f"{len(found.promoted)} promoted"),
            Check("null run: no drift finding", not found.drift, f"{len(found.looks)} looks, {len(found.drift)} findings"),
            Check("null run: no second model", len(found.governance["candidates"]) == 1, f"{len(found.governance['candidates'])} candidates"),
        ]  # fmt: skip
    return [
        Check("drift is found in the real data", bool(found.drift), f"{len(found.looks)} looks, {len(found.drift)} findings"),
        Check("each drift finding led to one training request", 0 < len(answers) <= len(found.drift), f"{len(answers)} of {len(found.drift)} answered"),
        Check("two models were promoted", len(found.promoted) == 2, ", ".join(view["model_digest"][:8] for view in found.promoted) or "none"),
    ]  # fmt: skip


def _following(found: Findings) -> list[Check]:
    from headrace_demo.evidence import SERVICES_OF_A_TRACE, services_of

    followed = found.followed
    missing = set(SERVICES_OF_A_TRACE) - services_of(followed.get("spans", []))
    rest = found.facts.get("rest_reply")
    return [
        Check("one flight's trace goes through ingest, stream, serve, monitor", bool(followed) and not missing, f"trace {followed.get('trace_id', 'none')}" + (f", missing {', '.join(sorted(missing))}" if missing else "")),
        Check("decisions are answered over REST", bool(found.rest_ms) and rest is not None, f"{len(found.rest_ms):,} replies" + (f"; refused: {found.facts['rest_refused']}" if "rest_refused" in found.facts else "")),
    ]  # fmt: skip


def document(found: Findings, root: Path) -> dict[str, Any]:
    """The report as written to disk: the shape every verb's report has."""
    return {
        "verb": found.verb,
        "commit": _commit(root),
        "machine": {"cpus": os.cpu_count(), "memory_gib": round(_memory_gib(), 1), "system": platform.platform()},
        "seed": found.seed,
        "wall_s": round(found.wall_s, 1),
        "figures": figures(found),
        "checks": [{"name": c.name, "ok": c.ok, "detail": c.detail} for c in checks(found)],
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

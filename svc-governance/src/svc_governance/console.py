"""The console: one page that shows what is in force and, for each thing one can do, the command that does it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from html import escape

from headrace.contracts.records import AuditEntryAppended
from svc_governance import views
from svc_governance.domain.state import CandidateState, State

AUDIT_ROWS_MAX = 50  # newest; the export has all

_STYLE = """
body { font: 14px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; color: #1c2530; }
h1 { font-size: 1.4rem } h2 { font-size: 1.05rem; margin-top: 2rem }
table { border-collapse: collapse; width: 100% } td, th { text-align: left; vertical-align: top; padding: .3rem .6rem .3rem 0;
  border-bottom: 1px solid #dde3ea } code { background: #eef2f6; padding: .1rem .3rem; border-radius: 3px; font-size: 12px }
.ok { color: #1a7f37 } .bad { color: #b42318 } .quiet { color: #66717d }
"""


def page(state: State, entries: Sequence[AuditEntryAppended]) -> str:
    """The whole page; every value from outside is escaped."""
    sections = [_pipelines(state), _candidates(state), _rollouts(state), _trainings(state), _findings(state), _audit(entries)]
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><title>Headrace: governance</title>"
        f"<style>{_STYLE}</style><body><h1>Headrace: governance</h1>{''.join(sections)}</body></html>"
    )


def _pipelines(state: State) -> str:
    rows = []
    for view in views.pipelines_view(state):
        parked = "".join(
            f"<div class=bad>{escape(ack['service'])} parked: {escape(ack['detail'])}</div>"
            for ack in view["acks"]
            if ack["status"] == "PARKED"
        )
        waiting = f"<div class=quiet>waiting for {escape(', '.join(view['waiting']))}</div>" if view["waiting"] else ""
        rows.append(
            (
                escape(view["pipeline"]),
                escape(view["state"]),
                str(view["epoch"]),
                f"<code>{escape(view['plan_hash'][:8])}</code>",
                escape(view["admitted_by"]),
                parked + waiting or "<span class=ok>all services answered</span>",
                _command(f"headrace retire {view['pipeline']} --as ops"),
            )
        )
    return _table("Pipelines", ("pipeline", "state", "epoch", "plan", "applied by", "answers", "command"), rows)


def _candidates(state: State) -> str:
    rows = []
    for view in views.candidates_view(state):
        gate = "".join(
            f"<div class={'ok' if term['passed'] else 'bad'}>{escape(term['name'])}: {escape(term['detail'])}</div>"
            for term in view["gate"]
        )
        candidate = view["candidate_id"]
        commands = [f"headrace approve {candidate} --as grace", f"headrace reject {candidate} --as grace --reason '...'"]
        rows.append(
            (
                f"<code>{escape(candidate[:12])}</code>",
                escape(f"{view['pipeline']}/{view['model']}"),
                escape(view["state"]),
                escape(view["requested_by"]),
                escape(view["decided_by"] or "-"),
                gate,
                "".join(map(_command, commands)) if view["state"] == CandidateState.GATED else "",
            )
        )
    return _table("Candidates", ("candidate", "model", "state", "proposed by", "decided by", "gate", "commands"), rows)


def _rollouts(state: State) -> str:
    rows = []
    for view in views.rollouts_view(state):
        arms = "".join(
            f"<div>{escape(arm['name'])} {arm['weight'] / 100:g} % <code>{escape(arm['model_digest'][:8])}</code></div>"
            for arm in view["arms"]
        )
        rows.append(
            (
                escape(f"{view['pipeline']}/{view['model']}"),
                f"{escape(view['state'])} {view['step']} %",
                str(view["epoch"]),
                arms,
                escape(view["reason"]),
                _command(f"headrace kill {view['pipeline']}/{view['model']} --as ops"),
            )
        )
    return _table("Rollouts", ("model", "state", "epoch", "arms", "reason", "command"), rows)


def _trainings(state: State) -> str:
    rows = [
        (
            f"<code>{escape(view['trigger_id'][:24])}</code>",
            escape(f"{view['pipeline']}/{view['model']}"),
            escape(view["requested_by"]),
            f"{_day(view['from_ms'])} to {_day(view['until_ms'])}",
            escape(view["run_state"] or "requested"),
        )
        for view in views.trainings_view(state)
    ]
    table = _table("Training requests", ("trigger", "model", "asked by", "window", "run"), rows)
    return table + _command("headrace train PIPELINE/MODEL --from DATE --until DATE --as ada")


def _findings(state: State) -> str:
    rows = [
        (escape(f.raised.kind), escape(f"{f.raised.pipeline}/{f.raised.model}"), escape(f.raised.component), escape(f.answer))
        for f in state.findings.values()
    ]
    return _table("Findings", ("kind", "about", "raised by", "answer"), rows)


def _audit(entries: Sequence[AuditEntryAppended]) -> str:
    rows = [
        (
            str(entry.sequence),
            _moment(entry.at_ms),
            escape(entry.actor),
            escape(entry.action),
            escape(entry.subject),
            f"<code>{escape(entry.hash[:12])}</code>",
        )
        for entry in reversed(entries[-AUDIT_ROWS_MAX:])
    ]
    table = _table(f"Audit, {len(entries)} entries", ("entry", "at (UTC)", "actor", "action", "subject", "hash"), rows)
    return (
        table
        + _command("headrace audit export audit.jsonl")
        + _command("headrace audit verify audit.jsonl --heads HEADS.jsonl")
    )


def _table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    body = body or f"<tr><td class=quiet colspan={len(columns)}>none</td></tr>"
    return f"<h2>{escape(title)}</h2><table><tr>{head}</tr>{body}</table>"


def _command(text: str) -> str:
    return f"<div><code>{escape(text)}</code></div>"


def _moment(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _day(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d")

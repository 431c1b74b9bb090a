"""`headrace plan PATH --against 30d`: which past decisions a change would have flipped, for whom, at what gain and cost."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import typer
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from headrace.cli.identity import complaints
from headrace.cli.status import clock
from headrace.client import replays
from headrace.client.conditions import Condition, NotACondition
from headrace.client.connection import Connection
from headrace.client.features import FeaturesClient, Refused, Unreachable
from headrace.client.local_stack import home
from headrace.contracts.errors import HeadraceError
from headrace.contracts.signing import load_private
from headrace.plan.ir import Plan

FAILED, CANNOT_JUDGE = 1, 2
GROUPS_SHOWN, INPUTS_SHOWN, MOVED_SHOWN = 12, 12, 3
NOT_REPLAYED = {
    "model_not_declared": "the declaration has no such model",
    "request_lacks_field": "the request lacks a field",
    "archive_behind": "the archive is behind",
    "model_not_recorded": "the audit does not know the model",
    "model_missing": "the model is not in the object store",
    "model_refused": "the model was refused",
    "model_failed": "the model failed",
    "model_does_not_fit": "the model does not fit the new row",
}

Json = dict[str, Any]


def parsed(conditions: Sequence[str]) -> list[Condition]:
    """Raises: typer.BadParameter."""
    try:
        return [Condition.parse(text) for text in conditions]
    except NotACondition as error:
        raise typer.BadParameter(str(error)) from None


def replay(
    question: replays.Question, *, lake: Path | None, features_url: str, conditions: Sequence[Condition], as_json: bool,
    most: int, save: Path | None, console: Console,
) -> None:  # fmt: skip
    """Ask, show, and end with 1 if a condition holds, with 2 if there is no answer or a condition cannot be judged."""
    with tempfile.TemporaryDirectory(prefix="headrace-replay-") as name:
        try:
            answer = _asked(question, lake, features_url, Path(name))
        except (Refused, Unreachable, HeadraceError) as error:
            complaints.print(escape(str(error)), style="red", highlight=False)
            if isinstance(error, Unreachable) and home().joinpath("lake").is_dir():
                complaints.print(f"--lake {home() / 'lake'} replays here, with the stack down", highlight=False)
            raise typer.Exit(CANNOT_JUDGE) from None
        failing, unjudged = judged(conditions, answer.page)
        if save is not None:
            shutil.copyfile(answer.flips, save)
        if as_json:
            flips = [flip for flip, _ in zip(answer.each(), range(most), strict=False)]
            verdict = {"failing": failing, "unjudged": unjudged}
            typer.echo(json.dumps({**answer.page, "flips": flips, "conditions": verdict}, indent=2))
        else:
            console.print(shown(answer.page, answer.largest(most)))
            for text in failing:
                console.print(f"[bold red]fails[/] {escape(text)}", highlight=False)
            for text in unjudged:
                console.print(f"[bold red]cannot be judged[/] {escape(text)}", highlight=False)
    if failing or unjudged:
        raise typer.Exit(FAILED if failing else CANNOT_JUDGE)


def judged(conditions: Sequence[Condition], page: Json) -> tuple[list[str], list[str]]:
    """Conditions that hold for a model, and those nothing is known about."""
    failing, unjudged = list[str](), list[str]()
    models = [name for name, found in page["models"].items() if found["replayed"] or found["not_replayed"]]
    for condition in conditions:
        found = {name: condition.holds(page, name) for name in models}
        failing += [f"{condition.text} of {name}" for name, holds in found.items() if holds]
        unjudged += [f"{condition.text} of {name}" for name, holds in found.items() if holds is None]
    return failing, unjudged


def _asked(question: replays.Question, lake: Path | None, url: str, folder: Path) -> replays.Answer:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=complaints, transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def progress(phase: str, done: int, total: int) -> None:
            if phase not in tasks:
                for task in tasks.values():
                    bars.update(task, completed=bars.tasks[task].total)
                tasks[phase] = bars.add_task(phase, total=total)
            bars.update(tasks[phase], completed=done, total=total)

        if lake is not None:
            return replays.run(lake.absolute().parent, lake, question, folder, progress)
        to = Connection.from_environment()
        to = replace(to, features_url=url or to.features_url)
        with FeaturesClient(to.features_url, to.principal, load_private(to.key_file)) as client, suppress(KeyboardInterrupt):
            return replays.ask(client, question, folder, progress)
        raise typer.Exit(130)


# -- what is shown


def shown(page: Json, flips: Sequence[Json]) -> RenderableType:
    """The whole answer."""
    span = f"{clock(page['from_ms'])} .. {clock(page['until_ms'])}"
    known = f"plan {page['baseline_hash'][:8]}" if page["baseline_hash"] else "a plan the audit does not tell of"
    parts: list[RenderableType] = [
        f"decisions of [bold]{escape(page['pipeline'])}[/] with t in {span} (event time), made under {known}, "
        f"made again under {page['plan_hash'][:8]} in {page['wall_s']} s"
    ]
    for name, found in page["models"].items():
        parts += _model(name, found, page, [flip for flip in flips if flip["model"] == name])
    parts += _change(page)
    return Group(*parts)


def _model(name: str, found: Json, page: Json, flips: Sequence[Json]) -> list[RenderableType]:
    share = found["flips"] / found["replayed"] if found["replayed"] else 0.0
    colour = "yellow" if found["flips"] else "green"
    candidate = page["candidate"]
    by = f" by model {candidate['model_digest'][:8]}" if candidate else ""
    parts: list[RenderableType] = [
        f"\n[bold]{escape(name)}[/]: {found['replayed']:,} of {found['decisions']:,} decisions made again{escape(by)}: "
        f"[bold {colour}]{found['flips']:,} flip[/] ({share:.2%}), {found['to_true']:,} to yes, {found['to_false']:,} to no; "
        f"{found['scores']['moved']:,} of {found['scores']['compared']:,} scores move, "
        f"by {found['scores']['largest_difference']:.4f} at most"
    ]
    if candidate and candidate["fitted_until_ms"] is None:
        parts.append(
            "[yellow]the audit does not tell on which days this model was fitted[/]: gains may be its own training rows"
        )
    if not candidate and found["scores"]["moved"]:
        parts.append("scored by the models that decided then, trained for the old row: train one for the new row, then --model")
    if found["not_asked"]:
        parts.append(f"[yellow]{found['not_asked']:,} would not be asked for any more[/]")
    parts += [
        f"[yellow]{r['decisions']:,} not made again[/]: {NOT_REPLAYED.get(r['reason'], r['reason'])}: {escape(r['detail'])}"
        for r in found["not_replayed"]
    ]
    rungs = [(f"{r['old']} -> {r['new']}".lower(), f"{r['decisions']:,}", f"{r['flips']:,}") for r in found["rungs"]]
    parts.append(_table("by rung", ("decided by", "decisions", "flips"), rungs))
    parts += _gains(found)
    inputs = sorted(found["inputs"], key=lambda item: -item["moved"])[:INPUTS_SHOWN]
    if inputs:
        heads = ("input", "rows moved", "by (mean)", "now known", "now missing", "in flips")
        rows = [
            (
                i["input"], f"{i['moved']:,}", f"{i['mean_difference']:.4g}", f"{i['appeared']:,}", f"{i['vanished']:,}",
                f"{i['in_flips']:,}",
            )
            for i in inputs
        ]  # fmt: skip
        parts.append(_table("what moved", heads, rows))
    for field, groups in found["groups"].items():
        parts.append(_groups(field, groups))
    if flips:
        parts.append(_flips(found, flips))
    return parts


def _gains(found: Json) -> list[RenderableType]:
    gains = found["gains"]
    parts: list[RenderableType] = []
    if found["fitted_on"]:
        parts.append(
            f"{found['fitted_on']:,} decisions with an outcome lie in the days this model was fitted on: they count for no gain"
        )
    if not gains["labelled"]:
        return [*parts, "no decision has a mature outcome that may count: nothing can be said of gains"]
    rows = [
        (name.replace("_", " "), *_sides(gains["old"][name], gains["new"][name]))
        for name in ("correct", "false_alarms", "misses", "accuracy", "precision", "recall")
    ]
    rows.append((f"AUC ({gains['auc']['scored']:,} scores)", *_sides(gains["auc"]["old"], gains["auc"]["new"])))
    parts.append(_table(f"gains on {gains['labelled']:,} decisions with a mature outcome", ("", "old", "new", "change"), rows))
    p = gains["p_value"]
    chance = "" if p is None else f"; as large a difference arises by chance with p = {p:.3g}"
    parts.append(f"{gains['corrected']:,} were wrong and would be right, {gains['broken']:,} the other way round{chance}")
    return parts


def _sides(old: float | None, new: float | None) -> tuple[str, str, str]:
    def text(value: float | None, sign: str = "") -> str:
        return "-" if value is None else f"{value:{sign},}" if isinstance(value, int) else f"{value:{sign}.4f}"

    return text(old), text(new), text(None if old is None or new is None else new - old, "+")


def _groups(field: str, groups: Json) -> Table:
    rows = [
        (value, *(f"{g[n]:,}" for n in ("replayed", "flips", "to_true", "corrected", "broken")))
        for value, g in list(groups.items())[:GROUPS_SHOWN]
    ]
    left = len(groups) - len(rows)
    title = f"by {field}" + (f" ({left} more)" if left > 0 else "")
    return _table(title, (field, "decisions", "flips", "to yes", "corrected", "broken"), rows)


def _flips(found: Json, flips: Sequence[Json]) -> Table:
    title = f"flips ({len(flips)} of {found['flips']:,}, largest change of score first)"
    rows = [
        (
            flip["request_id"], clock(flip["t_ms"]), f"{_word(flip['old'])} -> {_word(flip['new'])}",
            f"{_score(flip['old'])} -> {_score(flip['new'])}", {None: "", True: "yes", False: "no"}[flip["label"]],
            ", ".join(_moved(m) for m in flip["moved"][:MOVED_SHOWN])
            + (f", {len(flip['moved']) - MOVED_SHOWN} more" if len(flip["moved"]) > MOVED_SHOWN else ""),
        )
        for flip in flips
    ]  # fmt: skip
    return _table(title, ("decision", "t (UTC)", "", "score", "outcome", "moved"), rows)


def _word(side: Json) -> str:
    return f"{'yes' if side['decision'] else 'no'} ({side['source'].lower()})"


def _score(side: Json) -> str:
    return "-" if side["score"] is None else f"{side['score']:.4f}"


def _moved(change: Json) -> str:
    old, new = ("missing" if value is None else f"{value:.4g}" for value in (change["old"], change["new"]))
    return f"{change['input']} {old} -> {new}"


def _change(page: Json) -> list[RenderableType]:
    """What differs, and what it costs: state and reads, where they move."""
    change = page["change"]
    rows = [(f"{d['kind']} {d['name']}", d["verb"], ", ".join(d["what"]), d["effect"]) for d in change["differences"]]
    parts: list[RenderableType] = [_table("changes", ("node", "", "differs in", "effect"), rows)] if rows else []
    old, new = ({cost["set"]: cost for cost in change["costs"][side]} for side in ("old", "new"))
    costs = [
        (name, *(_pair(old.get(name), new.get(name), number) for number in ("features", "tiles", "bytes", "reads")))
        for name in dict.fromkeys([*old, *new])
        if old and old.get(name) != new.get(name)
    ]
    if costs:
        parts.append(_table("cost (bounds)", ("set", "features", "tiles/key", "bytes/key", "reads/request"), costs))
    elif old:
        parts.append("cost: the same state per key, the same reads per request")
    return parts


def _pair(old: Json | None, new: Json | None, number: str) -> str:
    before, after = (0 if side is None else side[number] for side in (old, new))
    return f"{before:,}" if before == after else f"{before:,} -> {after:,}"


def _table(title: str, heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Table:
    table = Table(title=f"\n{title}", title_justify="left", show_edge=False, header_style="dim")
    for at, head in enumerate(heads):
        words = head in ("", "t (UTC)", "score", "outcome", "moved", "decision", "node", "effect", "differs in")
        table.add_column(head, overflow="fold", justify="left" if at == 0 or words else "right")
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def question_of(plan: Plan, span_ms: int, model: str, by: Sequence[str]) -> replays.Question:
    """Raises: typer.BadParameter for a field no request has."""
    fields = {f.name for m in plan.models for e in plan.events if e.name == m.request for f in e.fields}
    for name in by:
        if name not in fields:
            raise typer.BadParameter(f"{name!r} is none of {', '.join(sorted(fields))}")
    return replays.Question(plan, span_ms, model, tuple(by))

"""Decision diff in a notebook: which past decisions a change would have flipped, as Polars frames."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from headrace.client import replays
from headrace.client.connection import Connection
from headrace.client.features import FeaturesClient
from headrace.contracts.signing import load_private
from headrace.declare import compile, load
from headrace.declare.durations import duration_ms

_SIDES = ("decision", "source", "score")


@dataclass(frozen=True, slots=True)
class Diff:
    """A change held against past decisions.

    flips: model, request_id, t_ms, decision, source and score before (`old_`) and after (`new_`), label, moved (a list of
    input, old, new). inputs: model, input, rows moved, mean difference. groups: model, field, value, replayed, flips,
    corrected, broken. page: everything else (gains, rungs, what could not be made again, cost), as svc-features says it.
    """

    flips: pl.DataFrame
    inputs: pl.DataFrame
    groups: pl.DataFrame
    page: dict[str, Any]


def diff(
    declaration: str | Path, against: str = "30d", *, model: str = "", by: Sequence[str] = (), lake: Path | None = None,
    connection: Connection | None = None,
) -> Diff:  # fmt: skip
    """Past decisions made again under a declaration as it is edited, or by another model.

    Args:
        declaration: pipeline.py, or the folder that holds one.
        against: a span of event time before the newest decision.
        model: a candidate that answers, by run id or digest.
        by: request fields whose values are counted apart.
        lake: do it here, from this lake, with the stack down.
    Raises: DeclarationError at the line; Refused, Unreachable; NotReplayed with the reason.

    Example:
        >>> headrace.diff("schemas/pipelines/flights", "30d").flips  # doctest: +SKIP
    """
    question = replays.Question(compile(load(Path(declaration))), duration_ms(against), model, tuple(by))
    with tempfile.TemporaryDirectory(prefix="headrace-diff-") as name:
        if lake is not None:
            return frames_of(replays.run(lake.absolute().parent, lake, question, Path(name), _silent))
        to = connection or Connection.from_environment()
        with FeaturesClient(to.features_url, to.principal, load_private(to.key_file)) as client:
            return frames_of(replays.ask(client, question, Path(name), _silent))


def frames_of(answer: replays.Answer) -> Diff:
    """The frames of an answer."""
    moved = pl.List(pl.Struct({"input": pl.String, "old": pl.Float64, "new": pl.Float64}))
    schema: dict[str, Any] = {"model": pl.String, "request_id": pl.String, "t_ms": pl.Int64}
    for side in ("old", "new"):
        schema |= {f"{side}_decision": pl.Boolean, f"{side}_source": pl.String, f"{side}_score": pl.Float64}
    rows = [
        (
            f["model"],
            f["request_id"],
            f["t_ms"],
            *(f[side][n] for side in ("old", "new") for n in _SIDES),
            f["label"],
            f["moved"],
        )
        for f in answer.each()
    ]
    models = answer.page["models"].items()
    inputs = [{"model": name, **item} for name, found in models for item in found["inputs"]]
    groups = [
        {"model": name, "field": field, "value": value, **counts}
        for name, found in models
        for field, values in found["groups"].items()
        for value, counts in values.items()
    ]
    flips = pl.DataFrame(rows, {**schema, "label": pl.Boolean, "moved": moved}, orient="row")
    return Diff(flips, pl.DataFrame(inputs), pl.DataFrame(groups), answer.page)


def _silent(_phase: str, _done: int, _total: int) -> None: ...


__all__ = ["Diff", "diff"]

"""What a data scientist calls in a notebook; `headrace` offers these by its own name.

import headrace
headrace.read({"origin": "EWR"}, ["origin_load"])
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime

import polars as pl

from headrace.client.connection import Connection
from headrace.client.explain import Explained, explain, find
from headrace.client.features import STATUSES, FeaturesClient, Keys, Refused, Sets
from headrace.contracts.errors import HeadraceError
from headrace.contracts.signing import load_private

When = int | str | date | datetime
"""Event time: ms UTC, a datetime (naive means UTC), a date, or ISO text such as 2013-06-01 or 2013-06-01T12:00:00-04:00."""


def read(
    keys: Keys | pl.DataFrame, sets: Sets | None = None, *, at: When | Sequence[When] = "newest", statuses: bool = False,
    connection: Connection | None = None,
) -> pl.DataFrame:  # fmt: skip
    """Feature values as a model would be served them, one row per key.

    Args:
        keys: one key, several, or a frame of key columns (its column `t_ms`, if there, is the time of each row).
        sets: feature sets, or by set some of its features; None: every set whose entity the keys name.
        at: event time asked about, one for all or one per key; "newest" is the newest event seen, "now" the wall clock.
        statuses: add `<feature>.status` columns: fresh, stale, missing, ahead, expired.
        connection: where and who; default from the environment (`Connection.from_environment`).
    Returns: key columns, `t_ms`, one float column per feature, null where there is no value.
    Raises: Refused with what to do, Unreachable.

    Example:
        >>> headrace.read([{"origin": "EWR"}, {"origin": "JFK"}], {"origin_load": ["departures_1h"]})  # doctest: +SKIP
    """
    to = connection or Connection.from_environment()
    times: int | str | list[int] = _time(at) if isinstance(at, When) else [_ms(t) for t in at]
    if isinstance(keys, pl.DataFrame):
        if "t_ms" in keys.columns:
            times, keys = keys["t_ms"].to_list(), keys.drop("t_ms")
        keys = keys.to_dicts()
    with _client(to) as client:
        return client.read(_pipeline(client, to), keys, sets, times, statuses)


def dataset(
    model: str, from_: When, until: When, *, mature_until: When | None = None, connection: Connection | None = None
) -> pl.DataFrame:
    """Labelled training rows of a model, joined point in time from the archive.

    Args:
        model: `late_arrival`, or `flights/late_arrival` where several pipelines run.
        from_, until: requests with event time in [from_, until).
        mature_until: outcomes known by then count; default the label's maturity after `until`.
    Returns: the model's inputs (float32, NaN missing), then label, rule_score, t_ms, request_id, day, mode (as_served
        where a decision was made, else as_of).
    Raises: Refused with what to do, Unreachable.

    Example:
        >>> headrace.dataset("late_arrival", "2013-01-01", "2013-06-01")  # doctest: +SKIP
    """
    to = connection or Connection.from_environment()
    pipeline, _, name = model.rpartition("/")
    with _client(to) as client:
        mature = None if mature_until is None else _ms(mature_until)
        return client.dataset(pipeline or _pipeline(client, to), name, _ms(from_), _ms(until), mature).frame


@dataclass(frozen=True, slots=True)
class Why:
    """One decision as frames.

    decision: one row (request id, decision, score, source, model, arm, t_ms, plan hash, trace id).
    request: one row, the request's fields. features: set, entity, feature, value, status.
    contributions: input, log_odds. approvals: what, asked_by, decided_by, at_ms, reason.
    outcome: one row of the label's event with `label`, empty while nothing has happened yet.
    complaints: what could not be asked, and why.
    """

    decision: pl.DataFrame
    request: pl.DataFrame
    features: pl.DataFrame
    contributions: pl.DataFrame
    approvals: pl.DataFrame
    outcome: pl.DataFrame
    complaints: tuple[str, ...]


def why(request_id: str, *, pipeline: str = "", connection: Connection | None = None) -> Why:
    """Everything about one decision, from the archive (else its topic) and svc-governance.

    Raises: LookupError if there is no such decision; HeadraceError if nothing can be read.

    Example:
        >>> headrace.why("2013-06-20.UA.1545.EWR").features  # doctest: +SKIP
    """
    to = connection or Connection.from_environment()
    name = pipeline or to.pipeline
    if not name:
        with _client(to) as client:
            name = _pipeline(client, to)
    found = find(to.lake, to.bootstrap, to.registry_url, name, request_id)
    if found is None:
        raise LookupError(f"no decision {request_id} of {name}: was it asked for?")
    return frames_of(explain(found, to.lake, to.governance_url))


def frames_of(about: Explained) -> Why:
    """The frames of an explained decision."""
    p = about.found.passport
    head = (
        "request_id", "pipeline", "model", "decision", "score", "decision_source", "source_reason", "arm", "epoch", "t_ms",
        "plan_hash", "model_digest", "trace_id",
    )  # fmt: skip
    rows = [
        (r["set"], (r["entity"] or "").replace("\x1f", " "), name, value, STATUSES[status])
        for r in p["sets"]
        for name, value, status in zip(about.names(r["set"], len(r["values"])), r["values"], r["statuses"], strict=True)
    ]
    features = {"set": pl.String, "entity": pl.String, "feature": pl.String, "value": pl.Float64, "status": pl.Enum(STATUSES)}
    shares = [(c["input"], c["value"]) for c in p["contributions"]]
    acts = [(a.what, a.asked_by, a.decided_by, a.at_ms, a.reason) for a in about.approvals]
    approvals = {"what": pl.String, "asked_by": pl.String, "decided_by": pl.String, "at_ms": pl.Int64, "reason": pl.String}
    outcome = pl.DataFrame() if about.outcome is None else pl.DataFrame([{**about.outcome, "label": about.label}])
    return Why(
        pl.DataFrame([{name: _plain(p[name]) for name in head}]),
        pl.DataFrame([about.request]),
        pl.DataFrame(rows, features, orient="row"),
        pl.DataFrame(shares, {"input": pl.String, "log_odds": pl.Float64}, orient="row"),
        pl.DataFrame(acts, approvals, orient="row"),
        outcome,
        tuple(about.complaints),
    )


def _plain(value: object) -> object:
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _client(to: Connection) -> FeaturesClient:
    return FeaturesClient(to.features_url, to.principal, load_private(to.key_file))


def _pipeline(client: FeaturesClient, to: Connection) -> str:
    """The one asked for, else the only one in force."""
    if to.pipeline:
        return to.pipeline
    found = sorted(client.pipelines())
    if len(found) != 1:
        hint = f"say which: HEADRACE_PIPELINE or Connection(pipeline=...), one of {found}"
        raise Refused(404, f"{len(found)} pipelines are in force", hint)
    return found[0]


def _time(at: When) -> int | str:
    return at if isinstance(at, str) and at in ("newest", "now") else _ms(at)


def _ms(at: When) -> int:
    """Raises: HeadraceError for text that is no time."""
    if isinstance(at, int):
        return at
    if isinstance(at, str):
        try:
            at = datetime.fromisoformat(at)
        except ValueError as error:
            raise HeadraceError(f"{at!r} is no time: write 2013-06-01 or 2013-06-01T12:00:00+00:00") from error
    if not isinstance(at, datetime):
        at = datetime(at.year, at.month, at.day)
    return round((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)


__all__ = ["Connection", "Why", "dataset", "read", "why"]

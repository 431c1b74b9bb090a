"""Everything about one decision: its passport, the names of what it read, who approved, what really happened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from headrace.chassis.access import AccessSettings
from headrace.client.governance import GovernanceClient, Refused, Unreachable
from headrace.client.passports import Found, from_lake, from_topic, lake_rows, request_of
from headrace.contracts.audit import read_export
from headrace.contracts.catalogue import predictions_topic
from headrace.contracts.codec import Codec
from headrace.contracts.errors import HeadraceError
from headrace.contracts.registry import ConfluentRegistry
from headrace.plan.hashes import from_json
from headrace.plan.ir import EventType, Model, Plan
from headrace.plan.retained import declared

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Approval:
    """One thing a person did that this decision rests on. at_ms: when, UTC, if known."""

    what: str
    asked_by: str
    decided_by: str
    at_ms: int | None = None
    reason: str = ""
    audit_entry: int | None = None


@dataclass(slots=True)
class Explained:
    """plan: the one the decision was made under, None if svc-governance did not say. outcome: the label's event, if it
    is in the archive. complaints: what could not be asked, and why."""

    found: Found
    plan: Plan | None = None
    model: Model | None = None
    approvals: list[Approval] = field(default_factory=list)
    outcome_event: EventType | None = None
    outcome: Json | None = None
    label: bool | None = None
    complaints: list[str] = field(default_factory=list)

    @property
    def request(self) -> Json:
        return request_of(self.found.passport)

    def names(self, set_name: str, count: int) -> list[str]:
        """Feature names of a set as it was read; numbers where the plan is not known."""
        sets = self.plan.feature_sets if self.plan else ()
        known = next((s for s in sets if s.name == set_name and len(s.features) == count), None)
        return [feature.name for feature in known.features] if known else [f"#{at}" for at in range(count)]


def find(lake: Path, bootstrap: str, registry_url: str, pipeline: str, request_id: str) -> Found | None:
    """The passport, looked for in the archive, then in its topic. Raises: HeadraceError."""
    found = from_lake(lake, pipeline, request_id)
    if found is not None:
        return found
    from headrace.chassis.bus_confluent import ConfluentBus  # only where the archive has nothing

    access = AccessSettings()
    codec = Codec(ConfluentRegistry(registry_url, client_config=access.registry()))
    return from_topic(ConfluentBus(bootstrap, access.kafka()), codec, pipeline, request_id)


def find_among(lake: Path, bootstrap: str, registry_url: str, pipelines: Sequence[str], request_id: str) -> Found | None:
    """The passport of the first of these pipelines that holds the id: in all their archives, then in their topics.

    Raises: HeadraceError, of the first topic that could not be asked, if none holds it.
    """
    archived = (from_lake(lake, name, request_id) for name in pipelines)
    if found := next((one for one in archived if one is not None), None):
        return found
    failed: HeadraceError | None = None
    for name in pipelines:
        try:
            if found := find(lake, bootstrap, registry_url, name, request_id):
                return found
        except HeadraceError as error:
            failed = failed or error
    if failed is not None:
        raise failed
    return None


def pipelines_known(governance_url: str, lake: Path) -> list[str]:
    """Pipelines in force; where svc-governance does not tell of one, those whose decisions are in the archive."""
    try:
        with GovernanceClient(governance_url) as client:
            names = [str(view["pipeline"]) for view in client.pipelines() if view["state"] == "ADMITTED"]
    except (Refused, Unreachable):
        names = []
    suffix = predictions_topic("")
    return sorted(names or (folder.name.removesuffix(suffix) for folder in lake.glob(f"*{suffix}")))


def explain(found: Found, lake: Path, governance_url: str) -> Explained:
    """What svc-governance and the archive know of a decision; what does not answer is a complaint, not an error."""
    about = Explained(found)
    try:
        with GovernanceClient(governance_url) as client:
            _from_audit(about, client)
            _from_candidates(about, client)
    except (Refused, Unreachable, HeadraceError) as error:
        about.complaints.append(f"approvals and names of features: {error}")
    if about.plan is not None:
        about.model = next((m for m in about.plan.models if m.name == found.passport["model"]), None)
    _outcome(about, lake)
    return about


def _from_audit(about: Explained, client: GovernanceClient) -> None:
    passport = about.found.passport
    for entry in read_export(client.export()):
        if entry.action != "pipeline.admitted" or about.plan is not None:
            continue
        admitted = from_json(orjson.loads(entry.body)["plan"].encode())
        # Decisions name the declaration whose rows they were made from: of the plan, or of a version it retains.
        made_under = {version.hash: version for version in (admitted, declared(admitted), *admitted.retained)}
        if passport["plan_hash"] in made_under:
            about.plan = made_under[passport["plan_hash"]]
            what = f"plan {passport['plan_hash'][:8]} admitted"
            about.approvals.append(Approval(what, entry.actor, entry.actor, entry.at_ms, audit_entry=entry.sequence))


def _from_candidates(about: Explained, client: GovernanceClient) -> None:
    digest = about.found.passport["model_digest"]
    if not digest:
        return
    for view in client.candidates():
        if view["model_digest"] == digest:
            what = f"model {digest[:8]} {str(view['state']).lower()}"
            about.approvals.append(Approval(what, view["requested_by"], view["decided_by"] or "", reason=view["reason"]))


def _outcome(about: Explained, lake: Path) -> None:
    """The first event of the label's type with the decision's join value, and what it says of the label."""
    if about.plan is None or about.model is None:
        return
    label = about.model.label
    event = about.outcome_event = next(e for e in about.plan.events if e.name == label.event)
    value = about.request.get(label.join)
    if value is None or not lake.exists():
        return
    rows = lake_rows(lake, event.topic, label.join, value)
    if rows:
        about.outcome = {f.name: rows[0].get(f.name) for f in event.fields}
        about.label = _label(label.where, event, about.outcome)


def _label(where: str, event: EventType, row: Json) -> bool:
    """The label's predicate over the event; null counts as false."""
    from headrace.plan.expressions import parse

    return bool(parse(where, {f.name: f for f in event.fields}).compile()(row))

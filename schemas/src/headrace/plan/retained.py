"""Versions side by side: what of an older plan goes on while a model trained for it is in use.

    plan A in force, model a approved          apply B, whose row of the model differs
      sets A, rows A  ------------------------->  sets B beside sets A; the arm of `a` keeps rows A
                                                 a model of B is promoted, or `a` is killed
                                              ->  B alone; the topics of sets A go

The plan in force carries such versions in `retained`, each cut down to the models still in use, the sets they read, the
events of those and the streams that make these. Nothing in a retained version is new: its set hashes are those under which
the state was built.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from headrace.plan.difference import row_of
from headrace.plan.hashes import plan_hash, sealed
from headrace.plan.ir import FeatureSet, Model, Plan


def versions(plan: Plan) -> tuple[Plan, ...]:
    """The plan in force, then what it retains."""
    return (plan, *plan.retained)


def declared(plan: Plan) -> Plan:
    """The plan as its declaration compiles, whatever is retained beside it."""
    return with_retained(plan, ())


def with_retained(plan: Plan, retained: Sequence[Plan]) -> Plan:
    """The same plan with these versions beside it; its own hash says so, no other hash moves."""
    plan = replace(plan, retained=tuple(sorted(retained, key=lambda version: version.hash)), hash="")
    return replace(plan, hash=plan_hash(plan))


def cut_down(plan: Plan, models: Collection[str]) -> Plan:
    """A version that holds these models and what they need, nothing else."""
    kept = tuple(model for model in plan.models if model.name in models)
    read = {column.feature_set for model in kept for column in model.inputs}
    sets = tuple(item for item in plan.feature_sets if item.name in read)
    names = {name for item in sets for name in item.events} | {model.request for model in kept}
    names |= {model.label.event for model in kept}
    streams = []
    for item in reversed(plan.streams):  # those that make what is read stand before those that read it
        if item.output in names:
            streams.insert(0, item)
            names |= {read.event for read in item.inputs}
    events = tuple(event for event in plan.events if event.name in names)
    needed = replace(plan, events=events, streams=tuple(streams), sources=(), feature_sets=sets, models=kept, retained=())
    return sealed(needed)


def version_of(plan: Plan, digest: str) -> Plan | None:
    """The version with this hash; the plan in force where it is empty."""
    return plan if not digest else next((version for version in plan.retained if version.hash == digest), None)


def home_of(plan: Plan, model: str, row: tuple[object, ...] | None) -> str | None:
    """Hash of the version whose row of the model is this one, empty for the plan in force; None if there is none."""
    if row is None:
        return None
    found = next((version for version in versions(plan) if row_of(version, model) == row), None)
    return None if found is None else "" if found is plan else found.hash


def can_follow(old: Plan, new: Plan, model: str) -> bool:
    """Whether requests of the new plan can be answered by the model of the old one: they are the same requests.

    Not where the old row holds an owned set: its owner answers requests of the plan in force only.
    """
    before, after = row_of(old, model), row_of(new, model)
    read = {column.feature_set for item in old.models if item.name == model for column in item.inputs}
    if any(item.name in read and item.placement == "owned" for item in old.feature_sets):
        return False
    return before is not None and after is not None and before[0] == after[0] and old.semantics_version == new.semantics_version


def sets_in_play(plan: Plan) -> dict[str, tuple[Plan, FeatureSet]]:
    """By hash every set that has to be kept up, with the version that defines it; the plan in force where several do."""
    return {item.hash: (version, item) for version in reversed(versions(plan)) for item in version.feature_sets}


def models_of(plan: Plan, name: str) -> list[tuple[Plan, Model]]:
    """Older versions of a model that are in use."""
    return [(version, model) for version in plan.retained for model in version.models if model.name == name]

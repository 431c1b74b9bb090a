"""Who may do what: people are principals with keys, roles come from one settings file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from svc_governance.domain.facts import Decision, Fact, refused


class Role(StrEnum):
    PROPOSER = "proposer"  # applies plans, asks for training
    APPROVER = "approver"  # second pair of eyes
    OPERATOR = "operator"  # keeps it running: retires, kills


class Action(StrEnum):
    APPLY = "apply"
    RETIRE = "retire"
    TRAIN = "train"
    APPROVE = "approve"
    REJECT = "reject"
    KILL = "kill"


PERMITTED: dict[Action, frozenset[Role]] = {
    Action.APPLY: frozenset({Role.PROPOSER, Role.OPERATOR}),
    Action.RETIRE: frozenset({Role.PROPOSER, Role.OPERATOR}),
    Action.TRAIN: frozenset({Role.PROPOSER, Role.OPERATOR}),
    Action.APPROVE: frozenset({Role.APPROVER}),
    Action.REJECT: frozenset({Role.APPROVER, Role.PROPOSER}),
    Action.KILL: frozenset(Role),  # falling back to rules is always safe: whoever sees the fire pulls the handle
}


@dataclass(frozen=True, slots=True)
class People:
    """Principal -> roles. A principal without an entry may do nothing."""

    roles: Mapping[str, frozenset[Role]]

    def may(self, actor: str, action: Action) -> bool:
        return bool(self.roles.get(actor, frozenset()) & PERMITTED[action])


@dataclass(frozen=True, slots=True)
class Caller:
    """Who gives a command (authenticated), under which roles, when (wall clock)."""

    people: People
    actor: str
    now_ms: int

    def may(self, action: Action) -> bool:
        return self.people.may(self.actor, action)

    def forbid(self, action: Action, subject: str) -> Decision | None:
        """None if allowed, else the refusal with its audit fact."""
        if self.may(action):
            return None
        detail = f"{self.actor} may not {action}: needs the role {needed(action)}"
        fact = Fact(self.actor, "command.refused", subject, {"command": action.value, "reason": detail})
        return refused(403, detail, fact)


def needed(action: Action) -> str:
    """The roles that permit an action, for a message."""
    return " or ".join(sorted(PERMITTED[action]))

"""State with its chain: facts become linked entries, entries become state. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from headrace.contracts.audit import entry_hash, verify_chain
from headrace.contracts.errors import Fatal
from headrace.contracts.records import AuditEntryAppended
from svc_governance.domain.facts import Announced, Fact, canonical
from svc_governance.domain.state import State, fold


@dataclass(frozen=True, slots=True)
class Extension:
    """What facts add to a chain: the state after them, their entries, the records they announce."""

    state: State
    entries: tuple[AuditEntryAppended, ...] = ()
    announced: tuple[Announced, ...] = ()

    def extend(self, facts: Iterable[Fact], at_ms: int) -> Extension:
        state, entries, announced = self.state, list(self.entries), list(self.announced)
        for fact in facts:
            entry = link(state, fact, at_ms)
            state = fold(state, entry)
            entries.append(entry)
            record = fact.announced()
            if record is not None:
                announced.append(record)
        return Extension(state, tuple(entries), tuple(announced))


def link(state: State, fact: Fact, at_ms: int) -> AuditEntryAppended:
    """The next entry of the chain."""
    body = canonical(fact.body)
    fields = {
        "sequence": state.entries,
        "previous": state.head,
        "at_ms": at_ms,
        "actor": fact.actor,
        "action": fact.action,
        "subject": fact.subject,
        "body": body,
    }
    return AuditEntryAppended(**fields, hash=entry_hash(**fields))


def restored(entries: Sequence[AuditEntryAppended]) -> State:
    """State of a chain read back. Raises: Fatal if the chain does not verify."""
    verdict = verify_chain(entries)
    if not verdict.ok:
        raise Fatal(f"the audit chain is broken: {verdict.detail}: restore the topic from a backup")
    state = State()
    for entry in entries:
        state = fold(state, entry)
    return state

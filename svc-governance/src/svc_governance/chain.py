"""State with its chain: facts become linked entries, entries become state. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from headrace.contracts.audit import Head, canonical_json, entry_hash, verify_chain
from headrace.contracts.errors import Fatal
from headrace.contracts.records import AuditEntryAppended
from svc_governance.domain.facts import Announced, Fact
from svc_governance.domain.pipelines import released
from svc_governance.domain.state import State, fold
from svc_governance.domain.training import due_answers


@dataclass(frozen=True, slots=True)
class Extension:
    """What facts add to a chain: the state after them, their entries, the records they announce."""

    state: State
    entries: tuple[AuditEntryAppended, ...] = ()
    announced: tuple[Announced, ...] = ()

    def extend(self, facts: Sequence[Fact], at_ms: int) -> Extension:
        """With these facts, and with what becomes due by them."""
        after = self._with(facts, at_ms)
        if after is self:
            return self
        after = after._with(due_answers(after.state, at_ms), at_ms)
        return after._with(released(after.state, at_ms), at_ms)

    def _with(self, facts: Sequence[Fact], at_ms: int) -> Extension:
        if not facts:
            return self
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
    fields = {"sequence": state.entries, "previous": state.head, "at_ms": at_ms}
    fields |= {"actor": fact.actor, "action": fact.action, "subject": fact.subject, "body": canonical_json(fact.body)}
    return AuditEntryAppended(**fields, hash=entry_hash(**fields))


def restored(
    entries: Sequence[AuditEntryAppended], heads: Iterable[Head] = (), public: Ed25519PublicKey | None = None
) -> State:
    """State of a chain read back. Raises: Fatal if it does not verify, in itself or against heads kept outside."""
    verdict = verify_chain(entries, heads, public)
    if not verdict.ok:
        raise Fatal(
            f"the audit chain does not verify: {verdict.problem}: restore the topic, or start it and the kept heads anew"
        )
    state = State()
    for entry in entries:
        state = fold(state, entry)
    return state

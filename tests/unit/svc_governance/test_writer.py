"""The single writer on the in-memory bus: one input, one transaction; a restart folds the chain to the same state."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from headrace.chassis.errors import Fenced, OutcomeUnknown
from headrace.contracts.audit import verify_chain
from headrace.contracts.catalogue import (
    AUDIT_ENTRIES,
    FINDINGS,
    MODEL_CANDIDATES,
    PIPELINES,
    PLAN_ACKS,
    ROLLOUT_ACKS,
    ROLLOUT_VERDICTS,
    ROLLOUTS,
    TRAINING_REQUESTS,
    dlq_topic,
)
from headrace.contracts.errors import Fatal, Retryable
from headrace.contracts.records import (
    AuditEntryAppended,
    FindingRaised,
    PipelineAdmitted,
    RecordRejected,
    RolloutAckStatus,
    RolloutChanged,
    RolloutState,
    SignedControl,
    TrainingRequested,
    Verdict,
)
from headrace.contracts.signing import open_control
from svc_governance.domain.candidates import approve
from svc_governance.domain.facts import body_of
from svc_governance.domain.pipelines import admit
from svc_governance.domain.rollout import kill
from svc_governance.domain.state import CandidateState, State
from svc_governance.writer import Writer
from unit.svc_governance.worlds import (
    HOLD,
    MODEL,
    PIPELINE,
    Town,
    a_candidate,
    a_finding,
    a_plan,
    a_verdict,
    an_ack,
    an_answer,
    by,
    command,
)


@pytest.fixture
def town(tmp_path: Path) -> Town:
    return Town(tmp_path)


def admitted(town: Town) -> Writer:
    writer = town.opened()
    assert command(writer, lambda state, now: admit(state, by("ada", now), a_plan())).refusal is None
    return writer


def in_canary(town: Town) -> Writer:
    writer = admitted(town)
    town.send(MODEL_CANDIDATES, town.signed_candidate())
    writer.round()
    outcome = command(writer, lambda state, now: approve(state, by("grace", now), "run-1", "ok", HOLD))
    assert outcome.refusal is None
    return writer


def rollouts(town: Town) -> list[RolloutChanged]:
    found = []
    for record in town.read(ROLLOUTS):
        envelope = town.codec.decode(record.value, SignedControl)
        payload = open_control(town.trusted, ROLLOUTS, (record.key or b"").decode(), envelope)
        found.append(town.codec.decode(payload, RolloutChanged))
    return found


def entries(town: Town) -> list[AuditEntryAppended]:
    return [town.codec.decode(record.value, AuditEntryAppended) for record in town.read(AUDIT_ENTRIES)]


def summary(state: State) -> object:
    """State as plain JSON values: NaN and numbers that JSON shortens compare equal."""
    return (
        dataclasses.replace(state, pipelines={}, candidates={}),
        {key: (body_of(c.trained), c.state, c.terms, c.decided_by) for key, c in state.candidates.items()},
        {key: (p.epoch, p.plan, p.retired, dict(p.acks)) for key, p in state.pipelines.items()},
    )


def test_an_admitted_plan_is_published_signed_with_its_topics_made(town):
    admitted(town)
    (record,) = town.read(PIPELINES)
    payload = open_control(town.trusted, PIPELINES, PIPELINE, town.codec.decode(record.value, SignedControl))
    published = town.codec.decode(payload, PipelineAdmitted)
    assert (published.pipeline, published.epoch, published.plan_hash) == (PIPELINE, 1, a_plan().hash)
    assert town.bus.admin().partitions(a_plan().events[0].topic) == 2
    assert [entry.action for entry in entries(town)] == ["pipeline.admitted"]


def test_a_candidate_goes_from_signed_manifest_to_promotion_by_verdicts(town):
    writer = in_canary(town)
    for step in (5, 20):
        town.send(ROLLOUT_VERDICTS, a_verdict(writer.state.rollouts[PIPELINE, MODEL].record.epoch, Verdict.PASS, step))
        writer.round()
    assert [(r.epoch, r.state, r.step) for r in rollouts(town)] == [
        (1, RolloutState.CANARY, 5),
        (2, RolloutState.CANARY, 20),
        (3, RolloutState.PROMOTED, 100),
    ]
    assert verify_chain(entries(town)).ok


def test_a_refusing_replica_rolls_back_and_raises_a_finding_in_one_transaction_that_is_audited(town):
    """Two replicas, one takes the canary up. The finding comes back from its topic and a restart folds to the same state."""
    writer = in_canary(town)
    epoch = writer.state.rollouts[PIPELINE, MODEL].record.epoch
    refused = an_answer(epoch, RolloutAckStatus.REFUSED, "1", "manifest signature: bad_signature")
    town.send(ROLLOUT_ACKS, an_answer(epoch, instance="0"), refused)
    writer.round()
    assert [(r.epoch, r.state) for r in rollouts(town)] == [(1, RolloutState.CANARY), (2, RolloutState.ROLLED_BACK)]
    (finding,) = [town.codec.decode(r.value, FindingRaised) for r in town.read(FINDINGS)]
    assert (finding.kind, finding.model, finding.component) == ("rollout_refused", MODEL, "svc-governance")
    told = [(entry.actor, entry.action) for entry in entries(town)][-4:]
    assert told == [
        ("svc-serve", "rollout.applied"),
        ("svc-serve", "rollout.applied"),
        ("svc-governance", "finding.raised"),
        ("svc-governance", "rollout.changed"),
    ]
    length = len(entries(town))
    writer.round()
    town.send(ROLLOUT_ACKS, refused)
    writer.round()
    assert (len(entries(town)), len(town.read(FINDINGS))) == (length, 1)
    assert verify_chain(entries(town)).ok
    before = summary(writer.state)
    writer.close()
    assert summary(town.opened().state) == before


@pytest.mark.parametrize(
    "forgery", [{"signature": b"\0" * 64}, {"signature": b""}, {"key_id": "ada"}, {"model_digest": "f" * 64}]
)
def test_a_candidate_whose_manifest_does_not_hold_fails_the_gate(town, forgery):
    writer = admitted(town)
    town.send(MODEL_CANDIDATES, town.signed_candidate(**forgery))
    writer.round()
    assert writer.state.candidates["run-1"].state is CandidateState.GATE_FAILED


def test_a_candidate_of_a_missing_manifest_is_retried_and_then_fails_without_stopping_the_chain(town):
    writer = admitted(town)
    missing = dataclasses.replace(a_candidate(), manifest_reference=f"ee/{'e' * 64}.json")
    town.send(MODEL_CANDIDATES, missing)
    for _ in range(4):
        with pytest.raises(Retryable):
            writer.round()
        writer.open()
    writer.round()
    assert writer.state.candidates["run-1"].state is CandidateState.GATE_FAILED


def test_a_restart_folds_the_chain_to_the_same_state_and_takes_no_input_twice(town):
    writer = in_canary(town)
    town.send(PLAN_ACKS, an_ack("svc-serve", 1))
    town.send(ROLLOUT_VERDICTS, a_verdict(1, Verdict.INCONCLUSIVE))
    writer.round()
    again = town.opened()
    assert summary(again.state) == summary(writer.state)
    again.round()
    assert summary(again.state) == summary(writer.state)


def test_epochs_grow_over_restarts(town):
    in_canary(town)
    writer = town.opened()
    command(writer, lambda state, now: kill(state, by("ops", now), PIPELINE, MODEL, HOLD))
    epochs = [r.epoch for r in rollouts(town)]
    assert epochs == sorted(set(epochs))
    assert epochs == [1, 2]


def test_a_second_writer_fences_the_first_instead_of_forking_the_chain(town):
    first = admitted(town)
    second = town.opened()
    answer = first.submit(lambda state, now: kill(state, by("ops", now), PIPELINE, MODEL, HOLD))
    with pytest.raises(Fenced):
        first.round()
    with pytest.raises(Fenced):
        answer.result(0)
    command(second, lambda state, now: kill(state, by("ops", now), PIPELINE, MODEL, HOLD))
    assert verify_chain(entries(town)).ok


def test_a_drift_finding_answered_once_is_asked_for_once(town):
    writer = in_canary(town)
    for step in (5, 20):
        town.send(ROLLOUT_VERDICTS, a_verdict(writer.state.rollouts[PIPELINE, MODEL].record.epoch, Verdict.PASS, step))
        writer.round()
    town.send(FINDINGS, a_finding(), a_finding(), a_finding("f-2"))
    writer.round()
    requests = [town.codec.decode(record.value, TrainingRequested) for record in town.read(TRAINING_REQUESTS)]
    assert [(r.trigger_kind, r.finding_id, r.requested_by, r.from_ms, r.until_ms) for r in requests] == [
        ("finding", "f-1", "ops", 1000, 9000)
    ]


def test_an_unreadable_record_becomes_a_dead_letter_and_the_others_of_its_batch_go_on(town):
    writer = admitted(town)
    town.send(PLAN_ACKS, b"\x00\x00", an_ack("svc-serve", 1))
    writer.round()
    (letter,) = town.read(dlq_topic(PLAN_ACKS, "svc-governance"))
    rejected = town.codec.decode(letter.value, RecordRejected)
    assert (rejected.reason, rejected.value, rejected.offset) == ("bad_frame", b"\x00\x00", 0)
    assert ("svc-serve", "svc-serve-0") in writer.state.pipelines[PIPELINE].acks


def test_a_dead_letter_is_written_once_over_a_restart(town):
    writer = admitted(town)
    town.send(PLAN_ACKS, b"\x00\x00")
    writer.round()
    town.opened().round()
    assert len(town.read(dlq_topic(PLAN_ACKS, "svc-governance"))) == 1


class _Doubtful:
    """A journal whose next write leaves its outcome open: it lands or it does not, and the caller cannot tell."""

    def __init__(self, inner, lands: bool) -> None:
        self._inner, self._lands, self._armed = inner, lands, True

    def open(self) -> list[AuditEntryAppended]:
        return self._inner.open()

    def write(self, commit) -> None:
        if not self._armed:
            return self._inner.write(commit)
        self._armed = False
        if self._lands:
            self._inner.write(commit)
        raise OutcomeUnknown("connection lost")

    def close(self) -> None:
        self._inner.close()


@pytest.mark.parametrize("lands", [True, False])
def test_a_command_in_doubt_is_answered_by_what_the_chain_says(town, lands):
    writer = town.writer()
    writer._journal = _Doubtful(writer._journal, lands)
    writer.open()
    answer = writer.submit(lambda state, now: admit(state, by("ada", now), a_plan()))
    writer.round()
    if lands:
        assert PIPELINE in answer.result(0).state.pipelines
    else:
        with pytest.raises(Retryable):
            answer.result(0)
    assert len(entries(town)) == (1 if lands else 0)
    assert writer.state.entries == len(entries(town))


def test_a_plan_whose_topics_differ_is_refused_and_leaves_no_trace(town):
    writer = admitted(town)
    plan = a_plan()
    other = dataclasses.replace(plan.events[0], partitions=3)
    from headrace.plan.hashes import sealed

    changed = sealed(dataclasses.replace(plan, events=(other, plan.events[1])))
    outcome = command(writer, lambda state, now: admit(state, by("ada", now), changed))
    assert outcome.refusal is not None
    assert outcome.refusal.status == 409
    assert len(entries(town)) == 1


def test_each_transaction_leaves_a_signed_head_outside(town):
    writer = in_canary(town)
    lines = town.heads_path.read_text().splitlines()
    assert len(lines) == 3  # admitted; gated; approved together with its rollout
    assert writer.head is not None
    assert writer.head.to_json() == lines[-1]


def test_a_chain_shorter_than_the_heads_kept_outside_refuses_to_start(tmp_path):
    first = Town(tmp_path)
    in_canary(first)
    emptied = Town(tmp_path)  # the same keys and heads, a broker that forgot
    with pytest.raises(Fatal, match="truncated"):
        emptied.opened()


def test_an_altered_entry_refuses_to_start(town):
    in_canary(town)
    first = entries(town)[0]
    forged = dataclasses.replace(first, sequence=4, actor="grace")
    town.send(AUDIT_ENTRIES, forged)
    with pytest.raises(Fatal, match="does not verify"):
        town.opened()

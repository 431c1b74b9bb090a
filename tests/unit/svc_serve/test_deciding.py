"""Every request gets a decision: which rung of the ladder gave it and why stands in the passport."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from headrace.contracts.errors import PipelineFault, Retryable
from headrace.contracts.partition import partition_for
from headrace.contracts.records import ArmServed, DecisionSource, Door
from headrace.plan.assemble import Assembler
from support.models import trained
from svc_serve.adapters.artefacts import OnnxExecutor, TreeShap
from unit.svc_serve.rig import MODEL, NOW, PLAN, PREDICTIONS, SET, Rig, event_record

RULES = ArmServed(name="rules", weight=10_000)


class Failing:
    def run(self, *_: object) -> list[object]:
        raise RuntimeError("out of memory")


class NotFinite:
    """A session whose scores are no numbers."""

    def __init__(self, session: object) -> None:
        self.get_inputs = session.get_inputs  # type: ignore[attr-defined]

    def run(self, _: object, rows: dict[str, np.ndarray]) -> list[np.ndarray]:
        n = len(next(iter(rows.values())))
        return [np.zeros(n), np.full((n, 2), np.nan)]


def broken(rig: Rig, arm: str = "champion", session: object = None) -> None:
    loaded = rig.decider.serving.models[arm]
    assert isinstance(loaded.executor, OnnxExecutor)
    loaded.executor.session = session or Failing()  # type: ignore[assignment]


def test_before_a_model_the_rules_decide_and_say_so(tmp_path: Path) -> None:
    passport = Rig(tmp_path).decide()
    assert (passport.decision_source, passport.source_reason, passport.epoch) == (DecisionSource.RULES, "no_model", 0)
    assert (passport.decision, passport.rule_score, passport.score, passport.model_digest) == (True, 40.0, None, None)


def test_a_missing_rule_input_gives_the_default(tmp_path: Path) -> None:
    """Nothing is known of SFO: the declared default decides, here true."""
    passport = Rig(tmp_path).decide(origin="SFO")
    assert (passport.decision_source, passport.decision) == (DecisionSource.DEFAULT, MODEL.default_decision)
    assert passport.source_reason == "no_model,rule_input_missing"


def test_a_request_without_the_entity_is_answered(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.serve(1, rig.arm())
    passport = rig.decide(origin=None)
    assert passport.decision_source is DecisionSource.MODEL and passport.sets[0].entity is None


def test_the_model_decides_on_the_row_that_the_passport_shows(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.serve(1, rig.arm())
    passport = rig.decide()
    assert passport.vector == (3.0, 40.0, 1.0, 120.0)
    assert (passport.sets[0].hash, passport.sets[0].commit_sequence, passport.sets[0].cut[0].next_offset) == (SET.hash, 7, 3)
    assert passport.sets[0].cut[0].topic_id == "t"
    again = rig.decider.serving.models["champion"].executor.scores(np.array([passport.vector], np.float32))
    assert passport.score is not None and passport.score == again[0] and passport.decision is (passport.score >= 0.5)
    values = {s.set: s.values for s in passport.sets}
    assert Assembler(PLAN, MODEL).row({"gate": 1}, values).tolist() == list(passport.vector)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_contributions_sum_to_the_raw_score_and_that_to_the_score(n: int, tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.serve(1, rig.arm())
    for passport in rig.decider.decide([rig.request(i, gate=i, origin=("EWR", "SFO")[i % 2]) for i in range(n)]):
        assert passport.raw_score is not None and passport.score is not None
        assert sum(c.value for c in passport.contributions) == pytest.approx(passport.raw_score, abs=1e-6)
        assert 1 / (1 + math.exp(-passport.raw_score)) == pytest.approx(passport.score, abs=1e-5)
        assert [c.input for c in passport.contributions[2:]] == ["rest", "bias"] and len(passport.contributions) == 4


def test_a_batch_decides_as_its_requests_would_alone(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.serve(1, rig.arm(0, weight=5_000), rig.arm(1, name="challenger", weight=5_000))
    requests = [rig.request(i, gate=i % 3, origin=("EWR", "SFO", None)[i % 3]) for i in range(12)]
    together = rig.decider.decide(requests)
    alone = [rig.decider.decide([r])[0] for r in requests]
    bytes_of = [[rig.codec.encode(PREDICTIONS, replace(p, cost_us=0)) for p in ps] for ps in (together, alone)]
    assert bytes_of[0] == bytes_of[1]
    assert {p.arm for p in together} == {"champion", "challenger"}


def test_a_late_request_gets_the_rules(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.serve(1, rig.arm())
    request = rig.request(1)
    rig.clock.advance(MODEL.deadline_ms + 1)
    passport = rig.decider.decide([request])[0]
    assert (passport.decision_source, passport.source_reason) == (DecisionSource.RULES, "deadline")


@pytest.mark.parametrize("kind", ["raises", "gives no numbers"])
def test_a_failing_executor_falls_to_the_previous_model_then_to_the_rules(kind: str, tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    first = rig.arm(0)
    rig.serve(1, first)
    rig.serve(2, rig.arm(1))
    loaded = rig.decider.serving.models["champion"].executor
    assert isinstance(loaded, OnnxExecutor)
    broken(rig, session=NotFinite(loaded.session) if kind == "gives no numbers" else None)
    passport = rig.decide()
    assert (passport.decision_source, passport.source_reason) == (DecisionSource.PREVIOUS, "executor_error")
    assert passport.model_digest == first.model_digest and passport.contributions
    previous = rig.decider.serving.previous
    assert previous is not None and isinstance(previous.executor, OnnxExecutor)
    previous.executor.session = Failing()  # type: ignore[assignment]
    passport = rig.decide()
    assert (passport.decision_source, passport.source_reason) == (DecisionSource.RULES, "executor_error")


def test_a_failing_explainer_costs_the_explanation_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig(tmp_path)
    rig.serve(1, rig.arm())

    def fail(*_: object) -> None:
        raise Retryable("no")

    monkeypatch.setattr(TreeShap, "contributions", fail)
    passport = rig.decide()
    assert passport.decision_source is DecisionSource.MODEL and passport.contributions == () and passport.raw_score is None


def test_an_arm_of_rules_answers_by_rules(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.serve(1, RULES)
    passport = rig.decide()
    assert (passport.arm, passport.source_reason, passport.epoch) == ("rules", "arm", 1)


def test_state_that_cannot_be_read_is_the_pipelines_fault(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    view = rig.decider._readers[0].views[partition_for("EWR", SET.partitions)]
    spoiled = {k: b"\x00\x00\x00\x00\x63nothing" for k, _ in view.store.range(b"\x01")}
    view.store.write(spoiled)
    with pytest.raises(PipelineFault, match="feature state"):
        rig.decide()


def test_a_changed_block_is_read_anew(tmp_path: Path) -> None:
    """Decoded blocks are kept by their bytes: what the view writes later is seen at once."""
    rig = Rig(tmp_path)
    assert rig.decide().vector[0] == 3.0
    view = rig.decider._readers[0].views[partition_for("EWR", SET.partitions)]
    view.store.write({}, [k for k, _ in view.store.range(b"\x01")])
    assert rig.decide().vector[0] == 0.0


def test_both_doors_mean_the_same_by_the_same_fields(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    by_event, by_call = rig.reader.of_event(event_record(rig, 4)), rig.request(4)
    assert by_event is not None and by_event.fields == by_call.fields and by_event.door is Door.EVENT
    assert (by_event.event_id, by_event.append_ms, by_event.t_ms) == (f"{rig.reader.event.topic}-0-4", NOW, NOW)


def test_a_model_decides_only_where_its_predicate_holds(tmp_path: Path) -> None:
    model = replace(MODEL, when="delay > 2")
    rig = Rig(tmp_path, plan=replace(PLAN, models=(model,)))
    assert rig.reader.of_event(event_record(rig, 1)) is None
    assert rig.reader.of_event(event_record(rig, 1, delay=None)) is None, "null counts as false"
    assert rig.reader.of_event(event_record(rig, 3)) is not None


def test_the_sample_is_drawn_from_events_only(tmp_path: Path) -> None:
    rig = Rig(tmp_path, plan=replace(PLAN, models=(replace(MODEL, sample_bp=2_000),)))
    taken = sum(rig.reader.of_event(event_record(rig, n)) is not None for n in range(500))
    assert 60 < taken < 140
    assert all(rig.reader.of_call({**rig.request(n).fields}, None) is not None for n in range(20))


def test_a_model_of_other_trees_gives_other_scores(tmp_path: Path) -> None:
    """Else none of the tests above could tell two models apart."""
    assert trained(4, 0).scores != trained(4, 1).scores

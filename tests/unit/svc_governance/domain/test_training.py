"""What starts a run: persons, and drift on a model that is in use and at rest. Exactly one per finding."""

from __future__ import annotations

import pytest

from headrace.contracts.records import RunState, TrainingRequested, Verdict
from svc_governance.domain.candidates import reject
from svc_governance.domain.rollout import kill
from svc_governance.domain.training import TrainingOrder, on_finding, on_run, request_training
from unit.svc_governance.worlds import HOLD, MODEL, NOW, PIPELINE, Story, a_finding, a_model, a_plan, a_run, by


def asked(decision) -> list[TrainingRequested]:
    found = [fact.announced() for fact in decision.facts]
    return [record for record in found if isinstance(record, TrainingRequested)]


def test_drift_on_a_champion_at_rest_asks_for_one_run_in_its_owners_name():
    story = Story().admitted().promoted()
    (request,) = asked(story.tell(on_finding(story.state, a_finding(), NOW)))
    assert (request.trigger_kind, request.requested_by, request.finding_id) == ("finding", "ops", "f-1")
    assert (request.from_ms, request.until_ms) == (1000, 9000)  # the champion's begin, the finding's event time


def _no_champion(story: Story) -> None: ...
def _in_canary(story: Story) -> None:
    story.gated().approved()


def _second_canary(story: Story) -> None:
    story.promoted().gated("run-2").approved("run-2")


def _training(story: Story) -> None:
    story.promoted().trained()


def _waiting(story: Story) -> None:
    story.promoted().gated("run-2")


def _killed(story: Story) -> None:
    story.promoted().tell(kill(story.state, by("ops"), PIPELINE, MODEL, HOLD))


@pytest.mark.parametrize("before", [_no_champion, _in_canary, _second_canary, _training, _waiting, _killed])
def test_drift_on_a_model_that_is_not_at_rest_is_recorded_only(before):
    story = Story().admitted()
    before(story)
    decision = story.tell(on_finding(story.state, a_finding(), NOW))
    assert asked(decision) == []
    assert not story.state.findings["f-1"].answered


def test_a_watch_that_does_not_retrain_is_only_recorded():
    story = Story().admitted(a_plan(a_model(retrain=False))).promoted()
    assert asked(story.tell(on_finding(story.state, a_finding(), NOW))) == []


@pytest.mark.parametrize("kind", ["parity_mismatch", "pipeline_parked", "freshness"])
def test_other_findings_are_recorded_once_and_start_nothing(kind):
    story = Story().admitted().promoted()
    assert asked(story.tell(on_finding(story.state, a_finding(kind=kind), NOW))) == []
    assert story.tell(on_finding(story.state, a_finding(kind=kind), NOW)).facts == ()


def test_the_same_finding_is_answered_once_even_when_its_run_is_over():
    story = Story().admitted().promoted()
    story.tell(on_finding(story.state, a_finding(), NOW))
    story.tell(on_run(story.state, a_run("finding-f-1", RunState.FAILED)))
    assert story.tell(on_finding(story.state, a_finding(), NOW)).facts == ()


def requested(story: Story) -> list[str | None]:
    """Findings that led to a training, in order."""
    return [training.request.finding_id for training in story.state.trainings.values() if training.request.finding_id]


def test_drift_raised_in_the_first_canary_is_answered_when_that_model_is_promoted():
    story = Story().admitted().gated().approved()
    story.tell(on_finding(story.state, a_finding(), NOW))
    story.judged(Verdict.PASS)
    assert requested(story) == []
    story.judged(Verdict.PASS)
    assert requested(story) == ["f-1"]
    assert story.tell(on_finding(story.state, a_finding(), NOW)).facts == ()


@pytest.mark.parametrize(("last", "answered"), [(Verdict.FAIL, ["f-1"]), (Verdict.PASS, [])])
def test_drift_of_a_champion_raised_in_the_next_canary_is_answered_only_if_it_stays_champion(last, answered):
    """A promoted successor is the answer already; it brings a reference of its own."""
    story = Story().admitted().promoted().gated("run-2").approved("run-2")
    story.tell(on_finding(story.state, a_finding(), NOW))
    story.judged(Verdict.PASS, last)
    assert requested(story) == answered


@pytest.mark.parametrize("ending", ["failed", "rejected"])
def test_drift_raised_while_a_run_or_a_candidate_is_under_way_is_answered_when_nothing_came_of_it(ending):
    story = Story().admitted().promoted()
    trigger = story.trained() if ending == "failed" else ""
    if ending == "rejected":
        story.gated("run-2")
    story.tell(on_finding(story.state, a_finding(), NOW))
    assert requested(story) == []
    if ending == "failed":
        story.tell(on_run(story.state, a_run(trigger, RunState.FAILED)))
    else:
        story.tell(reject(story.state, by("grace"), "run-2", "no"))
    assert requested(story) == ["f-1"]


def test_of_two_open_findings_one_is_answered_at_a_time():
    story = Story().admitted().gated().approved()
    for finding_id in ("f-1", "f-2"):
        story.tell(on_finding(story.state, a_finding(finding_id), NOW))
    story.judged(Verdict.PASS, Verdict.PASS)
    assert requested(story) == ["f-1"]


def test_a_finding_about_nothing_in_use_may_be_raised_again():
    story = Story().admitted()
    story.tell(on_finding(story.state, a_finding(), NOW))
    story.promoted()
    assert requested(story) == []
    story.tell(on_finding(story.state, a_finding(), NOW))
    assert requested(story) == ["f-1"]


def test_a_run_is_in_flight_until_it_fails_or_its_candidate_comes():
    story = Story().admitted().promoted()
    story.tell(on_finding(story.state, a_finding("f-1"), NOW))
    for state in (RunState.ACCEPTED, RunState.DUPLICATE, RunState.DONE):
        story.tell(on_run(story.state, a_run("finding-f-1", state)))
        assert asked(on_finding(story.state, a_finding("f-2"), NOW)) == []
    story.tell(on_run(story.state, a_run("finding-f-1", RunState.FAILED)))
    assert len(asked(on_finding(story.state, a_finding("f-2"), NOW))) == 1


def test_a_rejected_candidate_leaves_the_model_at_rest():
    story = Story().admitted().promoted().gated("run-2")
    story.tell(reject(story.state, by("grace"), "run-2", "no"))
    assert len(asked(story.tell(on_finding(story.state, a_finding(), NOW)))) == 1


def order(until_ms: int = 2000, request_id: str = "") -> TrainingOrder:
    return TrainingOrder(PIPELINE, MODEL, 1000, until_ms, request_id)


def test_a_persons_order_is_carried_out_once():
    story = Story().admitted()
    assert len(asked(story.tell(request_training(story.state, by("ada"), order())))) == 1
    assert story.tell(request_training(story.state, by("ada", NOW + 5), order())).facts == ()
    assert len(asked(story.tell(request_training(story.state, by("ada"), order(3000))))) == 1


@pytest.mark.parametrize(
    ("actor", "wanted", "status"),
    [
        ("grace", order(), 403),
        ("ada", order(until_ms=1000), 422),
        ("ada", TrainingOrder(PIPELINE, "nothing", 1, 2), 404),
        ("ada", TrainingOrder("nothing", MODEL, 1, 2), 404),
    ],
)
def test_an_order_that_cannot_be_carried_out_is_refused(actor, wanted, status):
    refusal = request_training(Story().admitted().state, by(actor), wanted).refusal
    assert refusal is not None
    assert refusal.status == status


def test_a_request_id_used_for_another_window_is_refused():
    story = Story().admitted()
    story.tell(request_training(story.state, by("ada"), order(request_id="r")))
    refusal = request_training(story.state, by("ada"), order(3000, "r")).refusal
    assert refusal is not None
    assert refusal.status == 409

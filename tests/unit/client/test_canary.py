"""What svc-monitor says of a canary, as the command line reads it."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from headrace.client.canary import Evidence, Unknown, canary

JUDGED = {"result": "inconclusive", "reason": "37 of 100", "challenger_labelled": 37, "control_labelled": 140}


def answering(status: int, body: Any) -> httpx.MockTransport:
    return httpx.MockTransport(
        lambda request: httpx.Response(status, json=body) if request.url.path == "/v1/p/m/canary" else httpx.Response(500)
    )


def test_a_step_tells_its_evidence_and_what_it_waits_for() -> None:
    page = {"epoch": 4, "step": 20, "dwell": 100, "waiting": 52, "judgement": JUDGED}
    assert canary("http://m", "p", "m", answering(200, page)) == Evidence(4, 100, 37, 52, "37 of 100")


def test_no_canary_is_an_epoch_nobody_has() -> None:
    assert canary("http://m", "p", "m", answering(200, {})).epoch == -1


@pytest.mark.parametrize(("status", "body"), [(404, {"detail": "no model m watched"}), (503, {"detail": "busy"})])
def test_a_model_that_is_not_watched_is_told_as_such(status: int, body: Any) -> None:
    with pytest.raises(Unknown, match=body["detail"]):
        canary("http://m", "p", "m", answering(status, body))


def test_a_service_that_does_not_answer_is_named() -> None:
    with pytest.raises(Unknown, match=r"svc-monitor at http://127\.0\.0\.1:9"):
        canary("http://127.0.0.1:9", "p", "m")

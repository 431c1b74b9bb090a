"""What a canary waits for, as svc-monitor tells it."""

from __future__ import annotations

from dataclasses import dataclass

import httpx

from headrace.contracts.errors import HeadraceError

TIMEOUT_S = 5.0


class Unknown(HeadraceError):
    """svc-monitor does not answer, or does not watch this model."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Of one step. labelled: decisions of the challenger with an outcome; dwell: how many a verdict takes; waiting: decisions
    of the challenger whose outcome is not known yet; reason: what the verdict would say now. epoch -1: no canary there."""

    epoch: int = -1
    dwell: int = 0
    labelled: int = 0
    waiting: int = 0
    reason: str = ""


def canary(url: str, pipeline: str, model: str, transport: httpx.BaseTransport | None = None) -> Evidence:
    """The step under judgement. Raises: Unknown."""
    try:
        with httpx.Client(base_url=url, timeout=TIMEOUT_S, trust_env=False, transport=transport) as client:
            answer = client.get(f"/v1/{pipeline}/{model}/canary")
            page = answer.json()
    except (httpx.HTTPError, ValueError) as error:
        raise Unknown(f"svc-monitor at {url}: {error}") from error
    if answer.status_code != 200:
        raise Unknown(str(page.get("detail", answer.status_code)))
    if not page:
        return Evidence()
    judged = page["judgement"]
    return Evidence(page["epoch"], page["dwell"], judged["challenger_labelled"], page["waiting"], judged["reason"])

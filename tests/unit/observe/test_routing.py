"""The stand-ins refuse what the real doors refuse; the local routes are the committed ones with other addresses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from headrace_observe.local import ALERTMANAGER
from headrace_observe.routing import OPSGENIE_KEY, PAGERDUTY_KEY, StandIns, local_routes

EVENT: dict[str, Any] = {
    "routing_key": PAGERDUTY_KEY, "event_action": "trigger", "dedup_key": "k",
    "payload": {"summary": "s", "source": "x", "severity": "critical"},
}  # fmt: skip
GENIE = {"Authorization": f"GenieKey {OPSGENIE_KEY}"}


def test_pagerduty_opens_one_incident_per_key_and_closes_it_by_the_same_key() -> None:
    stands = StandIns()
    for _ in range(3):
        assert stands.take("/v2/enqueue", {}, EVENT)[0] == 202
    assert stands.pagerduty.open == {"k": "s"}
    assert stands.take("/v2/enqueue", {}, {**EVENT, "event_action": "resolve", "payload": {}})[0] == 202
    assert stands.pagerduty.open == {}


@pytest.mark.parametrize(
    "wrong",
    [
        {"routing_key": "other"}, {"event_action": "open"}, {"dedup_key": ""}, {"dedup_key": "x" * 256},
        {"payload": {"source": "x", "severity": "critical"}}, {"payload": {"summary": "s", "severity": "critical"}},
        {"payload": {"summary": "s", "source": "x", "severity": "bad"}},
    ],
)  # fmt: skip
def test_pagerduty_refuses_what_is_no_event(wrong: dict[str, Any]) -> None:
    stands = StandIns()
    assert stands.take("/v2/enqueue", {}, {**EVENT, **wrong})[0] == 400
    assert stands.pagerduty.refused
    assert not stands.pagerduty.open


def test_opsgenie_opens_and_closes_by_alias_and_wants_its_key() -> None:
    stands = StandIns()
    assert stands.take("/v2/alerts", {}, {"message": "m", "alias": "a"})[0] == 401
    assert stands.take("/v2/alerts", GENIE, {"message": "m"})[0] == 422
    assert stands.take("/v2/alerts", GENIE, {"message": "m", "alias": "a b"})[0] == 202
    assert stands.opsgenie.open == {"a b": "m"}
    assert stands.take("/v2/alerts/a%20b/close", GENIE, {})[0] == 202
    assert stands.opsgenie.open == {}


def test_an_unknown_door_is_not_found() -> None:
    assert StandIns().take("/v1/other", {}, {})[0] == 404


def test_local_routes_keep_receivers_matchers_and_inhibitions_and_read_keys_from_files(tmp_path: Path) -> None:
    stands = StandIns()
    made, committed = local_routes(stands, tmp_path), yaml.safe_load(ALERTMANAGER.read_text())
    assert made["inhibit_rules"] == committed["inhibit_rules"]
    assert made["route"]["routes"] == committed["route"]["routes"]
    assert made["route"]["group_by"] == committed["route"]["group_by"]
    assert [r["name"] for r in made["receivers"]] == [r["name"] for r in committed["receivers"]]
    (pagers,) = (r for r in made["receivers"] if r["name"] == "pagers")
    assert Path(pagers["pagerduty_configs"][0]["routing_key_file"]).read_text() == PAGERDUTY_KEY
    assert "routing_key" not in pagers["pagerduty_configs"][0]
    assert Path(pagers["opsgenie_configs"][0]["api_key_file"]).read_text() == OPSGENIE_KEY

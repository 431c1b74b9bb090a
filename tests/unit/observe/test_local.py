"""The committed files over a local stack: other addresses, and for drills shorter durations; nothing else changes."""

from __future__ import annotations

import copy
import re

import pytest
import yaml
from headrace_observe.boards import BOARDS
from headrace_observe.hanging import Open, open_of
from headrace_observe.local import PROMETHEUS, RULES, localised, seconds_of, shortened
from headrace_observe.panels import runnable
from hypothesis import given
from hypothesis import strategies as st

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


@given(st.lists(st.tuples(st.integers(0, 99), st.sampled_from(sorted(UNITS))), min_size=1, max_size=4))
def test_a_duration_is_the_sum_of_its_parts(parts: list[tuple[int, str]]) -> None:
    assert seconds_of("".join(f"{n}{unit}" for n, unit in parts)) == sum(n * UNITS[unit] for n, unit in parts)


@pytest.mark.parametrize("text", ["", "5", "m", "5m3", "5 m", "-5m"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no duration"):
        seconds_of(text)


def test_shortened_rules_differ_in_durations_only() -> None:
    """Every number with a unit aside, a rule of the drill is the committed rule."""

    def bare(rules: dict[str, object]) -> str:
        horizons = re.sub(r"(predict_linear\([^()]*), \d+\)", r"\1, #)", yaml.safe_dump(rules, width=1000))
        return re.sub(r"\b\d+[smhd]\b", "#", horizons)

    for file in RULES.glob("*.yml"):
        rules = yaml.safe_load(file.read_text())
        before = copy.deepcopy(rules)
        made = shortened(rules, 60.0)
        assert rules == before, "the given rules are left as they are"
        for group in made["groups"]:
            assert group.pop("interval") == "1s"
        assert bare(made) == bare(rules)


def test_shortened_durations_are_divided_down_to_four_seconds() -> None:
    rule = {"alert": "A", "expr": "rate(x[1h]) > 5 and x offset 2h > y[2m]", "for": "10m"}
    (made,) = shortened({"groups": [{"name": "g", "rules": [rule]}]}, 60.0)["groups"][0]["rules"]
    assert made == {"alert": "A", "expr": "rate(x[60s]) > 5 and x offset 120s > y[4s]", "for": "10s"}


def test_how_far_a_prediction_looks_is_a_duration_too() -> None:
    rule = {"alert": "A", "expr": "min by (a) (predict_linear(x[6h], 86400)) < 10"}
    (made,) = shortened({"groups": [{"name": "g", "rules": [rule]}]}, 60.0)["groups"][0]["rules"]
    assert made["expr"] == "min by (a) (predict_linear(x[360s], 1440)) < 10"


def test_localised_changes_addresses_and_intervals_and_keeps_jobs_and_labels() -> None:
    config = yaml.safe_load(PROMETHEUS.read_text())
    targets = {job["job_name"]: {"svc-serve": "127.0.0.1:1"} for job in config["scrape_configs"]}
    made = localised(config, targets, "127.0.0.1:2", "/r", "1s")
    assert [job["job_name"] for job in made["scrape_configs"]] == [job["job_name"] for job in config["scrape_configs"]]
    assert made["scrape_configs"][0]["static_configs"] == [{"targets": ["127.0.0.1:1"], "labels": {"service": "svc-serve"}}]
    assert made["rule_files"] == ["/r/*.yml"]
    assert made["global"]["external_labels"] == config["global"]["external_labels"]


def test_a_job_the_local_stack_does_not_know_is_refused() -> None:
    with pytest.raises(KeyError):
        localised(yaml.safe_load(PROMETHEUS.read_text()), {}, "", "", "1s")


def test_open_transactions_are_read_from_what_the_tool_prints() -> None:
    said = (
        "ProducerId\tProducerEpoch\tLatestCoordinatorEpoch\tLastSequence\tLastTimestamp\tCurrentTransactionStartOffset\n"
        "7 \t0 \t-1 \t4 \t1700000000000 \t42 \n8\t3\t0\t9\t1700000000001\tNone\n\n"
    )
    assert open_of("t", 1, said) == [Open("t", 1, 7, 42, 1_700_000_000_000)]


def test_no_variable_of_grafana_is_left_in_a_query_that_is_run() -> None:
    left = [expr for b in BOARDS for p in b.panels for expr in map(runnable, p.queries.values()) if "$" in expr]
    assert not left

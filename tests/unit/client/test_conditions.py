"""Conditions of a check: what they mean in numbers, and what they say when there is nothing to judge by."""

from __future__ import annotations

from typing import Any

import pytest

from headrace.client.conditions import Condition, NotACondition


def side(false_alarms: int, misses: int, accuracy: float | None) -> dict[str, Any]:
    return {"false_alarms": false_alarms, "misses": misses, "accuracy": accuracy, "precision": accuracy, "recall": accuracy}


PAGE: dict[str, Any] = {
    "change": {"costs": {"old": [{"bytes": 100, "reads": 3}, {"bytes": 100, "reads": 1}], "new": [{"bytes": 230, "reads": 4}]}},
    "models": {
        "delay": {
            "decisions": 250, "replayed": 200, "flips": 3,
            "not_replayed": [{"reason": "a", "decisions": 20}, {"reason": "b", "decisions": 30}],
            "gains": {
                "labelled": 100, "corrected": 2, "broken": 1, "old": side(5, 9, 0.86), "new": side(4, 9, 0.87),
                "auc": {"scored": 90, "old": 0.75, "new": 0.748},
            },
        }
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("flips>2", True), ("flips>3", False), ("flips>=3", True), ("flips > 1.4 %", True), ("flips>1.5%", False),
        ("not_replayed>49", True), ("not_replayed>20%", False), ("not_replayed>=20%", True),
        ("corrected<3", True), ("broken>=1%", True), ("broken>1%", False),
        ("false_alarms<0", True), ("false_alarms>-2", True), ("misses>0", False), ("misses>=0", True),
        ("accuracy<0", False), ("accuracy>0.5%", True), ("auc<-0.001", True), ("auc<-0.3%", False),
        ("bytes>29", True), ("bytes>15%", False), ("bytes>14%", True), ("reads>0", False), ("reads<=0%", True),
    ],
)  # fmt: skip
def test_a_condition_is_judged_as_written(text: str, holds: bool) -> None:
    assert Condition.parse(text).holds(PAGE, "delay") is holds


def test_without_outcomes_or_a_known_plan_nothing_is_judged() -> None:
    gains = {**PAGE["models"]["delay"]["gains"], "labelled": 0, "auc": {"scored": 0, "old": None, "new": None}}
    gains |= {"old": side(0, 0, None), "new": side(0, 0, None)}
    page = {"change": {"costs": {"old": [], "new": []}}, "models": {"delay": {**PAGE["models"]["delay"], "gains": gains}}}
    for name in ("corrected", "broken", "false_alarms", "misses", "accuracy", "precision", "recall", "auc", "bytes", "reads"):
        assert Condition.parse(f"{name}>0").holds(page, "delay") is None
    none = {**page["models"]["delay"], "replayed": 0, "flips": 0}
    assert Condition.parse("flips>0").holds({**page, "models": {"delay": none}}, "delay") is None


@pytest.mark.parametrize("text", ["", "flips", "flips=1", "flips>", "flips>1%%", "bits>1", "flips>1e3", "flips>>1", "1>flips"])
def test_what_is_no_condition_is_refused(text: str) -> None:
    with pytest.raises(NotACondition, match="no condition"):
        Condition.parse(text)

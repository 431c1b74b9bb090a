"""What the harder faults do to files and topics, without a stack."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from drill.alerts.__main__ import alerts_of_rules
from drill.alerts.faults import FAULTS, NOT_DRILLED
from drill.alerts.harm import FILLED, busiest_view, fill_the_disk, hanging_commit, has_small_disk
from drill.alerts.rig import Rig


def a_rig(answers: list[dict[str, object]], state: Path | None = None) -> Rig:
    """A rig of which only these parts are there."""
    rig = Rig.__new__(Rig)
    stack = SimpleNamespace(layout=SimpleNamespace(state=state))
    rig.played = SimpleNamespace(stack=stack)  # pyright: ignore[reportAttributeAccessIssue]
    rig.tower = SimpleNamespace(query=lambda expr: answers)  # pyright: ignore[reportAttributeAccessIssue]
    return rig


def test_every_alert_is_drilled_or_says_why_not() -> None:
    drilled = [alert for fault in FAULTS for alert, _ in fault.alerts]
    assert sorted(drilled + list(NOT_DRILLED)) == alerts_of_rules()
    assert all(len(reason.split()) > 8 for reason in NOT_DRILLED.values())


def test_the_state_topic_read_most_is_the_one_with_the_largest_sum_of_offsets() -> None:
    rows = [("a.v1", 0, 70), ("b.v1", 0, 50), ("b.v1", 1, 30), ("a.v1", 1, 5)]
    answers: list[dict[str, object]] = [
        {"metric": {"topic": topic, "partition": str(partition)}, "value": [0, str(offset)]}
        for topic, partition, offset in rows
    ]
    assert busiest_view(a_rig(answers)) == ("b.v1", [0, 1])


def test_a_hanging_commit_holds_its_reader_and_is_what_it_was_afterwards(tmp_path: Path) -> None:
    (tmp_path / "00000000000000000007.json").write_text("{}\n")
    (tmp_path / "00000000000000000008.json").write_text('{"commitInfo": {}}\n')
    got: list[bytes] = []
    with hanging_commit(tmp_path) as pipe:
        assert pipe.name == "00000000000000000008.json"
        reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()), daemon=True)
        reader.start()
        reader.join(0.2)
        assert reader.is_alive(), "nobody has written"
    reader.join(30)
    assert got == [b""]
    assert pipe.read_text() == '{"commitInfo": {}}\n'
    assert sorted(file.name for file in tmp_path.iterdir()) == ["00000000000000000007.json", pipe.name]


def test_a_folder_is_no_disk_of_its_own_and_the_machines_disk_is_not_filled(tmp_path: Path) -> None:
    (tmp_path / FILLED).mkdir()
    rig = a_rig([], tmp_path)
    assert not has_small_disk(rig.stack)
    with pytest.raises(RuntimeError, match="no disk of its own"), fill_the_disk(rig):
        pass
    assert list((tmp_path / FILLED).iterdir()) == []

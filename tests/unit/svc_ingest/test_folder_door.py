"""Files in, events out: the real folder on disk, the real writer, the bus in memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.chassis.bus_memory import MemoryBus
from headrace.chassis.errors import Retryable
from svc_ingest.adapters import folder
from svc_ingest.adapters.folder import FolderDoor
from unit.svc_ingest.rig import Rig

HEADER = "Flight,origin,Off block,dep_delay,gust,hour,ratio,diverted\n"


def row(number: int, delay: str = "4") -> str:
    return f"UA-{number},EWR,2013-01-01T05:17:00Z,{delay},,,,\n"


@pytest.fixture
def drop(tmp_path: Path) -> Path:
    place = tmp_path / "flights" / "departure-files"
    place.mkdir(parents=True)
    return place


def look(rig: Rig, root: Path) -> int:
    with rig.writing():
        return FolderDoor(root, rig.routes, rig.desk, rig.telemetry).look()


def test_a_finished_file_becomes_events_and_moves_to_done(tmp_path: Path, drop: Path) -> None:
    rig = Rig()
    (drop / "june.csv").write_text(HEADER + row(0) + row(1, "late") + '"UA-2\nb",EWR,2013-01-01T05:17:00Z,1,,,,\n' + row(3))
    (drop / "july.csv.part").write_text(HEADER + row(9))
    assert look(rig, tmp_path) == 1
    assert sorted(event["flight_id"] for event in rig.events()) == ["UA-0", "UA-2\nb", "UA-3"]
    (letter,) = rig.letters()
    assert (letter.reason, letter.offset, letter.value) == ("wrong_type", 2, (HEADER + row(1, "late")).encode())
    assert sorted(str(path.relative_to(drop)) for path in drop.rglob("*.*")) == ["done/june.csv", "july.csv.part"]


def test_a_file_dropped_again_is_counted_as_duplicates(tmp_path: Path, drop: Path) -> None:
    rig = Rig()
    for _ in range(2):
        (drop / "june.csv").write_text(HEADER + row(0) + row(1) + "short\n")
        assert look(rig, tmp_path) == 1
    assert len(rig.events()) == 2
    assert len(rig.letters()) == 1
    assert rig.count("ingest_events_total", pipeline="flights", event="departures", outcome="duplicate") == 2
    assert sorted(path.name for path in (drop / "done").iterdir()) == ["june.1.csv", "june.csv"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "empty"),
        ("\n\nUA-1\n", "expected a header"),
        ("Flight,origin\nUA-1,EWR\n", "lacks 'Off block'"),
        (HEADER.replace("hour", "origin") + row(0), "has twice 'origin'"),
        ('"Flight\n', "cannot be read"),
    ],
)
def test_a_file_whose_header_does_not_fit_is_refused_with_an_explanation(
    tmp_path: Path, drop: Path, text: str, why: str
) -> None:
    rig = Rig()
    (drop / "june.csv").write_text(text)
    assert look(rig, tmp_path) == 1
    assert not rig.events()
    (letter,) = rig.letters()
    assert letter.reason == "broken_csv"
    assert why in letter.detail
    assert why in (drop / "refused" / "june.csv.why.txt").read_text()


@pytest.mark.parametrize(
    ("broken", "detail"),
    [
        (b"UA-1,EWR\n", "2 cells"),
        (b"UA-1,EWR,2013-01-01T05:17:00Z,1,,,,,,\n", "10 cells"),
        (b"UA-\xff,EWR,2013-01-01T05:17:00Z,1,,,,\n", "not UTF-8"),
        (b'"UA-1"x,EWR,2013-01-01T05:17:00Z,1,,,,\n', "expected after"),
        (b'"' + b"x" * 200_000 + b'",EWR,2013-01-01T05:17:00Z,1,,,,\n', "field limit"),
    ],
)
def test_a_broken_row_costs_only_itself(tmp_path: Path, drop: Path, broken: bytes, detail: str) -> None:
    rig = Rig()
    (drop / "june.csv").write_bytes(HEADER.encode() + row(0).encode() + broken + row(2).encode())
    look(rig, tmp_path)
    assert sorted(event["flight_id"] for event in rig.events()) == ["UA-0", "UA-2"]
    (letter,) = rig.letters()
    assert (letter.reason, letter.offset) == ("broken_csv", 2)
    assert detail in letter.detail


def test_a_kill_in_the_middle_of_a_file_repeats_it_without_repeating_events(
    tmp_path: Path, drop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder, "PART_ROWS_MAX", 2)
    rig = Rig(bus := MemoryBus())
    (drop / "june.csv").write_text(HEADER + "".join(row(n) for n in range(5)))
    door = FolderDoor(tmp_path, rig.routes, rig.desk, rig.telemetry)
    door.stop()  # it is told to end while a part is under way
    bus.broker.fail("flush", Retryable("killed"), after=True)
    with rig.writing():
        (path,) = drop.glob("*.csv")
        with path.open("rb") as file, pytest.raises(Retryable):
            door._read(rig.route("departure-files"), "departure-files:x", file)
    assert len(rig.events()) == 2
    assert path.exists()
    assert look(rig.reborn(), tmp_path) == 1
    assert sorted(event["flight_id"] for event in rig.events()) == [f"UA-{n}" for n in range(5)]

"""What travels with a committed source offset."""

from __future__ import annotations

import pytest

from headrace.contracts.errors import Fatal
from headrace.plan.verdicts import Raise, SourceState
from support.law_worlds import DEPARTURES
from svc_stream.domain.owned import metadata_with, sequence_of
from svc_stream.domain.source import SourcePosition, SourceTask

GOLDEN = '{"format":1,"maximum_ms":900,"rewind":[4,null],"base":"abc"}'


def task() -> SourceTask:
    state = SourceState(900)
    state.raises.append(Raise(4, None, 900))
    return SourceTask(DEPARTURES, 0, 7, 7, state, "abc")


def test_the_place_of_a_source_has_not_moved() -> None:
    """Golden: groups hold these for as long as they live."""
    assert task().metadata() == GOLDEN
    assert SourcePosition.parse(7, GOLDEN) == SourcePosition(7, 900, 4, None, "abc")
    further = task()
    further.advanced_ms = 950
    assert further.metadata() == GOLDEN[:-1] + ',"advanced_ms":950}'
    assert SourcePosition.parse(7, further.metadata()).advanced_ms == 950
    assert sequence_of(metadata_with(task(), 12)) == 12


def test_a_place_written_before_it_said_its_format_is_format_1() -> None:
    assert SourcePosition.parse(7, GOLDEN.replace('"format":1,', "")) == SourcePosition.parse(7, GOLDEN)
    assert SourcePosition.parse(0, "") == SourcePosition(0, None, None, None)


def test_a_place_of_a_format_nobody_knows_is_refused() -> None:
    with pytest.raises(Fatal, match="format 2"):
        SourcePosition.parse(7, GOLDEN.replace('"format":1', '"format":2'))

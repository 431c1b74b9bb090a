"""Platform records on the wire: subjects, frames, refusals, evolution."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.contracts import catalogue
from headrace.contracts.codec import Codec, MemoryRegistry
from headrace.contracts.errors import Fatal, Poison, Reason
from headrace.contracts.records import (
    PipelineAdmitted,
    PipelineRetired,
    Progress,
    RolloutChanged,
    RolloutState,
    SignedControl,
    SourceCut,
    TileBlock,
)
from headrace.contracts.wire import frame

STATE = "flights.origin-load-state.0a1b2c3d"
BLOCK = TileBlock(entity="JFK", event="departures", hop_ms=300_000, index=7, starts_ms=(0, 300_000), slots=(1, -2, 3, 2**62))
CUT = (SourceCut(event="departures", partition=0, next_offset=5, maximum_ms=9),)
PROGRESS = Progress(set_hash="ab", partition=1, cut=CUT, commit_sequence=3, partials_offset=11)


@pytest.fixture
def registry() -> MemoryRegistry:
    return MemoryRegistry()


@pytest.fixture
def codec(registry: MemoryRegistry) -> Codec:
    return Codec(registry)


def test_two_types_of_one_topic_keep_a_subject_and_an_id_each(codec: Codec, registry: MemoryRegistry) -> None:
    values = [codec.encode(STATE, BLOCK), codec.encode(STATE, PROGRESS)]
    assert [codec.decode(value, TileBlock, Progress) for value in values] == [BLOCK, PROGRESS]
    assert registry.subjects == {f"{STATE}-headrace.stream.TileBlock": [1], f"{STATE}-headrace.stream.Progress": [2]}


def test_an_envelope_and_what_it_carries_have_their_own_subjects(codec: Codec, registry: MemoryRegistry) -> None:
    retired = PipelineRetired(pipeline="flights", epoch=4, retired_by="ann", retired_ms=5)
    payload = codec.encode(catalogue.PIPELINES, retired)
    envelope = SignedControl(topic=catalogue.PIPELINES, key="flights", payload=payload, key_id="svc-governance", signature=b"s")
    value = codec.encode(catalogue.PIPELINES, envelope)
    assert codec.decode(codec.decode(value, SignedControl).payload, PipelineAdmitted, PipelineRetired) == retired
    assert set(registry.subjects) == {
        "governance.pipelines.v1-value",
        "governance.pipelines.v1-headrace.governance.PipelineRetired",
    }


def test_a_topic_takes_only_the_records_it_is_said_to_carry(codec: Codec) -> None:
    with pytest.raises(Fatal, match="does not carry"):
        codec.encode(catalogue.FINDINGS, PROGRESS)
    with pytest.raises(Fatal, match="no topic file"):
        codec.encode("flights.departures.v1", PROGRESS)


def test_a_field_of_a_wrong_type_is_our_bug_not_the_records(codec: Codec) -> None:
    with pytest.raises(Fatal, match="cannot write"):
        codec.encode(STATE, TileBlock(entity=5, event="e", hop_ms=1, index=0, starts_ms=(), slots=()))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda v: None, Reason.BAD_FRAME),
        (lambda v: b"", Reason.BAD_FRAME),
        (lambda v: v[:4], Reason.BAD_FRAME),
        (lambda v: b"\x01" + v[1:], Reason.BAD_FRAME),
        (lambda v: b'{"a": 1}', Reason.BAD_FRAME),
        (lambda v: v + b"\x00", Reason.BAD_FRAME),
        (lambda v: v[:-1], Reason.TRUNCATED),
        (lambda v: v[:5], Reason.TRUNCATED),
        (lambda v: frame(77, v[5:]), Reason.UNKNOWN_SCHEMA),
    ],
)
def test_a_damaged_value_is_refused_with_its_reason(codec: Codec, damage: Any, reason: Reason) -> None:
    with pytest.raises(Poison) as caught:
        codec.decode(damage(codec.encode(STATE, BLOCK)), TileBlock)
    assert caught.value.reason is reason


def test_another_record_than_expected_is_of_the_wrong_type(codec: Codec, registry: MemoryRegistry) -> None:
    with pytest.raises(Poison) as caught:
        codec.decode(codec.encode(STATE, BLOCK), Progress)
    assert caught.value.reason is Reason.WRONG_TYPE
    foreign = registry.register("x-value", {"type": "record", "name": "Mine", "namespace": "me", "fields": []})
    with pytest.raises(Poison) as caught:
        codec.decode(frame(foreign, b""))
    assert caught.value.reason is Reason.WRONG_TYPE


def test_a_record_of_an_older_schema_takes_the_defaults_of_ours(codec: Codec, registry: MemoryRegistry) -> None:
    older = copy.deepcopy(catalogue.schemas()["headrace.stream.TileBlock"])
    older["fields"] = [f for f in older["fields"] if f["name"] != "format"]
    schema_id = registry.register("older-value", older)
    body = codec.encode(STATE, BLOCK)[5:-1]  # format is the last field, one byte
    assert codec.decode(frame(schema_id, body), TileBlock) == BLOCK


def test_an_enum_symbol_of_a_later_version_is_refused(codec: Codec, registry: MemoryRegistry) -> None:
    later = copy.deepcopy(catalogue.schemas()["headrace.governance.RolloutChanged"])
    state = next(f for f in later["fields"] if f["name"] == "state")
    state["type"]["symbols"].insert(0, "DREAMT")
    rollout = RolloutChanged(
        pipeline="p", model="m", epoch=1, plan_hash="h", salt="s", arms=(), step=0, state=RolloutState.CANARY, hold_ms=1,
        reason="", approved_by="", changed_ms=1,
    )  # fmt: skip
    body = codec.encode(catalogue.ROLLOUTS, rollout)[5:]  # CANARY is written as 0, which means DREAMT there
    with pytest.raises(Poison) as caught:
        codec.decode(frame(registry.register("later-value", later), body), RolloutChanged)
    assert caught.value.reason is Reason.WRONG_TYPE


@given(st.binary(max_size=60))
def test_noise_is_refused_or_read_but_never_raises_anything_else(body: bytes) -> None:
    codec = Codec(MemoryRegistry())
    value = codec.encode(STATE, PROGRESS)
    try:
        codec.decode(value[:5] + body, Progress)
    except Poison as e:
        assert e.reason in {Reason.TRUNCATED, Reason.BAD_FRAME}

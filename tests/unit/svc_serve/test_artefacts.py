"""A model is served only if every byte of it is what svc-train signed for this plan; else what serves goes on."""

from __future__ import annotations

import hashlib
import pickle
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from headrace.contracts.records import ArmServed, RolloutAckStatus
from headrace.contracts.signing import sign_bytes
from support.models import trained, with_graph
from unit.svc_serve.rig import Rig

WIDTH = 4


def tampered(rig: Rig, reference: str) -> None:
    path = rig.folder / "objects" / reference
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def spoil_model(rig: Rig) -> ArmServed:
    arm = rig.arm(1)
    tampered(rig, f"{arm.model_digest[:2]}/{arm.model_digest}.onnx")
    return arm


def spoil_manifest(rig: Rig) -> ArmServed:
    arm = rig.arm(1)
    tampered(rig, arm.manifest_reference)
    return arm


def by_mallory(rig: Rig) -> ArmServed:
    arm = rig.arm(1)
    data = rig.objects.get(arm.manifest_reference, arm.manifest_digest)
    return replace(arm, signature=sign_bytes(rig.key("mallory"), data))


def untrusted_train(rig: Rig) -> ArmServed:
    (rig.folder / "keys" / "svc-train.pub").unlink()
    return rig.arm(1)


BAD: dict[str, tuple[Callable[[Rig], ArmServed], str]] = {
    "one bit of the model": (spoil_model, "model .*bad_digest"),
    "one bit of the manifest": (spoil_manifest, "manifest .*bad_digest"),
    "another signature": (by_mallory, "signature"),
    "no signature": (lambda rig: replace(rig.arm(1), signature=b""), "signature"),
    "another signer": (lambda rig: replace(rig.arm(1), signature_key_id="mallory"), "only svc-train"),
    "a key not trusted": (untrusted_train, "signature"),
    "another digest in the rollout": (lambda rig: replace(rig.arm(1), model_digest="0" * 64), "another model digest"),
    "columns in another order": (lambda rig: rig.arm(1, manifest={"columns": ["gate", "x", "y", "z"]}), "columns"),
    "another feature set": (lambda rig: rig.arm(1, manifest={"sets": {"origin_load": "2" * 64}}), "sets"),
    "another pipeline": (lambda rig: rig.arm(1, manifest={"pipeline": "fraud"}), "pipeline"),
    "another model": (lambda rig: rig.arm(1, manifest={"model": "other"}), "model is"),
    "no known answer": (lambda rig: rig.arm(1, manifest={"known_answer": {"rows": [], "scores": []}}), "known answer"),
    "a part missing": (lambda rig: rig.arm(1, manifest={"known_answer": None}), "cannot be read"),
    "wrong known answer": (
        lambda rig: rig.arm(1, manifest={"known_answer": {"rows": [[0.0] * WIDTH], "scores": [0.123]}}),
        "known answer differs",
    ),
    "a model of other width": (lambda rig: rig.arm(1, onnx_bytes=trained(WIDTH + 1).onnx), "columns"),
    "another native model": (lambda rig: rig.arm(1, manifest=native(rig, trained(WIDTH, 2).native)), "native model"),
    "a native model that is none": (lambda rig: rig.arm(1, manifest=native(rig, b"{not a model")), "native model"),
    "no ONNX": (lambda rig: rig.arm(1, onnx_bytes=b"\xff\xffnothing"), "not an ONNX graph"),
    "an empty graph": (lambda rig: rig.arm(1, onnx_bytes=b"\x08\x08"), "not an ONNX graph"),
    "a foreign operator": (lambda rig: rig.arm(1, onnx_bytes=with_graph(trained(WIDTH, 1), ["foreign operator"])), "operators"),
    "a foreign operator in a branch": (
        lambda rig: rig.arm(1, onnx_bytes=with_graph(trained(WIDTH, 1), ["foreign operator in a branch"])),
        "operators",
    ),
    "external data": (lambda rig: rig.arm(1, onnx_bytes=with_graph(trained(WIDTH, 1), ["external data"])), "outside"),
    "external data in a constant": (
        lambda rig: rig.arm(1, onnx_bytes=with_graph(trained(WIDTH, 1), ["external data in a constant"])),
        "outside",
    ),
}


def native(rig: Rig, data: bytes) -> dict[str, dict[str, str]]:
    at = rig.objects.put(data, ".ubj")
    return {"native": {"reference": at.reference, "digest": at.digest}}


@pytest.mark.parametrize("case", BAD)
def test_what_is_not_as_signed_is_refused_and_the_old_model_stays(case: str, tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.serve(1, rig.arm(0))
    before = rig.decide()
    spoil, reason = BAD[case]
    ack = rig.loader.take_up(rig.rollout(2, spoil(rig)), 0)
    assert ack.status is RolloutAckStatus.REFUSED
    assert re.search(reason, ack.detail), ack.detail
    after = rig.decide()
    assert (after.model_digest, after.epoch, after.score) == (before.model_digest, 1, before.score)


def test_a_pickle_is_refused_by_its_bytes(tmp_path: Path) -> None:
    """The store never takes one; where one was slipped in under a good name, its digest gives it away, and so do its bytes."""
    rig = Rig(tmp_path)
    data = pickle.dumps({"a": 1}, protocol=4)
    with pytest.raises(Exception, match="unsafe_format"):
        rig.objects.put(data, ".onnx")
    digest = hashlib.sha256(data).hexdigest()
    path = tmp_path / "objects" / digest[:2] / f"{digest}.onnx"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    onnx = {"reference": f"{digest[:2]}/{digest}.onnx", "digest": digest}
    arm = replace(rig.arm(1, manifest={"onnx": onnx}), model_digest=digest)
    ack = rig.loader.take_up(rig.rollout(1, arm), 0)
    assert ack.status is RolloutAckStatus.REFUSED and "unsafe_format" in ack.detail


def test_a_good_model_is_taken_up_and_known_by_its_digest(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    arm = rig.arm(0)
    rig.serve(1, arm)
    passport = rig.decide()
    assert (passport.model_digest, passport.decision_source.value, passport.arm) == (arm.model_digest, "MODEL", "champion")


@pytest.mark.parametrize("epoch", [1, 0, -1])
def test_an_epoch_that_does_not_grow_is_refused(epoch: int, tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    rig.serve(1, rig.arm(0))
    ack = rig.loader.take_up(rig.rollout(epoch, rig.arm(1)), 0)
    assert ack.status is RolloutAckStatus.REFUSED and "not above 1" in ack.detail


def test_the_same_rollout_again_is_applied_already(tmp_path: Path) -> None:
    """A refusal of what serves would end its canary."""
    rig = Rig(tmp_path)
    rollout = rig.rollout(1, rig.arm(0))
    first, again = rig.loader.take_up(rollout, 0), rig.loader.take_up(rollout, 0)
    assert (first.status, again.status) == (RolloutAckStatus.APPLIED, RolloutAckStatus.APPLIED)
    other_salt = rig.loader.take_up(replace(rollout, salt="other"), 0)
    assert other_salt.status is RolloutAckStatus.REFUSED


def test_a_rollout_for_another_plan_waits(tmp_path: Path) -> None:
    rig = Rig(tmp_path)
    ack = rig.loader.take_up(replace(rig.rollout(1, rig.arm(0)), plan_hash="9" * 64), 0)
    assert ack.status is RolloutAckStatus.PENDING and rig.decide().epoch == 0


@pytest.mark.parametrize("weights", [(9_999,), (10_001,), (-1, 10_001), (5_000, 5_000)])
def test_weights_that_are_no_shares_are_refused(weights: tuple[int, ...], tmp_path: Path) -> None:
    """The last case gives one arm twice."""
    rig = Rig(tmp_path)
    arms = [rig.arm(0, weight=w) for w in weights]
    assert rig.loader.take_up(rig.rollout(1, *arms), 0).status is RolloutAckStatus.REFUSED

"""Decisions of rules and of models in a small archived world, and a naive answer to what a change would have made of them."""

from __future__ import annotations

import base64
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import orjson
import pyarrow as pa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from deltalake import write_deltalake

from headrace.chassis.objects import FolderObjectStore
from headrace.contracts.catalogue import AUDIT_ENTRIES
from headrace.contracts.records import ArmServed, DecisionSource, PredictionMade
from headrace.contracts.signing import TrustedKeys
from headrace.plan.assemble import Assembler
from headrace.plan.hashes import sealed, to_json
from headrace.plan.ir import FeatureSet, Model, Plan
from headrace.plan.oracle import Oracle
from headrace.plan.tiles import entity_of
from headrace.plan.verdicts import Verdict
from support.law_worlds import make_world
from support.models import Trained, stored, trained
from svc_features.adapters.lake import LakeReader
from svc_features.adapters.models import Shelf
from svc_features.domain.replay import Replayed
from svc_features.history import history_of
from svc_features.replaying import Question, Replay
from svc_features.warehouse import connect
from unit.svc_features.worlds import MODEL, PLAN, Rig, played

WIDTH = len(MODEL.inputs)
RECORDS = 500  # of each event: enough that rules have something to read
ALWAYS_MS = 3_000 * 86_400_000
SEEDS_OF_MODELS = (12, 15)  # each learns the input of that number: delay_sum_12h, load
Flip = tuple[str, bool, bool, str | None]  # request id, old and new decision, new score


def session(made: Trained) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1  # or sums of trees come in another order
    return ort.InferenceSession(made.onnx, options, providers=["CPUExecutionProvider"])


def score_of(made: Trained, row: Sequence[float]) -> float:
    """One row through the plain runtime."""
    outputs = session(made).run(None, {"input": np.array([row], np.float32)})
    return float(np.asarray(outputs[1], np.float64)[0, 1])


@dataclass(slots=True)
class Deciding(Rig):
    """The rig, where a model decides every other request, by turns two of them."""

    digests: dict[str, Trained] = field(default_factory=dict)

    def decide(self, passport: PredictionMade) -> None:
        number = len(self.passports)
        if number % 2:
            digest = list(self.digests)[number // 2 % 2]
            score = score_of(self.digests[digest], passport.vector)
            passport = replace(
                passport, model_digest=digest, score=score, decision=score >= float(MODEL.threshold),
                decision_source=DecisionSource.PREVIOUS if number % 8 == 7 else DecisionSource.MODEL, arm="champion",
            )  # fmt: skip
        elif passport.rule_score is None:
            passport = replace(passport, decision=MODEL.default_decision, decision_source=DecisionSource.DEFAULT)
        Rig.decide(self, passport)


@dataclass(slots=True)
class Past:
    """An archived world: lake, objects and keys as `make up` lays them out, and what it was made from."""

    home: Path
    rig: Deciding
    arms: dict[str, ArmServed]

    @property
    def lake(self) -> Path:
        return self.home / "lake"

    def replay(self, plan: Plan, **question: Any) -> tuple[dict[str, Any], list[Replayed]]:
        """The page and the flips."""
        flips: list[Replayed] = []
        shelf = Shelf(FolderObjectStore(self.home / "objects"), TrustedKeys(self.home / "keys" / "trusted"))
        question = {"span_ms": ALWAYS_MS, "slice_rows": 7, **question}
        run = Replay(
            connect(1, 500, self.home / "spill"), LakeReader(self.lake), plan, history_of(self.lake, plan.pipeline), shelf.open,
            Question(**question), spare=lambda: connect(1, 500, self.home / "spill"), flip=lambda _, one: flips.append(one),
        )  # fmt: skip
        return run.run(), flips


def past(home: Path, seed: int, admitted: Sequence[Plan] = (PLAN,), fitted_until_ms: int = 0) -> Past:
    """A world played, decided, archived; its plans admitted and its models gated, as the audit tells."""
    key, objects = Ed25519PrivateKey.generate(), FolderObjectStore(home / "objects")
    trusted = home / "keys" / "trusted"
    trusted.mkdir(parents=True)
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (trusted / "svc-train.pub").write_bytes(public)
    models = [trained(WIDTH, number) for number in SEEDS_OF_MODELS]
    arms = [stored(objects, key, PLAN, MODEL, made) for made in models]
    rig = Deciding(digests={arm.model_digest: made for arm, made in zip(arms, models, strict=True)})
    played(make_world(seed, RECORDS), random.Random(seed), rig=rig)
    rig.archived(home / "lake")
    entries = [("pipeline.admitted", plan.pipeline, {"plan": to_json(plan).decode()}) for plan in admitted]
    entries += [("candidate.gated", arm.model_digest, {"candidate": gated(arm, fitted_until_ms)}) for arm in arms]
    audit(home / "lake", entries)
    return Past(home, rig, {arm.model_digest: arm for arm in arms})


def gated(arm: ArmServed, fitted_until_ms: int = 0) -> dict[str, Any]:
    signature = {"base64": base64.b64encode(arm.signature).decode()}
    return {
        "candidate_id": f"run-{arm.model_digest[:6]}", "pipeline": PLAN.pipeline, "model": MODEL.name, "signature": signature,
        "key_id": arm.signature_key_id, "model_digest": arm.model_digest, "manifest_reference": arm.manifest_reference,
        "manifest_digest": arm.manifest_digest, "until_ms": fitted_until_ms,
    }  # fmt: skip


def audit(lake: Path, entries: Sequence[tuple[str, str, Mapping[str, Any]]]) -> None:
    """The audit chain's table, as far as it is read."""
    actions, subjects, bodies = zip(*entries, strict=True)
    columns = {"action": actions, "subject": subjects, "body": [orjson.dumps(b).decode() for b in bodies]}
    write_deltalake(str(lake / AUDIT_ENTRIES), pa.table(columns), mode="overwrite")


def changed(*, sets: Mapping[str, FeatureSet] | None = None, **model: Any) -> Plan:
    """PLAN with other sets, or with a model that differs in these attributes."""
    found = tuple((sets or {}).get(s.name, s) for s in PLAN.feature_sets)
    return sealed(replace(PLAN, feature_sets=found, models=(replace(MODEL, **model),)))


def windowed(feature_set: FeatureSet, feature: str, window_ms: int) -> FeatureSet:
    """The set with another window of one feature."""
    terms = {f.name: tuple(replace(t, window_ms=window_ms) for t in f.terms) for f in feature_set.features}
    return replace(
        feature_set,
        features=tuple(replace(f, terms=terms[f.name]) if f.name == feature else f for f in feature_set.features),
    )


# -- the naive answer


def naive(world: Past, plan: Plan, candidate: str = "", scored: bool = True) -> list[Flip]:
    """What each decision becomes, one by one, by the oracle of the law over the raw log; those that differ.

    scored: also those of models, which must then know the plan's row.
    """
    oracle, model = Oracle(list(plan.events), world.rig.log), plan.models[0]
    assembler, out = Assembler(plan, model), list[Flip]()
    for p in world.rig.passports:
        if p.score is not None and not scored:
            continue
        row, score = assembler.assemble(orjson.loads(p.request_body), _values(oracle, plan, p)), None
        digest = candidate or (p.model_digest if p.score is not None else None)
        if digest:
            score = score_of(world.rig.digests[digest], row.row.tolist())
            decision = score >= float(model.threshold)
        else:
            decision = model.default_decision if row.rule_score is None else row.rule_decision
        if decision != p.decision:
            out.append((p.request_id, p.decision, decision, None if score is None else score.hex()))
    return sorted(out)


def _values(oracle: Oracle, plan: Plan, p: PredictionMade) -> dict[str, list[float | None]]:
    request, values = orjson.loads(p.request_body), {}
    for feature_set in plan.feature_sets:
        old = next((r for r in p.sets if r.set == feature_set.name), None)
        entity = entity_of(feature_set, request)
        asked = "\x00" if entity is None else entity
        if old is None:
            values[feature_set.name] = oracle.as_of(feature_set, asked, p.t_ms)[0]
        elif old.hash == feature_set.hash:
            values[feature_set.name] = list(old.values)
        else:
            cut = {(c.event, c.partition): c.next_offset for c in old.cut}
            values[feature_set.name] = oracle.answer(feature_set, asked, p.t_ms, cut, None)[0]
    return values


def naive_label(world: Past, model: Model, p: PredictionMade) -> bool | None:
    """The first outcome of the decision's id, once it is mature; written down for `delay > N` and `gate = 2`."""
    verdicts = Oracle(list(PLAN.events), world.rig.log).verdicts()
    seen = [
        r for r in world.rig.log
        if r.event == model.label.event and r.fields is not None
        and verdicts[r.event, r.partition, r.offset] not in (Verdict.UNDECODABLE, Verdict.POISON)
    ]  # fmt: skip
    known_until = max(r.fields["departed_at"] for r in seen if r.fields)
    mine = sorted((r.offset, r.partition, r.fields) for r in seen if r.fields and r.fields["flight_id"] == p.request_id)
    if not mine or p.t_ms + model.label.mature_ms > known_until:
        return None
    fields = mine[0][2]
    return None if fields["gate"] == 2 else fields["delay"] is not None and fields["delay"] > 15


def told(flips: Sequence[Replayed]) -> list[Flip]:
    return sorted(
        (f.request_id, f.old.decision, f.new.decision, None if f.new.score is None else float(f.new.score).hex()) for f in flips
    )

"""From a data set to a signed candidate: what one training process is given, and what is made of what it leaves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from headrace.chassis.objects import ObjectStore
from headrace.contracts.errors import HeadraceError
from headrace.contracts.records import ArmServed, DatasetBuilt, ModelTrained, TrainingRequested
from headrace.contracts.signing import sign_bytes
from headrace.plan.ir import Model, Plan
from svc_train.domain.manifest import manifest_bytes

SIGNER = "svc-train"


class RunFailed(HeadraceError):
    """This run cannot give a candidate; the next one may."""


@dataclass(frozen=True, slots=True)
class Task:
    """One run's work, everything resolved."""

    run_id: str
    request: TrainingRequested
    dataset: DatasetBuilt
    plan: Plan
    model: Model


@dataclass(frozen=True, slots=True)
class Workshop:
    """Where artefacts lie, and whose key signs. Blocking: call it in a thread."""

    objects: ObjectStore
    key: Ed25519PrivateKey
    code_digest: str
    tracking_url: str
    threads: int

    def lay_out(self, folder: Path, task: Task, champion: ArmServed | None) -> None:
        """Write job.json, data.parquet and, where there is one, champion.onnx.

        Raises: RunFailed if the champion cannot be read as a model; Poison if bytes are not those promised; Retryable.
        """
        dataset = task.dataset
        (folder / "data.parquet").write_bytes(self.objects.get(dataset.reference, dataset.digest))
        graph = self._champion(champion, dataset) if champion is not None else None
        if graph is not None:
            (folder / "champion.onnx").write_bytes(graph)
        request, model = task.request, task.model
        job = {
            "run_id": task.run_id,
            "columns": list(dataset.columns),
            "parameters": dict(model.trainer_parameters),
            "threshold": model.threshold,
            "threads": self.threads,
            "tracking_url": self.tracking_url,
            "experiment": f"{request.pipeline}/{request.model}",
            "tags": {
                "run_id": task.run_id,
                "trigger_id": request.trigger_id,
                "plan_hash": task.plan.hash,
                "model_hash": model.hash,
                "code_digest": self.code_digest,
                "from_ms": str(request.from_ms),
                "until_ms": str(request.until_ms),
                "rows": str(dataset.rows),
                "dataset_reference": dataset.reference,
                "dataset_digest": dataset.digest,
                "dataset_checksum": dataset.content_checksum,
            },
        }
        (folder / "job.json").write_text(json.dumps(job))

    def finish(self, folder: Path, task: Task) -> ModelTrained:
        """Keep the artefacts, sign the manifest that names them. Raises: RunFailed if the export says something else."""
        result = json.loads((folder / "result.json").read_text())
        if not result["parity_ok"]:
            raise RunFailed(f"export differs from the native model: {result['metrics']}")
        onnx = self.objects.put((folder / "model.onnx").read_bytes(), ".onnx")
        native = self.objects.put((folder / "model.ubj").read_bytes(), ".ubj")
        named = {"reference": onnx.reference, "digest": onnx.digest}
        kept = {"reference": native.reference, "digest": native.digest, "kind": "xgboost-ubj"}
        body = manifest_bytes(task.plan, task.model, named, kept, result["known_answer"], self._facts(task, result))
        manifest = self.objects.put(body, ".json")
        request, dataset = task.request, task.dataset
        return ModelTrained(
            candidate_id=task.run_id,
            pipeline=request.pipeline,
            model=request.model,
            plan_hash=task.plan.hash,
            model_hash=task.model.hash,
            trigger_id=request.trigger_id,
            requested_by=request.requested_by,
            manifest_reference=manifest.reference,
            manifest_digest=manifest.digest,
            signature=sign_bytes(self.key, body),
            key_id=SIGNER,
            model_digest=onnx.digest,
            dataset_digest=dataset.digest,
            content_checksum=dataset.content_checksum,
            tracking_id=result["tracking_id"],
            code_digest=self.code_digest,
            metrics=result["metrics"],
            profile_reference=dataset.profile_reference,
            profile_digest=dataset.profile_digest,
            rows=result["rows"],
            from_ms=request.from_ms,
            until_ms=request.until_ms,
        )

    def _champion(self, champion: ArmServed, dataset: DatasetBuilt) -> bytes | None:
        """Its graph; None where the rows mean something else to it."""
        try:
            manifest = json.loads(self.objects.get(champion.manifest_reference, champion.manifest_digest))
            columns, onnx = manifest["columns"], manifest["onnx"]
            return self.objects.get(onnx["reference"], onnx["digest"]) if columns == list(dataset.columns) else None
        except (ValueError, KeyError, TypeError) as error:
            raise RunFailed(f"manifest of the champion {champion.candidate_id[:12]} cannot be understood: {error!r}") from error

    def _facts(self, task: Task, result: Mapping[str, Any]) -> dict[str, object]:
        dataset = task.dataset
        return {
            "run_id": task.run_id,
            "dataset_digest": dataset.digest,
            "code_digest": self.code_digest,
            "tracking_id": result["tracking_id"],
            "from_ms": task.request.from_ms,
            "until_ms": task.request.until_ms,
            "profile": {"reference": dataset.profile_reference, "digest": dataset.profile_digest},
        }

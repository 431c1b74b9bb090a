"""Models of past decisions and candidates, from the object store: signature, digest and known answer checked, then kept."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from headrace.chassis.objects import ObjectStore
from headrace.chassis.signed_models import OnnxExecutor, Refused, open_model, read_manifest
from headrace.contracts.errors import Retryable
from headrace.contracts.signing import TrustedKeys
from svc_features.history import KnownModel
from svc_features.ports import Unusable

OPEN_MAX = 32  # models held at once; some MB each
BATCH_ROWS = 4_096


@dataclass(frozen=True, slots=True)
class Opened:
    """A verified model, and the columns it was trained for, in order."""

    executor: OnnxExecutor
    columns: tuple[str, ...]

    def scores(self, rows: NDArray[np.float32]) -> NDArray[np.float64]:
        """(N, columns) -> (N,). Raises: Unusable if it gives no finite score."""
        try:
            parts = [self.executor.scores(rows[i : i + BATCH_ROWS]) for i in range(0, len(rows), BATCH_ROWS)]
        except Retryable as error:
            raise Unusable("model_failed", str(error)) from error
        return np.concatenate(parts) if parts else np.zeros(0)


@dataclass(slots=True)
class Shelf:
    """Opens each model once; what could not be opened is remembered too."""

    objects: ObjectStore
    trusted: TrustedKeys
    _known: dict[str, Opened | Unusable] = field(default_factory=dict)

    def open(self, model: KnownModel | None, digest: str) -> Opened:
        """Raises: Unusable with the reason."""
        if digest not in self._known:
            if len(self._known) >= OPEN_MAX:
                self._known.pop(next(iter(self._known)))
            self._known[digest] = self._opened(model, digest)
        found = self._known[digest]
        if isinstance(found, Unusable):
            raise found
        return found

    def _opened(self, model: KnownModel | None, digest: str) -> Opened | Unusable:
        if model is None:
            return Unusable("model_not_recorded", f"the archived audit does not tell of model {digest[:8]}")
        try:
            manifest = read_manifest(model.signed, self.objects, self.trusted)
            return Opened(open_model(manifest, self.objects), manifest.columns)
        except Refused as error:
            return Unusable("model_refused", f"model {digest[:8]}: {error}")
        except Retryable as error:
            return Unusable("model_missing", f"model {digest[:8]}: {error}")

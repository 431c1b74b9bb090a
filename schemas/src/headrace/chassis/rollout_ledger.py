"""Which rollout holds for which model: the newest verified one, remembered over restarts.

record -- unsigned, bad signature, wrong key, undecodable, epoch not above --> Poison, nothing changes
       -- the kept one of the last life, found in the topic again ----------> taken up again
       -- above -----------------------------------------------------------> kept on disk, then taken up
start  -- kept, and the topic holds only older or forged ones, or none -----> the kept one stays in force
"""

from __future__ import annotations

from headrace.chassis.bus import Record
from headrace.chassis.kept import KeptRecords
from headrace.chassis.logs import logger
from headrace.contracts.codec import Codec
from headrace.contracts.errors import Poison, Reason
from headrace.contracts.records import RolloutChanged, SignedControl
from headrace.contracts.signing import TrustedKeys, open_control

_log = logger("headrace.rollouts")


class RolloutLedger:
    """Rollouts by key, `<pipeline>/<model>`. Not thread-safe."""

    def __init__(self, codec: Codec, trusted: TrustedKeys, kept: KeptRecords) -> None:
        self._codec, self._trusted, self._kept = codec, trusted, kept
        self._newest: dict[str, RolloutChanged] = {}
        self._unheard: set[str] = set()  # kept, and not heard of from the topic in this life

    def open(self, record: Record) -> RolloutChanged:
        """The rollout inside a control record, for the model its key names; nothing is remembered.

        Raises: Poison when it is not signed by svc-governance for this topic and key, or is about another model;
        Retryable if the registry is away.
        """
        try:
            key = (record.key or b"").decode()
        except UnicodeDecodeError:
            raise Poison(Reason.WRONG_TYPE, f"key of offset {record.offset} is no text") from None
        envelope = self._codec.decode(record.value, SignedControl)
        rollout = self._codec.decode(open_control(self._trusted, record.topic, key, envelope), RolloutChanged)
        if key != key_of(rollout):
            raise Poison(Reason.WRONG_TYPE, f"a rollout of {key_of(rollout)} under the key {key}")
        return rollout

    def epoch_of(self, record: Record) -> int | None:
        """Epoch of a record that verifies, None for others. Raises: Retryable."""
        try:
            return self.open(record).epoch
        except Poison:
            return None

    def restore(self) -> None:
        """Before anything is taken: what the last life kept, verified again. Raises: Retryable, then call it again."""
        for kept in self._kept.read():
            try:
                rollout = self.open(kept.record)
            except Poison as poison:  # exchanged files, or a key of governance's that is trusted no longer
                _log.error("kept_rollout_refused", key=kept.key, reason=poison.reason.value, detail=poison.detail)
                continue
            self._newest[kept.key] = rollout
            self._unheard.add(kept.key)

    def take(self, record: Record) -> RolloutChanged:
        """The rollout that holds now, on disk when it returns.

        Raises: Poison as `open` does, or LOWER_EPOCH; Retryable; Fatal if it cannot be kept.
        """
        rollout = self.open(record)
        key = key_of(rollout)
        known = self._newest.get(key)
        if key in self._unheard and rollout == known:
            self._unheard.discard(key)
            return rollout
        if known is not None and rollout.epoch <= known.epoch:
            raise Poison(Reason.LOWER_EPOCH, f"epoch {rollout.epoch} is not above {known.epoch}")
        self._kept.keep(key, rollout.epoch, record)  # first: what acts must be what a restart finds
        self._newest[key] = rollout
        self._unheard.discard(key)
        return rollout

    def unheard(self) -> list[RolloutChanged]:
        """After the whole topic was taken: kept rollouts it did not confirm. They hold; asked once."""
        found = [self._newest[key] for key in sorted(self._unheard)]
        self._unheard.clear()
        for rollout in found:
            _log.warning("kept_rollout_in_force", key=key_of(rollout), epoch=rollout.epoch)
        return found


def key_of(rollout: RolloutChanged) -> str:
    return f"{rollout.pipeline}/{rollout.model}"

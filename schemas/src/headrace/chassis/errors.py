"""The error classes of the contracts, and those only the chassis and the bus adapters raise."""

from __future__ import annotations

from headrace.contracts.errors import Fatal, HeadraceError, PipelineFault, Poison, Reason, Retryable


class TransactionAborted(Retryable):
    """The transaction cannot commit: abort it, seek back, do the work again with the same producer."""


class OutcomeUnknown(Retryable):
    """The broker did not say whether the transaction committed: only a new producer and the committed offsets can tell."""


class GenerationLost(Retryable):
    """The group moved on before this commit: the records belong to another member now and are delivered again there."""


class Fenced(Fatal):
    """Another process took over this transactional id or group instance: this one is a ghost and must end."""


__all__ = [
    "Fatal",
    "Fenced",
    "GenerationLost",
    "HeadraceError",
    "OutcomeUnknown",
    "PipelineFault",
    "Poison",
    "Reason",
    "Retryable",
    "TransactionAborted",
]

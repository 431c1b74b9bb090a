"""Whose fault a client error is: by its flags, then by its code; unclassified means Fatal."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError, KafkaException

from headrace.chassis.client_errors import of_commit, of_exception, translate
from headrace.chassis.errors import Fatal, Fenced, GenerationLost, OutcomeUnknown, Retryable, TransactionAborted


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (KafkaError(KafkaError._TRANSPORT), Retryable),
        (KafkaError(KafkaError.NOT_LEADER_FOR_PARTITION), Retryable),
        (KafkaError(KafkaError.INVALID_CONFIG, "x", retriable=True), Retryable),
        (KafkaError(KafkaError.INVALID_CONFIG, "x", txn_requires_abort=True), TransactionAborted),
        (KafkaError(KafkaError.ILLEGAL_GENERATION), GenerationLost),
        (KafkaError(KafkaError.ILLEGAL_GENERATION, "x", txn_requires_abort=True), TransactionAborted),
        (KafkaError(KafkaError._FENCED, "x", fatal=True), Fenced),
        (KafkaError(KafkaError.FENCED_INSTANCE_ID), Fenced),
        (KafkaError(KafkaError._TRANSPORT, "x", fatal=True), Fatal),
        (KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED), Fatal),
        (KafkaError(KafkaError.MSG_SIZE_TOO_LARGE), Fatal),
    ],
)
def test_a_client_error_is_classified(error: KafkaError, expected: type[Exception]) -> None:
    """Exactly this class, and the message names the error."""
    translated = translate("commit", error)
    assert type(translated) is expected
    assert error.name() in str(translated)


def test_a_commit_that_may_be_retried_has_an_unknown_outcome() -> None:
    """Only a clear no is a clear no."""
    unknown = KafkaException(KafkaError(KafkaError._TIMED_OUT, "x", retriable=True))
    aborted = KafkaException(KafkaError(KafkaError._TIMED_OUT, "x", txn_requires_abort=True))
    assert type(of_commit(unknown)) is OutcomeUnknown
    assert type(of_commit(aborted)) is TransactionAborted
    assert type(of_exception("begin", KafkaException("odd"))) is Fatal

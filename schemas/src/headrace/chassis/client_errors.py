"""The Kafka client's errors, translated at the edge: by its own flags first, by code where it sets none."""

from __future__ import annotations

from confluent_kafka import KafkaError, KafkaException

from headrace.chassis.errors import (
    Fatal,
    Fenced,
    GenerationLost,
    HeadraceError,
    OutcomeUnknown,
    Retryable,
    TransactionAborted,
)

_FENCED = frozenset(
    {
        KafkaError._FENCED,
        KafkaError.PRODUCER_FENCED,
        KafkaError.INVALID_PRODUCER_EPOCH,
        KafkaError.FENCED_INSTANCE_ID,
    }
)
_GENERATION = frozenset(
    {
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.UNKNOWN_MEMBER_ID,
        KafkaError.REBALANCE_IN_PROGRESS,
        KafkaError._ASSIGNMENT_LOST,
        KafkaError._MAX_POLL_EXCEEDED,
    }
)
# The retriable flag is set by the client on transactional calls only; these are the world's fault on all others.
_WORLD = frozenset(
    {
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._IN_PROGRESS,
        KafkaError._MSG_TIMED_OUT,
        KafkaError._PURGE_QUEUE,
        KafkaError._PURGE_INFLIGHT,
        KafkaError._QUEUE_FULL,
        KafkaError._RESOLVE,
        KafkaError._RETRY,
        KafkaError._STATE,  # seek or commit before the partition is being fetched
        KafkaError._TIMED_OUT,
        KafkaError._TIMED_OUT_QUEUE,
        KafkaError._TRANSPORT,
        KafkaError._UNKNOWN_PARTITION,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError._WAIT_COORD,
        KafkaError.BROKER_NOT_AVAILABLE,
        KafkaError.CONCURRENT_TRANSACTIONS,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.KAFKA_STORAGE_ERROR,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NETWORK_EXCEPTION,
        KafkaError.NON_EMPTY_GROUP,  # a static member leaves when its session ends
        KafkaError.NOT_COORDINATOR,
        KafkaError.NOT_ENOUGH_REPLICAS,
        KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.UNSTABLE_OFFSET_COMMIT,
    }
)


def translate(what: str, error: KafkaError) -> HeadraceError:
    """One client error as ours. Unclassified means Fatal."""
    text = f"{what}: {error.name()}: {error.str()}"
    code = error.code()
    if code in _FENCED:
        return Fenced(text)
    if error.fatal():
        return Fatal(text)
    if error.txn_requires_abort():
        return TransactionAborted(text)
    if code in _GENERATION:
        return GenerationLost(text)
    if error.retriable() or code in _WORLD:
        return Retryable(text)
    return Fatal(text)


def of_exception(what: str, exception: KafkaException) -> HeadraceError:
    cause = exception.args[0] if exception.args else None
    if isinstance(cause, KafkaError):
        return translate(what, cause)
    return Fatal(f"{what}: {exception}")


def of_commit(exception: KafkaException) -> HeadraceError:
    """Ending a transaction: an answer that may be retried says nothing about whether it committed."""
    error = of_exception("commit transaction", exception)
    return OutcomeUnknown(str(error)) if type(error) is Retryable else error

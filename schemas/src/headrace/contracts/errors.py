"""Whose fault an error is, and whether a retry helps. Anything unclassified is Fatal."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Why a record was rejected: a bounded set, used as a metric label and in RecordRejected."""

    BROKEN_JSON = "broken_json"
    BROKEN_CSV = "broken_csv"
    WRONG_TYPE = "wrong_type"
    UNKNOWN_FIELD = "unknown_field"
    MISSING_FIELD = "missing_field"
    OUT_OF_RANGE = "out_of_range"
    TOO_LARGE = "too_large"
    NULL_KEY = "null_key"
    BAD_FRAME = "bad_frame"
    UNKNOWN_SCHEMA = "unknown_schema"
    TRUNCATED = "truncated"
    FAR_FUTURE = "far_future"
    LATE = "late"
    NOT_FINITE = "not_finite"
    UNSIGNED = "unsigned"
    BAD_SIGNATURE = "bad_signature"
    BAD_DIGEST = "bad_digest"
    UNSAFE_FORMAT = "unsafe_format"
    LOWER_EPOCH = "lower_epoch"
    HANDLER = "handler"


class HeadraceError(Exception):
    """A short lower-case fact, then detail, then a hint."""


class Retryable(HeadraceError):
    """The world's fault: broker, database, model server. Back off and try again."""


class Poison(HeadraceError):
    """The record's fault: to the dead-letter queue with its reason."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason.value}: {detail}")
        self.reason = reason
        self.detail = detail


class Fatal(HeadraceError):
    """Our fault: bug, wrong setting, incompatible schema. Parks a pipeline or ends the process."""


class PipelineFault(Fatal):
    """Fatal inside one pipeline: park it on its last-known-good, raise a finding, leave the others running."""

    def __init__(self, pipeline: str, detail: str) -> None:
        super().__init__(f"pipeline {pipeline}: {detail}")
        self.pipeline = pipeline
        self.detail = detail

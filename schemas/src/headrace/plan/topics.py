"""Topic names of a plan, typed by the plan; the facts are the catalogue's."""

from headrace.contracts.catalogue import (
    dlq_topic,
    late_topic,
    partials_topic,
    plan_topics,
    predictions_topic,
    rows_topic,
    scoring_inputs_topic,
    segments_topic,
    state_topic,
    time_advances_topic,
    worker_group,
)

__all__ = [
    "dlq_topic", "late_topic", "partials_topic", "plan_topics", "predictions_topic", "rows_topic", "scoring_inputs_topic",
    "segments_topic", "state_topic", "time_advances_topic", "worker_group",
]  # fmt: skip

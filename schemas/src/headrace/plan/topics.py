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
    set_group,
    state_topic,
    stream_group,
    time_advances_topic,
)

__all__ = [
    "dlq_topic", "late_topic", "partials_topic", "plan_topics", "predictions_topic", "rows_topic", "scoring_inputs_topic",
    "segments_topic", "set_group", "state_topic", "stream_group", "time_advances_topic",
]  # fmt: skip

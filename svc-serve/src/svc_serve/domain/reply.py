"""What a caller hears: the decision, which rung gave it and why."""

from __future__ import annotations

import orjson

from headrace.contracts.records import PredictionMade


def reply_of(passport: PredictionMade) -> bytes:
    """JSON of one decision, as REST callers get it."""
    return orjson.dumps(
        {
            "request_id": passport.request_id,
            "decision": passport.decision,
            "score": passport.score,
            "source": passport.decision_source.value.lower(),
            "reason": passport.source_reason,
            "arm": passport.arm,
            "epoch": passport.epoch,
            "model_digest": passport.model_digest,
            "contributions": {c.input: c.value for c in passport.contributions},
            "contribution_method": passport.contribution_method,
            "raw_score": passport.raw_score,
            "statuses": {s.set: list(s.statuses) for s in passport.sets},
            "t_ms": passport.t_ms,
            "trace_id": passport.trace_id,
        }
    )

"""Gate changes at the airport, with a deliberate fault: two fields are read from one column of the source.

It compiles and is admitted, since only the service that opens the source can say that it cannot be read so. That service
parks this pipeline and says why; every other pipeline goes on. The mend: a column of its own for `stand`.
"""

from __future__ import annotations

from headrace.declare import Event, Pipeline, Source, Text, Timestamp, feature_set


class GateChanged(Event, topic="gate-changes", key="gate", time="changed_at", lateness="1h"):
    gate: Text
    stand: Text
    changed_at: Timestamp


@feature_set(entity="gate", ttl="2d", stale_after="1d", request_lag="1h")
class GateUnrest:
    gate_changes_1d = GateChanged.count().over("1d", hop="1h")


faulty = Pipeline(
    "faulty",
    owner="ops",
    events=[GateChanged],
    feature_sets=[GateUnrest],
    sources=[Source("gate-changes", GateChanged, "http_json_lines", columns={"stand": "gate", "gate": "gate"})],
)

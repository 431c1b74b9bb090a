"""Quix's side, run by the Python of its own environment: `python quix_side.py '{...}'`. Imports nothing of ours.

Exactly-once, its own windows, the library it uses for Avro itself called directly: its serializer for the Confluent frame would
cost it more. Times are read as plain longs. Ends when stdin closes.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import io
import json
import sys
import threading
from typing import Any

from fastavro import parse_schema, schemaless_reader, schemaless_writer
from quixstreams import Application
from quixstreams.dataframe.windows import Count, Sum
from quixstreams.models.serializers import Deserializer, Serializer

FRAME_BYTES = 5


class Framed(Deserializer):
    """Values behind the frame; those of another schema end the run."""

    def __init__(self, schema: Any, schema_id: int) -> None:
        super().__init__()
        self._schema, self._head = parse_schema(schema), b"\x00" + schema_id.to_bytes(4, "big")

    def __call__(self, value: bytes, ctx: Any) -> Any:
        if value[:FRAME_BYTES] != self._head:
            raise ValueError(f"not a value of the schema: {value[:FRAME_BYTES]!r}")
        return schemaless_reader(io.BytesIO(value[FRAME_BYTES:]), self._schema, None)


class Framing(Serializer):
    def __init__(self, schema: Any, schema_id: int) -> None:
        super().__init__()
        self._schema, self._head = parse_schema(schema), b"\x00" + schema_id.to_bytes(4, "big")

    def __call__(self, value: Any, ctx: Any) -> bytes:
        out = io.BytesIO()
        out.write(self._head)
        schemaless_writer(out, self._schema, value)
        return out.getvalue()


def main() -> None:
    asked: dict[str, Any] = json.loads(sys.argv[1])
    app = Application(
        broker_address=asked["bootstrap"], consumer_group=asked["group"], auto_offset_reset="earliest",
        commit_interval=asked["commit_ms"] / 1000, state_dir=asked["state"], processing_guarantee=asked["guarantee"],
        consumer_extra_config={"fetch.queue.backoff.ms": 1}, consumer_poll_timeout=0.05, loglevel="WARNING",
    )  # fmt: skip
    readings = app.topic(
        asked["in"], value_deserializer=Framed(asked["in_avro"], asked["in_schema"]), key_deserializer="str",
        timestamp_extractor=lambda value, headers, timestamp, kind: value["at"],
    )  # fmt: skip
    out = app.topic(asked["out"], value_serializer=Framing(asked["out_avro"], asked["out_schema"]), key_serializer="str")
    rows = app.dataframe(readings)
    if asked["workload"] == "map":
        rows = rows.filter(lambda value: value["value"] >= 0)
    else:
        size, hop, grace = asked["size_ms"], asked["hop_ms"], asked["grace_ms"]

        def silent(*_: Any) -> bool:
            return False  # a line per record that is too late would be measured too

        window = (
            rows.tumbling_window(size, grace_ms=grace, on_late=silent)
            if size == hop
            else rows.hopping_window(size, hop, grace_ms=grace, on_late=silent)
        )
        closed = window.agg(count=Count(), total=Sum("value")).final(closing_strategy="partition")
        rows = closed.apply(lambda value, key, timestamp, headers: value | {"key": key}, metadata=True)
    rows.to_topic(out)
    threading.Thread(target=lambda: (sys.stdin.read(), app.stop()), daemon=True).start()
    print(json.dumps({"ready": True}), flush=True)
    app.run()


if __name__ == "__main__":
    main()

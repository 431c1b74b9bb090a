"""Which incarnation of a topic a decision was made of, against the one the lake holds.

A cut names topic ids beside offsets. Where both are known and differ, the offsets mean other records: such a decision cannot
be recomputed here, and is told instead of being judged by what happens to lie there.
"""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl

from headrace.plan.ir import EventType
from svc_features.adapters.lake import LakeReader

OTHER = {"pid": pl.Int64, "event": pl.String, "topic_id": pl.String}


def lake_topics(reader: LakeReader, events: Mapping[str, EventType]) -> dict[str, str]:
    """Event name -> topic id of the lake's rows; those the lake does not know are absent."""
    found = {name: reader.topic_id(event.topic) for name, event in events.items()}
    return {name: topic_id for name, topic_id in found.items() if topic_id}


def of_other_topics(passports: pl.DataFrame, lake: Mapping[str, str]) -> pl.DataFrame:
    """One row of OTHER per event and passport (columns pid, sets) whose cut names another topic id than `lake` does."""
    cuts = (
        passports.select("pid", pl.col("sets").list.eval(pl.element().struct.field("cut").explode()).alias("cut"))
        .explode("cut")
        .drop_nulls("cut")
    )
    if not lake or not len(cuts) or "topic_id" not in cuts["cut"].struct.fields:  # passports older than the field
        return pl.DataFrame(schema=OTHER)
    known = pl.DataFrame({"event": list(lake), "here": list(lake.values())})
    return (
        cuts.unnest("cut")
        .join(known, on="event")
        .filter((pl.col("topic_id") != "") & (pl.col("topic_id") != pl.col("here")))
        .select(*OTHER)
        .unique(maintain_order=True)
    )

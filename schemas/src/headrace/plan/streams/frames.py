"""Names of the columns that frames of a stream carry beside its own, and the text a key is.

Frames on their way: an event's accepted rows --prepare--> rows with a key --(routed by it)--> operator --> results.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import polars as pl

from headrace.plan.ir import EventType, Stream

KEY = "__key"  # String: texts of the key's parts joined by SEPARATOR, "" where the stream has no key
TIME = "__time"  # Int64, event time, ms UTC
PARTITION, OFFSET, ITEM = "__partition", "__offset", "__item"  # Int64: where a row comes from; item 0 without `each`
GONE = "__gone"  # Boolean: of a table's input, the key is deleted; of a table's changes, the entry is
DOUBTFUL = "__doubtful"  # Boolean, may be absent: accepted, but below a watermark its partition was given without records
ORIGIN = (PARTITION, OFFSET, ITEM)
SEPARATOR, ESCAPE = "\x1f", "\x1e"
_ESCAPED = ((ESCAPE, ESCAPE + "0"), (SEPARATOR, ESCAPE + "1"))  # within a part, where a key has several

Prepare = Callable[[pl.DataFrame], pl.DataFrame]
"""Accepted rows of one event (its fields, TIME, PARTITION, OFFSET, of a table GONE, and DOUBTFUL) to what the operator takes.

The result has KEY; everything else is between the two halves of the operator. Pure: it runs where the rows were judged.
"""


def key_text(parts: Sequence[str]) -> pl.Expr:
    """KEY of a row; null where a part is null."""
    if not parts:
        return pl.lit("").alias(KEY)
    texts = [pl.col(name).cast(pl.String) for name in parts]
    for plain, escaped in _ESCAPED if len(parts) > 1 else ():
        texts = [text.str.replace_all(plain, escaped, literal=True) for text in texts]
    return pl.concat_str(texts, separator=SEPARATOR).alias(KEY)


def key_part(keys: pl.Series, parts: int, index: int, dtype: pl.DataType) -> pl.Series:
    """Part `index` of n keys as its own type again; -1 gives the texts. Shape (n,)."""
    if index < 0:
        return keys
    text = keys
    if parts > 1:
        text = keys.str.split(SEPARATOR).list.get(index)
        for plain, escaped in reversed(_ESCAPED):
            text = text.str.replace_all(escaped, plain, literal=True)
    if dtype == pl.Boolean:
        return text == "true"
    return text if dtype == pl.String else text.cast(dtype)


def input_event(stream: Stream, index: int, events: Sequence[EventType]) -> EventType:
    """The event type that an input reads."""
    return next(event for event in events if event.name == stream.inputs[index].event)

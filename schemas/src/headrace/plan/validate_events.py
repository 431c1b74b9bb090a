"""Rules of arrays and of records inside events."""

from __future__ import annotations

from collections.abc import Iterator

from headrace.contracts.event_shapes import ITEMS_MAX
from headrace.plan.ir import EventType, Field
from headrace.plan.problems import Path, Problem, repeated

DEPTH_MAX = 3  # records in records: a column of SQL has four parts


def array_problems(here: Path, field: Field) -> Iterator[Problem]:
    """An array says of what, and how many at most; nothing else does."""
    if (field.type == "array") != (field.item is not None) or (field.type != "array" and field.items_max):
        yield Problem(here, f"a {field.type} of {field.item}", "an array, and only an array, names its items")
    elif field.type == "array" and not 1 <= field.items_max <= ITEMS_MAX:
        yield Problem(here, f"at most {field.items_max} items", f"AtMost(1) to AtMost({ITEMS_MAX})")


def nesting_problems(here: Path, event: EventType) -> Iterator[Problem]:
    """Paths lie in declared records, and each record has fields."""
    paths = [record.path for record in event.records]
    fields = {field.name: field for field in event.fields}
    for path in repeated(paths):
        yield Problem((*here, path), f"record '{path}' is declared twice")
    needed = {name.rpartition(".")[0] for name in (*fields, *paths)} - {""}
    for path in sorted(needed - set(paths)):
        yield Problem((*here, path), f"'{path}' is no record of {event.record}")
    for record in event.records:
        inner = [field for name, field in fields.items() if name.startswith(record.path + ".")]
        if not inner or record.path in fields:
            yield Problem((*here, record.path), f"record '{record.path}' has {'a' if inner else 'no'} field beside it")
        if record.path.count(".") >= DEPTH_MAX:
            yield Problem((*here, record.path), f"record '{record.path}' is too deep", f"{DEPTH_MAX} in each other at most")
        if record.nullable and not all(field.nullable for field in inner):
            yield Problem((*here, record.path), f"fields of '{record.path}' are not null where it is", "make them nullable")
        if not all(name in fields and name.startswith(record.path + ".") for name in record.required):
            yield Problem((*here, record.path), f"'{record.path}' requires fields it does not have")

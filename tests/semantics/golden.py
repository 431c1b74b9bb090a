"""The golden file: inputs and the bits of the outputs, under the version of the engine semantics that gave them.

    {"semantics_version": 1,
     "rows": {"a": [null, -50, ...], ...},                                     inputs of expressions, column by column
     "expressions": {"round(d, 1, 'half_even')": [value of each row], ...},
     "log": [[event, partition, offset, append_ms, fields], ...],              input of aggregates
     "asked": [[entity, t_ms], ...],
     "aggregates": {"mean": [[value, status] of each question], ...}}

Doubles are {"f": their hex text}: bits, not digits.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headrace.plan.expressions import parse
from headrace.plan.ir import SEMANTICS_VERSION
from headrace.plan.oracle import RawRecord
from semantics import vectors
from support.law_worlds import World
from unit.plan.engines import FIELDS

FILE = Path(__file__).with_name("golden.json")
WRITE = "PYTHONPATH=tests python -m semantics write"
REMEDY = (
    "a value under the same semantics version must never move: old state and new would disagree unseen. Either undo the change "
    "(keep the library, or lower the function so that the old value comes back), or, if the new meaning is wanted, raise "
    f"SEMANTICS_VERSION in plan/ir.py (every set and model gets a new hash and runs beside the old) and then {WRITE}"
)


@dataclass(frozen=True, slots=True)
class Moved:
    """One value that is not what the file says."""

    engine: str
    function: str  # the call or the aggregate
    given: str
    old: Any
    new: Any

    def __str__(self) -> str:
        return f"{self.engine}: {self.function} of {self.given} was {json.dumps(self.old)}, is {json.dumps(self.new)}"


def encoded(value: Any) -> Any:
    if isinstance(value, float):
        return {"f": value.hex()}
    return [encoded(item) for item in value] if isinstance(value, list | tuple) else value


def decoded(value: Any) -> Any:
    if isinstance(value, dict):
        return float.fromhex(value["f"])
    return [decoded(item) for item in value] if isinstance(value, list) else value


def load(file: Path = FILE) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8"))


def made() -> dict[str, Any]:
    """The whole file anew. Raises: ValueError where the engines do not agree, which no version may mean."""
    given, known = vectors.rows(), vectors.world()
    outputs: dict[str, list[Any]] = {}
    for text in vectors.EXPRESSIONS:
        outputs[text] = [encoded(value) for value in vectors.evaluated(text, "python", given)]
    names = [feature.name for feature in vectors.feature_set().features]
    answers = vectors.aggregated("python", known)
    aggregates = {n: [[encoded(values[i]), statuses[i]] for values, statuses in answers] for i, n in enumerate(names)}
    document = {
        "semantics_version": SEMANTICS_VERSION,
        "rows": {name: [encoded(row[name]) for row in given] for name in given[0]},
        "expressions": outputs,
        "log": [[r.event, r.partition, r.offset, r.append_ms, r.fields] for r in known.log],
        "asked": vectors.asked(known),
        "aggregates": aggregates,
    }
    document = json.loads(json.dumps(document))
    if found := next(moved(document), None):
        raise ValueError(f"the engines disagree: {found}")
    return document


def moved(document: dict[str, Any]) -> Iterator[Moved]:
    """Every value that an engine gives and the file does not say, in the order of the file."""
    columns = document["rows"]
    given = [{name: decoded(column[i]) for name, column in columns.items()} for i in range(len(next(iter(columns.values()))))]
    for text, old in document["expressions"].items():
        read = parse(text, FIELDS, allow_float=True).columns
        for engine in vectors.ENGINES:
            for row, before, now in zip(given, old, _values(text, engine, given), strict=True):
                if _differs(before, now):
                    yield Moved(engine, text, json.dumps({name: encoded(row[name]) for name in read}), before, now)
    if document["aggregates"]:
        yield from _moved_aggregates(document)


def _values(text: str, engine: str, given: list[dict[str, Any]]) -> list[Any]:
    """A library that cannot do it any more has moved it too."""
    try:
        return [encoded(value) for value in vectors.evaluated(text, engine, given)]
    except Exception as error:  # whatever the other release raises
        return [f"{type(error).__name__}: {str(error)[:120]}"] * len(given)


def _moved_aggregates(document: dict[str, Any]) -> Iterator[Moved]:
    log = [RawRecord(*item) for item in document["log"]]
    known = World(vectors.WORLD_SEED, 0, 0, tuple(log), None)
    names = [feature.name for feature in vectors.feature_set().features]
    for engine in vectors.ENGINES:
        try:
            answers = vectors.aggregated_of(engine, known, [(e, t) for e, t in document["asked"]])
        except Exception as error:  # as above
            first = document["aggregates"][names[0]][0]
            yield Moved(engine, "every aggregate", "the log", first, f"{type(error).__name__}: {str(error)[:200]}")
            continue
        for number, (entity, t) in enumerate(document["asked"]):
            for i, name in enumerate(names):
                now = [encoded(answers[number][0][i]), answers[number][1][i]]
                if name in document["aggregates"] and _differs(document["aggregates"][name][number], now):
                    yield Moved(engine, name, f"entity {entity} at {t}", document["aggregates"][name][number], now)


def _differs(old: Any, new: Any) -> bool:
    """1 and true are not one value, nor are 1 and 1.0."""
    return json.dumps(old) != json.dumps(new)


def write(file: Path = FILE) -> str:
    """Write the file; under the version it already has, only vectors may be added.

    Raises: SystemExit where a value would move while the version does not.
    """
    document = made()
    if file.exists():
        before = load(file)
        if before["semantics_version"] == SEMANTICS_VERSION:
            changed = list(_altered(before, document))
            if changed:
                sys.exit(f"{len(changed)} vectors differ, such as {changed[0]}: {REMEDY}")
    shown = {**document, "log": None, "rows": None, "expressions": None, "aggregates": None}
    lines = ["{"]
    for key, value in document.items():
        end = "" if key == "aggregates" else ","
        if shown[key] is not None:
            lines.append(f" {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}{end}")
        elif isinstance(value, dict):
            inner = [f"  {json.dumps(k, ensure_ascii=False)}: {json.dumps(v, ensure_ascii=False)}" for k, v in value.items()]
            lines.append(f" {json.dumps(key)}: {{\n" + ",\n".join(inner) + f"\n }}{end}")
        else:
            inner = [f"  {json.dumps(v, ensure_ascii=False)}" for v in value]
            lines.append(f" {json.dumps(key)}: [\n" + ",\n".join(inner) + f"\n ]{end}")
    file.write_text("\n".join([*lines, "}"]) + "\n", encoding="utf-8")
    return f"{len(document['expressions'])} calls over {vectors.ROWS} rows, {len(document['aggregates'])} aggregates"


def _altered(before: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    for key in ("rows", "expressions", "aggregates"):
        for name, value in before[key].items():
            if _differs(value, now[key].get(name)):
                yield f"{key} {name}"
    for key in ("log", "asked"):
        if _differs(before[key], now[key]):
            yield key

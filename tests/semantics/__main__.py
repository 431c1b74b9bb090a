"""`python -m semantics check | write | drill`. PYTHONPATH=tests."""

from __future__ import annotations

import argparse
import json
import sys

import duckdb
import polars as pl

from headrace.plan.ir import SEMANTICS_VERSION
from semantics import golden

SHOWN_MAX = 20


def check(report: str | None) -> int:
    """Compare every value; the first of each call are told. Exit 1 where one moved, or the file is of another version."""
    document = golden.load()
    if document["semantics_version"] != SEMANTICS_VERSION:
        print(f"the file is of version {document['semantics_version']}, the code of {SEMANTICS_VERSION}: {golden.WRITE}")
        return 1
    moved = list(golden.moved(document))
    firsts = list({(m.engine, m.function): m for m in reversed(moved)}.values())[::-1]
    print(
        f"polars {pl.__version__}, duckdb {duckdb.__version__}, engine semantics {SEMANTICS_VERSION}: {len(moved)} values moved"
    )
    for item in firsts[:SHOWN_MAX]:
        print(f"  {item}")
    if len(firsts) > SHOWN_MAX:
        print(f"  and {len(firsts) - SHOWN_MAX} more calls")
    if moved:
        print(golden.REMEDY)
    if report is not None:
        shown = [{"engine": m.engine, "function": m.function, "given": m.given, "old": m.old, "new": m.new} for m in firsts]
        found = {"polars": pl.__version__, "duckdb": duckdb.__version__, "semantics_version": SEMANTICS_VERSION,
                 "values_moved": len(moved), "calls_moved": len(firsts), "moved": shown[:100]}  # fmt: skip
        with open(report, "w", encoding="utf-8") as out:
            json.dump(found, out, indent=1, ensure_ascii=False)
    return 1 if moved else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="semantics")
    parser.add_argument("verb", choices=["check", "write", "drill"])
    parser.add_argument("--report", help="write what moved as JSON")
    parser.add_argument("--polars", help="the release the drill installs")
    given = parser.parse_args()
    if given.verb == "write":
        print(golden.write())
        return 0
    if given.verb == "drill":
        from semantics import drill

        return drill.run(given.polars)
    return check(given.report)


if __name__ == "__main__":
    sys.exit(main())

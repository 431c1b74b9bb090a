"""The README's status table, generated from tests/proofs.toml: a row without a proof is not claimed.

python infra/lint/status_table.py            rewrite the table in README.md
python infra/lint/status_table.py --check    exit 1 if it differs
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BEGIN, END = "<!-- status: generated from tests/proofs.toml -->", "<!-- /status -->"


def table(proofs: list[dict[str, str]]) -> str:
    """One line per proof, in the order of the file.

    Raises: KeyError naming the missing key of an entry.
    """
    rows = [f"| {p['row']} | {p['what']} | {p['figure']} | `{p['command']}` | {p['commit']} |" for p in proofs]
    return "\n".join(["| row | works | seen | command | at |", "|---|---|---|---|---|", *rows])


def render(readme: str, proofs: list[dict[str, str]]) -> str:
    """The README with its table replaced. Raises: ValueError if the markers are missing."""
    if BEGIN not in readme or END not in readme:
        raise ValueError(f"README.md lacks {BEGIN} or {END}")
    head, rest = readme.split(BEGIN, 1)
    return f"{head}{BEGIN}\n{table(proofs)}\n{END}{rest.split(END, 1)[1]}"


def main(arguments: list[str]) -> int:
    proofs = tomllib.loads((ROOT / "tests" / "proofs.toml").read_text())["proof"]
    path = ROOT / "README.md"
    before = path.read_text()
    after = render(before, proofs)
    if "--check" in arguments:
        if before != after:
            print("README.md does not show tests/proofs.toml: run `python infra/lint/status_table.py`", file=sys.stderr)
        return int(before != after)
    path.write_text(after)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

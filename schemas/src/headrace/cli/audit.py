"""headrace audit: take the chain out, and check it without the platform."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from headrace.cli.identity import KEYS, URL, Url, complaints, console, governance
from headrace.contracts.audit import ChainVerdict, Head, read_export, verify_chain
from headrace.contracts.errors import Fatal, HeadraceError
from headrace.contracts.signing import TrustedKeys

app = typer.Typer(no_args_is_help=True, help="Export the audit chain, verify an export.")


def register(root: typer.Typer) -> None:
    """Add the commands of this file."""
    root.add_typer(app, name="audit")


@app.command()
def export(path: Annotated[Path, typer.Argument(help="File to write, JSON lines.")], url: Url = URL) -> None:
    """Write the whole chain to a file."""
    count = 0
    with governance(url) as client, path.open("w", encoding="utf-8") as file:
        for line in client.export():
            file.write(line + "\n")
            count += 1
    console.print(f"{count} entries in {path}")


@app.command()
def verify(
    path: Annotated[Path, typer.Argument(help="An export.")],
    key: Annotated[Path, typer.Option("--key", help="svc-governance's public key, PEM.")] = KEYS
    / "trusted"
    / "svc-governance.pub",
    heads: Annotated[Path | None, typer.Option("--heads", help="Signed heads kept outside: expose a cut-off end.")] = None,
) -> None:
    """Check an export against itself, and against heads kept elsewhere. Ends with 1 if it does not hold."""
    try:
        verdict = check(path, key, heads)
    except (HeadraceError, OSError) as error:
        complaints.print(str(error), style="red", highlight=False)
        raise typer.Exit(1) from None
    if not verdict.ok:
        complaints.print(
            f"does not hold: {verdict.problem}; {verdict.entries} entries held before", style="red", highlight=False
        )
        raise typer.Exit(1)
    kept = f", {verdict.heads} heads found again" if heads else "; give --heads to see that nothing was cut off its end"
    console.print(f"[green]holds[/green]: {verdict.entries} entries{kept}", highlight=False)


def check(path: Path, key: Path, heads: Path | None) -> ChainVerdict:
    """Raises: Poison for a line that is no entry or head, Fatal for an unreadable key, OSError."""
    with path.open(encoding="utf-8") as lines:
        entries = read_export(lines)
    if heads is None:
        return verify_chain(entries)
    public = TrustedKeys(key.parent).public(key.stem)
    if public is None:
        raise Fatal(f"no Ed25519 public key in {key}")
    return verify_chain(entries, _kept(heads), public)


def _kept(path: Path) -> Sequence[Head]:
    return [Head.from_json(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]

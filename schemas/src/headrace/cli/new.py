"""headrace new: a pipeline of one's own that runs at once."""

from __future__ import annotations

import re
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Annotated

import typer

from headrace.cli.identity import complaints, console
from headrace.contracts.catalogue import PLATFORM_DOMAINS

TEMPLATE = "parcels"  # the template is a sound pipeline of this name; the word stands for the name wherever it occurs
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_LEFT_OUT = ("__pycache__", ".pytest_cache")


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command("new")(new)


def new(
    name: Annotated[str, typer.Argument(help="Name of the pipeline: lower case words joined by hyphens.")],
    folder: Annotated[Path | None, typer.Option("--into", help="Where to; a folder of its name here when left out.")] = None,
) -> None:
    """Make a pipeline that runs: declaration, producer, sample data, a test that needs no broker, and what to type next.

    Ends with 1 if the name cannot be one, or the folder holds something already.
    """
    target = folder or Path(name)
    complaint = _complaint(name, target)
    if complaint:
        complaints.print(complaint, style="red", highlight=False)
        raise typer.Exit(1)
    made = write(name, target)
    console.print(f"{target}: {', '.join(made)}", highlight=False)
    console.print(
        f"next: [bold]make env-test[/bold] and [bold]source .venv/bin/activate[/bold] in the clone of Headrace, "
        f"then [bold]cd {target} && pytest[/bold], then README.md",
        highlight=False, soft_wrap=True,
    )  # fmt: skip


def write(name: str, target: Path) -> list[str]:
    """Write the template under a name; returns the files, relative to the folder."""
    made: list[str] = []
    for path, text in sorted(_template(files("headrace.cli") / "template", "")):
        file = target / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text.replace(TEMPLATE, name))
        made.append(path)
    return made


def _template(folder: Traversable, at: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for item in folder.iterdir():
        if item.name in _LEFT_OUT:
            continue
        if item.is_dir():
            found += _template(item, f"{at}{item.name}/")
        else:
            found.append((at + item.name, item.read_text()))
    return found


def _complaint(name: str, target: Path) -> str:
    if not _NAME.fullmatch(name):
        return f"'{name}' cannot name a pipeline: lower case words joined by hyphens, such as food-orders"
    if name in PLATFORM_DOMAINS:
        return f"'{name}' is a domain of the platform: choose another name"
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        return f"{target} holds something already: name another folder with --into"
    return ""

"""headrace topics: does the broker have the topics that were declared, as they were declared."""

from __future__ import annotations

import typer
from rich.markup import escape
from rich.table import Table

from headrace.cli.identity import URL, Url
from headrace.cli.kafka import BOOTSTRAP, Bootstrap, access, complaints, console
from headrace.client.drift import Checked, Plans, actual_topics, admitted_plans, compare, declared_topics
from headrace.client.governance import Refused, Unreachable
from headrace.contracts.errors import HeadraceError

LEFT_OVER_SHOWN = 5

app = typer.Typer(no_args_is_help=True, help="Compare the broker's topics with the catalogue and the admitted plans.")


def register(root: typer.Typer) -> None:
    """Add the commands of this file."""
    root.add_typer(app, name="topics")


@app.command()
def check(bootstrap: Bootstrap = BOOTSTRAP, url: Url = URL) -> None:
    """Say which declared topics are missing, which are extra, and which have other partitions or settings than declared.

    Declared are the platform's topics, from the catalogue, and those of the plans in force, which svc-governance tells.
    Changes nothing. Ends with 1 on drift, and if broker or svc-governance do not answer.
    """
    try:
        plans, silent = admitted_plans(url), ""
    except (Refused, Unreachable, HeadraceError) as error:
        plans, silent = Plans(), str(error)
    try:
        checked = compare(declared_topics(plans.in_force), actual_topics(bootstrap, access()), plans)
    except HeadraceError as error:
        complaints.print(str(error), style="red", highlight=False)
        raise typer.Exit(1) from None
    show(checked)
    if silent:
        complaints.print(f"only the platform's topics were checked: {silent}", style="red", highlight=False)
    if silent or checked.drift:
        raise typer.Exit(1)


def show(checked: Checked) -> None:
    """A row per difference, with the way out below."""
    if checked.drift:
        table = Table("topic", "what", "declared", "found", box=None)
        for item in checked.drift:
            table.add_row(escape(item.topic), f"[red]{item.what}[/]", item.declared, item.found)
        console.print(table)
        for hint in dict.fromkeys(f"{item.what}: {item.hint}" for item in checked.drift):
            console.print(f"  {hint}", markup=False, highlight=False)
    words = f"{checked.topics} topics declared, {len(checked.drift)} differences"
    if checked.left_over:
        shown = ", ".join(checked.left_over[:LEFT_OVER_SHOWN])
        more = len(checked.left_over) - LEFT_OVER_SHOWN
        words += f"; left over from earlier plans: {shown}{f' and {more} more' if more > 0 else ''}"
    console.print(f"{words}; {checked.foreign} topics of others", highlight=False)

"""`headrace`: every command of the command line, mounted in one place."""

from __future__ import annotations

import typer

from headrace.cli import apply, approve, audit, backfill, dlq, new, parity, plan, rights, status, support, topics, why

app = typer.Typer(
    help="Headrace: real-time machine learning on Kafka, from a declaration to decisions that can prove what they did.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # a traceback of ours is for us: plain, and never with values of variables in it
)

app.command("plan")(plan.plan)
for module in (apply, approve, audit, backfill, dlq, new, parity, rights, status, support, topics, why):
    module.register(app)


if __name__ == "__main__":
    app()

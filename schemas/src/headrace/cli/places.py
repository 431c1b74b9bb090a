"""Options that say where something is; left out, `headrace.client.local_stack` knows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from headrace.client import local_stack
from headrace.client.local_stack import DEFAULTS, address

FOUND = ""  # the default of every address: it is found when the command runs
LAKE = local_stack.HOME / "lake"


def option(variable: str, *flags: str, help: str) -> Any:
    """An option for the address a variable stands for."""
    return typer.Option(
        *flags,
        envvar=variable,
        help=help,
        show_default=f"the local stack's, else {DEFAULTS[variable]}",
        callback=lambda value: address(variable, value),  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType]
    )


def _lake(value: Path) -> Path:
    return local_stack.lake() if value == LAKE else value


Bootstrap = Annotated[str, option(local_stack.BOOTSTRAP, "--bootstrap", help="Kafka brokers, host:port.")]
RegistryUrl = Annotated[str, option(local_stack.REGISTRY_URL, "--registry", help="Schema registry.")]
ZipkinUrl = Annotated[str, option(local_stack.ZIPKIN_URL, "--zipkin", help="Trace store, for the link.")]
IngestUrl = Annotated[str, option(local_stack.INGEST_URL, "--ingest", help="Address of svc-ingest.")]
FeaturesUrl = Annotated[str, option(local_stack.FEATURES_URL, "--url", help="Address of svc-features.")]
GovernanceUrl = Annotated[str, option(local_stack.GOVERNANCE_URL, "--url", help="Address of svc-governance.")]
MonitorUrl = Annotated[str, option(local_stack.MONITOR_URL, "--monitor", help="Address of svc-monitor.")]
Lake = Annotated[
    Path,
    typer.Option(
        envvar="HEADRACE_LAKE", help="Folder of the archive.", show_default="the local stack's: .headrace/lake", callback=_lake
    ),
]

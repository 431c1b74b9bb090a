"""Where the platform is: the one place every command, producer and notebook asks for an address.

In this order: what was given; HEADRACE_* of the environment; the local stack of the clone one stands in, which writes its
addresses down when it starts and removes them when it stops; this machine's default ports.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

HOME = Path(".headrace")
ADDRESSES = Path("run/addresses.json")  # in that folder; written by the local stack: variable -> address
SERVICES = ("svc-ingest", "svc-stream", "svc-features", "svc-train", "svc-serve", "svc-monitor", "svc-governance")
HOST = "127.0.0.1"
FIRST_PORT = 18101  # of svc-ingest; the others follow in this order


def variable(service: str) -> str:
    """The environment variable of a service's address.

    Example:
        >>> variable("svc-ingest")
        'HEADRACE_INGEST_URL'
    """
    return f"HEADRACE_{service.removeprefix('svc-').upper()}_URL"


BOOTSTRAP, REGISTRY_URL, ZIPKIN_URL = "HEADRACE_BOOTSTRAP", "HEADRACE_REGISTRY_URL", "HEADRACE_ZIPKIN_URL"
INGEST_URL, FEATURES_URL, MONITOR_URL, GOVERNANCE_URL = (
    variable(f"svc-{name}") for name in ("ingest", "features", "monitor", "governance")
)

DEFAULTS: Mapping[str, str] = {
    BOOTSTRAP: f"{HOST}:19092",
    REGISTRY_URL: f"http://{HOST}:18081/apis/ccompat/v7",
    ZIPKIN_URL: f"http://{HOST}:19411",
    **{variable(service): f"http://{HOST}:{FIRST_PORT + at}" for at, service in enumerate(SERVICES)},
}


def address(name: str, given: str = "") -> str:
    """The address a variable stands for. Raises: KeyError for a variable that is none of DEFAULTS."""
    return given or os.environ.get(name) or written().get(name) or DEFAULTS[name]


def written() -> dict[str, str]:
    """Addresses the local stack wrote down, of the nearest folder above that has some; empty where none runs."""
    for folder in _upwards():
        try:
            found = json.loads((folder / ADDRESSES).read_bytes())
            return {str(name): str(value) for name, value in found.items()}
        except (OSError, ValueError, AttributeError):
            continue
    return {}


def home() -> Path:
    """The local stack's folder: that of the folder one stands in, else of the nearest above it."""
    return next((folder for folder in _upwards() if folder.is_dir()), HOME)


def lake() -> Path:
    """The archive: HEADRACE_LAKE, else the local stack's."""
    given = os.environ.get("HEADRACE_LAKE")
    return Path(given) if given else home() / "lake"


def _upwards() -> list[Path]:
    """The folder's possible places; the first one relative, as people know it."""
    return [HOME, *(folder / HOME for folder in Path.cwd().parents)]

"""The reading side of the streaming part: svc-features' own views on the broker behind its own door, without the archive.

`python -m bench.features.live_reader PIPELINE BOOTSTRAP REGISTRY_URL STATE_DIR` prints port and token and serves until
stdin closes.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import uvloop
from prometheus_client import CollectorRegistry

from bench.features.server import serve
from bench.features.streams import plan_of
from headrace.chassis.bus_confluent import ConfluentBus
from headrace.chassis.clock import SystemClock
from headrace.chassis.health import Health
from headrace.chassis.http import create_app
from headrace.chassis.metrics import ChassisMetrics
from headrace.contracts.codec import Codec, ConfluentRegistry
from headrace.contracts.signing import TrustedKeys, load_private, token, write_key_pair
from svc_features.read_door import AUDIENCE, Bearers, ReadDoor, add_read_routes
from svc_features.settings import FeaturesSettings
from svc_features.telemetry import FeaturesMetrics
from svc_features.viewing import Viewing

TOKEN_S = 600


async def run(pipeline: str, bootstrap: str, registry_url: str, state_dir: Path) -> None:
    settings, health = FeaturesSettings(state_dir=state_dir, instance="bench"), Health()
    chassis: Any = SimpleNamespace(
        settings=settings, bus=ConfluentBus(bootstrap), clock=SystemClock(), health=health, metrics=ChassisMetrics()
    )
    viewing = Viewing(plan_of(pipeline), Codec(ConfluentRegistry(registry_url)), cast(Any, chassis))
    viewing.start()
    with tempfile.TemporaryDirectory() as name:
        keys = Path(name)
        write_key_pair(keys / "bench.pem", keys / "bench.pub")
        metrics = FeaturesMetrics(CollectorRegistry())
        door = ReadDoor({pipeline: viewing}, Bearers(TrustedKeys(keys)), settings, SystemClock(), metrics)
        app = create_app("svc-features", health, ChassisMetrics())
        add_read_routes(app, door, 1 << 20)
        await serve(app, token(load_private(keys / "bench.pem"), "bench", TOKEN_S, AUDIENCE))
    await viewing.stop()


if __name__ == "__main__":
    uvloop.run(run(sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4])))

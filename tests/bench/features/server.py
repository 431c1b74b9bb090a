"""Our side, in a process of its own: `python -m bench.features.server MODE STATE CARDS READS`.

MODE inproc: read through the reader itself, print the figures. MODE http: the service's own door and web server over the same
state; prints the port and a token, serves until stdin closes. MODE echo: the control, a bare store and web server.
"""

from __future__ import annotations

import asyncio
import random
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import orjson
import uvloop
from prometheus_client import CollectorRegistry

from bench.features import declared
from bench.features.declared import NOW, PLAN, SET, card
from bench.features.measure import figures
from bench.features.reads import HOT
from headrace.chassis.clock import SystemClock
from headrace.chassis.health import Health
from headrace.chassis.http import HttpServer, create_app
from headrace.chassis.metrics import ChassisMetrics
from headrace.contracts.partition import partition_for
from headrace.contracts.signing import TrustedKeys, load_private, token, write_key_pair
from headrace.plan.read import read_keys
from headrace.plan.tiles import encode_key
from svc_features.read_door import AUDIENCE, Bearers, ReadDoor, add_read_routes
from svc_features.reading import SetReader, head_of
from svc_features.settings import FeaturesSettings
from svc_features.telemetry import FeaturesMetrics
from svc_features.viewing import Viewing

SEED = 7


def inproc(state: Path, cards: int, reads: int) -> dict[str, float]:
    """Warm: few cards. Cold: cards by chance over a state several times the block cache. 1 key, and 100."""
    codec = declared.codec_of()
    reader = SetReader(SET, declared.views(state, codec), codec, head_of(codec, declared.TOPIC))
    parts = declared.bodies(codec)
    for number in (0, 1, cards - 1):  # the figures are of right answers
        found = [None if v != v else v for v in reader.read([card(number)], [NOW]).rows.values[0].tolist()]
        assert found == list(declared.expected(parts, number).values()), f"card {number} is not read as it was written"
    rng = random.Random(SEED)
    chance = [card(rng.randrange(cards)) for _ in range(100_003)]

    def many(names: list[str]) -> None:
        reader.read(names, [NOW] * len(names))

    out = figures("inproc_200x1", lambda i: many([card(i % HOT)]), reads, _say, warm_up=HOT * 2)
    out |= figures("inproc_200x1_cold", lambda i: many([chance[i % len(chance)]]), reads, _say)
    hundred, cold = max(10, reads // 20), max(10, reads // 50)
    out |= figures("inproc_200x100", lambda i: many([card(n) for n in range(100)]), hundred, _say)
    out |= figures("inproc_200x100_cold", lambda i: many([chance[(i * 100 + n) % len(chance)] for n in range(100)]), cold, _say)
    return out | control_store(state, cards, reads)


def control_store(state: Path, cards: int, reads: int) -> dict[str, float]:
    """The bare store: one multi-get of the keys a read needs, nothing decoded."""
    stores = [view.store for view in declared.views_once(state)]

    def get(number: int) -> None:
        name = card(number % HOT)
        keys = [encode_key(SET, key) for key in read_keys(SET, [name], [NOW])]
        stores[partition_for(name, SET.partitions)].multi_get(keys)

    return figures("control_store_x1", get, reads, _say)


def _say(line: str) -> None:
    print(line, flush=True)


async def http(state: Path) -> None:
    codec = declared.codec_of()
    reader = SetReader(SET, declared.views(state, codec), codec, head_of(codec, declared.TOPIC))
    viewing = cast(Viewing, SimpleNamespace(plan=PLAN, readers={SET.name: reader}, trouble=""))
    with tempfile.TemporaryDirectory() as name:
        keys = Path(name)
        write_key_pair(keys / "bench.pem", keys / "bench.pub")
        metrics = FeaturesMetrics(CollectorRegistry())
        door = ReadDoor({"bench": viewing}, Bearers(TrustedKeys(keys)), FeaturesSettings(), SystemClock(), metrics)
        app = create_app("svc-features", Health(), ChassisMetrics())
        add_read_routes(app, door, 1 << 20)
        await serve(app, token(load_private(keys / "bench.pem"), "bench", 600, AUDIENCE))


async def echo(state: Path) -> None:
    """One multi-get and an answer as long as ours, on the same web server without any framework."""
    stores = [view.store for view in declared.views_once(state)]
    answer = orjson.dumps(
        {"values": [[1234.5] * 200], "statuses": [["fresh"] * 200], "features": [f.name for f in SET.features]}
    )
    keys = {n: [encode_key(SET, key) for key in read_keys(SET, [card(n)], [NOW])] for n in range(HOT)}
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        body = orjson.loads((await receive())["body"])
        number = int(body["keys"][0]["card"][5:]) % HOT
        stores[partition_for(card(number), SET.partitions)].multi_get(keys[number])
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    app.state = SimpleNamespace()  # type: ignore[attr-defined]
    await serve(app, "none")


async def serve(app: Any, bearer: str) -> None:
    server = HttpServer(app, "127.0.0.1", 0)
    await server.start()
    print(orjson.dumps({"port": server.port, "token": bearer}).decode(), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop()


def main() -> None:
    mode, state, cards, reads = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    if mode == "inproc":
        print(orjson.dumps(inproc(state, cards, reads)).decode())
    else:
        uvloop.run(http(state) if mode == "http" else echo(state))


if __name__ == "__main__":
    main()

"""A bad network between clients and the broker: it delays, cuts, and loses answers, those of EndTxn among them.

What goes to the broker goes through whole requests at a time; what comes back may be held, or swallowed until the
connection is cut: then the client cannot know whether it was done.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import struct
import threading
from collections import Counter
from dataclasses import dataclass, field

END_TXN, TXN_OFFSET_COMMIT, PRODUCE = 26, 28, 0  # API keys of the protocol
CHUNK = 1 << 16
LOST_S = 0.5  # how long answers are swallowed before the connection is cut


@dataclass(slots=True)
class Weather:
    """What may happen now. Chances are per request; delays of answers in seconds."""

    delay_s: tuple[float, float] = (0.0, 0.0)
    lose: dict[int, float] = field(default_factory=dict)  # by API key
    cut: float = 0.0


CALM = Weather()
STORM = Weather((0.0, 0.05), {END_TXN: 0.15, TXN_OFFSET_COMMIT: 0.02, PRODUCE: 0.005}, 0.002)


class Proxy:
    """Listens in a thread of its own."""

    def __init__(self, port: int, to_port: int, seed: int) -> None:
        self._port, self._to_port, self._rng = port, to_port, random.Random(seed)
        self.weather = CALM
        self.faults = Counter[str]()
        self._loop = asyncio.new_event_loop()
        self._up = threading.Event()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)

    def start(self) -> None:
        self._thread.start()
        if not self._up.wait(10):
            raise RuntimeError(f"no proxy on port {self._port}")

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(asyncio.start_server(self._connection, "127.0.0.1", self._port))
        self._up.set()
        self._loop.run_forever()

    async def _connection(self, client: asyncio.StreamReader, answers: asyncio.StreamWriter) -> None:
        try:
            server, requests = await asyncio.open_connection("127.0.0.1", self._to_port)
        except OSError:
            answers.close()  # the broker is away
            return
        lost = asyncio.Event()
        pumps = [
            asyncio.ensure_future(self._requests(client, requests, lost)),
            asyncio.ensure_future(self._answers(server, answers, lost)),
        ]
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for pump in pumps:
            pump.cancel()
        for writer in (answers, requests):
            with contextlib.suppress(OSError):
                writer.close()

    async def _requests(self, client: asyncio.StreamReader, to: asyncio.StreamWriter, lost: asyncio.Event) -> None:
        """Ends when the connection is to be cut."""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = await client.readexactly(4)
                body = await client.readexactly(struct.unpack(">i", head)[0])
                api = struct.unpack(">h", body[:2])[0]
                if self._rng.random() < self.weather.cut:
                    self.faults["cut"] += 1
                    return
                if self._rng.random() < self.weather.lose.get(api, 0.0):
                    self.faults["end_txn_lost" if api == END_TXN else "answer_lost"] += 1
                    lost.set()
                to.write(head + body)
                await to.drain()
                if lost.is_set():
                    await asyncio.sleep(LOST_S)
                    return

    async def _answers(self, server: asyncio.StreamReader, to: asyncio.StreamWriter, lost: asyncio.Event) -> None:
        with contextlib.suppress(OSError):
            while data := await server.read(CHUNK):
                low, high = self.weather.delay_s
                if high:
                    self.faults["delayed"] += 1
                    await asyncio.sleep(self._rng.uniform(low, high))
                if lost.is_set():
                    await asyncio.sleep(2 * LOST_S)
                    return
                to.write(data)
                await to.drain()

"""Reading feature values and data sets from svc-features, as Polars frames.

with FeaturesClient("", "ada", load_private("ada.pem")) as features:
    frame = features.read("flights", [{"origin": "EWR"}, {"origin": "JFK"}], ["origin_load"])
"""

from __future__ import annotations

import io
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, BinaryIO, Self
from urllib.parse import quote

import httpx
import orjson
import polars as pl
import pyarrow as pa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from headrace.client.local_stack import FEATURES_URL, address
from headrace.contracts.signing import token

AUDIENCE = "svc-features"
ARROW = "application/vnd.apache.arrow.stream"
ABOUT = "headrace-dataset"  # header: what the service says of a data set, JSON
TOKEN_TTL_S = 300
TOKEN_SPARE_S = 30  # a token is made anew so long before it expires
KEYS_PER_CALL = 500  # below what the service takes
TIMEOUT_S = 30.0
DATASET_TIMEOUT_S = 900.0  # waits for the archive, then builds
STATUSES = ("fresh", "stale", "missing", "ahead", "expired")

Keys = Mapping[str, object] | Sequence[Mapping[str, object]]
Sets = Sequence[str] | Mapping[str, Sequence[str]]
Json = dict[str, Any]


class Refused(Exception):
    """The service said no: `status` as HTTP has it, `detail` what is wrong, `hint` what to do."""

    def __init__(self, status: int, detail: str, hint: str = "") -> None:
        super().__init__(f"{status}: {detail}; {hint}" if hint else f"{status}: {detail}")
        self.status, self.detail, self.hint = status, detail, hint


class Unreachable(Exception):
    """Nobody answers at that address."""


@dataclass(frozen=True, slots=True)
class BuiltDataset:
    """A data set and what the service says of it: rows, checksum, cut, what was left out."""

    frame: pl.DataFrame
    about: Json


class FeaturesClient:
    """Blocking. Every method raises Refused or Unreachable."""

    def __init__(
        self, url: str = "", principal: str = "", private: Ed25519PrivateKey | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:  # fmt: skip
        self._http = httpx.Client(base_url=address(FEATURES_URL, url), timeout=TIMEOUT_S, transport=transport, trust_env=False)
        self._principal, self._private = principal, private
        self._token, self._until_s = "", 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def pipelines(self) -> dict[str, str]:
        """Plan hash by pipeline, of the plans in force."""
        return self._send("GET", "/v1/status").json()["plans"]

    def describe(self, pipeline: str) -> Json:
        """Sets that can be read: entity, features, how far their views are."""
        return self._send("GET", f"/v1/{_word(pipeline)}/features").json()

    def read(
        self, pipeline: str, keys: Keys, sets: Sets | None = None, t_ms: int | Sequence[int] | str = "newest",
        statuses: bool = False,
    ) -> pl.DataFrame:  # fmt: skip
        """Values of many keys: key fields, `t_ms`, one column per feature (null where there is no value).

        Args:
            keys: objects of the sets' entity fields.
            sets: names, or by name some of its features; None: every set whose entity the keys name.
            t_ms: event time asked about, ms UTC, one for all or one per key; "newest" (the newest event seen) or "now".
            statuses: add `<feature>.status` columns: fresh, stale, missing, ahead, expired.
        A feature's column is `<set>.<feature>` where two sets have one of that name.
        """
        many: list[Mapping[str, object]] = [keys] if isinstance(keys, Mapping) else list(keys)
        frames: list[pl.DataFrame] = []
        for start in range(0, max(1, len(many)), KEYS_PER_CALL):
            part = slice(start, start + KEYS_PER_CALL)
            times = t_ms if isinstance(t_ms, int | str) else list(t_ms)[part]
            body: Json = {"keys": many[part], "t_ms": times}
            if sets is not None:
                body["sets"] = dict(sets) if isinstance(sets, Mapping) else list(sets)
            answer = self._send(
                "POST", f"/v1/{_word(pipeline)}/features", content=orjson.dumps(body), headers={"accept": ARROW}
            )
            if t_ms == "newest" and len(many) > KEYS_PER_CALL:
                t_ms = int(frame_of(answer.content)["t_ms"][0])  # all keys at one time
            frames.append(frame_of(answer.content))
        return _shown(pl.concat(frames), statuses)

    def dataset(
        self, pipeline: str, model: str, from_ms: int, until_ms: int, mature_until_ms: int | None = None
    ) -> BuiltDataset:
        """Labelled rows of the model for requests with t in [from_ms, until_ms), built now from the archive.

        Args:
            mature_until_ms: outcomes known by then count; None: the label's maturity after until_ms.
        """
        body: Json = {"from_ms": from_ms, "until_ms": until_ms}
        if mature_until_ms is not None:
            body["mature_until_ms"] = mature_until_ms
        path = f"/v1/{_word(pipeline)}/models/{_word(model)}/datasets"
        answer = self._send("POST", path, content=orjson.dumps(body), timeout=DATASET_TIMEOUT_S)
        return BuiltDataset(pl.read_parquet(io.BytesIO(answer.content)), orjson.loads(answer.headers[ABOUT]))

    def order_replay(self, plan: bytes, span_ms: int, model: str = "", by: Sequence[str] = ()) -> str:
        """Have past decisions made again under a plan (canonical JSON); the id of the order."""
        body: Json = {"plan": orjson.loads(plan), "span_ms": span_ms, "model": model, "by": list(by)}
        return self._send("POST", "/v1/replays", content=orjson.dumps(body)).json()["id"]

    def replay(self, identity: str) -> Json:
        """Where it is: state (waiting, running, done, failed), progress, and its result when it has ended."""
        return orjson.loads(self._send("GET", f"/v1/replays/{_word(identity)}").content)

    def replay_flips(self, identity: str, to: BinaryIO) -> None:
        """Every flip, as JSON lines."""
        with self._http.stream("GET", f"/v1/replays/{_word(identity)}/flips", headers=self._bearer()) as answer:
            if answer.is_error:
                answer.read()
                raise _refusal(answer)
            for piece in answer.iter_bytes():
                to.write(piece)

    def forget_replay(self, identity: str) -> None:
        """Stop it if it runs."""
        self._send("DELETE", f"/v1/replays/{_word(identity)}")

    def _bearer(self) -> dict[str, str]:
        if self._private is None:
            return {}
        if time.monotonic() > self._until_s:
            self._token = token(self._private, self._principal, TOKEN_TTL_S, AUDIENCE)
            self._until_s = time.monotonic() + TOKEN_TTL_S - TOKEN_SPARE_S
        return {"authorization": f"Bearer {self._token}"}

    def _send(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        headers = {**self._bearer(), **arguments.pop("headers", {})}
        try:
            answer = self._http.request(method, path, headers=headers, **arguments)
        except httpx.TransportError as error:
            raise Unreachable(f"svc-features does not answer at {self._http.base_url}: {error}: is the stack up?") from error
        if answer.is_error:
            raise _refusal(answer)
        return answer


def frame_of(body: bytes) -> pl.DataFrame:
    """The frame of an Arrow stream, columns as the service names them."""
    found = pl.from_arrow(pa.ipc.open_stream(body).read_all())
    assert isinstance(found, pl.DataFrame)
    return found


def _shown(frame: pl.DataFrame, statuses: bool) -> pl.DataFrame:
    """Features by their own name where that is one column's only; statuses as words, or left out."""
    kept = [c for c in frame.columns if statuses or not c.endswith(".status")]
    plain = [c.partition(".")[2] if "." in c else c for c in kept]
    names = {c: p for c, p in zip(kept, plain, strict=True) if plain.count(p) == 1}
    words = pl.Enum(STATUSES)
    coded = [pl.col(c).replace_strict(dict(enumerate(STATUSES)), return_dtype=words) for c in kept if c.endswith(".status")]
    return frame.select(kept).with_columns(coded).rename(names)


def _word(text: str) -> str:
    return quote(text, safe="")


def _refusal(answer: httpx.Response) -> Refused:
    try:
        body = orjson.loads(answer.content)
        return Refused(answer.status_code, str(body["error"]), str(body.get("hint", "")))
    except (ValueError, KeyError, TypeError):
        return Refused(answer.status_code, answer.text[:500])

"""Feast's side, run by the Python of its own environment: `python feast_side.py FOLDER REDIS_PORT CARDS READS JOIN_FOLDER`.

Imports nothing of ours but `measure`, read as a file. 200 float features of one view, online in SQLite and in Redis; the
historical join over the same Parquet files as ours, ten values with a TTL of 30 days. Prints what it does, then one
JSON object; the answers of the join go to `feast.parquet` beside its files, to be compared.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import importlib.util
import json
import random
import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig
from feast.types import Float64, Int64
from feast.value_type import ValueType

_spec = importlib.util.spec_from_file_location("measure", Path(__file__).with_name("measure.py"))
assert _spec is not None and _spec.loader is not None
measure = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(measure)

FEATURES = [f"f{i}" for i in range(200)]
NOW = datetime(2026, 1, 1, tzinfo=UTC)
HOT = 50


def say(line: str) -> None:
    print(line, flush=True)


def name(number: int) -> str:
    return f"card-{number:08d}"


def store(folder: Path, online: Mapping[str, object]) -> FeatureStore:
    folder.mkdir(parents=True, exist_ok=True)
    config = RepoConfig(
        project="bench", registry=str(folder / "registry.db"), provider="local", online_store=dict(online),
        offline_store={"type": "file"}, entity_key_serialization_version=3,
    )  # fmt: skip
    return FeatureStore(config=config)


def online(folder: Path, label: str, config: Mapping[str, object], cards: int, reads: int) -> dict[str, float]:
    fs = store(folder / label, config)
    card = Entity(name="card", join_keys=["card"], value_type=ValueType.STRING)
    source = FileSource(path=str(folder / "online.parquet"), timestamp_field="at")
    view = FeatureView(
        name="cards", entities=[card], ttl=timedelta(days=3650), schema=[Field(name=f, dtype=Float64) for f in FEATURES],
        source=source,
    )  # fmt: skip
    rng = random.Random(5)
    for start in range(0, cards, 1_000):
        part = range(start, min(cards, start + 1_000))
        frame = pd.DataFrame({f: [rng.random() * 1000 for _ in part] for f in FEATURES})
        frame["card"], frame["at"] = [name(n) for n in part], NOW
        if start == 0:
            frame.to_parquet(folder / "online.parquet")
            fs.apply([card, view])
        fs.write_to_online_store("cards", frame)
    wanted = [f"cards:{f}" for f in FEATURES]
    chance = [name(rng.randrange(cards)) for _ in range(10_007)]

    def read(names: list[str]) -> None:
        found = fs.get_online_features(features=wanted, entity_rows=[{"card": n} for n in names]).to_dict()
        assert len(found) == 201 and found["f0"][0] is not None

    out = measure.figures(f"{label}_200x1", lambda i: read([name(i % HOT)]), reads, say)
    out |= measure.figures(f"{label}_200x1_cold", lambda i: read([chance[i % len(chance)]]), max(5, reads // 5), say)
    hundred = max(5, reads // 40)
    out |= measure.figures(f"{label}_200x100", lambda i: read([name(n) for n in range(100)]), hundred, say, warm_up=2)
    return out


def join(folder: Path, files: Path, runs: int) -> dict[str, float]:
    fs = store(folder / "offline", {"type": "sqlite", "path": str(folder / "offline.db")})
    values = [f"v{i}" for i in range(10)]
    frame = pd.read_parquet(files / "events.parquet")
    frame["at"] = pd.to_datetime(frame["paid_at"], unit="ms", utc=True)
    frame[["card", "at", *values]].to_parquet(folder / "events.parquet")
    asked = pd.read_parquet(files / "requests.parquet")
    times = pd.to_datetime(asked["t"], unit="ms", utc=True)
    entities = pd.DataFrame({"card": asked["card"], "event_timestamp": times, "pid": asked["pid"]})
    card = Entity(name="card", join_keys=["card"], value_type=ValueType.STRING)
    view = FeatureView(
        name="lasts", entities=[card], ttl=timedelta(days=30), schema=[Field(name=v, dtype=Int64) for v in values],
        source=FileSource(path=str(folder / "events.parquet"), timestamp_field="at"),
    )  # fmt: skip
    fs.apply([card, view])

    def run() -> int:
        found = fs.get_historical_features(entity_df=entities, features=[f"lasts:{v}" for v in values]).to_df()
        kept[:] = [found]
        return len(found)

    kept: list[pd.DataFrame] = []
    rate = measure.median_rate(run, runs)
    say(f"feast_pit: {rate:,.0f} rows/s")
    kept[0][["pid", *values]].to_parquet(files / "feast.parquet")
    return {"feast_pit_rows_s": rate}


def main() -> None:
    folder, port, cards, reads, files, runs = Path(sys.argv[1]), int(sys.argv[2]), *map(str, sys.argv[3:7])
    out: dict[str, float] = {}
    sqlite = {"type": "sqlite", "path": str(folder / "online.db")}
    out |= online(folder, "feast_sqlite", sqlite, int(cards), int(reads))
    if port:
        redis = {"type": "redis", "connection_string": f"127.0.0.1:{port}"}
        out |= online(folder, "feast_redis", redis, int(cards), int(reads))
    out |= join(folder, Path(files), int(runs))
    print(json.dumps(out))


if __name__ == "__main__":
    main()

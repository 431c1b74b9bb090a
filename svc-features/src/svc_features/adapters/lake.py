"""The lake on Delta tables: `<folder>/<topic>/`, the position of each partition in the table's own transactions.

Which incarnation of the topic the rows are of is a property of the table: it outlives checkpoints and cleaned logs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, SchemaMismatchError

from headrace.contracts.errors import Fatal, Retryable
from svc_features.ports import Conflict

TOPIC_ID = "headrace.topicId"


def has_path(schema: pa.Schema, path: str) -> bool:
    """Whether a table knows a field; that of a nested record (`address.city`) lies in its struct."""
    inside: Any = schema
    for part in path.split("."):
        if part not in (inside.names if isinstance(inside, pa.Schema) else [f.name for f in inside]):
            return False
        kind = inside.field(part).type
        inside = kind if pa.types.is_struct(kind) else []
    return True


def _application(topic: str, partition: int) -> str:
    return f"{topic}-{partition}"


@contextmanager
def _translated(what: str) -> Iterator[None]:
    try:
        yield
    except CommitFailedError as error:
        raise Conflict(f"{what}: {error}") from error
    except SchemaMismatchError as error:
        raise Fatal(f"{what}: rows do not fit the table: {error}") from error
    except (DeltaError, OSError) as error:
        raise Retryable(f"{what}: {error}") from error


class DeltaLake:
    """Opens tables for the one writer of the lake."""

    def __init__(self, folder: Path, files_max: int = 96) -> None:
        """files_max: small files that may gather in a table before they are written together."""
        self._folder, self._files_max = folder, files_max

    def open(self, topic: str, schema: pa.Schema, partitions: int) -> DeltaLakeTable:
        with _translated(f"open {topic}"):
            path = self._folder / topic
            path.mkdir(parents=True, exist_ok=True)
            if not DeltaTable.is_deltatable(str(path)):
                DeltaTable.create(str(path), schema, configuration={"delta.checkpointInterval": "50"})
            return DeltaLakeTable(topic, path, partitions, self._files_max)


class DeltaLakeTable:
    """One table. Appending the same position again through a fresh handle would succeed, so one handle is kept.

    1. the handle's version knows the positions   2. read from there   3. commit through the same handle:
       if another writer committed them meanwhile, the handle is stale and the commit is refused
    """

    def __init__(self, topic: str, path: Path, partitions: int, files_max: int) -> None:
        self.topic = topic
        self._partitions, self._files_max, self._small = partitions, files_max, 0
        with _translated(f"open {topic}"):
            self._handle = DeltaTable(str(path))

    def positions(self) -> dict[int, int]:
        """Raises: Retryable; the handle reads its log again where it has not kept this."""
        with _translated(f"read {self.topic}"):
            found = {p: self._handle.transaction_version(_application(self.topic, p)) for p in range(self._partitions)}
        return {p: version for p, version in found.items() if version is not None}

    def topic_id(self) -> str:
        with _translated(f"read {self.topic}"):
            return self._handle.metadata().configuration.get(TOPIC_ID) or ""

    def belong(self, topic_id: str) -> None:
        if self.topic_id():
            raise Fatal(f"the table of {self.topic} is of topic {self.topic_id()} already")
        with _translated(f"mark {self.topic}"):
            self._handle.alter.set_table_properties({TOPIC_ID: topic_id}, raise_if_not_exists=False)

    def append(self, rows: pa.Table, positions: Mapping[int, int]) -> None:
        known = self.positions()
        behind = {p: n for p, n in positions.items() if n <= known.get(p, -1)}
        if behind:
            raise Conflict(f"{self.topic}: the table is at {known}, rows up to {behind} are there already")
        moved = [Transaction(_application(self.topic, p), next_offset) for p, next_offset in positions.items()]
        with _translated(f"append to {self.topic}"):
            write_deltalake(
                self._handle,
                rows,
                mode="append",
                schema_mode="merge",
                commit_properties=CommitProperties(app_transactions=moved),
            )
            self._small += 1
            if self._small >= self._files_max:
                self._small = 0
                self._handle.optimize.compact()  # readers of older versions keep their files: nothing is vacuumed here


class LakeReader:
    """Reads the lake alone: what parity and data sets stand on."""

    def __init__(self, folder: Path, where: pc.Expression | None = None) -> None:
        """where: rows that are seen; files whose statistics rule them out are not opened."""
        self._folder, self._where = folder, where

    def since(self, positions: Mapping[int, int]) -> LakeReader:
        """The same lake, but of each partition only rows from that offset on; partitions not named are seen whole."""
        known = pc.field("part").isin(list(positions))
        where = ~known
        for partition, offset in positions.items():
            where = where | ((pc.field("part") == partition) & (pc.field("off") >= offset))
        return LakeReader(self._folder, where if positions else None)

    @property
    def whole(self) -> bool:
        """Whether every row of a table is seen."""
        return self._where is None

    def topics(self) -> list[str]:
        """Tables there are, by topic."""
        return sorted(p.name for p in self._folder.glob("*") if DeltaTable.is_deltatable(str(p)))

    def exists(self, topic: str) -> bool:
        return DeltaTable.is_deltatable(str(self._folder / topic))

    def positions(self, topic: str, partitions: int) -> dict[int, int]:
        """As `LakeTable.positions`; empty if there is no such table."""
        if not self.exists(topic):
            return {}
        with _translated(f"read {topic}"):
            return DeltaLakeTable(topic, self._folder / topic, partitions, 1 << 30).positions()

    def topic_id(self, topic: str) -> str:
        """As `LakeTable.topic_id`; empty if there is no such table."""
        if not self.exists(topic):
            return ""
        with _translated(f"read {topic}"):
            return DeltaLakeTable(topic, self._folder / topic, 0, 1 << 30).topic_id()

    def batches(self, topic: str, columns: Sequence[str] | None = None) -> pa.RecordBatchReader:
        """The rows as they come, unordered. A field inside a record (`address.city`) comes with the whole of it.

        Raises: Fatal if there is no such table.
        """
        if not self.exists(topic):
            raise Fatal(f"no table of {topic} in {self._folder}: is this the lake, and is the archive running?")
        with _translated(f"read {topic}"):
            found = DeltaTable(str(self._folder / topic)).to_pyarrow_dataset()
            names = set(found.schema.names)
            heads = [] if columns is None else dict.fromkeys(c.partition(".")[0] for c in columns)
            wanted = None if columns is None else [c for c in heads if c in names]
            return found.scanner(columns=wanted, filter=self._where, batch_size=64_000).to_reader()

    def files(self, topic: str) -> tuple[list[str], pa.Schema]:
        """The table's Parquet files and its columns, for an engine that reads them itself.

        Raises: Fatal if there is no such table, or if its rows are not simply those of its files.
        """
        if not self.exists(topic):
            raise Fatal(f"no table of {topic} in {self._folder}: is this the lake, and is the archive running?")
        with _translated(f"read {topic}"):
            table = DeltaTable(str(self._folder / topic))
            needed = set(table.protocol().reader_features or ()) & {"deletionVectors", "columnMapping"}
            if needed or table.metadata().partition_columns:
                raise Fatal(f"the table of {topic} uses {sorted(needed) or 'partition columns'}: read it through DuckDB")
            return table.file_uris(), table.to_pyarrow_dataset().schema

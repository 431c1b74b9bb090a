"""RocksDB and its twin in memory answer alike, whatever is written in whatever order."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.chassis.errors import Fatal
from headrace.chassis.state import MemoryStore, RocksStore, Store, prefix_end

History = list[tuple[dict[bytes, bytes], list[bytes]]]

keys = st.lists(st.sampled_from([0x00, 0x01, 0x61, 0xFE, 0xFF]), max_size=3).map(bytes)
values = st.binary(max_size=4)
batches = st.lists(st.tuples(st.dictionaries(keys, values, max_size=5), st.lists(keys, max_size=3)), max_size=6)


@pytest.fixture(scope="module")
def rocks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RocksStore]:
    store = RocksStore(tmp_path_factory.mktemp("state"))
    yield store
    store.close()


def apply(store: Store, history: History) -> None:
    for puts, deletes in history:
        store.write(puts, deletes)


@settings(max_examples=60, deadline=None)
@given(history=batches, asked=st.lists(keys, max_size=6), start=keys, end=st.none() | keys)
def test_both_stores_agree_with_a_dictionary(
    rocks: RocksStore,
    history: list[tuple[dict[bytes, bytes], list[bytes]]],
    asked: list[bytes],
    start: bytes,
    end: bytes | None,
) -> None:
    """The naive oracle is a dictionary: deletes before puts, ranges by comparing every key."""
    rocks.write({}, [k for k, _ in rocks.range()])
    oracle: dict[bytes, bytes] = {}
    for puts, deletes in history:
        for key in deletes:
            oracle.pop(key, None)
        oracle.update(puts)
    for store in (rocks, MemoryStore()):
        apply(store, history)
        assert list(store.range()) == sorted(oracle.items())
        assert list(store.range(start)) == sorted((k, v) for k, v in oracle.items() if k.startswith(start))
        assert list(store.scan(start, end)) == sorted(
            (k, v) for k, v in oracle.items() if start <= k and (end is None or k < end)
        )
        assert store.multi_get(sorted(asked)) == [oracle.get(k) for k in sorted(asked)]
        assert [store.get(k) for k in asked] == [oracle.get(k) for k in asked]


@given(prefix=keys, key=keys)
def test_the_end_of_a_prefix_is_above_exactly_its_keys(prefix: bytes, key: bytes) -> None:
    """A key carries the prefix iff prefix <= key < prefix_end(prefix)."""
    end = prefix_end(prefix)
    assert key.startswith(prefix) == (prefix <= key and (end is None or key < end))


def test_what_was_written_is_there_after_reopening_and_gone_after_wiping(tmp_path: Path) -> None:
    """A restart finds the last write; a wipe leaves an open, empty store."""
    folder = tmp_path / "deep" / "store"
    store = RocksStore(folder)
    store.write({b"a": b"1", b"b": b"2"})
    store.close()
    again = RocksStore(folder)
    assert list(again.range()) == [(b"a", b"1"), (b"b", b"2")]
    again.wipe()
    again.write({b"c": b"3"})
    assert list(again.range()) == [(b"c", b"3")]
    again.close()


def test_a_folder_has_one_owner(tmp_path: Path) -> None:
    """A second opening is refused and says which folder."""
    store = RocksStore(tmp_path)
    with pytest.raises(Fatal, match=tmp_path.name):
        RocksStore(tmp_path)
    store.close()


def test_a_read_sees_the_store_as_of_its_call(tmp_path: Path) -> None:
    """Writes made while a range is walked do not show in it."""
    for store in (RocksStore(tmp_path / uuid.uuid4().hex), MemoryStore()):
        store.write({b"a": b"1", b"c": b"3"})
        walk = store.range()
        first = next(walk)
        store.write({b"b": b"2"}, [b"c"])
        assert [first, *walk] == [(b"a", b"1"), (b"c", b"3")]
        store.close()


class Killed(BaseException):
    """The process is gone."""


def test_a_process_killed_while_it_wipes_leaves_a_folder_that_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Goal: half a folder never opens again. Method: killed after the first file was removed, before and after the move."""
    path = tmp_path / "state"
    store = RocksStore(path)
    store.write({b"a": b"1"})

    def half(folder: Path, **_: object) -> None:
        for manifest in folder.glob("MANIFEST*"):
            manifest.unlink()
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", half)
        with pytest.raises(Killed):
            store.wipe()
    again = RocksStore(path)
    assert again.get(b"a") is None and [p.name for p in tmp_path.iterdir()] == ["state"]
    again.write({b"a": b"2"})
    again.wipe()
    assert again.get(b"a") is None
    again.close()

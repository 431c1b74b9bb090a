"""Large bodies: what comes back is what was put, or nothing."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from headrace.chassis.objects import FolderObjectStore
from headrace.contracts.errors import Poison, Reason, Retryable


@pytest.fixture
def store(tmp_path: Path) -> FolderObjectStore:
    return FolderObjectStore(tmp_path / "objects")


def test_a_body_comes_back_whole_and_putting_it_again_changes_nothing(store: FolderObjectStore, tmp_path: Path) -> None:
    first = store.put(b'{"a":1}', ".json")
    assert store.put(b'{"a":1}', ".json") == first
    assert store.get(first.reference, first.digest) == b'{"a":1}'
    assert len([p for p in (tmp_path / "objects").rglob("*") if p.is_file()]) == 1


def test_altered_bytes_are_refused_and_put_heals_them(store: FolderObjectStore, tmp_path: Path) -> None:
    stored = store.put(b'{"a":1}', ".json")
    (tmp_path / "objects" / stored.reference).write_bytes(b'{"a":2}')
    with pytest.raises(Poison) as caught:
        store.get(stored.reference, stored.digest)
    assert caught.value.reason is Reason.BAD_DIGEST
    store.put(b'{"a":1}', ".json")
    assert store.get(stored.reference, stored.digest) == b'{"a":1}'


def test_the_digest_of_the_record_counts_not_the_one_in_the_name(store: FolderObjectStore) -> None:
    one, two = store.put(b"1", ".txt"), store.put(b"2", ".txt")
    with pytest.raises(Poison) as caught:
        store.get(one.reference, two.digest)
    assert caught.value.reason is Reason.BAD_DIGEST


@pytest.mark.parametrize("reference", ["../../etc/passwd", "/etc/passwd", "", "ab/../x.json", "ab/" + "0" * 64 + "/x.json"])
def test_a_reference_cannot_leave_the_store(store: FolderObjectStore, reference: str) -> None:
    with pytest.raises(Poison) as caught:
        store.get(reference, "0" * 64)
    assert caught.value.reason is Reason.WRONG_TYPE


def test_a_body_that_is_not_there_is_the_worlds_fault(store: FolderObjectStore) -> None:
    with pytest.raises(Retryable):
        store.get(f"00/{'0' * 64}.json", "0" * 64)


@pytest.mark.parametrize(
    ("data", "suffix"),
    [
        (pickle.dumps({"a": 1}), ".bin"),
        (pickle.dumps({"a": 1}, protocol=2), ".onnx"),
        (b"PK\x03\x04...", ".bin"),
        (b"{}", ".pkl"),
        (b"{}", ".joblib"),
        (b"{}", ""),
    ],
)
def test_formats_that_run_code_when_loaded_are_refused(store: FolderObjectStore, data: bytes, suffix: str) -> None:
    with pytest.raises(Poison) as caught:
        store.put(data, suffix)
    assert caught.value.reason is Reason.UNSAFE_FORMAT

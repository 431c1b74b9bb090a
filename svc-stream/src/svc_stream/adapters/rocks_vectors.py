"""Vectors on a store: more entries than memory, a write-back cache in front.

Pairs, after the table's prefix; integers are 8 bytes big-endian with the sign bit turned, vectors little-endian int64:

    order at:   e | at | key                       -> vector
    order key:  e | key length (4) | key | at      -> vector
                i | newest time | at | key         -> (nothing), by which entries are found to be let go
    both:       s                                  -> closed_ms, mark_ms, number of entries

The store is as of the last `settle`; the cache goes before it, and nothing with a time below closed_ms is there, whatever the
store still holds. A pair of `i` that its entry does not confirm is old.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np
import polars as pl

from headrace.chassis.state import Store, prefix_end
from headrace.plan.slots import NEWEST, Layout, merge_rows, reduce_by
from headrace.plan.streams.frames import KEY
from headrace.plan.streams.vectors import NEVER, Bools, Entries, Int64s, Order, frame_of, parts_of, together
from svc_stream.adapters.cached_vectors import CachedRows

CACHE_BYTES_MAX = 64 << 20
_SIGN = 1 << 63
_NUMBER, _LENGTH, _SCALARS = struct.Struct(">Q"), struct.Struct(">I"), struct.Struct("<qqq")
Identity = tuple[str, int]


class RocksVectors:
    """Vectors of either order on a store that several tables may share."""

    def __init__(
        self, store: Store, prefix: bytes, name: str, layout: Layout, order: Order, cache_bytes_max: int = CACHE_BYTES_MAX
    ) -> None:
        """As the store has it. prefix: the table's own, not the beginning of another's."""
        self.name, self.layout = name, layout
        self.order: Order = order
        self._store, self._entry, self._index, self._scalar = store, prefix + b"e", prefix + b"i", prefix + b"s"
        self._cache_bytes_max = cache_bytes_max
        self._rows = CachedRows(layout.width)
        self._gone: dict[Identity, None] = {}  # removed one by one, not in the changes yet
        self._doomed: list[bytes] = []  # pairs of entries below the bound that were not in the cache
        found = store.get(self._scalar)
        closed, mark, self._count = (NEVER, NEVER, 0) if found is None else _SCALARS.unpack(found)
        self.closed_ms: int | None = None if closed == NEVER else closed
        self.mark_ms: int | None = None if mark == NEVER else mark
        self._said = (self.closed_ms, self.mark_ms)
        self._saved = found

    # ------------------------------------------------------------ as Vectors

    def advance(self, mark_ms: int) -> None:
        self.mark_ms = mark_ms if self.mark_ms is None else max(self.mark_ms, mark_ms)

    def merge(self, entries: Entries) -> None:
        if not len(entries):
            return
        self._evict()
        at = self._loaded(entries.keys, entries.at)
        numbers, vectors = reduce_by(self.layout, at, entries.slots)
        rows = self._rows
        old = rows.alive[numbers]
        mine = numbers[old]
        rows.slots[mine] = merge_rows(self.layout, rows.slots[mine], vectors[old])
        rows.slots[numbers[~old]] = vectors[~old]
        self._count += int((~old).sum())
        rows.alive[numbers] = rows.unsaved[numbers] = rows.unlogged[numbers] = True
        if self._gone:
            for one in zip(entries.keys.to_list(), entries.at.tolist(), strict=True):
                self._gone.pop(one, None)

    def get(self, keys: pl.Series, at: Int64s) -> Int64s:
        return self._rows.slots[self._named(keys, at)]

    def of_keys(self, keys: pl.Series) -> Entries:
        rows, names = self._rows, keys.to_list()
        if self.order == "at":
            wanted = set(names)
            every = self._between(None, None)
            return every.take(np.array([key in wanted for key in every.keys.to_list()], np.bool_))
        self._read_keys([key for key in names if key not in rows.whole])
        numbers = np.array([row for key in names for row in rows.of.get(key, {}).values()], np.int64)
        numbers = numbers[rows.alive[numbers]]
        rows.touch(numbers)
        return rows.entries(numbers)

    def scan(self, low_ms: int | None, high_ms: int) -> Entries:
        return self._between(low_ms, high_ms)

    def take_below(self, bound_ms: int) -> Entries:
        rows = self._rows
        held = np.flatnonzero(rows.alive[: rows.count] & (self._times() < bound_ms))
        stored = self._stored(None, bound_ms)
        self._doom(stored, bound_ms)
        taken = together([rows.entries(held), stored], self.layout.width).ordered()
        rows.alive[held], rows.unlogged[held], rows.unsaved[held] = False, False, True
        self._count -= len(taken)
        self.closed_ms = bound_ms if self.closed_ms is None else max(self.closed_ms, bound_ms)
        return taken

    def remove(self, keys: pl.Series, at: Int64s) -> None:
        rows, mine = self._rows, self._named(keys, at)
        rows.alive[mine], rows.unlogged[mine], rows.unsaved[mine] = False, False, True
        self._count -= len(mine)
        self._gone.update((one, None) for one in zip(keys.to_list(), at.tolist(), strict=True))

    def oldest_ms(self, low_ms: int | None = None) -> int | None:
        rows, low = self._rows, self._from(low_ms)
        times = self._times()[rows.alive[: rows.count]]
        held = times if low is None else times[times >= low]
        oldest = int(held.min()) if len(held) else None
        for key, at, time, _ in self._pairs(low, oldest):  # what the cache knows of these, it has changed or removed
            if at not in rows.of.get(key, ()) and self._confirmed(key, at, time):
                return time
        return oldest

    # ------------------------------------------------------------ as a Table

    def changes(self) -> pl.DataFrame | None:
        rows = self._rows
        mine = np.flatnonzero(rows.unlogged[: rows.count] & rows.alive[: rows.count])
        rows.unlogged[: rows.count] = False
        bounds = (self.closed_ms, self.mark_ms)
        news = None if bounds == self._said else bounds
        gone, self._gone, self._said = list(self._gone), {}, bounds
        if not len(mine) and not gone and news is None:
            return None
        return frame_of(rows.entries(mine), _identities(gone, self.layout.width), news)

    def restore(self, changes: pl.DataFrame) -> None:
        """To be settled like any change, piece by piece: what is restored is on no disk yet."""
        put, gone, bounds = parts_of(changes)
        stale = together([put, gone], self.layout.width)
        rows = self._rows
        mine = self._loaded(stale.keys, stale.at)
        self._count -= int(rows.alive[np.unique(mine)].sum())
        rows.alive[mine], rows.unsaved[mine] = False, True
        self.merge(put)
        if bounds is not None:
            self.mark_ms = bounds[1]
            if bounds[0] is not None:
                self.take_below(bounds[0])
        self._said, self._gone = (self.closed_ms, self.mark_ms), {}
        rows.unlogged[: rows.count] = False

    def settle(self) -> tuple[dict[bytes, bytes], list[bytes]]:
        rows, puts, deletes = self._rows, dict[bytes, bytes](), self._doomed
        self._doomed = []
        for row in np.flatnonzero(rows.unsaved[: rows.count]).tolist():
            self._save(row, puts, deletes)
        rows.unsaved[: rows.count] = False
        rows.stored[: rows.count] = rows.alive[: rows.count]
        rows.stored_newest[: rows.count] = rows.slots[: rows.count, NEWEST]
        closed, mark = (NEVER if bound is None else bound for bound in (self.closed_ms, self.mark_ms))
        scalars = _SCALARS.pack(closed, mark, self._count)
        if scalars != self._saved:
            puts[self._scalar] = self._saved = scalars
        self._evict()
        return puts, deletes

    def _save(self, row: int, puts: dict[bytes, bytes], deletes: list[bytes]) -> None:
        rows = self._rows
        key, at, newest = rows.keys[row], int(rows.at[row]), int(rows.slots[row, NEWEST])
        before = int(rows.stored_newest[row])
        if rows.alive[row]:
            puts[self._entry + self._place(key, at)] = rows.slots[row].astype("<i8").tobytes()
            if self.order == "key":
                puts[self._index + _newest_place(newest, key, at)] = b""
        elif rows.stored[row]:
            deletes.append(self._entry + self._place(key, at))
        if self.order == "key" and rows.stored[row] and before != NEVER and not (rows.alive[row] and before == newest):
            deletes.append(self._index + _newest_place(before, key, at))

    def sweep(self, after: bytes | None, entries_max: int) -> tuple[pl.DataFrame, bytes | None]:
        """What is settled; the rest is in the changes. A place is a key of the store."""
        keys, times, values, place = list[str](), list[int](), list[bytes](), None
        for raw, value in self._store.scan(self._entry if after is None else after, prefix_end(self._entry)):
            if len(keys) >= entries_max:
                place = raw
                break
            key, at = self._parsed(raw[len(self._entry) :])
            row = self._rows.of.get(key, {}).get(at)
            if row is not None and not self._rows.alive[row]:
                continue
            keys.append(key)
            times.append(at)
            values.append(value if row is None else self._rows.slots[row].astype("<i8").tobytes())
        found = Entries(pl.Series(KEY, keys, pl.String), np.array(times, np.int64), self._vectors(values))
        found = found.take(~self._are_closed(found))
        return frame_of(found, None, (self.closed_ms, self.mark_ms) if after is None else None), place

    def entries(self) -> int:
        return self._count

    def bytes(self) -> int:
        return self._rows.bytes()

    # ------------------------------------------------------------ cache and store

    def _times(self) -> Int64s:
        rows = self._rows
        return rows.at[: rows.count] if self.order == "at" else rows.slots[: rows.count, NEWEST]

    def _are_closed(self, entries: Entries) -> Bools:
        """Which of what the store has are gone since."""
        times = entries.at if self.order == "at" else entries.slots[:, NEWEST]
        return times < (NEVER if self.closed_ms is None else self.closed_ms)

    def _vectors(self, values: list[bytes]) -> Int64s:
        return np.frombuffer(b"".join(values), "<i8").reshape(len(values), self.layout.width)

    def _from(self, low_ms: int | None) -> int | None:
        return max((bound for bound in (low_ms, self.closed_ms) if bound is not None), default=None)

    def _named(self, keys: pl.Series, at: Int64s) -> Int64s:
        rows = self._loaded(keys, at)
        if not self._rows.alive[rows].all():
            raise KeyError("no such entry")
        return rows

    def _loaded(self, keys: pl.Series, at: Int64s) -> Int64s:
        """Row numbers of identities; those not looked at before are read in one go, in the order of the store."""
        names, times, rows = keys.to_list(), at.tolist(), self._rows
        found = rows.find(names, times)
        missing = {(names[i], times[i]) for i in np.flatnonzero(found < 0).tolist()}
        if missing:
            known = [one for one in missing if one[0] in rows.whole]  # known not to be there
            unknown = sorted((self._entry + self._place(*one), one) for one in missing if one[0] not in rows.whole)
            values = self._store.multi_get([raw for raw, _ in unknown]) if unknown else []
            self._add([one for _, one in unknown], values)
            self._add(known, [None] * len(known))
            found = rows.find(names, times)
        rows.touch(found)
        return found

    def _add(self, identities: list[Identity], values: list[bytes | None]) -> None:
        """Rows for what the store has said of identities."""
        held = [(one, value) for one, value in zip(identities, values, strict=True) if value is not None]
        keys = pl.Series(KEY, [key for (key, _), _ in held], pl.String)
        found = Entries(keys, np.array([at for (_, at), _ in held], np.int64), self._vectors([value for _, value in held]))
        found = found.take(~self._are_closed(found))
        taken = list(zip(found.keys.to_list(), found.at.tolist(), strict=True))
        self._rows.add([key for key, _ in taken], [at for _, at in taken], found.slots)
        absent = set(identities).difference(taken)
        self._rows.add([key for key, _ in absent], [at for _, at in absent], None)

    def _read_keys(self, keys: list[str]) -> None:
        """Every entry of these keys into the cache."""
        new, values = list[Identity](), list[bytes | None]()
        for key in keys:
            start, known = self._entry + _length_and(key), self._rows.of.get(key, ())
            for raw, value in self._store.scan(start, prefix_end(start)):
                at = _NUMBER.unpack_from(raw, len(raw) - 8)[0] - _SIGN
                if at not in known:
                    new.append((key, at))
                    values.append(value)
        if new:
            self._add(new, values)
        self._rows.whole.update(keys)

    def _between(self, low_ms: int | None, high_ms: int | None) -> Entries:
        rows, times = self._rows, self._times()
        held = rows.alive[: rows.count].copy()
        if low_ms is not None:
            held &= times >= low_ms
        if high_ms is not None:
            held &= times < high_ms
        return together([rows.entries(np.flatnonzero(held)), self._stored(low_ms, high_ms)], self.layout.width)

    def _stored(self, low_ms: int | None, high_ms: int | None) -> Entries:
        """Entries of the store that the cache does not know."""
        of, none = self._rows.of, dict[int, int]()
        found = [one for one in self._pairs(self._from(low_ms), high_ms) if one[1] not in of.get(one[0], none)]
        if self.order == "key":
            found.sort(key=lambda one: self._place(one[0], one[1]))
            values = self._store.multi_get([self._entry + self._place(key, at) for key, at, _, _ in found]) if found else []
            pairs = zip(found, values, strict=True)
            found = [(key, at, time, value) for (key, at, time, _), value in pairs if value is not None]
        keys = pl.Series(KEY, [key for key, _, _, _ in found], pl.String)
        entries = Entries(keys, np.array([one[1] for one in found], np.int64), self._vectors([one[3] for one in found]))
        if self.order == "at":
            return entries
        return entries.take(entries.slots[:, NEWEST] == np.array([one[2] for one in found], np.int64))

    def _doom(self, stored: Entries, bound_ms: int) -> None:
        """Pairs of these entries, and all of the index below the bound, old ones included."""
        identities = zip(stored.keys.to_list(), stored.at.tolist(), strict=True)
        self._doomed += [self._entry + self._place(key, at) for key, at in identities]
        if self.order == "key":
            pairs = self._pairs(self._from(None), bound_ms)
            self._doomed += [self._index + _newest_place(time, key, at) for key, at, time, _ in pairs]

    def _pairs(self, low_ms: int | None, high_ms: int | None) -> Iterator[tuple[str, int, int, bytes]]:
        """(key, at, time, value) of the store's pairs by time, from low on and below high."""
        head = self._entry if self.order == "at" else self._index
        start = head if low_ms is None else head + _number(low_ms)
        end = prefix_end(head) if high_ms is None else head + _number(high_ms)
        for raw, value in self._store.scan(start, end):
            rest = raw[len(head) :]
            time = _NUMBER.unpack_from(rest)[0] - _SIGN
            if self.order == "at":
                yield rest[8:].decode(), time, time, value
            else:
                yield rest[16:].decode(), _NUMBER.unpack_from(rest, 8)[0] - _SIGN, time, value

    def _confirmed(self, key: str, at: int, time: int) -> bool:
        if self.order == "at":
            return True
        value = self._store.get(self._entry + self._place(key, at))
        return value is not None and np.frombuffer(value, "<i8")[NEWEST] == time

    def _evict(self) -> None:
        """Clean rows go, those longest unused first, down to three quarters of the bound; known absences go at once."""
        rows = self._rows
        if rows.bytes() <= self._cache_bytes_max:
            return
        clean = ~rows.unsaved[: rows.count] & ~rows.unlogged[: rows.count]
        kept = ~clean
        room = int(0.75 * self._cache_bytes_max / max(1, rows.bytes()) * rows.count) - int(kept.sum())
        candidates = np.flatnonzero(clean & rows.alive[: rows.count])
        if room > 0:
            kept[candidates[np.argsort(-rows.used[candidates], kind="stable")[:room]]] = True
        rows.keep(kept)

    def _place(self, key: str, at: int) -> bytes:
        return _number(at) + key.encode() if self.order == "at" else _length_and(key) + _number(at)

    def _parsed(self, place: bytes) -> Identity:
        if self.order == "at":
            return place[8:].decode(), _NUMBER.unpack_from(place)[0] - _SIGN
        return place[4:-8].decode(), _NUMBER.unpack_from(place, len(place) - 8)[0] - _SIGN


def _number(value: int) -> bytes:
    return _NUMBER.pack(value + _SIGN)


def _length_and(key: str) -> bytes:
    raw = key.encode()
    return _LENGTH.pack(len(raw)) + raw


def _newest_place(newest: int, key: str, at: int) -> bytes:
    return _number(newest) + _number(at) + key.encode()


def _identities(found: list[Identity], width: int) -> Entries:
    keys = pl.Series(KEY, [key for key, _ in found], pl.String)
    return Entries(keys, np.array([at for _, at in found], np.int64), np.zeros((len(found), width), np.int64))

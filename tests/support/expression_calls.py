"""Calls of every function of the row language, and awkward values to call them with; over the fields of `unit.plan.engines`."""

from __future__ import annotations

from typing import Any

from headrace.plan.expression_functions.calendar import PARTS

INT64 = 2**63
TEXTS = [
    None, "", "x", "N14228", "UA", "  pad ", "-12", "0012", "1.5", "-1.25", "1e3", "+4", "٣", "12345678901234567890", "a-b--c",
    "née", "NÉE", "e\u0301", "İstanbul", "straße", "ΟΔΟΣ",
    "ǅ", "ᲀ", "Ж", "👨‍👩‍👧", "a\nb", "\t", "it's", "%", "_", "a%b", "$", "\\", "x" * 300,
]  # fmt: skip
TIMES = [
    None, 0, -1, 1, -62_135_596_800_000, 253_402_300_799_999, 951_782_400_000, 1_362_898_799_999, 1_362_898_800_000,
    1_383_458_399_999, 1_383_458_400_000, 1_356_998_399_999, 1_356_998_400_000, 1_293_926_400_000, 4_102_444_799_999,
    4_102_444_800_000, 1_370_077_200_123, -2_208_988_800_000,
]  # fmt: skip
POOLS: dict[str, list[Any]] = {
    "a": [None, *range(-50, 51, 7), -1, 0, 1, 50],
    "b": [None, -(2**31), -100, -7, -1, 0, 2, 15, 2**31 - 1],
    "u": [None, -INT64, -INT64 + 1, -1, 0, 1, INT64 - 1],
    "d": [None, -10_000, -1250, -1234, -150, -50, -1, 0, 25, 50, 150, 250, 10_000],
    "p": [0, 1, 5, 15, 25, 500],
    "s": TEXTS,
    "q": [None, True, False],
    "t": TIMES,
    "f": [None, 0.0, -0.0, 0.5, -2.0, 9.999, 1e308, 5e-324, float("inf"), float("nan")],
    "g": [None, 0.0, -0.0, 1.0, -1.5, 1e308],
    "r": TEXTS[:7],
    "z": TIMES,
    "l": [None, [], [0], [1, 1, 1], [-(2**40), 2**40], [-7, 0, 2, 50], [2**40] * 6],
    "i": [[], [2**31 - 1] * 6, [-(2**31)], [3, 1, 2]],
    "m": [None, [], [150, -150], [0, 5, 50, 1000]],
    "w": [None, [], ["x"], ["x", "UA", "x"], ["", "née", "it's", "%"], ["e\u0301", "é"]],
    "v": [None, [], TIMES[1:4], [1_370_077_200_123] * 3],
    "o": [None, [], [True], [False, True, False]],
    "n.c": TEXTS,
    "n.deep.k": [None, -50, 0, 1, -2, 7, 50],
    "n.w": [None, [], ["x", "x"], ["UA"]],
}
MODES = ("half_even", "half_up", "floor", "ceil", "trunc")
UNITS = ("second", "minute", "hour", "day", "week", "month", "quarter", "year")
CALLS = [text.strip() for text in r"""
sign(a); sign(d); sign(f); floor(d); ceil(d); trunc(d); floor(p, 0); floor(d, 1); ceil(b, -3); trunc(b, -2); abs(d)
clamp(a, -5, 5); clamp(d, -1.5, p); clamp(f, 0, 1); clamp(f, g, 2.5); clamp(t, z, timestamp '2020-01-01 00:00:00')
gcd(a, b); gcd(a, 12); power(a, 3); power(d, 2); power(-a, 2); cast(a > 0 as bigint); cast(q as bigint)
bit_and(a, b); bit_and(u, a); bit_or(a, b); bit_or(u, b); bit_xor(a, b); bit_xor(u, u); bit_not(a); bit_not(u)
shift_left(a, 5); shift_left(b, 31); shift_right(u, 7); shift_right(a, 1); bit_count(u); bit_count(a)
length(s); octet_length(s); lower(s); upper(s); trim(s); ltrim(s); rtrim(s); trim(s, 'x-'); ltrim(s, '0'); rtrim(s, 'é')
substring(s, 2); substring(s, 1, 3); substring(s, 3, 0); left(s, 2); right(s, 2); right(s, 0)
starts_with(s, 'a'); starts_with(s, r); ends_with(s, r); ends_with(s, ''); contains(s, r); contains(s, '%'); contains('x-y', r)
strpos(s, 'b'); strpos(s, 'é'); strpos(s, '--'); replace(s, '-', ''); replace(s, 'a', '$0a'); replace(s, 'aa', 'b')
split_part(s, '-', 1); split_part(s, '-', 3); split_part(s, '--', 2); concat(s, r, 'x'); concat(s, null); concat(s)
s || r; 'é' || s || 'x'; s like 'a%'; s like '%a%'; s like '_'; s like '__%'; s not like '%.%'; s like ''; s like '%'
s like '$'; s like '%\%'; s like '%-_%'; regexp_matches(s, '^[a-z]+$'); regexp_matches(s, '[0-9]{2,3}')
regexp_matches(s, 'a.b|^x$|é')
regexp_matches(s, '\.'); regexp_matches(s, '^.$'); regexp_matches(s, '[^a-z]'); regexp_matches(s, '^-?[0-9]+$')
regexp_matches(s, '\$$|[\]_%]'); regexp_matches(s, 'x{2,}'); regexp_matches(s, '^$'); regexp_matches(s, '^[ -z]*$')
try_cast(s as bigint); try_cast(s as decimal(6, 2)); try_cast(s as decimal(18, 1)); cast(a as varchar); cast(u as varchar)
hash_bucket(s, 1000); hash_bucket(s || 'salt', 7); hash_bucket(s, 4611686018427387904)
index_in(s, 'UA', 'x', 'it''s', 'née'); index_in(a, 0, 7, -1); bucket(a, -5, 0, 5); bucket(d, -1.5, 2); bucket(f, 0, 0.5, 10)
bucket(t, timestamp '2000-01-01 00:00:00', timestamp '2013-03-10 07:00:00'); width_bucket(a, -20, 20, 7)
width_bucket(d, -5, 99.5, 10); if(q, a, d); iff(a > 0, s, r); nullif(a, 0); nullif(s, ''); nullif(d, p); q is true; q is false
q is not true; a is distinct from b; s is not distinct from r; coalesce(s, r, 'none'); least(t, z); greatest(d, p)
t - interval '5 minutes'; t > timestamp '2013-06-01 09:00:00'; t >= date '2013-06-01'; epoch_ms(t); timestamp_ms(b)
timestamp_s(b); t - z; days_in_month(t); date_trunc('day', t at time zone 'Europe/Berlin')
date_trunc('month', t at time zone 'America/St_Johns')
date_diff('day', t at time zone 'America/New_York', z at time zone 'America/New_York')
epoch_ms(t at time zone 'America/New_York') - epoch_ms(t); (t at time zone 'UTC') < (z at time zone 'UTC')
coalesce(t at time zone 'UTC', z at time zone 'UTC'); hour(if(a > 0, t, z) at time zone 'Asia/Kathmandu')
round(divide(d * 100, abs(a) + 1, 4, 'half_up') * 3 - d, 1, 'half_even'); a // 2 // b // 3 % 5; (a % b) % (b // 3)
array_length(l); array_length(i); array_length(w); array_length(o); array_length(n.w); array_length(l) > a
array_contains(l, a); array_contains(l, 2); array_contains(i, b); array_contains(m, 1.5); array_contains(m, a)
array_contains(m, d)
array_contains(w, s); array_contains(w, 'x'); array_contains(n.w, n.c); array_contains(o, q); array_contains(v, t)
array_contains(['x', 'UA'], s); array_contains([1, -7, 50], a); array_contains([0.5, 1.5], p); not array_contains(w, s || '')
array_at(l, 1); array_at(l, -1); array_at(l, 2); array_at(l, 0); array_at(l, a); array_at(i, n.deep.k); array_at(m, 2)
array_at(w, 1); array_at(w, -2); array_at(w, a); array_at(v, 1); array_at(o, 2); array_at(l, u); array_at(['a', 'b'], a)
array_sum(l); array_sum(i); array_sum(m); coalesce(array_sum(l), 0) + a; array_sum(m) * 2 - d
array_min(l); array_max(l); array_min(i); array_max(m); array_min(v); array_max(v); t - array_max(v)
array_distinct(l); array_distinct(w); array_distinct(o); array_distinct(m); l is null; n.w is not null; w is null or a > 0
n.c; n.c || s; n.deep.k + a; upper(n.c) = 'X'; case when n.deep.k > 0 then n.c else s end; lower(array_at(n.w, 1))
bucket(length(lower(trim(s || r))), 1, 2, 5); left(replace(upper(s), 'X', 'y'), 3)
""".replace("\n", ";").split(";")]  # fmt: skip
CALLS += [f"round({x}, {n}, '{mode}')" for x in ("d", "p", "b") for n in (1, 0, -1, -3) for mode in MODES]
CALLS += [
    f"divide({x}, {y}, {n}, '{mode}')"
    for x, y in (("a", "b"), ("d", "a"), ("a", "d"), ("d", "p"), ("b", "p"))
    for n in (0, 2)
    for mode in MODES
]
CALLS += [f"extract({part} from t)" for part in PARTS]
CALLS += [f"date_trunc('{unit}', t)" for unit in UNITS] + [f"date_diff('{unit}', t, z)" for unit in UNITS]
CALLS += [
    f"extract({part} from t at time zone '{zone}')"
    for part in ("hour", "dow", "day", "month", "minute_of_day")
    for zone in ("America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "Africa/Casablanca", "UTC")
]
CALLS = [text for text in CALLS if text]

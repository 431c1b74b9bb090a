"""What the language leaves out, why, and what to write instead. Shown where somebody writes it, and on the reference page."""

from __future__ import annotations

CLOCK = "an expression that reads a clock or dice cannot be recomputed"
FLOATS = "results of libraries differ in the last bit"
STATE = "a row expression sees one row"

# names -> (why, what to write instead)
_REASONS: tuple[tuple[str, str, str], ...] = (
    ("now current_timestamp current_date today localtime localtimestamp get_current_timestamp", CLOCK, "the event time field"),
    ("random rand uuid gen_random_uuid", CLOCK, "hash_bucket(key, n) of a field"),
    ("sqrt cbrt exp ln log log2 log10 sin cos tan asin acos atan atan2 degrees radians pi haversine", FLOATS,
     "bucket(x, ...) or a table of the producer; models take the raw number"),
    ("pow", "the exponent must be a constant", "power(x, 2)"),
    ("mod", "engines differ on negative numbers", "a % b: it floors, and gives null for b = 0"),
    ("fdiv", "engines differ on negative numbers", "a // b: it floors, or divide(a, b, 2, 'half_even')"),
    ("ceiling", "one name for one function", "ceil(x)"),
    ("truncate", "one name for one function", "trunc(x)"),
    ("clip", "one name for one function", "clamp(x, low, high)"),
    ("len char_length character_length", "one name for one function", "length(s)"),
    ("strlen byte_length", "one name for one function", "octet_length(s)"),
    ("substr mid", "one name for one function", "substring(s, start, length)"),
    ("instr position charindex locate", "one name for one function", "strpos(s, 'part')"),
    ("suffix", "one name for one function", "ends_with(s, 'x')"),
    ("prefix", "one name for one function", "starts_with(s, 'x')"),
    ("concat_ws", "one name for one function", "a || '-' || b, or concat(a, '-', b)"),
    ("initcap casefold", "engines disagree on words and on special casing", "lower(s) or upper(s)"),
    ("reverse", "graphemes follow the Unicode version of each engine", "right(s, n)"),
    ("lpad rpad", "Polars never shortens, SQL does", "right('000' || s, 3)"),
    ("ascii ord unicode chr", "no use on the data path", "index_in(s, ...)"),
    ("regexp_replace regexp_extract regexp_split", "engines choose different matches", "split_part, substring, replace"),
    ("regexp regexp_like rlike regexp_full_match", "one name for one function", "regexp_matches(s, '^...$')"),
    ("ilike", "engines fold letters differently", "lower(s) like 'x%'"),
    ("md5 sha1 sha256 hash crc32 xxhash64", "Polars has no stable hash", "hash_bucket(s, n)"),
    ("ifnull nvl", "one name for one function", "coalesce(x, 0)"),
    ("zeroifnull", "one name for one function", "coalesce(x, 0)"),
    ("decode", "one name for one function", "case x when ... then ... end, or index_in(x, ...)"),
    ("isnull", "one name for one function", "x is null"),
    ("min max", STATE, "least(a, b) or greatest(a, b); over many rows, an aggregate of the event"),
    ("sum avg mean count first last stddev variance median quantile", STATE, "an aggregate of the event, with .over(...)"),
    ("lag lead row_number rank", STATE, "an aggregate such as Event.field.last(max_age=...)"),
    ("xor", "one name for one function", "bit_xor(a, b), or a <> b of conditions"),
    ("date_part datepart", "one name for one function", "extract(hour from t)"),
    ("datediff", "its order differs between engines", "date_diff('day', start, end)"),
    ("date_add date_sub dateadd add_months", "months have no fixed length", "t + interval '5 minutes'"),
    ("strftime to_char format date_format printf", "engines format differently", "extract(...) parts"),
    ("strptime to_date to_timestamp", "engines parse differently", "declare the field a Timestamp, or timestamp_s(i)"),
    ("timezone convert_timezone", "one name for one function", "t at time zone 'America/New_York'"),
    ("time_bucket", "its origin differs between engines", "date_trunc('hour', t), or timestamp_ms(epoch_ms(t) // 1000 * 1000)"),
    ("st_distance geo_distance distance", FLOATS, "the producer's own distance as a field"),
    ("list_contains", "one name for one function", "array_contains(a, x)"),
    ("unnest", "an expression has one value for each row", "each(a) in an aggregate, or array_at(a, 1)"),
)  # fmt: skip
LEFT_OUT: dict[str, tuple[str, str]] = {name: (why, instead) for names, why, instead in _REASONS for name in names.split()}

"""Taking secrets out of text that leaves the house.

Two ways together, since either alone misses: secrets that are known (passwords of settings, contents of key files) are
blanked wherever they stand, in the spellings they are written in; and what looks like a secret is blanked wherever it
stands, known or not. What is blanked too much costs a question; what is blanked too little costs a key.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import quote, quote_plus, unquote

BLANK = "***"
KNOWN_MIN = 4  # shorter ones are no secrets, and would blank half of every text
FILE_BYTES_MAX = 1 << 20

# Names whose values are secrets: of settings, of fields in JSON, of words before an = or a colon.
_NAME = (
    r"[\w.-]{0,96}(?:passwo?r?d|passphrase|passwd|pwd|secret|token|api[_-]?key|apikey|access[_-]?key|private[_-]?key|credential"
    r"|authorization|cookie|session[_-]?id|signature|jaas|dsn|routing[_-]?key|service[_-]?key|integration[_-]?key)[\w.-]{0,64}"
)
_I = re.IGNORECASE
SECRET_NAME = re.compile(_NAME, _I)
NOT_SECRET = re.compile(r"(?:_file|_path|_dir|_url|_topic)$", _I)  # says where, not what

_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    # a PEM block, also one whose end was cut off, also inside a JSON text where line ends are \n
    (re.compile(r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\Z)", re.DOTALL), BLANK),
    # the rest of one whose beginning was cut off
    (re.compile(r"(?<![A-Za-z0-9+/=])(?:[A-Za-z0-9+/=]{8,}(?:\s|\\n)+){1,100}-----END [A-Z0-9 ]*PRIVATE KEY-----"), BLANK),
    # scheme://user:password@host; a user name alone is no secret
    (re.compile(r"(\b[a-z][a-z0-9+.-]{0,20}://[^\s/:@'\"]*):[^\s'\"]*@(?=[\w\[.-])", _I), rf"\1:{BLANK}@"),
    (re.compile(r"\b(Bearer|Basic|GenieKey|Digest)\s+[\w+/=.~:-]{6,}", _I), rf"\1 {BLANK}"),
    (re.compile(r"\beyJ[\w-]{8,}\.[\w-]{4,}\.[\w-]*"), BLANK),  # a JSON web token
    (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"), BLANK),  # cloud access keys
    (re.compile(r"\b(?:ghp|gho|ghs|ghu|glpat|xox[abprs]|sk|pk)[_-][A-Za-z0-9_-]{16,}"), BLANK),
    # fields of JSON, of Python's spelling of it, and of JSON inside a JSON text
    (re.compile(rf'("{_NAME}"\s*:\s*")(?:[^"\\]|\\.)*', _I), rf"\1{BLANK}"),
    (re.compile(rf"('{_NAME}'\s*:\s*')(?:[^'\\]|\\.)*", _I), rf"\1{BLANK}"),
    (re.compile(rf'(\\"{_NAME}\\"\s*:\s*\\")(?:[^"\\]|\\[^"])*', _I), rf"\1{BLANK}"),
    (re.compile(rf'("{_NAME}"\s*:\s*)-?\d[\d.]*', _I), rf'\1"{BLANK}"'),
    # name=value, name = 'value', name: value
    (re.compile(rf"(?<![\w.-])({_NAME}\s*=\s*)(?:'[^']*'|\"[^\"]*\"|[^\s,;&'\"]+)", _I), rf"\1{BLANK}"),
    (re.compile(rf"^(\s*{_NAME}\s*:\s+)(?![\"'{{\[])\S.*$", _I | re.MULTILINE), rf"\1{BLANK}"),
)


class Redactor:
    """Blanks what it was told and what it recognises. known: secrets as they are."""

    def __init__(self, known: Iterable[str] = ()) -> None:
        spellings = {text for secret in known if len(secret.strip()) >= KNOWN_MIN for text in _spellings(secret.strip())}
        longest_first = sorted(spellings, key=lambda text: (-len(text), text))
        self._known = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def text(self, text: str) -> str:
        """The text without secrets."""
        if self._known is not None:
            text = self._known.sub(BLANK, text)
        for pattern, blank in _PATTERNS:
            text = pattern.sub(blank, text)
        return text

    def settings(self, settings: Mapping[str, str]) -> dict[str, str]:
        """Settings with the values of secret ones blanked whole, and secrets inside others blanked."""
        return {name: BLANK if is_secret(name) and value else self.text(value) for name, value in sorted(settings.items())}


def is_secret(name: str) -> bool:
    """Whether a setting of this name holds a secret. A name that says where one lies does not."""
    return SECRET_NAME.search(name) is not None and NOT_SECRET.search(name) is None


def known_secrets(settings: Mapping[str, str], folders: Iterable[Path] = ()) -> set[str]:
    """What the settings hold or point to, and what lies in folders of keys: whole, by line, and the passwords in addresses."""
    found: set[str] = set()
    for name, value in settings.items():
        if is_secret(name):
            found |= {value} | _passwords(value)
        elif SECRET_NAME.search(name) or name.upper().endswith("KEY_FILE"):
            found |= _of_file(Path(value))
        else:
            found |= _passwords(value)
    for folder in folders:
        for file in sorted(folder.rglob("*")) if folder.is_dir() else ():
            found |= _of_file(file)
    return {secret for secret in found if len(secret) >= KNOWN_MIN}


def _passwords(value: str) -> set[str]:
    """Passwords inside a connection string, of either spelling."""
    found = set(re.findall(r"://[^\s/:@]*:([^\s]*)@", value))
    found |= {one.strip("'\"") for one in re.findall(r"password\s*=\s*('[^']*'|\"[^\"]*\"|[^\s;&]+)", value, re.IGNORECASE)}
    return found | {unquote(one) for one in found}


def _of_file(file: Path) -> set[str]:
    """A secret's file: the whole, and for PEM every line of the body, since logs wrap and cut."""
    try:
        if not file.is_file() or file.stat().st_size > FILE_BYTES_MAX:
            return set()
        text = file.read_text(errors="ignore").strip()
    except OSError:
        return set()
    if "PRIVATE KEY" not in text and ("PUBLIC KEY" in text or "BEGIN CERTIFICATE" in text):
        return set()
    lines = {line.strip() for line in text.splitlines() if len(line.strip()) >= 16 and not line.startswith("-----")}
    return {text, *lines}


def _spellings(secret: str) -> set[str]:
    """As it is, in an address, in JSON, in base64: the ways it gets into logs."""
    return {
        secret,
        quote(secret, safe=""),
        quote_plus(secret),
        json.dumps(secret)[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        base64.b64encode(secret.encode()).decode(),
    }

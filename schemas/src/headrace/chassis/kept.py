"""Control records kept on disk, one small file per key, exactly as read from the topic: what a restart may fall back to,
and below which epoch it accepts nothing. A topic can be compacted, replayed or forged; this memory is the replica's own.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from headrace.chassis.bus import Record
from headrace.chassis.files import write_whole
from headrace.chassis.logs import logger
from headrace.contracts.errors import Fatal

_log = logger("headrace.kept")


@dataclass(frozen=True, slots=True)
class Kept:
    """A control record of an earlier life. Its signature is to be verified again: files can be exchanged."""

    key: str
    epoch: int  # as the file says
    record: Record


class KeptRecords:
    """The last record of each key of one control topic."""

    def __init__(self, folder: Path, topic: str) -> None:
        """Raises: Fatal if the folder cannot be made."""
        self._folder, self._topic = folder, topic
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise Fatal(f"state folder cannot be made: {folder}: {e}: see HEADRACE_STATE_DIR") from e

    def keep(self, key: str, epoch: int, record: Record) -> None:
        """Durable when it returns. Raises: Fatal."""
        value = base64.b64encode(record.value or b"").decode()
        text = json.dumps({"key": key, "epoch": epoch, "offset": record.offset, "value": value})
        try:
            write_whole(self._folder / _name(key), text.encode())
        except OSError as e:
            raise Fatal(f"state folder cannot be written: {self._folder}: {e}: free space or fix HEADRACE_STATE_DIR") from e

    def read(self) -> list[Kept]:
        """All that are kept, by file name. A file that is damaged or bears another key's name counts as none."""
        found: list[Kept] = []
        for file in sorted(self._folder.glob("*.json")):
            try:
                fields = json.loads(file.read_text())
                key, value = str(fields["key"]), base64.b64decode(fields["value"], validate=True)
                kept = Kept(key, int(fields["epoch"]), Record(self._topic, 0, int(fields["offset"]), 0, key.encode(), value))
            except (OSError, ValueError, KeyError, TypeError) as error:
                _log.warning("kept_record_unreadable", topic=self._topic, file=file.name, error=str(error))
                continue
            if file.name == _name(key):
                found.append(kept)
            else:
                _log.warning("kept_record_of_another_key", topic=self._topic, file=file.name, key=key)
        return found


def _name(key: str) -> str:
    """One file name per key: quoting is injective and leaves no separator."""
    return f"{quote(key, safe='')}.json"

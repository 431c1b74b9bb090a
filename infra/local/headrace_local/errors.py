"""What the launcher says when it cannot go on."""

from __future__ import annotations


class LauncherError(Exception):
    """Something on this machine is in the way.

    Args:
        message: short lower-case fact naming the thing (port, folder, program).
        hint: the way out, as commands a reader can paste.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  way out: {self.hint}" if self.hint else self.message


class ComponentFailed(LauncherError):
    """A component was given up on; the message carries the tail of its log."""

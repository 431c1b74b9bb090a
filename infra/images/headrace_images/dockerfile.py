"""A Dockerfile as data: as much of the format as ours use, anything else is refused. Pure."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass, field

KNOWN = frozenset({
    "FROM", "ARG", "RUN", "COPY", "ADD", "ENV", "LABEL", "WORKDIR", "VOLUME", "USER", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK",
    "ENTRYPOINT", "CMD", "SHELL",
})  # fmt: skip


class NotRead(ValueError):
    """The file holds what this reader does not know."""


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction: its word, what follows with continuations joined, and the line it begins at."""

    word: str
    rest: str
    line: int

    @property
    def flags(self) -> dict[str, str]:
        """`--name=value` before the arguments; a flag without a value maps to ""."""
        found: dict[str, str] = {}
        for word in self.rest.split():
            if not word.startswith("--"):
                break
            name, _, value = word[2:].partition("=")
            found[name] = value
        return found

    @property
    def arguments(self) -> list[str]:
        """The words after the flags: of a JSON array its elements, else split as a shell does."""
        text = re.sub(r"^(--\S+\s+)+", "", self.rest)
        if text.startswith("["):
            found = json.loads(text)
            if not all(isinstance(word, str) for word in found):
                raise NotRead(f"line {self.line}: not a list of strings")
            return list(found)
        return shlex.split(text)

    @property
    def is_exec(self) -> bool:
        """Whether it is in the exec form, a JSON array: no shell stands between the signal and the program."""
        return self.rest.startswith("[")


@dataclass(frozen=True, slots=True)
class Copy:
    """Sources copied to one target, from another stage or (None) from the build context."""

    sources: tuple[str, ...]
    target: str
    stage: str | None
    line: int


@dataclass(frozen=True, slots=True)
class Stage:
    """From one FROM to the next. `name` is "" for the one nobody names."""

    base: str
    name: str
    instructions: tuple[Instruction, ...] = field(default=())

    def all(self, word: str) -> list[Instruction]:
        return [i for i in self.instructions if i.word == word]

    def last(self, word: str) -> Instruction | None:
        """The one in force, where a later one replaces an earlier."""
        found = self.all(word)
        return found[-1] if found else None

    def copies(self, arguments: dict[str, str] | None = None) -> list[Copy]:
        """COPY lines in order, ${NAME} replaced by the build arguments (default: the stage's own defaults)."""
        values = self.defaults() | (arguments or {})
        found: list[Copy] = []
        for one in self.all("COPY"):
            *sources, target = (expand(word, values) for word in one.arguments)
            found.append(Copy(tuple(sources), target, one.flags.get("from"), one.line))
        return found

    def defaults(self) -> dict[str, str]:
        """Build arguments that have a default."""
        pairs = [i.rest.partition("=") for i in self.all("ARG")]
        return {name.strip(): value.strip().strip("\"'") for name, equals, value in pairs if equals}

    def environment(self) -> dict[str, str]:
        """ENV in the form NAME=value."""
        found: dict[str, str] = {}
        for one in self.all("ENV"):
            for word in one.arguments:
                name, equals, value = word.partition("=")
                if not equals:
                    raise NotRead(f"line {one.line}: ENV in the old form")
                found[name] = value
        return found


@dataclass(frozen=True, slots=True)
class Dockerfile:
    """The stages in order; the last one is the image."""

    stages: tuple[Stage, ...]

    @property
    def image(self) -> Stage:
        return self.stages[-1]

    def stage(self, name: str) -> Stage:
        """Raises: NotRead if no stage has that name."""
        for one in self.stages:
            if one.name == name:
                return one
        raise NotRead(f"no stage {name!r}")


def expand(text: str, values: dict[str, str]) -> str:
    """${NAME} replaced. Raises: NotRead for a name without a value."""

    def one(match: re.Match[str]) -> str:
        if match[1] not in values:
            raise NotRead(f"no value for ${{{match[1]}}}")
        return values[match[1]]

    return re.sub(r"\$\{(\w+)\}", one, text)


def read(text: str) -> Dockerfile:
    """Raises: NotRead naming the line."""
    stages: list[Stage] = []
    gathered: list[Instruction] = []
    for instruction in _instructions(text):
        if instruction.word == "FROM":
            if stages:
                stages[-1] = Stage(stages[-1].base, stages[-1].name, tuple(gathered))
            words = instruction.arguments
            stages.append(Stage(words[0], words[2] if len(words) == 3 and words[1].upper() == "AS" else ""))
            gathered = []
        elif not stages:
            raise NotRead(f"line {instruction.line}: {instruction.word} before FROM")
        else:
            gathered.append(instruction)
    if not stages:
        raise NotRead("no FROM")
    stages[-1] = Stage(stages[-1].base, stages[-1].name, tuple(gathered))
    return Dockerfile(tuple(stages))


def _instructions(text: str) -> list[Instruction]:
    found: list[Instruction] = []
    gathered, begin = "", 0
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        begin = begin or number
        gathered = f"{gathered} {line.removesuffix(chr(92)).strip()}".strip()
        if line.endswith("\\"):
            continue
        word, _, rest = gathered.partition(" ")
        if word.upper() not in KNOWN:
            raise NotRead(f"line {begin}: {word}")
        found.append(Instruction(word.upper(), rest.strip(), begin))
        gathered, begin = "", 0
    if gathered:
        raise NotRead(f"line {begin}: never ends")
    return found

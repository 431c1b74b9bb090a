"""What we ask of an image beside what hadolint asks: each rule a sentence, each breach a line. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from headrace_images.dockerfile import Dockerfile

WRITABLE = "/var/lib/headrace"  # the one folder a service writes to
_PINNED = re.compile(r"[a-z0-9./-]+:\d+\.\d+\.\d+[a-z0-9.-]*(@sha256:[0-9a-f]{64})?")


def breaches(file: Dockerfile, service: str) -> list[str]:
    """Every rule that is broken, as `rule: where`. Empty means none.

    Args:
        service: the folder the Dockerfile lies in, "svc-stream".
    """
    return [*_bases(file), *_copies(file, service), *_installs(file), *_image(file, service)]


def _bases(file: Dockerfile) -> Iterator[str]:
    for stage in file.stages:
        if not _PINNED.fullmatch(stage.base):
            yield f"base image pinned by patch version: {stage.base}"
    if len(file.stages) < 2:
        yield "more than one stage: build tools stay out of the image"


def _copies(file: Dockerfile, service: str) -> Iterator[str]:
    """Only schemas/ and the service's own folder enter, and nothing by ADD, which unpacks and downloads."""
    for stage in file.stages:
        for instruction in stage.all("ADD"):
            yield f"no ADD: line {instruction.line}"
        for copy in stage.copies():
            if copy.stage is not None:
                continue
            for source in copy.sources:
                if not source.startswith((f"{service}/", "schemas/")) or ".." in PurePosixPath(source).parts:
                    yield f"copies only schemas/ and {service}/: {source}, line {copy.line}"


def _installs(file: Dockerfile) -> Iterator[str]:
    """Exactly the lock: hashes checked, nothing resolved, nothing built, no cache left."""
    found = [i for stage in file.stages for i in stage.all("RUN") if re.search(r"\bpip\b.*\binstall\b", i.rest)]
    if not found:
        yield "installs from its lock"
    for instruction in found:
        for flag in ("--require-hashes", "--no-deps", "--only-binary=:all:", "--no-cache-dir"):
            if flag not in instruction.rest:
                yield f"pip with {flag}: line {instruction.line}"
        if re.search(r"https?://", instruction.rest):
            yield f"no index address: line {instruction.line}"
    for stage in file.stages:
        for instruction in stage.all("RUN"):
            if re.search(r"\b(sudo|curl|wget|apt-get|apk)\b", instruction.rest):
                yield f"nothing fetched but the lock: line {instruction.line}"


def _image(file: Dockerfile, service: str) -> Iterator[str]:
    image = file.image
    user = image.last("USER")
    if user is None or not re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", user.rest):
        yield "runs as a numeric id that is not root's, so that runAsNonRoot can be checked"
    stop = image.last("STOPSIGNAL")
    if stop is None or stop.rest != "SIGTERM":
        yield "STOPSIGNAL SIGTERM"
    entry = image.last("ENTRYPOINT")
    module = service.replace("-", "_")
    if entry is None or not entry.is_exec or entry.arguments != ["python", "-m", module]:
        yield f'ENTRYPOINT ["python", "-m", "{module}"]: no shell between the signal and the service'
    health = image.last("HEALTHCHECK")
    port = image.environment().get("HEADRACE_HTTP_PORT", "")
    exposed = [word for i in image.all("EXPOSE") for word in i.arguments]
    asked = health.rest if health is not None else ""
    if any(word not in asked for word in ("CMD [", "HEADRACE_HTTP_PORT", "/health/live")):
        yield "HEALTHCHECK asks /health/live at the service's own port, without a shell"
    if not port or exposed != [port]:
        yield f"exposes exactly its HTTP port: {exposed}"
    volumes = [word for i in image.all("VOLUME") for word in i.arguments]
    work = image.last("WORKDIR")
    if volumes != [WRITABLE] or work is None or work.rest != WRITABLE:
        yield f"writes below {WRITABLE} only: a volume, and the working folder"
    for name, value in image.environment().items():
        if re.search(r"(?i)password|secret|token|dsn|private", name + value):
            yield f"no secret in the image: {name}"

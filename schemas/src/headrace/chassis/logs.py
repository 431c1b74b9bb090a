"""JSON logs, one line per event, with the trace and span they belong to. Writing a line never stops the work."""

from __future__ import annotations

import logging
import sys
from typing import TextIO

import structlog
from opentelemetry import trace
from structlog.typing import EventDict, Processor, WrappedLogger

# Every client of librdkafka is given this logger; one without writes its own lines to stderr. Where nothing configures
# logs (a command, a script) they go nowhere: what matters of them is raised by the call.
kafka_log = logging.getLogger("headrace.kafka")
kafka_log.addHandler(logging.NullHandler())


def with_trace(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Adds trace_id and span_id of the span under way, if it is sampled."""
    context = trace.get_current_span().get_span_context()
    if context.is_valid and context.trace_flags.sampled:
        event["trace_id"] = f"{context.trace_id:032x}"
        event["span_id"] = f"{context.span_id:016x}"
    return event


def configure_logs(service: str, instance: str, level: str, stream: TextIO | None = None) -> None:
    """Every logger of the process, structlog's and the standard library's (Kafka client, uvicorn), writes JSON to stream
    (default stdout). Call once, first thing in main."""
    logging.raiseExceptions = False  # a full disk or a closed pipe behind the log must not end the process

    def identity(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event["service"], event["instance"] = service, instance
        return event

    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        identity,
        with_trace,
        structlog.processors.format_exc_info,
    ]
    handler = logging.StreamHandler(stream or sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(default=str),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for loud in ("aiokafka", "uvicorn", "urllib3", "opentelemetry", "faststream", "httpx", "httpx2", "httpcore2", "alembic"):
        logging.getLogger(loud).setLevel(max(logging.WARNING, root.level))
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger whose events are past facts with fields: log.info("partition_revoked", partition=3)."""
    return structlog.stdlib.get_logger(name)

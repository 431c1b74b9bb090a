"""Which sources are open: the admitted plans, compiled. Swapped whole per pipeline, read from any thread."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from headrace.contracts.catalogue import dlq_topic
from headrace.contracts.errors import HeadraceError, PipelineFault
from headrace.contracts.events import EventSchema
from headrace.plan.avro import event_schema
from headrace.plan.ir import Plan
from svc_ingest.domain.normalise import compile_source
from svc_ingest.handlers import GROUP
from svc_ingest.ports import Route

Encode = Callable[[dict[str, Any]], bytes]
NAMES_SHOWN_MAX = 20


class NoRoute(HeadraceError):
    """No such pipeline or source; says which there are."""


class NotYet(HeadraceError):
    """The plans are still being read, or the pipeline's is parked: the source may open later."""


def compile_routes(plan: Plan, encoder: Callable[[EventSchema], Encode]) -> dict[str, Route]:
    """Route per source name.

    Args:
        encoder: makes the function from typed rows to wire bytes; registers the schema.
    Raises: PipelineFault if the plan does not hold together, Retryable if the registry does not answer.
    """
    events = {event.name: event for event in plan.events}
    schemas = {name: event_schema(plan, event) for name, event in events.items()}
    encoders = {name: encoder(schema) for name, schema in schemas.items()}
    routes: dict[str, Route] = {}
    for source in plan.sources:
        event = events.get(source.event)
        if event is None:
            raise PipelineFault(plan.pipeline, f"source {source.name} feeds {source.event}, which is no event of the plan")
        if source.name in routes:
            raise PipelineFault(plan.pipeline, f"two sources are called {source.name}")
        form = "text" if source.kind == "csv_folder" else "json"
        rows = compile_source(plan.pipeline, event, source, form)
        schema, encode = schemas[event.name], encoders[event.name]
        routes[source.name] = Route(plan.pipeline, source, event, schema, rows, encode, dlq_topic(event.topic, GROUP))
    return routes


class Routes:
    """The open sources of all pipelines."""

    def __init__(self) -> None:
        self._pipelines: dict[str, dict[str, Route]] = {}
        self.complete = False  # the control topic was read to its end once
        self.parked: Mapping[str, str] = {}  # why the newest plan of a pipeline does not run here

    def put(self, pipeline: str, routes: dict[str, Route]) -> None:
        self._pipelines = {**self._pipelines, pipeline: routes}

    def remove(self, pipeline: str) -> None:
        self._pipelines = {name: routes for name, routes in self._pipelines.items() if name != pipeline}

    def of(self, pipeline: str) -> dict[str, Route]:
        return self._pipelines.get(pipeline, {})

    def all(self) -> list[Route]:
        return [route for routes in self._pipelines.values() for route in routes.values()]

    def find(self, pipeline: str, source: str) -> Route:
        """Raises NoRoute or NotYet."""
        routes = self._pipelines.get(pipeline)
        route = None if routes is None else routes.get(source)
        if route is not None:
            return route
        if not self.complete:
            raise NotYet("the admitted pipelines are still being read")
        if pipeline in self.parked:
            raise NotYet(f"pipeline {pipeline} is parked: {self.parked[pipeline]}")
        if routes is None:
            raise NoRoute(f"no pipeline {pipeline!r} is admitted; there are: {_names(self._pipelines)}")
        raise NoRoute(f"pipeline {pipeline} has no source {source!r}; there are: {_names(routes)}")


def _names(known: Iterable[str]) -> str:
    names = sorted(known)
    return ", ".join(names[:NAMES_SHOWN_MAX]) + (", ..." if len(names) > NAMES_SHOWN_MAX else "") or "none"

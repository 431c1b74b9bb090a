"""What users write: events, streams, feature sets, models, one pipeline; `compile` makes the plan."""

from typing import Annotated

from headrace.declare.accumulating import log_buckets
from headrace.declare.compile import compile
from headrace.declare.computing import greatest, least
from headrace.declare.errors import DeclarationError
from headrace.declare.events import Event
from headrace.declare.feature_sets import feature_set
from headrace.declare.fields import (
    Decimal,
    Doc,
    Double,
    Flag,
    Int,
    Long,
    Minutes,
    Nullable,
    Range,
    Scale,
    Text,
    Timestamp,
    Unit,
)
from headrace.declare.load import load
from headrace.declare.models import (
    Canary,
    Gate,
    GradientBoosting,
    Label,
    Model,
    Pipeline,
    Rules,
    Serve,
    Source,
    Watch,
    on_demand,
    request,
)
from headrace.declare.nested import AtMost, Items, Record
from headrace.declare.operators import AsOfJoin, Count, Hopping, IntervalJoin, Session, Sliding, TableJoin, Tumbling
from headrace.declare.stream_results import described
from headrace.declare.streams import stream

__all__ = [
    "Annotated",
    "AsOfJoin",
    "AtMost",
    "Canary",
    "Count",
    "Decimal",
    "DeclarationError",
    "Doc",
    "Double",
    "Event",
    "Flag",
    "Gate",
    "GradientBoosting",
    "Hopping",
    "Int",
    "IntervalJoin",
    "Items",
    "Label",
    "Long",
    "Minutes",
    "Model",
    "Nullable",
    "Pipeline",
    "Range",
    "Record",
    "Rules",
    "Scale",
    "Serve",
    "Session",
    "Sliding",
    "Source",
    "TableJoin",
    "Text",
    "Timestamp",
    "Tumbling",
    "Unit",
    "Watch",
    "compile",
    "described",
    "feature_set",
    "greatest",
    "least",
    "load",
    "log_buckets",
    "on_demand",
    "request",
    "stream",
]

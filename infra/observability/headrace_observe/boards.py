"""All dashboards, in the order of the folder in Grafana."""

from __future__ import annotations

from headrace_observe.boards_flow import FLOW, OVERVIEW, STREAM
from headrace_observe.boards_models import FEATURES, GOVERNANCE, MODELS, ROLLOUT

BOARDS = (OVERVIEW, FLOW, STREAM, FEATURES, MODELS, ROLLOUT, GOVERNANCE)

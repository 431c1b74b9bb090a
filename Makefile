# The verbs, the same by hand and in CI. Each makes what it needs itself.
#
#   make demo [ARGS=--keep|--null|--secure] the whole loop on real flights, live in the terminal
#   make chaos-demo                   every service killed -9 once in play; nothing lost, nothing twice
#   make chaos-stream                 a million events, workers killed, network and broker failing: lost 0, doubled 0, wrong 0
#   make parity [ARGS=--quick]        ten million reads served, recomputed, compared bit by bit; under an hour
#   make test                         everything CI checks
#   make up | down | status | logs    the local stack and its seven services (ONLY=kafka,registry PORT_BASE=21000)
#   make bench-features [ARGS=--quick] features read, streamed, joined beside Feast: .headrace/reports/bench-features.json
#                                     (ARGS="--only reads,live" measures these again, ARGS=--resume what is not kept)
#   make spark                        Spark's rows against DuckDB's: expressions, the law, real flights (needs Java 17 or later)
#   make bench-datasets [ARGS=ROWS...] peak memory and rows/s of building data sets: .headrace/reports/bench-datasets.json
#   make bench-owned [ARGS=--quick]   an owned set answering requests beside bare loops: .headrace/reports/bench-owned.json
#   make bench-stream [ARGS=--quick]  streams beside Kafka Streams, Quix, a bare loop: .headrace/reports/bench-stream.json
#                                     (ARGS="--only w1,idle --contenders headrace,kafka_streams", ARGS=--resume)
#   make drill-semantics              another Polars in an environment of its own: the golden vectors tell what moved
#   make up ARGS=--secure             TLS, rights by topic file, passwords; `make rotate` renews certificates, one by one
#   make observe                      Prometheus and Alertmanager over the running stack
#   make trace-page ARGS=ID           one decision's trace as JSON and as a picture of its page (needs Chromium)
#   make check-dashboards drill-alerts  every panel has data; every alert fires, is told, and ends by its runbook
#   make dashboards catalogue         write Grafana's JSON and METRICS.md again
#   make drill-image                  each service started from exactly what its Dockerfile copies (Linux, root)
#   make lint-infra                   Dockerfiles, compose files and manifests by the published schemas
#   make compose-secrets              passwords and keys for infra/compose, made once
#   make lint types unit              the quick checks

PYTHON ?= python3
PY := .venv/bin/python
LOCAL := $(PY) -m headrace_local
ARGS ?=
ONLY ?=
PORT_BASE ?=
NAMES ?=
# Checks that start real components share the machine: more workers than this only make them wait for each other.
WORKERS ?= 2
PYTEST := $(PY) -m pytest -q

.DEFAULT_GOAL := help
.PHONY: help env env-test fetch demo chaos-demo chaos-stream parity up down status logs rotate clean lint types unit contract integration \
	e2e test format bench-features bench-owned bench-stream drill-semantics observe check-dashboards drill-alerts dashboards catalogue \
	drill-image lint-infra compose-secrets bench-datasets env-spark spark trace-page

help:
	@sed -n 's/^#   //p' Makefile

env:
	@$(PYTHON) infra/local/bootstrap.py lean

env-test:
	@$(PYTHON) infra/local/bootstrap.py test

fetch: env
	@$(LOCAL) fetch

demo: env
	@$(PY) -m headrace_demo $(ARGS)

chaos-demo: env
	@$(PY) -m headrace_demo.chaos $(ARGS)

parity: env-test
	@PYTHONPATH=tests $(PY) -m parity $(ARGS)

up: env
	@$(LOCAL) up $(if $(ONLY),--only $(ONLY)) $(if $(PORT_BASE),--port-base $(PORT_BASE)) $(ARGS)

down: env
	@$(LOCAL) down

status: env
	@$(LOCAL) status || [ $$? -le 3 ]  # 2 and 3 are what it found, told above; as an exit code: `python -m headrace_local status`

logs: env
	@$(LOCAL) logs $(NAMES) $(ARGS)

rotate: env
	@$(LOCAL) rotate $(NAMES)

clean: env
	@$(LOCAL) clean

drill-image: env
	@PYTHONPATH=infra/images $(PY) -m headrace_images.drill $(ARGS)

lint-infra: env
	@PYTHONPATH=infra/images $(PY) -m headrace_images.lint

compose-secrets: env
	@PYTHONPATH=infra/images $(PY) -m headrace_images.secrets

format: env-test
	@$(PY) -m ruff format .
	@$(PY) -m ruff check --fix .

lint: env-test
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .

types: env-test
	@.venv/bin/basedpyright

unit: env-test
	@$(PYTEST) -n $(WORKERS) tests/unit

contract: env-test
	@$(PYTEST) -n $(WORKERS) tests/contract

integration: env-test
	@$(LOCAL) fetch
	@$(PYTEST) tests/integration

e2e: env-test
	@$(LOCAL) fetch
	@$(PYTEST) tests/e2e

test: lint types unit contract integration e2e

bench-features: env-test
	@PYTHONPATH=tests $(PY) -m bench.features $(ARGS)

bench-datasets: env-test
	@$(PY) tests/bench/dataset_scale.py $(ARGS)

env-spark: env-test
	@$(PYTHON) infra/local/bootstrap.py spark

spark: env-spark
	@$(PYTEST) tests/spark $(ARGS)

bench-owned: env-test
	@$(LOCAL) fetch
	@PYTHONPATH=tests $(PY) -m bench.owned $(ARGS)

chaos-stream: env-test
	@$(LOCAL) fetch
	@PYTHONPATH=tests $(PY) -m chaos $(ARGS)

bench-stream: env-test
	@$(LOCAL) fetch
	@PYTHONPATH=tests $(PY) -m bench.stream $(ARGS)

drill-semantics: env-test
	@PYTHONPATH=tests $(PY) -m semantics drill $(ARGS)

observe: env
	@$(PY) -m headrace_observe.local

trace-page: env
	@$(PY) -m headrace_observe.trace_page $(ARGS)

check-dashboards: env
	@PYTHONPATH=tests $(PY) -m drill.dashboards $(ARGS)

drill-alerts: env
	@PYTHONPATH=tests $(PY) -m drill.alerts $(ARGS)

# Grafana's SDK lives in an environment of its own: no service and no other check needs it.
GRAFANA := .headrace/observability-env
$(GRAFANA)/bin/python: infra/requirements/observability.lock | env
	@$(PY) -m uv venv -q --clear $(GRAFANA)
	@$(PY) -m uv pip install -q --python $@ --require-hashes -r $<
	@touch $@

dashboards: $(GRAFANA)/bin/python
	@$< infra/observability/grafana/generate.py

catalogue: env
	@$(PY) -m headrace_observe.catalogue

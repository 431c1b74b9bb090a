"""What the dashboards show, as data: the one place where a panel's queries, its words and its runbook stand together.

Grafana's JSON is generated from here (`grafana/generate.py`), every query is run against a real Prometheus from here
(`make check-dashboards`), and the plots in the docs are drawn from here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

RATE = "$__rate_interval"
PIPELINE = 'pipeline=~"$pipeline"'
REST = 'service="svc-serve", route="/v1/{pipeline}/{model}/decisions"'


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel.

    Attributes:
        queries: PromQL by legend; `{{label}}` in a legend is a label's value.
        unit: Grafana's name of the unit, "" for plain numbers.
        runbook: alert whose runbook says what to do when this looks wrong.
        service: whose traces the panel leads to.
        kind: timeseries or stat.
        exemplars: whether its series carry trace ids.
        awaits: the event without which it has no data, "" where data must be there.
    """

    title: str
    says: str
    queries: Mapping[str, str]
    runbook: str
    service: str
    unit: str = ""
    kind: str = "timeseries"
    exemplars: bool = False
    awaits: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """Panels under one heading."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class Board:
    """One dashboard."""

    uid: str
    title: str
    says: str
    rows: tuple[Row, ...]

    @property
    def panels(self) -> tuple[Panel, ...]:
        return tuple(panel for row in self.rows for panel in row.panels)


def _rate(metric: str, by: str, more: str = "") -> str:
    where = ", ".join(part for part in (more, PIPELINE) if part)
    return f"sum by ({by}) (rate({metric}{{{where}}}[{RATE}]))"


def _quantile(q: float, metric: str, by: str = "", where: str = PIPELINE) -> str:
    groups = f"le, {by}" if by else "le"
    return f"histogram_quantile({q}, sum by ({groups}) (rate({metric}_bucket{{{where}}}[{RATE}])))"


OVERVIEW = Board("headrace-overview", "Headrace: overview", "Is it all there, does it flow, is it right.", (
    Row("Now", (
        Panel("Services ready", "1 per service.", {"{{service}}": "service_ready"}, "ServiceNotReady", "svc-serve", kind="stat"),
        Panel("Alerts firing", "By severity.", {"{{severity}}": 'sum by (severity) (ALERTS{alertstate="firing"}) or vector(0)'},
              "ServiceDown", "svc-serve", kind="stat"),
        Panel("Parked pipelines", "Replicas on a last-known-good.",
              {"parked": "sum(governance_parked_replicas) or vector(0)"}, "PipelineParked", "svc-governance", kind="stat"),
        Panel("Values differing from the archive", "Must be 0.",
              {"differing": "sum(parity_differing_total) or vector(0)"}, "ParityMismatch", "svc-features", kind="stat"),
    )),
    Row("Flow", (
        Panel("Events accepted", "Rows svc-ingest made durable, per second.",
              {"{{pipeline}} {{event}}": _rate("ingest_events_total", "pipeline, event", 'outcome="accepted"')},
              "SourceSilent", "svc-ingest", "ops"),
        Panel("Decisions", "Per second, by rung of the ladder.",
              {"{{model}} {{source}}": _rate("serve_decisions_total", "model, source")}, "FallbackServing", "svc-serve", "ops"),
        Panel("Lag in seconds", "Age of the first record a group has not taken.",
              {"{{group}}": "max by (group) (kafka_group_lag_seconds)"}, "FreshnessLost", "svc-stream", "s"),
        Panel("Decision seconds", "From request to decided.",
              {"p50 {{door}}": _quantile(0.5, "serve_decision_seconds", "door"),
               "p99 {{door}}": _quantile(0.99, "serve_decision_seconds", "door")},
              "DecisionLatencyBurning", "svc-serve", "s", exemplars=True),
    )),
    Row("Promises", (
        Panel("Decision errors", "Share of REST decisions with a 5xx; 0.1 % is promised.",
              {"5xx": f'sum(rate(http_requests_total{{{REST}, status="5xx"}}[{RATE}])) / '
                      f"sum(rate(http_requests_total{{{REST}}}[{RATE}])) or vector(0)"},
              "DecisionErrorsBurning", "svc-serve", "percentunit"),
        Panel("Decisions over 200 ms", "Share of REST decisions; 1 % is promised.",
              {"slow": f'1 - sum(rate(serve_rest_seconds_bucket{{le="0.2"}}[{RATE}])) '
                       f"/ sum(rate(serve_rest_seconds_count[{RATE}]))"},
              "DecisionLatencyBurning", "svc-serve", "percentunit"),
        Panel("Cost", "Seconds of work per second, by pipeline and service.",
              {"{{pipeline}} {{service}}": f"headrace:cost_seconds:rate5m{{{PIPELINE}}}"}, "LagGrowing", "svc-stream", "s"),
    )),
))  # fmt: skip

FLOW = Board("headrace-pipeline", "Headrace: pipeline", "One pipeline from the door to the decision.", (
    Row("In", (
        Panel("Rows by outcome", "What became of what producers sent, per second.",
              {"{{event}} {{outcome}}": _rate("ingest_events_total", "event, outcome")}, "DeadLettersRising", "svc-ingest", "ops"),
        Panel("Refused rows", "By reason, per second.", {"{{event}} {{reason}}": _rate("ingest_rejected_total", "event, reason")},
              "DeadLettersRising", "svc-ingest", "ops"),
        Panel("Since the last accepted row", "By event.",
              {"{{event}}": f"time() - max by (event) (ingest_last_accepted_timestamp_seconds{{{PIPELINE}}})"},
              "SourceSilent", "svc-ingest", "s"),
        Panel("Batch seconds", "From the last byte of a batch to its receipt.",
              {"p50": _quantile(0.5, "ingest_batch_seconds", where=""), "p99": _quantile(0.99, "ingest_batch_seconds", where="")},
              "IngestErrorsBurning", "svc-ingest", "s"),
        Panel("Answers to producers", "By status, per second.",
              {"{{status}}": f"sum by (status) (rate(ingest_requests_total[{RATE}]))"}, "IngestErrorsBurning", "svc-ingest", "ops"),
        Panel("In flight", "Batches admitted and not answered.", {"batches": "ingest_in_flight_batches"},
              "IngestErrorsBurning", "svc-ingest"),
    )),
    Row("Kafka", (
        Panel("Lag in records", "By group.", {"{{group}}": "sum by (group) (kafka_group_lag_records)"}, "LagGrowing", "svc-stream"),
        Panel("Lag in seconds", "By group.", {"{{group}}": "max by (group) (kafka_group_lag_seconds)"},
              "FreshnessLost", "svc-stream", "s"),
        Panel("Held back by open transactions", "Offsets between the last stable one and the end.",
              {"{{topic}}": "sum by (topic) (kafka_log_end_offset - kafka_last_stable_offset) > 0 or vector(0)"},
              "TransactionHanging", "svc-stream"),
        Panel("Appended", "Offsets per second, by topic.", {"{{topic}}": f"sum by (topic) (rate(kafka_log_end_offset[{RATE}]))"},
              "LagGrowing", "svc-stream", "ops"),
        Panel("Dead letters", "Offsets of dead-letter topics.",
              {"{{topic}}": 'sum by (topic) (kafka_log_end_offset{topic=~".+[.]dlq"})'}, "DeadLettersRising", "svc-ingest"),
        Panel("Record age", "Append of a record to the end of its handling.",
              {"p99 {{group}}": _quantile(0.99, "consumer_record_age_seconds", "group", "")}, "FreshnessLost", "svc-serve", "s"),
    )),
))  # fmt: skip

STREAM = Board("headrace-stream", "Headrace: stream tasks", "Workers of svc-stream: rounds, verdicts, watermarks, state.", (
    Row("Rounds", (
        Panel("Records", "Handled in committed transactions, per second.", {"{{set}}": _rate("stream_records_total", "set")},
              "LagGrowing", "svc-stream", "ops"),
        Panel("Round seconds", "Judge, lift, merge, commit.",
              {"p50 {{set}}": _quantile(0.5, "stream_round_seconds", "set"),
               "p99 {{set}}": _quantile(0.99, "stream_round_seconds", "set")},
              "FreshnessLost", "svc-stream", "s"),
        Panel("Aborted transactions", "Done again; per second.", {"{{set}}": _rate("stream_transactions_aborted_total", "set")},
              "TransactionsAborting", "svc-stream", "ops", awaits="a transaction that aborts"),
        Panel("Tasks", "Owned by this replica.", {"{{set}} {{kind}}": f"sum by (set, kind) (stream_tasks{{{PIPELINE}}})"},
              "LoopStalled", "svc-stream"),
    )),
    Row("Event time", (
        Panel("Verdicts", "Per second.", {"{{event}} {{verdict}}": _rate("stream_verdicts_total", "event, verdict")},
              "LateRising", "svc-stream", "ops"),
        Panel("Late or duplicate", "Share of all verdicts.",
              {"{{event}} {{verdict}}": f'{_rate("stream_verdicts_total", "event, verdict", "verdict=~" + chr(34) + "late|duplicate" + chr(34))}'
                                        f' / on (event) group_left () {_rate("stream_verdicts_total", "event")}'},
              "LateRising", "svc-stream", "percentunit"),
        Panel("Watermark lag", "Largest event time seen less the watermark.",
              {"{{set}} {{event}}": f"max by (set, event) (stream_watermark_lag_seconds{{{PIPELINE}}})"},
              "LateRising", "svc-stream", "s"),
        Panel("Event time reached", "Largest in the state.",
              {"{{set}} {{event}}": f"max by (set, event) (stream_event_time_maximum_ms{{{PIPELINE}}})"},
              "SourceSilent", "svc-stream", "dateTimeAsIso"),
    )),
    Row("State", (
        Panel("State bytes", "By local store.", {"{{service}} {{store}}": "state_store_bytes"}, "DiskFilling", "svc-stream", "bytes"),
        Panel("State keys", "By local store, as RocksDB estimates.", {"{{service}} {{store}}": "state_store_keys"},
              "DiskFilling", "svc-stream"),
        Panel("Free disk", "Under local state.", {"{{service}}": "state_disk_free_bytes / state_disk_size_bytes"},
              "DiskFilling", "svc-stream", "percentunit"),
        Panel("Loops", "Seconds since a loop last went round.",
              {"{{service}} {{loop}}": "max by (service, loop) (service_loop_silent_seconds)"}, "LoopStalled", "svc-stream", "s"),
    )),
    Row("Processes", (
        Panel("CPU", "Cores in use.", {"{{service}}": f'rate(process_cpu_seconds_total{{job="headrace"}}[{RATE}])'},
              "EventLoopBlocked", "svc-stream"),
        Panel("Memory", "Resident.", {"{{service}}": 'process_resident_memory_bytes{job="headrace"}'},
              "ServiceDown", "svc-stream", "bytes"),
        Panel("Event loop lag", "p99.", {"{{service}}": _quantile(0.99, "event_loop_lag_seconds", "service", "")},
              "EventLoopBlocked", "svc-stream", "s"),
        Panel("Commit seconds", "p99 of flush, offsets, commit.",
              {"{{group}}": _quantile(0.99, "consumer_commit_seconds", "group", "")}, "TransactionsAborting", "svc-stream", "s"),
    )),
))  # fmt: skip

FEATURES = Board("headrace-features", "Headrace: features and parity", "What was served, and whether the archive agrees.", (
    Row("Views", (
        Panel("View lag", "Records between a view and the end of its state topic.",
              {"{{service}} {{topic}}": "sum by (service, topic) (headrace:view_lag:records)"}, "ViewBehind", "svc-serve"),
        Panel("Values by status", "Read for decisions, per second.",
              {"{{feature_set}} {{status}}": _rate("serve_feature_values_total", "feature_set, status")},
              "FeaturesMissing", "svc-serve", "ops"),
        Panel("Fresh values", "Share of those read.",
              {"{{feature_set}}": f'{_rate("serve_feature_values_total", "feature_set", "status=" + chr(34) + "fresh" + chr(34))}'
                                  f' / {_rate("serve_feature_values_total", "feature_set")}'},
              "FeaturesMissing", "svc-serve", "percentunit"),
        Panel("Values answered over HTTP", "By svc-features, per second.", {"{{pipeline}}": _rate("features_read_values_total", "pipeline")},
              "FeaturesMissing", "svc-features", "ops", awaits="a read over HTTP at svc-features"),
    )),
    Row("Parity", (
        Panel("Decisions recomputed", "From the archive, so far.", {"{{pipeline}}": f"sum by (pipeline) (parity_checked_total{{{PIPELINE}}})"},
              "ParityMismatch", "svc-features"),
        Panel("Differing", "Must be 0.", {"{{pipeline}} {{kind}}": f"sum by (pipeline, kind) (parity_differing_total{{{PIPELINE}}})"},
              "ParityMismatch", "svc-features", awaits="a served value that differs from the archive"),
        Panel("Unverifiable", "About times no longer kept.",
              {"{{pipeline}}": f"sum by (pipeline) (parity_unverifiable_total{{{PIPELINE}}})"}, "ParityMismatch", "svc-features"),
        Panel("Round of proof", "p99 seconds.", {"p99": _quantile(0.99, "parity_round_seconds", where="")},
              "ParityMismatch", "svc-features", "s"),
        Panel("Lateness skew", "Share of sampled values that what came late would change.",
              {"{{feature_set}} {{feature}}": f"features_lateness_skew_ratio{{{PIPELINE}}}"}, "LateRising", "svc-features", "percentunit"),
    )),
    Row("Archive", (
        Panel("Archived", "Records per second.", {"{{topic}} {{outcome}}": f"sum by (topic, outcome) (rate(features_archived_records_total[{RATE}]))"},
              "AuditGap", "svc-features", "ops"),
        Panel("Behind the log", "Offsets between archive and last stable offset.",
              {"{{topic}}": "sum by (topic) (kafka_last_stable_offset - on (topic, partition) features_archive_offset)"},
              "AuditGap", "svc-features"),
        Panel("Flush seconds", "p99 of a round of commits to the lake.",
              {"{{loop}}": _quantile(0.99, "features_archive_flush_seconds", "loop", "")}, "AuditGap", "svc-features", "s"),
        Panel("Data sets", "Built, by outcome.", {"{{outcome}}": "sum by (outcome) (features_datasets_total)"},
              "TrainingFailed", "svc-features"),
    )),
))  # fmt: skip

MODELS = Board("headrace-models", "Headrace: models", "Six kinds of looking at a model.", (
    Row("Performance", (
        Panel("AUC", "Newest week told, beside the rule on the same rows.",
              {"{{model}}": f"monitor_auc{{{PIPELINE}}}", "rule": f"monitor_rule_auc{{{PIPELINE}}}"}, "DriftWithLoss", "svc-monitor"),
        Panel("Precision and recall", "Newest week told.",
              {"precision {{model}}": f"monitor_precision{{{PIPELINE}}}", "recall {{model}}": f"monitor_recall{{{PIPELINE}}}"},
              "DriftWithLoss", "svc-monitor", "percentunit"),
        Panel("Brier score", "Newest week told.", {"{{model}}": f"monitor_brier{{{PIPELINE}}}"}, "DriftWithLoss", "svc-monitor"),
    )),
    Row("Quality", (
        Panel("Label maturity", "Share of the newest week's decisions whose time has come.",
              {"{{model}}": f"monitor_label_maturity_ratio{{{PIPELINE}}}"}, "LabelsOverdue", "svc-monitor", "percentunit"),
        Panel("Labels", "What became of decisions, so far.",
              {"{{model}} {{outcome}}": f"sum by (model, outcome) (monitor_labels_total{{{PIPELINE}}})"}, "LabelsOverdue", "svc-monitor"),
        Panel("Labels overdue", "Event time.", {"{{model}}": f"monitor_labels_overdue_seconds{{{PIPELINE}}}"},
              "LabelsOverdue", "svc-monitor", "s"),
        Panel("Open decisions", "Without a label yet.", {"{{model}}": f"monitor_open_decisions{{{PIPELINE}}}"}, "LabelsOverdue", "svc-monitor"),
    )),
    Row("Data drift", (
        Panel("Largest PSI", "Of the last look at the champion's inputs.", {"{{model}}": f"monitor_drift_psi{{{PIPELINE}}}"},
              "DriftWithLoss", "svc-monitor", awaits="a look: a promoted model and a window of decisions"),
        Panel("Drift watched", "1 while inputs are compared with the champion's profile.",
              {"{{model}}": f"monitor_drift_watched{{{PIPELINE}}}"}, "DriftWithLoss", "svc-monitor"),
        Panel("Missing or old inputs", "Values that are not fresh, per second.",
              {"{{feature_set}} {{status}}": _rate("serve_feature_values_total", "feature_set, status", 'status!="fresh"')},
              "FeaturesMissing", "svc-serve", "ops"),
    )),
    Row("Model drift", (
        Panel("Mean score", "By arm.",
              {"{{model}} {{arm}}": f'{_rate("serve_score_sum", "model, arm")} / {_rate("serve_score_count", "model, arm")}'},
              "DriftWithLoss", "svc-serve"),
        Panel("Scores", "Median and ninth decile.",
              {"p50 {{arm}}": _quantile(0.5, "serve_score", "arm"), "p90 {{arm}}": _quantile(0.9, "serve_score", "arm")},
              "DriftWithLoss", "svc-serve"),
        Panel("Findings", "Raised by svc-monitor, so far.",
              {"{{model}} {{kind}}": f"sum by (model, kind) (monitor_findings_total{{{PIPELINE}}})"}, "DriftWithLoss", "svc-monitor",
              awaits="a finding"),
    )),
    Row("System", (
        Panel("Compute per decision", "p50 and p99.",
              {"p50 {{model}}": _quantile(0.5, "serve_compute_seconds", "model"),
               "p99 {{model}}": _quantile(0.99, "serve_compute_seconds", "model")},
              "DecisionLatencyBurning", "svc-serve", "s", exemplars=True),
        Panel("REST seconds", "Request to durable reply.",
              {"p50": _quantile(0.5, "serve_rest_seconds", where=""), "p99": _quantile(0.99, "serve_rest_seconds", where="")},
              "DecisionLatencyBurning", "svc-serve", "s", exemplars=True),
        Panel("HTTP answers", "Of svc-serve, per second.",
              {"{{route}} {{status}}": f'sum by (route, status) (rate(http_requests_total{{service="svc-serve"}}[{RATE}]))'},
              "DecisionErrorsBurning", "svc-serve", "ops"),
        Panel("Training runs", "States entered, so far.", {"{{model}} {{state}}": f"sum by (model, state) (train_runs_total{{{PIPELINE}}})"},
              "TrainingFailed", "svc-train"),
        Panel("Training seconds", "Mean, of the runs so far.",
              {"{{model}}": f"train_run_seconds_sum{{{PIPELINE}}} / train_run_seconds_count{{{PIPELINE}}}"}, "TrainingFailed", "svc-train", "s"),
    )),
    Row("Business", (
        Panel("Yes", "Share of decisions that say yes, by arm.",
              {"{{model}} {{arm}}": f'{_rate("serve_positive_decisions_total", "model, arm")} / {_rate("serve_decisions_total", "model, arm")}'},
              "FallbackServing", "svc-serve", "percentunit"),
        Panel("Decisions by source", "So far.", {"{{model}} {{source}}": f"sum by (model, source) (serve_decisions_total{{{PIPELINE}}})"},
              "FallbackServing", "svc-serve"),
        Panel("Compute per 1000 decisions", "Seconds.",
              {"{{model}}": f'1000 * {_rate("serve_compute_seconds_sum", "model")} / {_rate("serve_compute_seconds_count", "model")}'},
              "DecisionLatencyBurning", "svc-serve", "s"),
    )),
))  # fmt: skip

ROLLOUT = Board("headrace-rollout", "Headrace: rollout", "Which arms answer, and is every replica there.", (
    Row("In force", (
        Panel("Weights", "Share of requests an arm is given.",
              {"{{model}} {{arm}}": f"governance_rollout_weight_ratio{{{PIPELINE}}}"}, "RolloutPending", "svc-governance", "percentunit"),
        Panel("Epochs", "In force, and served.",
              {"in force {{model}}": f"governance_rollout_epoch{{{PIPELINE}}}", "served {{model}}": f"serve_rollout_epoch{{{PIPELINE}}}"},
              "RolloutPending", "svc-serve"),
        Panel("Replicas not there", "That do not serve the rollout in force.",
              {"{{model}}": f"governance_rollout_pending_replicas{{{PIPELINE}}}"}, "RolloutPending", "svc-serve"),
        Panel("Artefacts refused", "So far.", {"{{model}}": f"sum by (model) (serve_models_refused_total{{{PIPELINE}}})"},
              "ModelRefused", "svc-serve", awaits="an artefact that is refused"),
    )),
    Row("Judged", (
        Panel("Decisions by arm", "Per second.", {"{{model}} {{arm}}": _rate("serve_decisions_total", "model, arm")},
              "FallbackServing", "svc-serve", "ops"),
        Panel("Verdicts", "On canary steps, so far.",
              {"{{model}} {{verdict}}": f"sum by (model, verdict) (monitor_rollout_verdicts_total{{{PIPELINE}}})"},
              "RolloutPending", "svc-monitor"),
        Panel("Candidates", "By what became of them.",
              {"{{model}} {{state}}": f"governance_candidates{{{PIPELINE}}}"}, "TrainingFailed", "svc-governance"),
    )),
))  # fmt: skip

GOVERNANCE = Board("headrace-governance", "Headrace: governance", "Plans, findings, the audit chain, control records.", (
    Row("Plans and findings", (
        Panel("Plan epochs", "In force.", {"{{pipeline}}": f"governance_pipeline_epoch{{{PIPELINE}}}"}, "PipelineParked", "svc-governance"),
        Panel("Parked", "Replicas that parked the plan in force.", {"{{pipeline}}": f"governance_parked_replicas{{{PIPELINE}}}"},
              "PipelineParked", "svc-governance"),
        Panel("Findings", "On record.", {"{{pipeline}} {{kind}} {{answered}}": f"governance_findings{{{PIPELINE}}}"},
              "PipelineParked", "svc-governance"),
        Panel("Inputs", "Records svc-governance took, so far.", {"{{topic}} {{outcome}}": "sum by (topic, outcome) (governance_inputs_total)"},
              "ServiceNotReady", "svc-governance"),
    )),
    Row("Audit", (
        Panel("Chain", "Entries.", {"entries": "governance_chain_entries"}, "AuditShrunk", "svc-governance"),
        Panel("Entries by action", "Appended by this process.", {"{{action}}": "sum by (action) (governance_audit_entries_total)"},
              "AuditShrunk", "svc-governance"),
        Panel("Not archived", "Offsets of the chain's topic the lake does not have.",
              {"records": 'sum(kafka_last_stable_offset{topic="governance.audit-entries.v1"} '
                          '- on (topic, partition) features_archive_offset{topic="governance.audit-entries.v1"})'},
              "AuditGap", "svc-features"),
        Panel("Control records", "Applied or refused, so far.",
              {"{{service}} {{outcome}}": "sum by (service, outcome) (control_records_total)"}, "ControlRefused", "svc-governance"),
    )),
))  # fmt: skip

BOARDS = (OVERVIEW, FLOW, STREAM, FEATURES, MODELS, ROLLOUT, GOVERNANCE)


def runnable(expr: str, window: str = "1m") -> str:
    """A query as Prometheus takes it: Grafana's variables put in."""
    return expr.replace("$__rate_interval", window).replace("$pipeline", ".*")

"""Dashboards of features, models, rollouts and governance."""

from __future__ import annotations

from headrace_observe.panels import PIPELINE, RATE, Board, Panel, Row, plain, quantile, rate, total

FEATURES = Board(
    "headrace-features",
    "Headrace: features and parity",
    "What was served, and whether the archive agrees.",
    (
        Row(
            "Views",
            (
                Panel(
                    "View lag",
                    "Records between a view and the end of its state topic.",
                    {"{{service}} {{topic}}": "sum by (service, topic) (headrace:view_lag:records)"},
                    "ViewBehind",
                    "svc-serve",
                ),
                Panel(
                    "Values by status",
                    "Read for decisions, per second.",
                    {"{{feature_set}} {{status}}": rate("serve_feature_values_total", "feature_set, status")},
                    "FeaturesMissing",
                    "svc-serve",
                    "ops",
                ),
                Panel(
                    "Fresh values",
                    "Share of those read.",
                    {
                        "{{feature_set}}": rate("serve_feature_values_total", "feature_set", 'status="fresh"')
                        + " / "
                        + rate("serve_feature_values_total", "feature_set")
                    },
                    "FeaturesMissing",
                    "svc-serve",
                    "percentunit",
                ),
                Panel(
                    "Values answered over HTTP",
                    "By svc-features, per second.",
                    {"values {{pipeline}}": rate("features_read_values_total", "pipeline") + " or vector(0)"},
                    "FeaturesMissing",
                    "svc-features",
                    "ops",
                ),
            ),
        ),
        Row(
            "Parity",
            (
                Panel(
                    "Decisions recomputed",
                    "From the archive, so far.",
                    {"{{pipeline}}": total("parity_checked_total", "pipeline")},
                    "ParityMismatch",
                    "svc-features",
                ),
                Panel(
                    "Differing",
                    "Must be 0.",
                    {"differing {{pipeline}} {{kind}}": total("parity_differing_total", "pipeline, kind") + " or vector(0)"},
                    "ParityMismatch",
                    "svc-features",
                ),
                Panel(
                    "Unverifiable",
                    "About times no longer kept.",
                    {"{{pipeline}}": total("parity_unverifiable_total", "pipeline")},
                    "ParityMismatch",
                    "svc-features",
                ),
                Panel(
                    "Round of proof",
                    "p99 seconds.",
                    {"p99": quantile(0.99, "parity_round_seconds", where="")},
                    "ParityMismatch",
                    "svc-features",
                    "s",
                ),
                Panel(
                    "Lateness skew",
                    "Share of sampled values that what came late would change.",
                    {"{{feature_set}} {{feature}}": plain("features_lateness_skew_ratio")},
                    "LateRising",
                    "svc-features",
                    "percentunit",
                ),
            ),
        ),
        Row(
            "Archive",
            (
                Panel(
                    "Archived",
                    "Records per second.",
                    {"{{topic}} {{outcome}}": f"sum by (topic, outcome) (rate(features_archived_records_total[{RATE}]))"},
                    "AuditGap",
                    "svc-features",
                    "ops",
                ),
                Panel(
                    "Behind the log",
                    "Offsets between archive and last stable offset.",
                    {
                        "{{topic}}": "sum by (topic) (clamp_min("
                        "kafka_last_stable_offset - on (topic, partition) features_archive_offset, 0))"
                    },
                    "AuditGap",
                    "svc-features",
                ),
                Panel(
                    "Flush seconds",
                    "p99 of a round of commits to the lake.",
                    {"{{loop}}": quantile(0.99, "features_archive_flush_seconds", "loop", "")},
                    "AuditGap",
                    "svc-features",
                    "s",
                ),
                Panel(
                    "Data sets",
                    "Built, by outcome.",
                    {"{{outcome}}": "sum by (outcome) (features_datasets_total)"},
                    "TrainingFailed",
                    "svc-features",
                ),
            ),
        ),
    ),
)

MODELS = Board(
    "headrace-models",
    "Headrace: models",
    "Six kinds of looking at a model.",
    (
        Row(
            "Performance",
            (
                Panel(
                    "AUC",
                    "Newest week told, beside the rule on the same rows.",
                    {"{{model}}": plain("monitor_auc"), "rule": plain("monitor_rule_auc")},
                    "DriftWithLoss",
                    "svc-monitor",
                ),
                Panel(
                    "Precision and recall",
                    "Newest week told.",
                    {"precision {{model}}": plain("monitor_precision"), "recall {{model}}": plain("monitor_recall")},
                    "DriftWithLoss",
                    "svc-monitor",
                    "percentunit",
                ),
                Panel(
                    "Brier score", "Newest week told.", {"{{model}}": plain("monitor_brier")}, "DriftWithLoss", "svc-monitor"
                ),
            ),
        ),
        Row(
            "Quality",
            (
                Panel(
                    "Label maturity",
                    "Share of the newest week's decisions whose time has come.",
                    {"{{model}}": plain("monitor_label_maturity_ratio")},
                    "LabelsOverdue",
                    "svc-monitor",
                    "percentunit",
                ),
                Panel(
                    "Labels",
                    "What became of decisions, so far.",
                    {"{{model}} {{outcome}}": total("monitor_labels_total", "model, outcome")},
                    "LabelsOverdue",
                    "svc-monitor",
                ),
                Panel(
                    "Labels overdue",
                    "Event time.",
                    {"{{model}}": plain("monitor_labels_overdue_seconds")},
                    "LabelsOverdue",
                    "svc-monitor",
                    "s",
                ),
                Panel(
                    "Open decisions",
                    "Without a label yet.",
                    {"{{model}}": plain("monitor_open_decisions")},
                    "LabelsOverdue",
                    "svc-monitor",
                ),
            ),
        ),
        Row(
            "Data drift",
            (
                Panel(
                    "Largest PSI",
                    "Of the last look at the champion's inputs.",
                    {"{{model}}": plain("monitor_drift_psi")},
                    "DriftWithLoss",
                    "svc-monitor",
                    awaits="a look: a promoted model and a window of decisions",
                ),
                Panel(
                    "Drift watched",
                    "1 while inputs are compared with the champion's profile.",
                    {"{{model}}": plain("monitor_drift_watched")},
                    "DriftWithLoss",
                    "svc-monitor",
                ),
                Panel(
                    "Missing or old inputs",
                    "Values that are not fresh, per second.",
                    {
                        "{{feature_set}} {{status}}": rate(
                            "serve_feature_values_total", "feature_set, status", 'status!="fresh"'
                        )
                    },
                    "FeaturesMissing",
                    "svc-serve",
                    "ops",
                ),
            ),
        ),
        Row(
            "Model drift",
            (
                Panel(
                    "Mean score",
                    "By arm.",
                    {
                        "{{model}} {{arm}}": rate("serve_score_sum", "model, arm")
                        + " / "
                        + rate("serve_score_count", "model, arm")
                    },
                    "DriftWithLoss",
                    "svc-serve",
                ),
                Panel(
                    "Scores",
                    "Median and ninth decile.",
                    {"p50 {{arm}}": quantile(0.5, "serve_score", "arm"), "p90 {{arm}}": quantile(0.9, "serve_score", "arm")},
                    "DriftWithLoss",
                    "svc-serve",
                ),
                Panel(
                    "Findings",
                    "Raised by svc-monitor, so far.",
                    {"findings {{model}} {{kind}}": total("monitor_findings_total", "model, kind") + " or vector(0)"},
                    "DriftWithLoss",
                    "svc-monitor",
                ),
            ),
        ),
        Row(
            "System",
            (
                Panel(
                    "Compute per decision",
                    "p50 and p99.",
                    {
                        "p50 {{model}}": quantile(0.5, "serve_compute_seconds", "model"),
                        "p99 {{model}}": quantile(0.99, "serve_compute_seconds", "model"),
                    },
                    "DecisionLatencyBurning",
                    "svc-serve",
                    "s",
                    exemplars=True,
                ),
                Panel(
                    "REST seconds",
                    "Request to durable reply.",
                    {
                        "p50": quantile(0.5, "serve_rest_seconds", where=""),
                        "p99": quantile(0.99, "serve_rest_seconds", where=""),
                    },
                    "DecisionLatencyBurning",
                    "svc-serve",
                    "s",
                    exemplars=True,
                ),
                Panel(
                    "HTTP answers",
                    "Of svc-serve, per second.",
                    {"{{route}} {{status}}": rate("http_requests_total", "route, status", 'service="svc-serve"', "")},
                    "DecisionErrorsBurning",
                    "svc-serve",
                    "ops",
                ),
                Panel(
                    "Training runs",
                    "States entered, so far.",
                    {"{{model}} {{state}}": total("train_runs_total", "model, state")},
                    "TrainingFailed",
                    "svc-train",
                ),
                Panel(
                    "Training seconds",
                    "Mean, of the runs so far.",
                    {"{{model}}": f"train_run_seconds_sum{{{PIPELINE}}} / train_run_seconds_count{{{PIPELINE}}}"},
                    "TrainingFailed",
                    "svc-train",
                    "s",
                ),
            ),
        ),
        Row(
            "Business",
            (
                Panel(
                    "Yes",
                    "Share of decisions that say yes, by arm.",
                    {
                        "{{model}} {{arm}}": rate("serve_positive_decisions_total", "model, arm")
                        + " / "
                        + rate("serve_decisions_total", "model, arm")
                    },
                    "FallbackServing",
                    "svc-serve",
                    "percentunit",
                ),
                Panel(
                    "Decisions by source",
                    "So far.",
                    {"{{model}} {{source}}": total("serve_decisions_total", "model, source")},
                    "FallbackServing",
                    "svc-serve",
                ),
                Panel(
                    "Compute per 1000 decisions",
                    "Seconds.",
                    {
                        "{{model}}": "1000 * "
                        + rate("serve_compute_seconds_sum", "model")
                        + " / "
                        + rate("serve_compute_seconds_count", "model")
                    },
                    "DecisionLatencyBurning",
                    "svc-serve",
                    "s",
                ),
            ),
        ),
    ),
)

ROLLOUT = Board(
    "headrace-rollout",
    "Headrace: rollout",
    "Which arms answer, and is every replica there.",
    (
        Row(
            "In force",
            (
                Panel(
                    "Weights",
                    "Share of requests an arm is given.",
                    {"{{model}} {{arm}}": plain("governance_rollout_weight_ratio")},
                    "RolloutPending",
                    "svc-governance",
                    "percentunit",
                ),
                Panel(
                    "Epochs",
                    "In force, and served.",
                    {"in force {{model}}": plain("governance_rollout_epoch"), "served {{model}}": plain("serve_rollout_epoch")},
                    "RolloutPending",
                    "svc-serve",
                ),
                Panel(
                    "Replicas not there",
                    "That do not serve the rollout in force.",
                    {"{{model}}": plain("governance_rollout_pending_replicas")},
                    "RolloutPending",
                    "svc-serve",
                ),
                Panel(
                    "Artefacts refused",
                    "So far.",
                    {"refused {{model}}": total("serve_models_refused_total", "model") + " or vector(0)"},
                    "ModelRefused",
                    "svc-serve",
                ),
            ),
        ),
        Row(
            "Judged",
            (
                Panel(
                    "Decisions by arm",
                    "Per second.",
                    {"{{model}} {{arm}}": rate("serve_decisions_total", "model, arm")},
                    "FallbackServing",
                    "svc-serve",
                    "ops",
                ),
                Panel(
                    "Verdicts",
                    "On canary steps, so far.",
                    {"{{model}} {{verdict}}": total("monitor_rollout_verdicts_total", "model, verdict")},
                    "RolloutPending",
                    "svc-monitor",
                ),
                Panel(
                    "Candidates",
                    "By what became of them.",
                    {"{{model}} {{state}}": plain("governance_candidates")},
                    "TrainingFailed",
                    "svc-governance",
                ),
            ),
        ),
    ),
)

GOVERNANCE = Board(
    "headrace-governance",
    "Headrace: governance",
    "Plans, findings, the audit chain, control records.",
    (
        Row(
            "Plans and findings",
            (
                Panel(
                    "Plan epochs",
                    "In force.",
                    {"{{pipeline}}": plain("governance_pipeline_epoch")},
                    "PipelineParked",
                    "svc-governance",
                ),
                Panel(
                    "Parked",
                    "Replicas that parked the plan in force.",
                    {"{{pipeline}}": plain("governance_parked_replicas")},
                    "PipelineParked",
                    "svc-governance",
                ),
                Panel(
                    "Findings",
                    "On record.",
                    {"{{pipeline}} {{kind}} {{answered}}": plain("governance_findings")},
                    "PipelineParked",
                    "svc-governance",
                ),
                Panel(
                    "Inputs",
                    "Records svc-governance took, so far.",
                    {"{{topic}} {{outcome}}": "sum by (topic, outcome) (governance_inputs_total)"},
                    "ServiceNotReady",
                    "svc-governance",
                ),
            ),
        ),
        Row(
            "Audit",
            (
                Panel("Chain", "Entries.", {"entries": "governance_chain_entries"}, "AuditShrunk", "svc-governance"),
                Panel(
                    "Entries by action",
                    "Appended by this process.",
                    {"{{action}}": "sum by (action) (governance_audit_entries_total)"},
                    "AuditShrunk",
                    "svc-governance",
                ),
                Panel(
                    "Not archived",
                    "Offsets of the chain's topic the lake does not have.",
                    {
                        "records": 'sum(kafka_last_stable_offset{topic="governance.audit-entries.v1"} '
                        '- on (topic, partition) features_archive_offset{topic="governance.audit-entries.v1"})'
                    },
                    "AuditGap",
                    "svc-features",
                ),
                Panel(
                    "Control records",
                    "Applied or refused, so far.",
                    {"{{service}} {{outcome}}": "sum by (service, outcome) (control_records_total)"},
                    "ControlRefused",
                    "svc-governance",
                ),
            ),
        ),
    ),
)

"""Dashboards of the whole, of one pipeline's way, and of the stream's tasks."""

from __future__ import annotations

from headrace_observe.panels import PIPELINE, RATE, REST, Board, Panel, Row, quantile, rate, total

OVERVIEW = Board(
    "headrace-overview",
    "Headrace: overview",
    "Is it all there, does it flow, is it right.",
    (
        Row(
            "Now",
            (
                Panel(
                    "Services ready",
                    "1 per service.",
                    {"{{service}}": "service_ready"},
                    "ServiceNotReady",
                    "svc-serve",
                    kind="stat",
                ),
                Panel(
                    "Alerts firing",
                    "By severity.",
                    {"{{severity}}": 'sum by (severity) (ALERTS{alertstate="firing"}) or vector(0)'},
                    "ServiceDown",
                    "svc-serve",
                    kind="stat",
                ),
                Panel(
                    "Parked pipelines",
                    "Replicas on a last-known-good.",
                    {"parked": "sum(governance_parked_replicas) or vector(0)"},
                    "PipelineParked",
                    "svc-governance",
                    kind="stat",
                ),
                Panel(
                    "Values differing from the archive",
                    "Must be 0.",
                    {"differing": "sum(parity_differing_total) or vector(0)"},
                    "ParityMismatch",
                    "svc-features",
                    kind="stat",
                ),
            ),
        ),
        Row(
            "Flow",
            (
                Panel(
                    "Events accepted",
                    "Rows svc-ingest made durable, per second.",
                    {"{{pipeline}} {{event}}": rate("ingest_events_total", "pipeline, event", 'outcome="accepted"')},
                    "SourceSilent",
                    "svc-ingest",
                    "ops",
                ),
                Panel(
                    "Decisions",
                    "Per second, by rung of the ladder.",
                    {"{{model}} {{source}}": rate("serve_decisions_total", "model, source")},
                    "FallbackServing",
                    "svc-serve",
                    "ops",
                ),
                Panel(
                    "Lag in seconds",
                    "Age of the first record a group has not taken.",
                    {"{{group}}": "max by (group) (kafka_group_lag_seconds)"},
                    "FreshnessLost",
                    "svc-stream",
                    "s",
                ),
                Panel(
                    "Decision seconds",
                    "From request to decided.",
                    {
                        "p50 {{door}}": quantile(0.5, "serve_decision_seconds", "door"),
                        "p99 {{door}}": quantile(0.99, "serve_decision_seconds", "door"),
                    },
                    "DecisionLatencyBurning",
                    "svc-serve",
                    "s",
                    exemplars=True,
                ),
            ),
        ),
        Row(
            "Promises",
            (
                Panel(
                    "Decision errors",
                    "Share of REST decisions with a 5xx; 0.1 % is promised.",
                    {
                        "5xx": f'sum(rate(http_requests_total{{{REST}, status="5xx"}}[{RATE}])) / '
                        f"sum(rate(http_requests_total{{{REST}}}[{RATE}])) or vector(0)"
                    },
                    "DecisionErrorsBurning",
                    "svc-serve",
                    "percentunit",
                ),
                Panel(
                    "Decisions over 200 ms",
                    "Share of REST decisions; 1 % is promised.",
                    {
                        "slow": f'1 - sum(rate(serve_rest_seconds_bucket{{le="0.2"}}[{RATE}])) '
                        f"/ sum(rate(serve_rest_seconds_count[{RATE}]))"
                    },
                    "DecisionLatencyBurning",
                    "svc-serve",
                    "percentunit",
                ),
                Panel(
                    "Cost",
                    "Seconds of work per second, by pipeline and service.",
                    {"{{pipeline}} {{service}}": f"headrace:cost_seconds:rate5m{{{PIPELINE}}}"},
                    "LagGrowing",
                    "svc-stream",
                    "s",
                ),
            ),
        ),
    ),
)

FLOW = Board(
    "headrace-pipeline",
    "Headrace: pipeline",
    "One pipeline from the door to the decision.",
    (
        Row(
            "In",
            (
                Panel(
                    "Rows by outcome",
                    "What became of what producers sent, per second.",
                    {"{{event}} {{outcome}}": rate("ingest_events_total", "event, outcome")},
                    "DeadLettersRising",
                    "svc-ingest",
                    "ops",
                ),
                Panel(
                    "Refused rows",
                    "By reason, per second.",
                    {"{{event}} {{reason}}": rate("ingest_rejected_total", "event, reason")},
                    "DeadLettersRising",
                    "svc-ingest",
                    "ops",
                ),
                Panel(
                    "Since the last accepted row",
                    "By event.",
                    {"{{event}}": f"time() - max by (event) (ingest_last_accepted_timestamp_seconds{{{PIPELINE}}})"},
                    "SourceSilent",
                    "svc-ingest",
                    "s",
                ),
                Panel(
                    "Batch seconds",
                    "From the last byte of a batch to its receipt.",
                    {
                        "p50": quantile(0.5, "ingest_batch_seconds", where=""),
                        "p99": quantile(0.99, "ingest_batch_seconds", where=""),
                    },
                    "IngestErrorsBurning",
                    "svc-ingest",
                    "s",
                ),
                Panel(
                    "Answers to producers",
                    "By status, per second.",
                    {"{{status}}": f"sum by (status) (rate(ingest_requests_total[{RATE}]))"},
                    "IngestErrorsBurning",
                    "svc-ingest",
                    "ops",
                ),
                Panel(
                    "In flight",
                    "Batches admitted and not answered.",
                    {"batches": "ingest_in_flight_batches"},
                    "IngestErrorsBurning",
                    "svc-ingest",
                ),
            ),
        ),
        Row(
            "Kafka",
            (
                Panel(
                    "Lag in records",
                    "By group.",
                    {"{{group}}": "sum by (group) (kafka_group_lag_records)"},
                    "LagGrowing",
                    "svc-stream",
                ),
                Panel(
                    "Lag in seconds",
                    "By group.",
                    {"{{group}}": "max by (group) (kafka_group_lag_seconds)"},
                    "FreshnessLost",
                    "svc-stream",
                    "s",
                ),
                Panel(
                    "Held back by open transactions",
                    "Offsets between the last stable one and the end.",
                    {"{{topic}}": "sum by (topic) (kafka_log_end_offset - kafka_last_stable_offset)"},
                    "TransactionHanging",
                    "svc-stream",
                ),
                Panel(
                    "Appended",
                    "Offsets per second, by topic.",
                    {"{{topic}}": f"sum by (topic) (rate(kafka_log_end_offset[{RATE}]))"},
                    "LagGrowing",
                    "svc-stream",
                    "ops",
                ),
                Panel(
                    "Dead letters",
                    "Offsets of dead-letter topics.",
                    {"{{topic}}": 'sum by (topic) (kafka_log_end_offset{topic=~".+[.]dlq"})'},
                    "DeadLettersRising",
                    "svc-ingest",
                ),
                Panel(
                    "Record age",
                    "Append of a record to the end of its handling.",
                    {"p99 {{group}}": quantile(0.99, "consumer_record_age_seconds", "group", "")},
                    "FreshnessLost",
                    "svc-serve",
                    "s",
                ),
            ),
        ),
        Row(
            "Archive",
            (
                Panel(
                    "Not in the lake",
                    "Records in the log that the archive lacks, by topic.",
                    {"{{topic}}": "max by (topic) (features_archive_lag_records)"},
                    "ArchiveBehind",
                    "svc-features",
                ),
                Panel(
                    "Age of what is not in the lake",
                    "Of the oldest such record, at most; a ticket above a quarter of an hour.",
                    {"{{topic}}": "max by (topic) (features_archive_lag_seconds)"},
                    "ArchiveBehind",
                    "svc-features",
                    "s",
                ),
                Panel(
                    "Life used before archiving",
                    "How near the broker is to deleting what is not in the lake; a page above a half.",
                    {"{{topic}}": "max by (topic) (features_archive_retention_used_ratio)"},
                    "ArchiveBehind",
                    "svc-features",
                    "percentunit",
                ),
            ),
        ),
    ),
)

STREAM = Board(
    "headrace-stream",
    "Headrace: stream tasks",
    "Workers of svc-stream: rounds, verdicts, watermarks, state.",
    (
        Row(
            "Rounds",
            (
                Panel(
                    "Records",
                    "Handled in committed transactions, per second.",
                    {"{{set}}": rate("stream_records_total", "set")},
                    "LagGrowing",
                    "svc-stream",
                    "ops",
                ),
                Panel(
                    "Round seconds",
                    "Judge, lift, merge, commit.",
                    {
                        "p50 {{set}}": quantile(0.5, "stream_round_seconds", "set"),
                        "p99 {{set}}": quantile(0.99, "stream_round_seconds", "set"),
                    },
                    "FreshnessLost",
                    "svc-stream",
                    "s",
                ),
                Panel(
                    "Aborted transactions",
                    "Done again; per second.",
                    {"aborted {{set}}": rate("stream_transactions_aborted_total", "set") + " or vector(0)"},
                    "TransactionsAborting",
                    "svc-stream",
                    "ops",
                ),
                Panel(
                    "Tasks",
                    "Owned by this replica.",
                    {"{{set}} {{kind}}": total("stream_tasks", "set, kind")},
                    "LoopStalled",
                    "svc-stream",
                ),
            ),
        ),
        Row(
            "Streams: windows and joins",
            (
                Panel(
                    "Records and results",
                    "Read, and written; per second.",
                    {
                        "{{stream}} read": rate("stream_operator_records_total", "stream"),
                        "{{stream}} written": rate("stream_operator_results_total", "stream"),
                    },
                    "FreshnessLost",
                    "svc-stream",
                    "ops",
                    awaits="a plan with streams",
                ),
                Panel(
                    "Round seconds of streams",
                    "Judge, prepare, operate, commit.",
                    {
                        "p50 {{stream}}": quantile(0.5, "stream_operator_round_seconds", "stream"),
                        "p99 {{stream}}": quantile(0.99, "stream_operator_round_seconds", "stream"),
                    },
                    "FreshnessLost",
                    "svc-stream",
                    "s",
                    awaits="a plan with streams",
                ),
                Panel(
                    "Watermarks of streams",
                    "Largest event time seen less the watermark.",
                    {"{{stream}}": f"max by (stream) (stream_operator_watermark_lag_seconds{{{PIPELINE}}})"},
                    "FreshnessLost",
                    "svc-stream",
                    "s",
                    awaits="a plan with streams",
                ),
                Panel(
                    "Rows left out",
                    "Verdicts other than ok, and refused; per second.",
                    {
                        "{{stream}} {{verdict}}": rate("stream_operator_verdicts_total", "stream, verdict"),
                        "{{stream}} refused": rate("stream_operator_refused_total", "stream"),
                    },
                    "LateRising",
                    "svc-stream",
                    "ops",
                    awaits="a plan with streams",
                ),
                Panel(
                    "Entries of state",
                    "Of all tables on this replica.",
                    {"{{stream}} {{table}}": total("stream_operator_state_entries", "stream, table")},
                    "DiskFilling",
                    "svc-stream",
                    awaits="a plan with streams",
                ),
                Panel(
                    "Memory of state",
                    "Tables and their caches.",
                    {"{{stream}} {{table}}": total("stream_operator_state_bytes", "stream, table")},
                    "DiskFilling",
                    "svc-stream",
                    "bytes",
                    awaits="a plan with streams",
                ),
                Panel(
                    "Restoring and tasks",
                    "Segments still to be read; tasks owned.",
                    {
                        "{{stream}} left": total("stream_operator_restore_left", "stream"),
                        "{{stream}} {{kind}}": total("stream_operator_tasks", "stream, kind"),
                    },
                    "LoopStalled",
                    "svc-stream",
                    awaits="a plan with streams",
                ),
                Panel(
                    "Aborted transactions of streams",
                    "Done again; per second.",
                    {"{{stream}}": rate("stream_operator_transactions_aborted_total", "stream")},
                    "TransactionsAborting",
                    "svc-stream",
                    "ops",
                    awaits="a transaction that aborts",
                ),
            ),
        ),
        Row(
            "Event time",
            (
                Panel(
                    "Verdicts",
                    "Per second.",
                    {"{{event}} {{verdict}}": rate("stream_verdicts_total", "event, verdict")},
                    "LateRising",
                    "svc-stream",
                    "ops",
                ),
                Panel(
                    "Late or duplicate",
                    "Share of all verdicts.",
                    {
                        "{{event}} {{verdict}}": rate("stream_verdicts_total", "event, verdict", 'verdict=~"late|duplicate"')
                        + " / on (event) group_left () "
                        + rate("stream_verdicts_total", "event")
                    },
                    "LateRising",
                    "svc-stream",
                    "percentunit",
                ),
                Panel(
                    "Watermark lag",
                    "Largest event time seen less the watermark.",
                    {"{{set}} {{event}}": f"max by (set, event) (stream_watermark_lag_seconds{{{PIPELINE}}})"},
                    "LateRising",
                    "svc-stream",
                    "s",
                ),
                Panel(
                    "Event time reached",
                    "Largest in the state.",
                    {"{{set}} {{event}}": f"max by (set, event) (stream_event_time_maximum_ms{{{PIPELINE}}})"},
                    "SourceSilent",
                    "svc-stream",
                    "dateTimeAsIso",
                ),
            ),
        ),
        Row(
            "State",
            (
                Panel(
                    "State bytes",
                    "By local store.",
                    {"{{service}} {{store}}": "state_store_bytes"},
                    "DiskFilling",
                    "svc-stream",
                    "bytes",
                ),
                Panel(
                    "State keys",
                    "By local store, as RocksDB estimates.",
                    {"{{service}} {{store}}": "state_store_keys"},
                    "DiskFilling",
                    "svc-stream",
                ),
                Panel(
                    "Free disk",
                    "Under local state.",
                    {"{{service}}": "state_disk_free_bytes / state_disk_size_bytes"},
                    "DiskFilling",
                    "svc-stream",
                    "percentunit",
                ),
                Panel(
                    "Loops",
                    "Seconds since a loop last went round.",
                    {"{{service}} {{loop}}": "max by (service, loop) (service_loop_silent_seconds)"},
                    "LoopStalled",
                    "svc-stream",
                    "s",
                ),
            ),
        ),
        Row(
            "Processes",
            (
                Panel(
                    "CPU",
                    "Cores in use.",
                    {"{{service}}": f'rate(process_cpu_seconds_total{{job="headrace"}}[{RATE}])'},
                    "EventLoopBlocked",
                    "svc-stream",
                ),
                Panel(
                    "Memory",
                    "Resident.",
                    {"{{service}}": 'process_resident_memory_bytes{job="headrace"}'},
                    "ServiceDown",
                    "svc-stream",
                    "bytes",
                ),
                Panel(
                    "Event loop lag",
                    "p99.",
                    {"{{service}}": quantile(0.99, "event_loop_lag_seconds", "service", "")},
                    "EventLoopBlocked",
                    "svc-stream",
                    "s",
                ),
                Panel(
                    "Commit seconds",
                    "p99 of flush, offsets, commit.",
                    {"{{group}}": quantile(0.99, "consumer_commit_seconds", "group", "")},
                    "TransactionsAborting",
                    "svc-stream",
                    "s",
                ),
                Panel(
                    "Certificates",
                    "Days until one that is in use expires.",
                    {"{{service}} {{certificate}}": "certificate_left_days"},
                    "CertificateExpiring",
                    "svc-stream",
                    "d",
                    awaits="a stack with TLS",
                ),
            ),
        ),
    ),
)

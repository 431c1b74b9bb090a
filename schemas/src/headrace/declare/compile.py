"""A declaration becomes a plan: names resolved, expressions canonical, measures shared, rules checked, hashes sealed."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace

from headrace.declare.aggregates import Feature
from headrace.declare.compile_streams import in_order, lowered
from headrace.declare.durations import duration_ms
from headrace.declare.errors import NOWHERE, Complaint, Where
from headrace.declare.events import EventLaw
from headrace.declare.feature_sets import FeatureSetDeclaration, FeatureSubset
from headrace.declare.fields import condition_text
from headrace.declare.measuring import Measuring
from headrace.declare.models import Model, OnDemandInput, Pipeline, RequestInputs, leading_number, scaled
from headrace.declare.streams import declaration_of
from headrace.plan import ir
from headrace.plan.expressions import parse
from headrace.plan.hashes import sealed
from headrace.plan.validate import Path, PlanError, duration_text, scopes, validate


def compile(pipeline: Pipeline) -> ir.Plan:
    """The sealed plan of a pipeline.

    Raises: DeclarationError with every mistake found, each at the user's line.
    """
    return _Compilation(pipeline=pipeline).plan()


@dataclass(kw_only=True)
class _Compilation(Measuring):
    pipeline: Pipeline
    lags: list[Complaint] = field(default_factory=list)  # a short ttl does not hide other mistakes
    locations: dict[Path, Where] = field(default_factory=dict)

    def plan(self) -> ir.Plan:
        pipeline = self.pipeline
        self.locations[("plan",)] = pipeline.location
        for event in pipeline.events:
            if declaration_of(event) is not None:
                self.complain(pipeline.location, f"{event.__name__} is a stream", "list it in Pipeline(streams=[...])")
            self.event(event.__law__)
        streams = in_order(pipeline.streams, self, pipeline.location)
        for declared in streams:
            self.event(declared.law)
        sources = []
        for source in pipeline.sources:
            self.locations[("source", source.name)] = source.location
            name = self.event_name(source.event.__name__, source.location)
            sources.append(ir.Source(source.name, name, source.kind, tuple(sorted(source.columns.items()))))
        plan = ir.Plan(
            pipeline=pipeline.name,
            owner=pipeline.owner,
            events=tuple(self.events.values()),
            sources=tuple(sources),
            feature_sets=tuple(self.feature_set(item) for item in pipeline.feature_sets),
            models=tuple(self.model(model, name) for model, name in zip(pipeline.models, pipeline.model_names, strict=True)),
            streams=tuple(lowered(declared, self, self.locations, pipeline.owner) for declared in streams),
        )
        self.stop()
        self.complaints += self.lags
        try:
            validate(plan, check_hashes=False)
        except PlanError as error:
            for problem in error.problems:
                name = " ".join(problem.path[1:])
                self.complain(self.locate(problem.path), f"{name}: {problem.detail}" if name else problem.detail, problem.hint)
        self.stop()
        return sealed(_canonical_models(plan))

    def locate(self, path: Path) -> Where:
        """The line of the longest known beginning of the path."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.locations:
                return self.locations[path[:length]]
        return self.locations.get(("plan",), NOWHERE)

    def event(self, law: EventLaw) -> None:
        full = law.topic if "." in law.topic else f"{self.pipeline.name}.{law.topic}.v1"
        name = re.sub(r"\.v\d+$", "", full).rpartition(".")[2].replace("-", "_")
        self.locations[("event", name)] = law.location
        for path, line in law.lines.items():
            self.locations[("event", name, path)] = line
        self.events[law.record] = ir.EventType(
            name=name,
            record=law.record,
            topic=full,
            key=law.key,
            time=law.time,
            fields=law.fields,
            lateness_ms=law.lateness_ms,
            poison_bound_ms=law.poison_bound_ms,
            dedup_id=law.dedup_id,
            dedup_horizon_ms=law.dedup_horizon_ms,
            partitions=law.partitions,
            available_after_ms=law.available_after_ms,
            records=law.records,
        )

    def feature_set(self, declared: FeatureSetDeclaration) -> ir.FeatureSet:
        here: Path = ("feature_set", declared.name)
        self.locations[here] = declared.location
        measures = self.measures(term.aggregate for item in declared.features.values() for term in item.terms)
        ids = {key: measure.id for key, measure in measures.items()}
        features = []
        for name, feature in declared.features.items():
            self.locations[(*here, name)] = feature.location
            terms = []
            for term in feature.terms:
                key = self.measure_key(term.aggregate)
                self.locations.setdefault((*here, ids[key]), term.aggregate.location)
                terms.append(ir.Term(ids[key], term.aggregate.kind, term.window_ms, term.hop_ms, term.aggregate.argument))
            self.check_ttl(declared, name, feature)
            features.append(ir.Feature(name, tuple(terms), feature.lowering, feature.imputed, feature.steps))
        return ir.FeatureSet(
            name=declared.name,
            entity=declared.entity,
            events=tuple(sorted({measure.event for measure in measures.values()})),
            measures=tuple(measures.values()),
            features=tuple(features),
            ttl_ms=declared.ttl_ms,
            stale_after_ms=declared.stale_after_ms,
            placement=declared.placement,
            partitions=declared.partitions,
            owner=declared.owner or self.pipeline.owner,
            keys_expected=declared.keys,
            events_a_day=tuple(sorted((self.event_name(e, declared.location), rate) for e, rate in declared.events_a_day)),
            view_bytes_max=declared.view_bytes_max,
            freshness_ms=declared.freshness_ms,
        )

    def check_ttl(self, declared: FeatureSetDeclaration, name: str, feature: Feature) -> None:
        """Only the declaration knows how far requests lag; what is too short even without lag the plan's own rule says."""
        for term in feature.terms:
            event = self.events.get(term.aggregate.event)
            if event is None:
                continue
            needed = term.window_ms + term.hop_ms + event.poison_bound_ms
            lagging = needed + declared.request_lag_ms
            if needed <= declared.ttl_ms < lagging:
                hint = f'at least window + hop + poison_bound + request_lag: ttl="{duration_text(lagging)}"'
                detail = f"{declared.name} {name}: ttl {duration_text(declared.ttl_ms)} is too short"
                self.lags.append(Complaint(feature.location, detail, hint))

    def model(self, model: Model, name: str) -> ir.Model:
        here: Path = ("model", name)
        self.locations[here], self.locations[(*here, "label")] = model.location, model.label.location
        request = self.event_name(model.request.__name__, model.location)
        key = model.request.__law__.key
        inputs = self.inputs(model, here)
        serve, watch, rollout = model.serve, model.watch, model.serve.rollout
        features = tuple(item.name for item in inputs if item.kind == "feature")
        return ir.Model(
            name=name,
            request=request,
            sample_bp=scaled(model.sample.removesuffix("%"), 100, model.location),
            routing_key=model.routing_key or key,
            request_id=model.request_id or key,
            when=condition_text(model.request.__name__, model.when),
            label=ir.Label(
                event=self.event_name(model.label.event.__name__, model.label.location),
                where=condition_text(model.label.event.__name__, model.label.where) or "",
                join=model.label.join,
                mature_ms=duration_ms(model.label.mature),
                exclude=condition_text(model.label.event.__name__, model.label.exclude),
                unlabelled=model.label.unlabelled,
            ),
            inputs=inputs,
            trainer="gradient_boosting",
            trainer_parameters=model.trainer.parameters(),
            threshold=serve.threshold,
            gate=model.gate.rules,
            deadline_ms=duration_ms(serve.deadline),
            rules=serve.fallback.where,
            rules_score=serve.fallback.score,
            default_decision=serve.default,
            explain_top=leading_number(serve.explain, r"top(\d+)", "top5", model.location),
            rollout=ir.Rollout(
                steps=tuple(rollout.steps),
                dwell_decisions=leading_number(rollout.dwell, r"(\d+) decisions", "2000 decisions", model.location),
                alpha_bp=scaled(rollout.alpha, 10_000, model.location),
            ),
            watch=ir.Watch(
                inputs=features if watch.drift == "features" else tuple(watch.drift),
                window_ms=duration_ms(watch.window),
                psi_permille=scaled(watch.psi, 1000, model.location),
                alpha_bp=scaled(watch.false_findings, 10_000, model.location),
                retrain=watch.retrain,
            ),
            owner=model.owner or self.pipeline.owner,
            team=model.team,
            tier=model.tier,
        )

    def inputs(self, model: Model, here: Path) -> tuple[ir.Input, ...]:
        decimals = {item.name for item in model.request.__law__.fields if item.type == "decimal"}

        def natural(name: str) -> str:
            return f"{name} / 1" if name in decimals else name  # a decimal in its unit, as features are

        found: list[ir.Input] = []
        for item in model.inputs:
            if isinstance(item, RequestInputs):
                found += [ir.Input(name, "request", expression=natural(name)) for name in item.names]
                self.locations |= {(*here, "inputs", name): item.location for name in item.names}
            elif isinstance(item, OnDemandInput):
                found.append(ir.Input(item.name, "on_demand", expression=item.expression))
                self.locations[(*here, "inputs", item.name)] = item.location
            else:
                chosen = item if isinstance(item, FeatureSubset) else FeatureSubset(item, tuple(item.features))
                if chosen.feature_set not in self.pipeline.feature_sets:
                    hint = "add it to Pipeline(feature_sets=[...])"
                    self.complain(model.location, f"feature set {chosen.feature_set.name} is not in the pipeline", hint)
                found += [ir.Input(name, "feature", chosen.feature_set.name, name) for name in chosen.names]
        return tuple(found)


def _canonical_models(plan: ir.Plan) -> ir.Plan:
    """Expressions of a model in canonical form, so that spelling does not move its hash. The plan is sound here."""
    events = {event.name: {item.name: item for item in event.fields} for event in plan.events}
    models = []
    for model in plan.models:
        scope, label = scopes(plan, model), events[model.label.event]
        inputs = tuple(
            replace(item, expression=parse(item.expression, known, allow_float=True).canonical) if item.expression else item
            for item, known in zip(model.inputs, scope, strict=False)
        )
        outcome = replace(
            model.label,
            where=parse(model.label.where, label, allow_float=True).canonical,
            exclude=parse(model.label.exclude, label, allow_float=True).canonical if model.label.exclude else None,
        )
        rules = parse(model.rules, scope[-1], allow_float=True).canonical
        when = parse(model.when, events[model.request], allow_float=True).canonical if model.when else None
        models.append(replace(model, inputs=inputs, label=outcome, rules=rules, when=when))
    return replace(plan, models=tuple(models))

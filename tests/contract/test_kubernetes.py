"""The Kubernetes manifests: hardened pods, storage where state lies, and a network that allows what the topic files say."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import pytest
import yaml

from headrace.chassis.settings import PREFIX
from headrace.contracts import generate
from headrace_images import dockerfile
from headrace_images.drill import graces
from support.settings import settings_of
from support.source import ROOT, SERVICES, modules

FOLDER = ROOT / "infra" / "kubernetes"
NAMES = [f"svc-{name}" for name in SERVICES]
WORKLOADS = {"StatefulSet", "Deployment"}
# Who keeps what a restart would have to fetch or read again, or could not get back at all.
KEEPS_STATE = set(NAMES) - {"svc-train"}
BROKER, REGISTRY, DATABASE, TRACES, NAMES_SERVER = "kafka", "registry", "postgres", "otel-collector", "kube-dns"
Document = dict[str, Any]


@cache
def _documents(path: str) -> tuple[Document, ...]:
    return tuple(found for found in yaml.safe_load_all((FOLDER / path).read_text()) if found)


def _all() -> list[tuple[str, Document]]:
    files = sorted(path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*.yaml"))
    return [(path, found) for path in files for found in _documents(path) if found["kind"] != "Kustomization"]


def _one(service: str, *kinds: str) -> Document:
    (found,) = [one for one in _documents(f"base/{service}.yaml") if one["kind"] in kinds]
    return found


def _pod(service: str) -> Document:
    found: Document = _one(service, *WORKLOADS)["spec"]["template"]["spec"]
    return found


def _container(service: str) -> Document:
    (found,) = _pod(service)["containers"]
    return found


def _shared() -> dict[str, str]:
    (found,) = [one for one in _documents("base/platform.yaml") if one["kind"] == "ConfigMap"]
    return dict(found["data"])


def _told(service: str) -> dict[str, str]:
    own = {entry["name"]: str(entry.get("value", "by reference")) for entry in _container(service)["env"]}
    image = dockerfile.read((ROOT / service / "Dockerfile").read_text()).image.environment()
    return {name: value for name, value in (image | _shared() | own).items() if name.startswith(PREFIX)}


@pytest.mark.parametrize("name", NAMES)
def test_a_pod_runs_without_rights_as_the_user_of_its_image(name: str) -> None:
    pod, container = _pod(name), _container(name)
    user = dockerfile.read((ROOT / name / "Dockerfile").read_text()).image.last("USER")
    assert user is not None
    said = pod["securityContext"]
    assert said["runAsNonRoot"] is True
    assert f"{said['runAsUser']}:{said['runAsGroup']}" == user.rest
    assert said["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "privileged": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)


@pytest.mark.parametrize("name", NAMES)
def test_probes_ask_the_endpoints_that_the_chassis_answers(name: str) -> None:
    container = _container(name)
    asked = {kind: container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "readiness", "liveness")}
    assert asked["readiness"]["path"] == "/health/ready"
    assert asked["liveness"]["path"] == asked["startup"]["path"] == "/health/live"
    assert {probe["port"] for probe in asked.values()} == {"http"}
    port = dockerfile.read((ROOT / name / "Dockerfile").read_text()).image.environment()["HEADRACE_HTTP_PORT"]
    assert container["ports"] == [{"name": "http", "containerPort": int(port)}]
    assert _one(name, "Service")["spec"]["ports"] == [{"name": "http", "port": int(port), "targetPort": "http"}]
    source = (ROOT / "schemas/src/headrace/chassis/http.py").read_text()
    assert all(f'"{probe["path"]}"' in source for probe in asked.values())


@pytest.mark.parametrize("name", NAMES)
def test_the_grace_period_is_the_one_that_the_drill_holds_services_to(name: str) -> None:
    assert _pod(name)["terminationGracePeriodSeconds"] == graces(ROOT)[name]


@pytest.mark.parametrize("name", NAMES)
def test_state_lies_on_a_volume_of_its_own(name: str) -> None:
    """RocksDB, ids, the lake, heads: a stateful set keeps its claim; what lies elsewhere may go with the pod."""
    workload = _one(name, *WORKLOADS)
    claims = {claim["metadata"]["name"] for claim in workload["spec"].get("volumeClaimTemplates", ())}
    volumes = {volume["name"] for volume in _pod(name)["volumes"]}
    mounts = {mount["name"]: mount["mountPath"] for mount in _container(name)["volumeMounts"]}
    assert set(mounts) == volumes | claims
    assert not volumes & claims
    assert (workload["kind"] == "StatefulSet") == (name in KEEPS_STATE)
    if name in KEEPS_STATE:
        assert "state" in claims
        assert workload["spec"]["persistentVolumeClaimRetentionPolicy"] == {"whenDeleted": "Retain", "whenScaled": "Retain"}
    assert _told(name)["HEADRACE_STATE_DIR"].startswith(mounts["state"])
    for key, value in _told(name).items():
        if value.startswith("/"):
            assert any(value == place or value.startswith(f"{place}/") for place in mounts.values()), f"{key}={value}"


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_is_one_that_its_service_reads(name: str) -> None:
    assert set(_told(name)) - set(settings_of(name).environment_names()) == set()
    fields = {k.removeprefix(PREFIX).lower(): v for k, v in _told(name).items() if v != "by reference"}
    settings_of(name).model_validate(fields)


@pytest.mark.parametrize("name", NAMES)
def test_a_replica_has_its_own_stable_name(name: str) -> None:
    """Static membership, transactional ids and volumes hang on it."""
    (instance,) = [entry for entry in _container(name)["env"] if entry["name"] == "HEADRACE_INSTANCE"]
    assert instance["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.name"}}


@pytest.mark.parametrize("name", NAMES)
def test_memory_is_asked_for_and_bounded_and_no_secret_stands_in_the_file(name: str) -> None:
    resources = _container(name)["resources"]
    assert _mebi(resources["requests"]["memory"]) <= _mebi(resources["limits"]["memory"])
    assert "cpu" in resources["requests"]
    assert "cpu" not in resources["limits"], "a bound on CPU stalls the loop that answers"
    for entry in _container(name)["env"]:
        if re.search(r"PASSWORD|DSN|TOKEN|TRACKING", entry["name"]):
            assert "secretKeyRef" in entry["valueFrom"]


def _mebi(text: str) -> float:
    return float(text[:-2]) * {"Mi": 1, "Gi": 1024}[text[-2:]]


@pytest.mark.parametrize("name", NAMES)
def test_a_node_can_be_drained_and_takes_one_replica_at_a_time(name: str) -> None:
    budget = _one(name, "PodDisruptionBudget")["spec"]
    assert budget["maxUnavailable"] == 1
    assert "minAvailable" not in budget
    assert budget["selector"] == _one(name, *WORKLOADS)["spec"]["selector"]


def test_who_answers_callers_is_evicted_last_and_who_trains_first() -> None:
    classes = [one for one in _documents("base/platform.yaml") if one["kind"] == "PriorityClass"]
    values = {one["metadata"]["name"]: one["value"] for one in classes}
    order = {name: values[_pod(name)["priorityClassName"]] for name in NAMES}
    assert max(order, key=lambda name: order[name]) == "svc-serve"
    assert min(order, key=lambda name: order[name]) == "svc-train"


# -- the network


def _peers(rule: Document, side: str) -> set[str]:
    """The names of the pods, or the marks of the namespaces, that a rule is about."""
    found: set[str] = set()
    for peer in rule[side]:
        labels = (peer.get("podSelector") or peer.get("namespaceSelector"))["matchLabels"]
        assert "ipBlock" not in peer
        found |= {f"{key}={value}" if key.startswith("headrace.io/") else value for key, value in labels.items()}
    return found


def _reaches(name: str) -> set[str]:
    return {peer for rule in _one(name, "NetworkPolicy")["spec"]["egress"] for peer in _peers(rule, "to")}


def _uses_setting(name: str, setting: str) -> bool:
    """Whether the service's own code reads a setting."""
    package = name.replace("-", "_")
    return any(f".{setting}" in module.path.read_text() for module in modules() if module.package == package)


def test_nothing_is_allowed_by_default() -> None:
    (policy,) = [one for one in _documents("base/platform.yaml") if one["kind"] == "NetworkPolicy"]
    assert policy["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


@pytest.mark.parametrize("name", NAMES)
def test_a_service_reaches_what_the_topic_files_and_its_settings_say(name: str) -> None:
    """Broker and registry if it produces or consumes any topic, the database if its code reads the address, no service ever."""
    topics = generate.load_topics(generate.SCHEMAS / "topics").values()
    speaks = any(name in {*topic["producers"], *topic["consumers"]} for topic in topics)
    allowed = {NAMES_SERVER, TRACES}
    allowed |= {BROKER, REGISTRY} if speaks else set()
    allowed |= {DATABASE} if _uses_setting(name, "postgres_dsn") else set()
    assert _reaches(name) == allowed


@pytest.mark.parametrize("name", NAMES)
def test_a_service_is_reached_by_the_scraper_and_by_its_callers_never_by_a_service(name: str) -> None:
    policy = _one(name, "NetworkPolicy")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert policy["podSelector"] == _one(name, *WORKLOADS)["spec"]["selector"]
    callers = {
        "svc-ingest": {"headrace.io/producers=true"},
        "svc-serve": {"headrace.io/callers=true"},
        **{key: {"headrace.io/people=true"} for key in ("svc-features", "svc-monitor", "svc-governance")},
    }
    (rule,) = policy["ingress"]
    assert _peers(rule, "from") == {"headrace.io/role=monitoring"} | callers.get(name, set())
    assert rule["ports"] == [{"protocol": "TCP", "port": "http"}]


@pytest.mark.parametrize("name", NAMES)
def test_addresses_and_ports_are_ones_that_the_policy_lets_through(name: str) -> None:
    """The settings' own hosts and ports, so that neither is changed alone."""
    rules = _one(name, "NetworkPolicy")["spec"]["egress"]
    open_ports = {peer: {p["port"] for p in rule["ports"]} for rule in rules for peer in _peers(rule, "to")}
    for key, peer in (("HEADRACE_BOOTSTRAP", BROKER), ("HEADRACE_REGISTRY_URL", REGISTRY), ("HEADRACE_OTLP_URL", TRACES)):
        address = re.fullmatch(r"(?:http://)?([a-z-]+)\.([a-z]+)\.svc:(\d+)(?:/.*)?", _told(name)[key])
        assert address is not None, key
        assert address[1] == peer
        assert int(address[3]) in open_ports[peer]


def test_broker_and_database_of_the_laptop_admit_who_may_leave_for_them() -> None:
    """The other end of the same rules: services by their common mark at the broker, by name at the database."""
    documents = [*_documents("overlays/laptop/broker.yaml"), *_documents("overlays/laptop/database.yaml")]
    admits = {}
    for policy in (one for one in documents if one["kind"] == "NetworkPolicy"):
        peers = [peer for rule in policy["spec"]["ingress"] for peer in rule["from"]]
        admits[policy["metadata"]["name"]] = {
            value for peer in peers if "namespaceSelector" in peer for value in peer["podSelector"]["matchLabels"].values()
        }
        assert all(peer.get("podSelector") for peer in peers), "a whole namespace is let in"
    assert admits == {BROKER: {"headrace"}, REGISTRY: {"headrace"}, DATABASE: {n for n in NAMES if DATABASE in _reaches(n)}}
    assert all(_one(name, *WORKLOADS)["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/part-of"] for name in NAMES)


# -- scaling


def _scaled() -> list[Document]:
    return [one for one in _documents("overlays/production/autoscaling.yaml") if one["kind"] == "ScaledObject"]


def _exported() -> set[str]:
    """Metric names that any of our programs defines."""
    files = [*(m.path for m in modules()), *(ROOT / "infra").rglob("*.py")]
    return {name for path in files for name in re.findall(r'"([a-z]+(?:_[a-z0-9]+)+)"', path.read_text())}


def test_replicas_follow_metrics_that_are_exported() -> None:
    for scaled in _scaled():
        for trigger in scaled["spec"]["triggers"]:
            words = set(re.findall(r"[a-z]+(?:_[a-z0-9]+)+", trigger["metadata"]["query"]))
            assert words, trigger
            assert words <= _exported(), words - _exported()
            assert float(trigger["metadata"]["threshold"]) > 0


def test_only_services_that_may_have_replicas_are_scaled() -> None:
    """svc-ingest, svc-features, svc-monitor and svc-governance are single by design; a replica more is refused or wrong."""
    assert {one["spec"]["scaleTargetRef"]["name"] for one in _scaled()} == {"svc-stream", "svc-serve"}
    for one in _scaled():
        target = one["spec"]["scaleTargetRef"]
        assert target["kind"] == _one(target["name"], *WORKLOADS)["kind"]
        assert 1 <= one["spec"]["minReplicaCount"] < one["spec"]["maxReplicaCount"]
    assert all(_one(name, *WORKLOADS)["spec"]["replicas"] == 1 for name in NAMES)


# -- every file


def test_every_file_is_a_resource_of_its_kustomization() -> None:
    for folder in ("base", "overlays/laptop", "overlays/production"):
        (root,) = _documents(f"{folder}/kustomization.yaml")
        named = {path for path in root["resources"] if path.endswith(".yaml")}
        assert named == {path.name for path in (FOLDER / folder).glob("*.yaml")} - {"kustomization.yaml"}


def test_every_image_is_pinned_and_ours_is_the_one_compose_builds() -> None:
    compose = (ROOT / "infra/compose/core.yaml").read_text()
    for path, found in _all():
        if found["kind"] not in WORKLOADS:
            continue
        for container in found["spec"]["template"]["spec"]["containers"]:
            image = container["image"]
            assert re.fullmatch(r"[a-z0-9./-]+:v?\d+\.\d+(\.\d+)?([.-][a-z0-9.-]+)?", image), (path, image)
            assert image.startswith("headrace/") or f"image: {image}\n" in compose, "another version than compose has"
            assert "resources" in container


def test_every_object_lies_in_a_namespace_and_says_what_it_is() -> None:
    for path, found in _all():
        if found["kind"] not in {"Namespace", "PriorityClass"}:
            assert found["metadata"].get("namespace") in {"headrace", "kafka", "postgres"}, (path, found["kind"])


def test_the_brokers_of_laptop_and_compose_are_told_the_same() -> None:
    compose = yaml.safe_load((ROOT / "infra/compose/core.yaml").read_text())["services"]["kafka"]["environment"]
    (broker,) = [o for o in _documents("overlays/laptop/broker.yaml") if o["kind"] == "StatefulSet"]
    (container,) = broker["spec"]["template"]["spec"]["containers"]
    said = {entry["name"]: entry["value"] for entry in container["env"]}
    assert set(said) == set(compose)
    places = re.compile(r"LISTENER|VOTERS|LOG_DIRS")
    assert {n: v for n, v in said.items() if not places.search(n)} == {n: v for n, v in compose.items() if not places.search(n)}

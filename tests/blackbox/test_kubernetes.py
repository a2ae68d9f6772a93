"""The Helm chart, and the manifests made from it, without a cluster: Helm itself, the schemas of Kubernetes, and the program."""
import json
import re
import shutil
import subprocess

import pytest
import yaml
from images import stages
from jsonschema import Draft7Validator
from kubernetes_validate import validate
from pods import CHART, GATEWAYS, Pod, container, helm, on_chart, pod_spec, rendered
from processes import ROOT, weirgate_binary
from recipes import assert_known, default_ms, run

IMAGES = stages((ROOT / "Dockerfile").read_text())
[VERSION] = re.findall(r'^appVersion: "(.*)"$', (CHART / "Chart.yaml").read_text(), re.M)
# The oldest version that the chart names, and a later one.
KUBERNETES = ["1.25", "1.30"]
PUBLIC = ["--set", "ingress.enabled=true", "--set", "ingress.tlsSecret=tls", "--set", "trustedProxies=10.0.0.0/8",
          "--set", "autoscaling.enabled=true"]
# Every other value that a release may have.
EVERYTHING = {
    "files": {"roles.json": '{"user": ["a"]}', "jwks.json": "{}"},
    "secretFiles": ["weirgate-nats", "weirgate-tls"],
    "extraArgs": ["--log-filter", "info"],
    "env": [{"name": "WEIRGATE_LOG_FILTER", "value": "info"}, {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
    "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
    "minReadySeconds": 30,
    "service": {"type": "LoadBalancer", "annotations": {"team": "feeds"}},
    "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}, "runbookPrefix": "https://git.example.com/weirgate/blob/main/"},
    "dashboard": {"enabled": True},
    "envFrom": [{"configMapRef": {"name": "env"}}, {"secretRef": {"name": "env", "optional": True}, "prefix": "WEIRGATE_"}],
    "imagePullSecrets": [{"name": "registry"}],
    "nodeSelector": {"kubernetes.io/arch": "arm64"},
    "tolerations": [{"key": "feeds", "operator": "Equal", "value": "yes", "effect": "NoExecute", "tolerationSeconds": 60},
                    {"operator": "Exists"}],
    "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "nats"}}}]}},
    "topologySpreadConstraints": [{"maxSkew": 2, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "DoNotSchedule"}],
    "podLabels": {"team": "feeds"},
    "podAnnotations": {"team": "feeds"},
    "serviceAccount": {"create": True, "annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/feeds"}},
    "serviceMonitor": {"enabled": True, "interval": "30s", "labels": {"release": "prometheus"}},
    "networkPolicy": {"enabled": True, "adminFrom": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]},
}
# Of prometheus-operator 0.93, without its descriptions.
MONITOR = json.loads((ROOT / "tests" / "vectors" / "kubernetes" / "servicemonitor.json").read_text())


VALUES = pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["of the gateway", "everything"])


@VALUES
@pytest.mark.parametrize("gateway", GATEWAYS)
def test_helm_finds_no_fault(gateway, values):
    status, text = on_chart(["lint", "--strict"], gateway, *PUBLIC, values=values)
    assert status == 0, text


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("gateway", GATEWAYS)
@VALUES
def test_every_document_fits_the_schemas_of_kubernetes(gateway, version, values):
    documents = rendered(gateway, *PUBLIC, values=values)
    kinds = {"Deployment", "Service", "Service admin", "NetworkPolicy", "PodDisruptionBudget", "Ingress", "HorizontalPodAutoscaler", "Pod test"}
    with_files = {"ConfigMap files"} if values or gateway == "channels" else set()
    more = {"ServiceAccount", "ServiceMonitor", "PrometheusRule", "ConfigMap dashboard"} if values else set()
    assert set(documents) == kinds | with_files | more
    assert not list(nulls(documents))
    if "ServiceMonitor" in documents:
        strict(MONITOR).validate(documents.pop("ServiceMonitor"))
        # No schema of its own: test_a_rule_has_the_alerts compares it with the file.
        documents.pop("PrometheusRule")
    for document in documents.values():
        validate(document, version, strict=True)


def nulls(value, path=""):
    """The paths of all values that are null."""
    if value is None:
        yield path
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in entries:
        yield from nulls(each, f"{path}.{key}")


def strict(schema):
    """A validator that refuses what the schema does not name."""
    def closed(part):
        if isinstance(part, list):
            return [closed(each) for each in part]
        if not isinstance(part, dict):
            return part
        part = {key: closed(each) for key, each in part.items()}
        return {"additionalProperties": False, **part} if isinstance(part.get("properties"), dict) and "type" in part else part

    return Draft7Validator(closed(schema))


def test_the_strict_schema_refuses_a_misspelt_key():
    monitor = rendered("levels", values=EVERYTHING)["ServiceMonitor"]
    for wrong in ({"endpoint": []}, {"endpoints": [{"ports": "admin"}]}):
        assert not strict(MONITOR).is_valid({**monitor, "spec": {**monitor["spec"], **wrong}})


def test_a_monitor_scrapes_the_port_for_operators():
    documents = rendered("levels", values=EVERYTHING)
    monitor, service = documents["ServiceMonitor"], documents["Service admin"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    [endpoint] = monitor["spec"]["endpoints"]
    assert endpoint == {"port": "admin", "path": "/metrics", "interval": "30s"}
    [target] = [port["targetPort"] for port in service["spec"]["ports"] if port["name"] == endpoint["port"]]
    assert {"name": target, "containerPort": 9100} in container(documents)["ports"]
    # A Prometheus with both would count each pod twice.
    annotated = lambda documents: documents["Deployment"]["spec"]["template"]["metadata"].get("annotations", {})
    assert annotated(rendered("levels")) == {"prometheus.io/scrape": "true", "prometheus.io/port": "9100"}
    assert annotated(documents) == {"team": "feeds"}


def test_a_policy_opens_the_ports_of_clients_to_all_and_the_port_for_operators_to_few():
    tls = {"settings": {"WEIRGATE_TLS_PORT": "8443"}}
    documents = rendered("channels", values={**EVERYTHING, **tls})
    policy, pod = documents["NetworkPolicy"]["spec"], documents["Deployment"]["spec"]["template"]
    assert policy["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    clients, operators = policy["ingress"]
    assert clients == {"ports": [{"port": "http", "protocol": "TCP"}, {"port": 8443, "protocol": "TCP"}]}
    assert operators == {"ports": [{"port": "admin", "protocol": "TCP"}], "from": EVERYTHING["networkPolicy"]["adminFrom"]}
    # An empty list of peers would be everybody.
    [alone] = rendered("levels")["NetworkPolicy"]["spec"]["ingress"]
    assert alone == {"ports": [{"port": "http", "protocol": "TCP"}]}
    assert "NetworkPolicy" not in rendered("levels", "--set", "networkPolicy.enabled=false")
    # The services of events push there, whoever else is admitted.
    services = [{"podSelector": {"matchLabels": {"weirgate-push": "true"}}}]
    for values, operators in [({}, []), (EVERYTHING, EVERYTHING["networkPolicy"]["adminFrom"])]:
        _, pushes = rendered("events", values=values)["NetworkPolicy"]["spec"]["ingress"]
        assert pushes["from"] == operators + services


def test_the_port_for_operators_is_in_no_service_for_clients():
    documents = rendered("levels", *PUBLIC, values=EVERYTHING)
    for name, ports, kind in [("Service", ["http"], "LoadBalancer"), ("Service admin", ["admin"], "ClusterIP")]:
        service = documents[name]["spec"]
        assert ([port["name"] for port in service["ports"]], service["type"]) == (ports, kind)
    [rule] = documents["Ingress"]["spec"]["rules"]
    assert {path["backend"]["service"]["name"] for path in rule["http"]["paths"]} == {documents["Service"]["metadata"]["name"]}


def releases(*names):
    """The documents of releases of one gateway, each with (kind, name)."""
    for name in names:
        status, text = helm("template", name, str(CHART), "-f", str(CHART / "values-channels.yaml"))
        assert status == 0, text
        yield {(one["kind"], one["metadata"]["name"]): one for one in yaml.safe_load_all(text)}


def test_two_releases_of_a_gateway_share_a_namespace():
    one, other = releases("desk", "weirgate-web")
    assert not set(one) & set(other)
    assert ("Deployment", "desk-weirgate") in one and ("Deployment", "weirgate-web") in other
    for mine, other in ((one, other), (other, one)):
        labels = [d["spec"]["template"]["metadata"]["labels"] for (kind, _), d in other.items() if kind == "Deployment"]
        labels += [d["metadata"].get("labels", {}) for (kind, _), d in [*mine.items(), *other.items()] if kind == "Pod"]
        for document in mine.values():
            spec = document.get("spec", {})
            for selector in (spec.get("selector"), spec.get("podSelector")):
                selector = (selector or {}).get("matchLabels", selector)
                if selector:
                    assert not any(selector.items() <= each.items() for each in labels), document["metadata"]["name"]
    named = yaml.safe_load_all(helm("template", "desk", str(CHART), "--set", "fullnameOverride=feed")[1])
    assert {document["metadata"]["name"] for document in named} == {"feed", "feed-admin", "feed-test"}


def test_each_version_is_an_image_of_its_own(tmp_path):
    """An upgrade of the chart alone starts new pods, and changes no selector, which Kubernetes would refuse."""
    newer = tmp_path / "weirgate"
    shutil.copytree(CHART, newer)
    chart = (newer / "Chart.yaml").read_text()
    (newer / "Chart.yaml").write_text(chart.replace(f'appVersion: "{VERSION}"', 'appVersion: "9.9.9"'))
    deployments = []
    for path in (CHART, newer):
        status, text = helm("template", "desk", str(path))
        assert status == 0, text
        deployments += [one for one in yaml.safe_load_all(text) if one["kind"] == "Deployment"]
    one, other = [deployment["spec"] for deployment in deployments]
    assert one["template"]["spec"]["containers"][0]["image"] == f"weirgate:{VERSION}"
    assert other["template"]["spec"]["containers"][0]["image"] == "weirgate:9.9.9"
    assert one["selector"] == other["selector"] and one["template"]["metadata"] == other["template"]["metadata"]
    digest = "sha256:" + "0a" * 32
    documents = rendered("levels", "--set", f"image.digest={digest},image.tag=old", values={"checkFirst": True})
    for each in (container(documents), *pod_spec(documents)["initContainers"], documents["Pod test"]["spec"]["containers"][0]):
        assert each["image"] == f"weirgate@{digest}"


def test_a_rule_has_the_alerts_and_the_dashboard_is_there():
    documents = rendered("levels", values=EVERYTHING)
    alerts = (ROOT / "deploy" / "prometheus" / "alerts.yml").read_text()
    prefix = EVERYTHING["prometheusRule"]["runbookPrefix"]
    assert documents["PrometheusRule"]["spec"] == yaml.safe_load(alerts.replace('runbook_url: "docs/', f'runbook_url: "{prefix}docs/'))
    assert documents["PrometheusRule"]["metadata"]["labels"]["release"] == "prometheus"
    dashboard = documents["ConfigMap dashboard"]
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(dashboard["data"]["weirgate.json"]) == json.loads((ROOT / "deploy" / "grafana" / "weirgate.json").read_text())


@pytest.fixture
def notes(tmp_path):
    """The notes that an operator reads after an installation. Helm shows them only with a cluster, so a chart has them as a document."""
    chart = tmp_path / "notes"
    shutil.copytree(CHART, chart, ignore=shutil.ignore_patterns("*.yaml", "*.json", "*.yml"))
    for name in ("Chart.yaml", "values.yaml"):
        shutil.copy(CHART / name, chart)
    text = (chart / "templates" / "NOTES.txt").read_text()
    (chart / "templates" / "_notes.tpl").write_text('{{ define "notes" }}' + text + "{{ end }}")
    (chart / "templates" / "notes.yaml").write_text('notes: {{ include "notes" . | quote }}')

    def render(gateway, *more):
        status, text = helm("template", "desk", str(chart), "-f", str(CHART / f"values-{gateway}.yaml"), *more)
        assert status == 0, text
        return yaml.safe_load(text)["notes"]
    return render


def test_the_notes_say_what_is_open_and_what_is_missing(notes):
    plain = notes("levels")
    assert "lets no Prometheus reach" in plain and "WEIRGATE_ADMIN_TOKEN" in plain and "WARNING" not in plain
    assert "WARNING: networkPolicy.enabled is false" in notes("levels", "--set", "networkPolicy.enabled=false")
    token = notes("levels", "--set", "secret.name=weirgate,secret.settings={WEIRGATE_ADMIN_TOKEN}")
    assert "WEIRGATE_ADMIN_TOKEN" not in token
    assert "WARNING: 3 replicas without WEIRGATE_EVENTS_BUS" in notes("events", "--set", "replicas=3")
    assert "WARNING" not in notes("events", "--set", "replicas=3,settings.WEIRGATE_EVENTS_BUS=redis://redis")


def test_the_test_of_a_release_asks_the_service_for_clients():
    documents = rendered("trades")
    [asks] = documents["Pod test"]["spec"]["containers"]
    service = documents["Service"]
    assert asks["command"][-1] == f"http://{service['metadata']['name']}:{service['spec']['ports'][0]['port']}/health"
    assert not service["spec"]["selector"].items() <= documents["Pod test"]["metadata"]["labels"].items()


def test_probes_and_the_order_of_a_roll_are_values():
    numbers = {"periodSeconds": 7, "timeoutSeconds": 3, "failureThreshold": 4, "initialDelaySeconds": 1}
    documents = rendered("levels", values={"probes": {"readiness": numbers, "liveness": numbers}, **{
        key: EVERYTHING[key] for key in ("strategy", "minReadySeconds")}})
    spec = documents["Deployment"]["spec"]
    assert (spec["strategy"], spec["minReadySeconds"]) == (EVERYTHING["strategy"], 30)
    for probe in ("readinessProbe", "livenessProbe"):
        assert numbers.items() <= container(documents)[probe].items()
    recreate = rendered("levels", values={"strategy": {"type": "Recreate", "rollingUpdate": None}})["Deployment"]["spec"]["strategy"]
    assert recreate == {"type": "Recreate"}


def test_an_account_of_the_pods_has_no_token():
    documents = rendered("levels", values=EVERYTHING)
    account, pod = documents["ServiceAccount"], pod_spec(documents)
    assert account["metadata"]["name"] == pod["serviceAccountName"] == "weirgate-levels"
    assert not account["automountServiceAccountToken"] and not pod["automountServiceAccountToken"]
    documents = rendered("levels", "--set", "serviceAccount.name=mine")
    assert pod_spec(documents)["serviceAccountName"] == "mine" and "ServiceAccount" not in documents
    assert "serviceAccountName" not in pod_spec(rendered("levels"))


def test_the_manifests_are_made_from_the_chart(tmp_path):
    made = subprocess.run([ROOT / "scripts" / "kubernetes.sh", tmp_path], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=120)
    assert made.returncode == 0, made.stdout
    for gateway in GATEWAYS:
        now, kept = tmp_path / f"{gateway}.yaml", ROOT / "deploy" / "kubernetes" / f"{gateway}.yaml"
        assert now.read_text() == kept.read_text(), f"run scripts/kubernetes.sh: {kept} is older than the chart"


def test_the_chart_has_the_version_of_the_program():
    status, text = run([weirgate_binary(), "--version"], {})
    assert status == 0 and text.split()[1] == VERSION == IMAGES["levels"].last("LABEL").partition('version="')[2].partition('"')[0], text


@pytest.mark.parametrize("gateway", GATEWAYS)
def test_the_gateway_knows_every_setting(gateway, tmp_path):
    documents = rendered(gateway, *PUBLIC)
    assert_known(Pod(documents, tmp_path).environment(container(documents)), gateway)


@pytest.mark.parametrize("gateway", GATEWAYS)
def test_a_rolling_update_takes_no_pod_away_before_its_time(gateway):
    documents = rendered(gateway)
    spec = documents["Deployment"]["spec"]
    pod, it = pod_spec(documents), container(documents)
    env = {e["name"]: e.get("value") for e in it["env"]}
    # All new pods first: of one after the other, the clients of the first old pods would go to old pods too.
    assert spec["strategy"]["rollingUpdate"] == {"maxSurge": "100%", "maxUnavailable": 0} and spec["minReadySeconds"] == 10
    drain_ms = int(env["WEIRGATE_DRAIN_DELAY_MS"]) + int(env["WEIRGATE_DRAIN_MS"])
    assert pod["terminationGracePeriodSeconds"] * 1000 == drain_ms + 2 * default_ms("stop-timeout-ms")
    ready, live = it["readinessProbe"], it["livenessProbe"]
    assert (ready["httpGet"]["path"], live["httpGet"]["path"]) == ("/ready", "/health")
    notice_s = ready["periodSeconds"] * ready["failureThreshold"]
    assert notice_s * 1000 < int(env["WEIRGATE_DRAIN_DELAY_MS"]), "the delay is over before anyone can notice"
    assert it["image"] == f"weirgate:{VERSION}" and not pod["enableServiceLinks"]


@pytest.mark.parametrize("gateway", GATEWAYS)
def test_an_init_container_checks_what_the_gateway_starts_with(gateway, tmp_path):
    values = {"checkFirst": True, "extraArgs": ["--send-queue-stall-ms", "9000"], "secretFiles": ["keys"],
              "envFrom": [{"secretRef": {"name": "weirgate-env"}, "prefix": "WEIRGATE_"}],
              "files": {"filter": "info"}, "settings": {"WEIRGATE_LOG_FILTER_FILE": "/etc/weirgate/files/filter"}}
    documents = rendered(gateway, values=values)
    validate(documents["Deployment"], KUBERNETES[-1], strict=True)
    [first], it = pod_spec(documents)["initContainers"], container(documents)
    assert {key: value for key, value in first.items() if key not in ("name", "args")}.items() <= it.items()
    assert first["args"] == [*it["args"], "--check"]
    pod = Pod(documents, tmp_path, {"weirgate-env": {"CONNECTIONS_MAX": "99"}, "keys": {"a.pem": "of nothing"}})
    status, text = run([weirgate_binary(), *pod.args(first)], pod.environment(first))
    assert (status, text.splitlines()[0]) == (0, f"weirgate {gateway}: the settings are good"), text
    assert re.search(r"--connections-max +99 +env WEIRGATE_CONNECTIONS_MAX$", text, re.M), text
    assert re.search(r"--send-queue-stall-ms +9000 +flag$", text, re.M), text
    # A file that is not there keeps the pod from starting.
    pod.project("files", {"other": "info"})
    status, text = run([weirgate_binary(), *pod.args(first)], pod.environment(first))
    assert status == 2 and "files/filter" in text, text
    assert "initContainers" not in pod_spec(rendered(gateway))


@pytest.mark.parametrize("values, seconds", [
    ({"drainDelayMs": 2500, "drainMs": 1000}, 14),
    ({"settings": {"WEIRGATE_STOP_TIMEOUT_MS": "10000"}}, 35),
    ({"settings": {"WEIRGATE_DRAIN_MS": "60000"}}, 75),
    # The order of Kubernetes and weirgate: `env` comes after `settings`, and a flag overrides both.
    ({"settings": {"WEIRGATE_STOP_TIMEOUT_MS": "1"}, "env": [{"name": "WEIRGATE_STOP_TIMEOUT_MS", "value": "20000"}]}, 55),
    ({"settings": {"WEIRGATE_STOP_TIMEOUT_MS": "1"}, "extraArgs": ["--stop-timeout-ms", "20000"]}, 55),
    ({"extraArgs": ["--stop-timeout-ms=20000", "--drain-delay-ms=0"]}, 50),
])
def test_the_grace_period_is_the_time_of_a_stop(values, seconds):
    """docs/guides/deploy.md: the delay, the drain and twice --stop-timeout-ms."""
    assert pod_spec(rendered("levels", values=values))["terminationGracePeriodSeconds"] == seconds


def test_a_pod_may_do_nothing_but_serve():
    documents = rendered("levels")
    pod, it = pod_spec(documents), container(documents)
    user = f"{pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}"
    assert pod["securityContext"]["runAsNonRoot"] and user == IMAGES["levels"].last("USER")
    security = it["securityContext"]
    assert security["readOnlyRootFilesystem"] and not security["allowPrivilegeEscalation"]
    assert security["capabilities"] == {"drop": ["ALL"]}


@pytest.mark.parametrize("gateway", GATEWAYS)
def test_all_documents_mean_the_same_pods(gateway):
    documents = rendered(gateway, *PUBLIC, values=EVERYTHING)
    selector = documents["Deployment"]["spec"]["selector"]["matchLabels"]
    service = documents["Service"]["spec"]
    assert service["selector"] == selector == documents["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"]
    assert documents["Service admin"]["spec"]["selector"] == selector == documents["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"]
    labels = documents["Deployment"]["spec"]["template"]["metadata"]["labels"]
    assert labels == {**selector, "app.kubernetes.io/component": gateway, "team": "feeds"}
    names = {p["name"] for p in container(documents)["ports"]}
    assert {p["targetPort"] for p in service["ports"]} <= names
    backend = documents["Ingress"]["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"]
    assert backend == {"name": documents["Service"]["metadata"]["name"], "port": {"name": "http"}}
    scaled = documents["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"]
    assert scaled == documents["Deployment"]["metadata"]["name"]


def test_no_secret_has_a_value_in_the_chart():
    """Nor in the environment of the pod, which more programs read than its files."""
    for gateway, name in (("channels", "JWT_SECRET"), ("events", "INTERNAL_AUTH_TOKEN")):
        documents = rendered(gateway)
        env = {e["name"]: e["value"] for e in container(documents)["env"]}
        path = f"/etc/weirgate/secrets/weirgate-{gateway}"
        assert env[f"{name}_FILE"] == f"{path}/{name}" and name not in env
        [mount] = [mount for mount in container(documents)["volumeMounts"] if mount["mountPath"] == path]
        [volume] = [one for one in pod_spec(documents)["volumes"] if one["name"] == mount["name"]]
        assert volume["secret"] == {"secretName": f"weirgate-{gateway}"} and mount["readOnly"]


@pytest.mark.parametrize("wrong, told", [
    (["--set", "gateway=level"], "gateway"),
    (["--set", "replica=3"], "replica"),
    (["--set", "ingress.enabled=true"], "trustedProxies"),
    (["--set", "settings.NATS_URL=1"], "NATS_URL"),
    (["--set", "secret.settings={JWT_SECRET}"], "secret.name"),
    (["--set", "extraVolumes[0].name=files"], "extraVolumes"),
    (["--set", "extraArgs={1}"], "extraArgs"),
    (["--set", "settings.a b=c"], "settings"),
    (["--set", "files.a/b=c"], "files"),
    (["--set", "files.a=1"], "files"),
    (["--set", "secretFiles={../etc}"], "secretFiles"),
    (["--set", "secretFiles={a,a}"], "secretFiles"),
    (["--set", "envFrom[0].secretRef=env"], "envFrom"),
    (["--set", "envFrom[0].secretRef.name=a,envFrom[0].configMapRef.name=a"], "envFrom"),
    (["--set", "imagePullSecrets={registry}"], "imagePullSecrets"),
    (["--set", "tolerations[0].efect=NoSchedule"], "efect"),
    (["--set", "affinity.nodeAfinity.a=b"], "nodeAfinity"),
    (["--set", "topologySpreadConstraints[0].maxSkew=1"], "topologyKey"),
    (["--set", r"podLabels.app\.kubernetes\.io/name=mine"], "podLabels"),
    (["--set", "podAnnotations.a=true"], "podAnnotations"),
    (["--set", "serviceAccount.create=yes"], "serviceAccount"),
    (["--set", "serviceMonitor.interval=often"], "serviceMonitor"),
    (["--set", "image.digest=latest"], "digest"),
    (["--set", "strategy.rollingUpdate.maxSurge=many"], "maxSurge"),
    (["--set", "strategy.maxSurge=1"], "maxSurge"),
    (["--set", "probes.readiness.path=/"], "path"),
    (["--set", "env[0].name=A"], "env"),
    (["--set", "fullnameOverride=Feed"], "fullnameOverride"),
    (["--set", "prometheusRule.runbookPrefix=a\"b"], "runbookPrefix"),
])
def test_wrong_values_are_told(wrong, told):
    status, text = helm("template", "weirgate", str(CHART), *wrong)
    assert status != 0 and told in text, text

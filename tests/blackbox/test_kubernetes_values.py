"""Values of the Helm chart: every text arrives as it is, whatever YAML could take it for; nothing empty leaves a trace."""
import json

import pytest
import yaml
from pods import CHART, container, pod_spec, rendered, template

VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
# Kubernetes judges what is in these.
FREE = {"global", "resources", "env.valueFrom", "affinity.nodeAffinity", "affinity.podAffinity", "affinity.podAntiAffinity",
        "topologySpreadConstraints.labelSelector", "networkPolicy.adminFrom.podSelector", "networkPolicy.adminFrom.namespaceSelector",
        "networkPolicy.adminFrom.ipBlock"}
# Names of one word, which the schema bounds, numbers and switches.
BOUNDED = {"gateway", "image.pullPolicy", "replicas", "processes", "port", "portSetting", "secret", "secretFiles", "checkFirst", "drainDelayMs",
           "drainMs", "resources", "affinity", "serviceAccount.create", "serviceAccount.name", "serviceMonitor.enabled",
           "serviceMonitor.interval", "networkPolicy", "ingress.enabled", "autoscaling", "fullnameOverride", "image.digest", "strategy",
           "minReadySeconds", "probes", "service.type", "prometheusRule.enabled", "prometheusRule.runbookPrefix", "dashboard.enabled"}
TEXTS = ['say "yes", it\'s {{ .Values }} \\ {a: [b]}', "0123", "1e3", "true", "no", "null", "~", "# none", "- a", " padded ", "*", "&a",
         "%", "@", "a: b", "été \U0001f600", "first\n  second\n\nlast\n", "tab\tand\r\n", "$(A) ${A} $$"]


def everywhere(text):
    """Values with this text wherever a text may be, and (name, how to find it in the documents)."""
    metadata = lambda kind: lambda d: d[kind]["metadata"]
    template = lambda d: d["Deployment"]["spec"]["template"]["metadata"]
    rule = lambda d: d["Ingress"]["spec"]["rules"][0]
    values = {
        "image": {"repository": text, "tag": text},
        "env": [{"name": "OTHER", "value": text}],
        "service": {"annotations": {"some": text}},
        "prometheusRule": {"enabled": True, "labels": {"some": text}},
        "dashboard": {"enabled": True, "labels": {"some": text}},
        "imagePullSecrets": [{"name": text}],
        "settings": {"SOME": text},
        "trustedProxies": text,
        "envFrom": [{"secretRef": {"name": text}, "prefix": text}],
        "extraArgs": [text, "last"],
        "files": {"some.json": text},
        "nodeSelector": {"some": text},
        "tolerations": [{"key": text, "value": text}],
        "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": text, "whenUnsatisfiable": "ScheduleAnyway",
                                       "labelSelector": {"matchLabels": {"some": text}}}],
        "podLabels": {"some": text},
        "podAnnotations": {"some": text},
        "serviceAccount": {"create": True, "annotations": {"some": text}},
        "serviceMonitor": {"enabled": True, "labels": {"some": text}},
        "ingress": {"enabled": True, "host": text, "paths": ["/" + text], "className": text, "tlsSecret": text,
                    "annotations": {"some": text}},
    }
    places = {
        "image.repository": lambda d: container(d)["image"][:len(text)],
        "image.tag": lambda d: container(d)["image"][-len(text):],
        "env": lambda d: next(e["value"] for e in container(d)["env"] if e["name"] == "OTHER"),
        "service.annotations": lambda d: metadata("Service")(d)["annotations"]["some"],
        "prometheusRule.labels": lambda d: metadata("PrometheusRule")(d)["labels"]["some"],
        "dashboard.labels": lambda d: metadata("ConfigMap dashboard")(d)["labels"]["some"],
        "imagePullSecrets": lambda d: pod_spec(d)["imagePullSecrets"][0]["name"],
        "settings": lambda d: next(e["value"] for e in container(d)["env"] if e["name"] == "SOME"),
        "trustedProxies": lambda d: next(e["value"] for e in container(d)["env"] if e["name"] == "WEIRGATE_TRUSTED_PROXIES"),
        "envFrom.name": lambda d: container(d)["envFrom"][0]["secretRef"]["name"],
        "envFrom.prefix": lambda d: container(d)["envFrom"][0]["prefix"],
        "extraArgs": lambda d: container(d)["args"][1],
        "files": lambda d: d["ConfigMap files"]["data"]["some.json"],
        "nodeSelector": lambda d: pod_spec(d)["nodeSelector"]["some"],
        "tolerations.key": lambda d: pod_spec(d)["tolerations"][0]["key"],
        "tolerations.value": lambda d: pod_spec(d)["tolerations"][0]["value"],
        "topologySpreadConstraints": lambda d: pod_spec(d)["topologySpreadConstraints"][0]["topologyKey"],
        "topologySpreadConstraints.labelSelector":
            lambda d: pod_spec(d)["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"]["some"],
        "podLabels": lambda d: template(d)["labels"]["some"],
        "podAnnotations": lambda d: template(d)["annotations"]["some"],
        "serviceAccount.annotations": lambda d: metadata("ServiceAccount")(d)["annotations"]["some"],
        "serviceMonitor.labels": lambda d: metadata("ServiceMonitor")(d)["labels"]["some"],
        "ingress.host": lambda d: rule(d)["host"],
        "ingress.paths": lambda d: rule(d)["http"]["paths"][0]["path"][1:],
        "ingress.className": lambda d: d["Ingress"]["spec"]["ingressClassName"],
        "ingress.tlsSecret": lambda d: d["Ingress"]["spec"]["tls"][0]["secretName"],
        "ingress.annotations": lambda d: metadata("Ingress")(d)["annotations"]["some"],
    }
    return values, places


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_arrives_as_it_is(text):
    values, places = everywhere(text)
    documents = rendered("levels", values=values)
    assert {name: find(documents) for name, find in places.items()} == dict.fromkeys(places, text)
    assert container(documents)["args"] == ["levels", text, "last"]
    assert documents["Ingress"]["spec"]["tls"][0]["hosts"] == [text]


@pytest.mark.parametrize("number", [999_999, 1_000_000, 12_345_678])
def test_a_number_has_all_its_digits(number):
    """Helm reads numbers as floats, and writes a million as 1e+06."""
    values = {"replicas": number, "drainDelayMs": number, "drainMs": number,
              "tolerations": [{"operator": "Exists", "tolerationSeconds": number}],
              "topologySpreadConstraints": [{"maxSkew": number, "topologyKey": "a", "whenUnsatisfiable": "ScheduleAnyway"}]}
    text = template("levels", values=values)
    documents = rendered("levels", values=values)
    assert f"replicas: {number}\n" in text and documents["Deployment"]["spec"]["replicas"] == number
    env = {entry["name"]: entry["value"] for entry in container(documents)["env"]}
    assert env["WEIRGATE_DRAIN_DELAY_MS"] == env["WEIRGATE_DRAIN_MS"] == str(number)
    assert pod_spec(documents)["terminationGracePeriodSeconds"] == (2 * number + 999) // 1000 + 10
    assert pod_spec(documents)["tolerations"][0]["tolerationSeconds"] == number
    assert pod_spec(documents)["topologySpreadConstraints"][0]["maxSkew"] == number
    scale = {"enabled": True, "minReplicas": number, "maxReplicas": number, "clientsPerPod": number}
    spec = rendered("levels", values={"autoscaling": scale})["HorizontalPodAutoscaler"]["spec"]
    assert spec["minReplicas"] == spec["maxReplicas"] == number
    assert spec["metrics"][0]["pods"]["target"]["averageValue"] == str(number)


@pytest.mark.parametrize("processes, env, probed", [(1, None, "http"), (4, "4", "admin"), ("auto", "auto", "admin")])
def test_several_processes_of_a_pod_are_watched_by_their_supervisor(processes, env, probed):
    documents = rendered("channels", values={"processes": processes})
    found = {entry["name"]: entry.get("value") for entry in container(documents)["env"]}
    assert found.get("WEIRGATE_PROCESSES") == env
    assert container(documents)["livenessProbe"]["httpGet"] == {"path": "/health", "port": probed}


def test_every_value_is_tried_or_bounded():
    tried = BOUNDED | set(everywhere("")[1])
    for name, value in VALUES.items():
        nested = isinstance(value, dict) and value and name not in BOUNDED
        for path in [f"{name}.{key}" for key in value] if nested else [name]:
            assert any(path == one or one.startswith(path + ".") for one in tried), f"{path} is in neither"


def objects(schema, path=""):
    """(path, schema) of every object that the schema names."""
    if "$ref" in schema:
        schema = SCHEMA["definitions"][schema["$ref"].rsplit("/", 1)[1]]
    if schema.get("type") == "array":
        yield from objects(schema["items"], path)
    elif schema.get("type") == "object":
        yield path, schema
        for name, part in schema.get("properties", {}).items():
            yield from objects(part, f"{path}.{name}".strip("."))


def test_the_schema_knows_every_value_and_no_other():
    found = dict(objects(SCHEMA))
    assert set(found[""]["properties"]) - {"global"} == set(VALUES)
    for path, schema in found.items():
        assert path in FREE or schema.get("additionalProperties", True) is not True, f"{path} lets anything in"
    for name, value in VALUES.items():
        if isinstance(value, dict) and value and name in found and name not in FREE:
            assert set(found[name]["properties"]) == set(value), name


def test_nothing_empty_leaves_a_trace():
    empty = {name: type(value)() for name, value in VALUES.items() if isinstance(value, (dict, list))}
    assert len(empty) > 15
    documents = rendered("levels", values=empty | {"settings": {"SOME": ""}})
    assert set(documents) == {"Deployment", "Service", "Service admin", "PodDisruptionBudget", "NetworkPolicy", "Pod test"}
    assert "topologySpreadConstraints" not in pod_spec(documents)
    assert {"name": "SOME", "value": ""} in container(documents)["env"]
    text = json.dumps(documents)
    assert "null" not in text and "{}" not in text and "[]" not in text


def test_an_ingress_without_a_class_or_annotations_has_none():
    values = {"trustedProxies": "10.0.0.0/8", "ingress": {"enabled": True, "className": ""}}
    values["ingress"]["annotations"] = dict.fromkeys(VALUES["ingress"]["annotations"])
    ingress = rendered("levels", values=values)["Ingress"]
    assert "ingressClassName" not in ingress["spec"] and "annotations" not in ingress["metadata"]


def test_a_constraint_is_about_the_pods_of_the_release_unless_it_says_otherwise():
    labels = {"app.kubernetes.io/name": "weirgate", "app.kubernetes.io/instance": "weirgate-levels"}
    [default] = pod_spec(rendered("levels"))["topologySpreadConstraints"]
    assert default["labelSelector"] == {"matchLabels": labels}
    own = {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}
    other = {**own, "labelSelector": {"matchLabels": {"app": "nats"}}}
    spread = pod_spec(rendered("levels", values={"topologySpreadConstraints": [own, other]}))["topologySpreadConstraints"]
    assert spread == [{**own, "labelSelector": {"matchLabels": labels}}, other]


def test_another_text_of_a_file_starts_no_new_pods():
    """The pods see the change, and no client is closed."""
    one, other = [rendered("channels", values={"files": {"roles.json": text}}) for text in ("{}", '{"user": []}')]
    assert one["ConfigMap files"] != other["ConfigMap files"] and one["Deployment"] == other["Deployment"]

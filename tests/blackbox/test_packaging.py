"""Images, compose files, manifests and packages without an engine at hand: what they say is run against the program.

`make deb-test` builds the Debian package, installs it and removes it again.
"""
import asyncio
import os
import pathlib
import re
import shutil
import stat
import subprocess
import tomllib

import pytest
import yaml
from images import in_context, stages
from processes import ROOT, Process, free_port, system_binary, weirgate_binary
from recipes import assert_known, default_ms, run
from waiting import until

DOCKERFILE = stages((ROOT / "Dockerfile").read_text())
DOCKERIGNORE = (ROOT / ".dockerignore").read_text()
DEPLOY = ROOT / "deploy"
IMAGES = ["weirgate", "levels", "trades", "events", "channels", "static"]
# What a gateway cannot start without.
NEEDS = {"trades": {"REDIS_URL": "redis://127.0.0.1:1"}}


def tracked():
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT,
                            stdout=subprocess.PIPE, check=True).stdout.decode()
    return [name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def path_with_weirgate():
    return os.pathsep.join([str(weirgate_binary().parent), "/usr/bin", "/bin"])


def gateways():
    """The subcommands that this build runs."""
    status, text = run([weirgate_binary(), "--help"], {})
    assert status == 0
    return set(re.findall(r"^  ([a-z]+) ", text.split("Commands:")[1].split("\n\n")[0], re.M))


# --- images

def test_every_image_is_there_and_the_default_is_the_last():
    assert set(IMAGES) < set(DOCKERFILE)
    assert list(DOCKERFILE)[-1] == "weirgate"
    for gateway in ["levels", "trades", "events", "channels"]:
        assert DOCKERFILE[gateway].env()["WEIRGATE_GATEWAY"] == gateway
    assert "WEIRGATE_GATEWAY" not in DOCKERFILE["weirgate"].env() and not DOCKERFILE["weirgate"].argv("CMD")
    assert DOCKERFILE["static"].image == "scratch" and not DOCKERFILE["static"].own("RUN")
    assert "curl" in " ".join(DOCKERFILE["weirgate"].every("RUN"))


def test_every_copy_has_its_source():
    files, built = tracked(), tomllib.loads((ROOT / "Cargo.toml").read_text())["profile"]
    for name, stage in DOCKERFILE.items():
        for origin, sources, _ in stage.copies():
            for source in sources:
                if origin is None:
                    inside = [f for f in files if f == source or f.startswith(source + "/")]
                    assert inside, f"{name}: {source} is not there"
                    assert all(in_context(f, DOCKERIGNORE) for f in inside), f"{name}: {source} is ignored"
                elif source.startswith("/src/target/"):
                    profile, binary = source.removeprefix("/src/target/").split("/")
                    assert profile in built and binary == "weirgate"
                    assert any(f"--profile {profile}" in line for line in DOCKERFILE[origin].own("RUN"))
                else:
                    made = DOCKERFILE[origin].own("RUN") or DOCKERFILE[origin].own("COPY")
                    assert made, f"{source} is from an image as it is"


def test_nothing_is_sent_to_the_engine_that_is_not_copied():
    copied = {source for stage in DOCKERFILE.values() for origin, sources, _ in stage.copies() if origin is None
              for source in sources}
    for name in tracked():
        wanted = any(name == source or name.startswith(source + "/") for source in copied)
        assert in_context(name, DOCKERIGNORE) == wanted, name


def test_the_build_has_all_that_it_reads(tmp_path):
    for build in ["build", "build-static"]:
        assert ("source", ["/"], ".") in DOCKERFILE[build].copies()
    for _, sources, to in DOCKERFILE["source"].copies():
        for name in sources:
            target = tmp_path / (to.strip("/") or name)
            target.parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, target)
    host = re.search(r"host: (\S+)", run(["rustc", "-vV"], dict(os.environ))[1]).group(1)
    # Reads every manifest as a build does, and builds nothing.
    done = subprocess.run(["cargo", "fetch", "--locked", "--offline", "--target", host], cwd=tmp_path,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
    for source in (tmp_path / "src").rglob("*.rs"):
        # Tests are not built, and stand at the end of a file or in one of their own.
        of_tests = source.name == "tests.rs" or "tests" in source.relative_to(tmp_path).parts
        built = "" if of_tests else source.read_text().split("#[cfg(test)]\nmod")[0]
        for included in re.findall(r'include_(?:str|bytes)!\(\s*"([^"]+)"', built):
            assert (source.parent / included).exists(), f"{source}: {included} is not in the build"


@pytest.mark.parametrize("image", IMAGES)
def test_nobody_is_root_and_a_stop_is_a_sigterm(image):
    user = DOCKERFILE[image].last("USER")
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user), "a number: Kubernetes cannot check a name"
    assert DOCKERFILE[image].last("STOPSIGNAL") == "SIGTERM"


@pytest.mark.parametrize("image", IMAGES)
async def test_entrypoint_and_healthcheck_run(started, nats, image):
    stage, port = DOCKERFILE[image], free_port()
    env = {**stage.env(), "PATH": path_with_weirgate(), "WEIRGATE_PORT": str(port)}
    argv = stage.argv("ENTRYPOINT") + stage.argv("CMD")
    gateway = stage.env().get("WEIRGATE_GATEWAY")
    if gateway is None:
        status, text = run(argv, env)
        assert status == 2 and "Usage" in text, "without a gateway it says how to name one"
        gateway, argv = "levels", [*argv, "levels"]
    if gateway not in gateways():
        status, text = run(argv, env)
        assert status == 2 and "WEIRGATE_GATEWAY" in text, text
        return
    status, text = run(stage.healthcheck(), env)
    assert status == 1, f"healthy before it runs: {text}"
    child = {**env, **NEEDS.get(gateway, {}), "NATS_URL": nats.url}
    # env -i: the rig's processes have the whole environment of the tests.
    started.append(Process(["/usr/bin/env", "-i", *(f"{k}={v}" for k, v in child.items()), *argv]))
    await until(lambda: run(stage.healthcheck(), env)[0] == 0, 10, "a good health check")
    assert int(stage.last("EXPOSE")) == default_port(gateway)


def default_port(gateway):
    status, text = run([weirgate_binary(), gateway, "--check"], NEEDS.get(gateway, {}))
    assert status == 0, text
    return int(re.search(r"--port\s+(\d+)", text).group(1))


@pytest.mark.parametrize("env, argv", [({"WEIRGATE_GATEWAY": "demo"}, []), ({}, ["demo"])])
async def test_the_default_image_takes_the_gateway_as_name_or_argument(started, env, argv):
    stage, port = DOCKERFILE["weirgate"], free_port()
    env = {**stage.env(), **env, "PATH": path_with_weirgate(), "GATEWAY_PORT": str(port)}
    words = [*stage.argv("ENTRYPOINT"), *argv]
    started.append(Process(["/usr/bin/env", "-i", *(f"{k}={v}" for k, v in env.items()), *words]))
    await until(lambda: run(stage.healthcheck(), env)[0] == 0, 10, "a good health check")


# --- compose

@pytest.mark.parametrize("file", sorted(DEPLOY.glob("compose.*.yaml")), ids=lambda p: p.name)
def test_compose_files_ask_for_what_there_is(file):
    for name, service in yaml.safe_load(file.read_text())["services"].items():
        if "build" not in service:
            continue
        context = (file.parent / service["build"]["context"]).resolve()
        assert context == ROOT
        image = service["build"].get("target", "weirgate")
        assert image in IMAGES
        env = {k: str(v) for k, v in service.get("environment", {}).items()}
        gateway = env.get("WEIRGATE_GATEWAY") or DOCKERFILE[image].env()["WEIRGATE_GATEWAY"]
        assert_known(env, gateway)
        inside = service["ports"][0].rsplit(":", 1)[1]
        assert int(inside) == int(env.get("GATEWAY_PORT", default_port(gateway)))
        grace_s = int(service.get("stop_grace_period", "10s").removesuffix("s"))
        assert grace_s * 1000 > default_ms("stop-timeout-ms")
        assert service["read_only"] and service["cap_drop"] == ["ALL"]


# --- systemd and Debian

def unit_for_here(tmp_path):
    """The unit with the program's path of this machine, under the name of an instance."""
    text = (DEPLOY / "systemd" / "weirgate@.service").read_text()
    assert "ExecStart=/usr/bin/weirgate\n" in text
    unit = tmp_path / "weirgate@levels.service"
    unit.write_text(text.replace("/usr/bin/weirgate", str(weirgate_binary())))
    return unit


def test_the_unit_is_good_and_hardened(tmp_path):
    analyze, unit = system_binary("systemd-analyze", "systemd"), unit_for_here(tmp_path)
    status, text = run([analyze, "verify", "--man=no", unit], dict(os.environ))
    assert (status, text) == (0, ""), text
    status, text = run([analyze, "security", "--offline=true", "--no-pager", unit], dict(os.environ))
    exposure = float(re.search(r"exposure level for .*: ([\d.]+)", text).group(1))
    assert exposure < 2, text


def test_freed_memory_goes_back_to_the_kernel_in_every_recipe():
    unit = (DEPLOY / "systemd" / "weirgate@.service").read_text()
    settings = re.findall(r"^Environment=(MALLOC_\w+=\d+|GLIBC_TUNABLES=\S+)$", unit, re.M)
    assert {setting.split("=")[0] for setting in settings} == {"MALLOC_MMAP_THRESHOLD_", "MALLOC_ARENA_MAX", "GLIBC_TUNABLES"}
    assert re.findall(r"^ENV ((?:MALLOC_|GLIBC_)\S+)$", (ROOT / "Dockerfile").read_text(), re.M) == settings


def test_the_unit_waits_for_a_stop_and_gives_up_on_wrong_settings_only(tmp_path):
    unit = dict(line.split("=", 1) for line in unit_for_here(tmp_path).read_text().splitlines()
                if "=" in line and not line.startswith("#"))
    assert int(unit["TimeoutStopSec"]) * 1000 > default_ms("stop-timeout-ms")
    assert unit["Type"] == "notify" and unit["Restart"] == "always" and unit["RestartPreventExitStatus"] == "2"
    assert unit["ExecReload"] == "/bin/kill -HUP $MAINPID", "a reload, and no restart"
    assert float(unit["WatchdogSec"]) >= 2, "the loop turns twice a second"
    status, _ = run([weirgate_binary()], {"WEIRGATE_GATEWAY": "levels", "GATEWAY_PORT": "many"})
    assert str(status) == unit["RestartPreventExitStatus"]


def test_the_defaults_file_names_real_settings():
    text = (DEPLOY / "debian" / "weirgate.default").read_text()
    offered = dict(re.findall(r"^#?([A-Z_]+)=(\S+)$", text, re.M))
    assert len(offered) >= 5
    assert_known(offered)


def test_the_package_has_all_its_parts():
    package = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]["metadata"]["deb"]
    targets = set()
    for source, target, _ in package["assets"]:
        assert source == "target/release/weirgate" or (ROOT / source).is_file(), source
        targets.add("/" + (target + pathlib.Path(source).name if target.endswith("/") else target))
    assert set(package["conf-files"]) <= targets and "/usr/bin/weirgate" in targets
    for script in (ROOT / package["maintainer-scripts"]).glob("p*"):
        assert script.stat().st_mode & stat.S_IXUSR, script
        assert run(["sh", "-n", script], dict(os.environ)) == (0, "")

"""Images, compose files, manifests and packages without an engine at hand: what they say is run against the program.

`make deb-test` builds the Debian package, installs it and removes it again.
"""
import asyncio
import os
import pathlib
import re
import shutil
import signal
import stat
import subprocess
import sys
import tomllib

import pytest
import yaml
from bus import publisher
from clients import connect_many
from images import in_context, stages
from processes import ROOT, Process, free_port, system_binary, weirgate_binary
from proxies import Haproxy
from recipes import assert_known, default_ms, run, with_mounts
from waiting import until

DOCKERFILE = stages((ROOT / "Dockerfile").read_text())
DOCKERIGNORE = (ROOT / ".dockerignore").read_text()
DEPLOY = ROOT / "deploy"
IMAGES = ["weirgate", "levels", "trades", "events", "channels", "static"]
# The program in the stages that build it.
BUILT = "/usr/local/bin/weirgate"
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
                elif source == BUILT:
                    [line] = [line for line in DOCKERFILE[origin].own("RUN") if "cargo build" in line]
                    profile = re.search(r"--profile (\w+)", line).group(1)
                    assert profile in built and f"cp target/{profile}/weirgate {BUILT}" in line
                else:
                    made = DOCKERFILE[origin].own("RUN") or DOCKERFILE[origin].own("COPY")
                    assert made, f"{source} is from an image as it is"


def test_nothing_is_sent_to_the_engine_that_is_not_copied():
    copied = {source for stage in DOCKERFILE.values() for origin, sources, _ in stage.copies() if origin is None
              for source in sources}
    for name in tracked():
        wanted = any(name == source or name.startswith(source + "/") for source in copied)
        assert in_context(name, DOCKERIGNORE) == wanted, name


def copied(stage, folder):
    """Copies what a stage has of the repository into a folder, as an engine does."""
    for origin, sources, to in stage.copies():
        for name in sources if origin is None else []:
            target = folder / (f"{to}{pathlib.Path(name).name}" if to.endswith("/") and to != "/" else to.strip("/") or name)
            target.parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, target)


def test_the_build_has_all_that_it_reads(tmp_path):
    for build in ["build", "build-static"]:
        assert ("source", ["/"], ".") in DOCKERFILE[build].copies()
    copied(DOCKERFILE["source"], tmp_path)
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


def test_images_have_the_licences_of_the_crates(tmp_path):
    stage = DOCKERFILE["licences"]
    assert ("source", ["/"], ".") in stage.copies()
    for each in (DOCKERFILE["source"], stage):
        copied(each, tmp_path)
    [line] = [line for line in stage.own("RUN") if "licences.py" in line]
    script, file = re.search(r"python3 (\S+) (\S+)", line).groups()
    assert run([sys.executable, tmp_path / script, tmp_path / "made"], {**os.environ, "CARGO_NET_OFFLINE": "true"}) == (0, "")
    assert "\nserde 1" in (tmp_path / "made").read_text()
    for name in ["static", "base"]:
        [texts] = [texts for origin, texts, to in DOCKERFILE[name].copies() if (origin, to) == ("licences", "/usr/share/doc/weirgate/")]
        # musl is in the static program alone.
        assert file in texts and ("/licences/LICENSE-musl" in texts) == (name == "static")


@pytest.mark.parametrize("stage", ["build", "build-static"])
def test_dependencies_are_compiled_once_and_weirgate_each_time(stage, tmp_path):
    [line] = [line for line in DOCKERFILE[stage].own("RUN") if "cargo build" in line]
    mounts = dict(re.findall(r"--mount=type=cache,id=(\S+?),target=(\S+?),sharing=locked", line))
    other = " ".join(DOCKERFILE[{"build": "build-static", "build-static": "build"}[stage]].own("RUN"))
    assert set(mounts.values()) == {"/usr/local/cargo/registry", "/src/target"}
    [target_id] = [name for name, folder in mounts.items() if folder == "/src/target"]
    assert target_id not in other, "two C libraries in one folder"
    # A checkout with files older than the cache: cargo would take the program for built.
    source, cached = tmp_path / "src" / "main.rs", tmp_path / "target" / "dist" / "weirgate"
    for file in (source, cached):
        file.parent.mkdir(parents=True)
        file.touch()
        os.utime(file, (1, 1))
    touch = re.search(r"find .*? && ", line).group().removesuffix("&& ")
    subprocess.run(touch, shell=True, cwd=tmp_path, check=True)
    assert source.stat().st_mtime > 1 and cached.stat().st_mtime == 1


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_has_labels(image):
    labels = dict(re.findall(r'org\.opencontainers\.image\.(\w+)="([^"]*)"', " ".join(DOCKERFILE[image].every("LABEL"))))
    cargo = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]
    assert (labels["version"], labels["licenses"]) == (cargo["version"], cargo["license"])
    assert labels["title"] == "weirgate" and labels["description"]
    assert labels["revision"] == "${WEIRGATE_COMMIT}" and "WEIRGATE_COMMIT=" in DOCKERFILE[image].every("ARG")


def test_the_dockerfile_is_clean():
    hadolint = pathlib.Path(sys.executable).with_name("hadolint")
    assert hadolint.exists(), "no hadolint: run `scripts/install-test-deps.sh`"
    status, text = run([hadolint, "--no-color", ROOT / "Dockerfile"], dict(os.environ))
    assert (status, text) == (0, ""), text


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
    status, text = run([weirgate_binary(), gateway, "--check", "--all"], NEEDS.get(gateway, {}))
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
def test_compose_files_ask_for_what_there_is(file, tmp_path):
    compose = yaml.safe_load(file.read_text())
    for name, service in compose["services"].items():
        # Nothing takes all memory, and no log fills the disk.
        assert re.fullmatch(r"\d+[mg]", service["mem_limit"]) and set(service["logging"]["options"]) == {"max-size", "max-file"}, name
        if "build" not in service:
            continue
        context = (file.parent / service["build"]["context"]).resolve()
        assert context == ROOT
        image = service["build"].get("target", "weirgate")
        assert image in IMAGES
        env = {k: with_mounts(service, str(v)) for k, v in service.get("environment", {}).items()}
        for secret in service.get("secrets", []):
            assert compose["secrets"][secret]["file"].startswith("${"), "a secret of the repository"
            (tmp_path / secret).write_text("s" * 32)
            env = {k: v.replace(f"/run/secrets/{secret}", str(tmp_path / secret)) for k, v in env.items()}
        gateway = env.get("WEIRGATE_GATEWAY") or DOCKERFILE[image].env()["WEIRGATE_GATEWAY"]
        assert_known(env, gateway)
        # A port of its own, or one that the proxy beside it reaches.
        inside = (service.get("ports") or service["expose"])[0].rsplit(":", 1)[-1]
        assert int(inside) == int(env.get("GATEWAY_PORT") or env.get("REDIS_WS_GATEWAY_PORT") or default_port(gateway))
        grace_s = int(service.get("stop_grace_period", "10s").removesuffix("s"))
        drain_ms = int(env.get("WEIRGATE_DRAIN_DELAY_MS", 0)) + int(env.get("WEIRGATE_DRAIN_MS", 0))
        assert grace_s * 1000 > drain_ms + default_ms("stop-timeout-ms")
        assert service["read_only"] and service["cap_drop"] == ["ALL"]


def replicas():
    return yaml.safe_load((DEPLOY / "compose.channels-nats.yaml").read_text())["services"]


def test_haproxy_finds_the_replicas(local_certificate, tmp_path):
    services, config = replicas(), DEPLOY / "haproxy" / "replicas.cfg"
    mounted, inside = services["proxy"]["volumes"][0].split(":")[:2]
    assert (DEPLOY / mounted).resolve() == config and inside == "/usr/local/etc/haproxy/haproxy.cfg"
    name, port, most = re.search(r"server-template \w+ (\d+) (\w+):(\d+) ", config.read_text()).group(2, 3, 1)
    assert services[name]["expose"] == [port] and services[name]["deploy"]["replicas"] <= int(most)
    published = services["proxy"]["ports"][0].rsplit(":", 1)[1]
    assert f"bind :{published}\n" in config.read_text()
    for file in config.parent.glob("*.cfg"):
        status, text = run([system_binary("haproxy", "haproxy"), "-c", "-f", file], dict(os.environ))
        assert status == 0 and "warning" not in text.lower(), text
    pem = tmp_path / "site.pem"
    pem.write_text("".join(part.read_text() for part in local_certificate))
    status, text = run([system_binary("haproxy", "haproxy"), "-c", "-f", config], os.environ | {"SITE_PEM": str(pem)})
    assert status == 0, text
    # Apart from how the instances are found it is the recipe for a single machine.
    words = [set(line.split("#")[0].strip() for line in file.read_text().splitlines()) for file in
             (config, config.with_name("weirgate.cfg"))]
    assert {line for line in words[0] ^ words[1] if not re.match("server|resolvers|nameserver|hold", line)} == set()


async def test_the_replicas_share_the_clients_and_one_may_go(started, start_weirgate, nats):
    env = {k: str(v) for k, v in replicas()["gateway"]["environment"].items() if k.startswith("WEIRGATE_DRAIN")}
    env |= {"WEIRGATE_TRUSTED_PROXIES": "127.0.0.1", "WEIRGATE_EPHEMERAL": "true"}
    gateways = [start_weirgate("levels", nats=nats, env=env).wait_ready() for _ in range(3)]
    proxy = Haproxy(*(gateway.port for gateway in gateways), recipe="replicas.cfg")
    started.append(proxy)
    clients = await connect_many(30, proxy.port)
    async with publisher(nats) as bus:
        await bus.flow({"n": 1})
        for client in clients:
            await client.wait_for(lambda c: c.messages >= 1, 10, "the state, whichever process it is")
    gateways[0].send(signal.SIGTERM)
    while gateways[0].alive():
        clients += await connect_many(3, proxy.port)
        await asyncio.sleep(0.1)
    assert {client.close_code for client in clients if not client.open} == {1012}
    assert any(client.open for client in clients[:30]), "the others have their clients still"


# --- Prometheus

def test_every_alert_leads_to_a_page_and_one_command_makes_a_link_of_it(tmp_path):
    """`make lint` looks the pages up."""
    alerts = DEPLOY / "prometheus" / "alerts.yml"
    copy = tmp_path / "alerts.yml"
    shutil.copy(alerts, copy)
    [command] = re.findall(r"^#   (sed .*) alerts\.yml$", alerts.read_text(), re.M)
    subprocess.run(f"{command} {copy}", shell=True, check=True)
    before, after = [yaml.safe_load(file.read_text())["groups"] for file in (alerts, copy)]
    rules = [(was, now) for groups in zip(before, after) for was, now in zip(*(group["rules"] for group in groups))]
    assert len(rules) > 20
    for was, now in rules:
        page = was["annotations"].pop("runbook_url")
        assert page.startswith("docs/")
        assert now["annotations"].pop("runbook_url") == f"https://git.example.com/weirgate/blob/main/{page}"
        assert was == now


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


def drop_in(name):
    """The settings of a file in deploy/systemd: those of the unit, and the environment."""
    lines = [line for line in (DEPLOY / "systemd" / name).read_text().splitlines() if "=" in line and line[0] != "#"]
    pairs = [line.split("=", 1) for line in lines]
    env = dict(value.replace("%i", "levels").split("=", 1) for key, value in pairs if key == "Environment")
    return {key: value for key, value in pairs if key != "Environment"}, env


def test_a_drop_in_fits_the_unit(tmp_path):
    analyze, unit = system_binary("systemd-analyze", "systemd"), unit_for_here(tmp_path)
    folder = tmp_path / f"{unit.name}.d"
    folder.mkdir()
    shutil.copy(DEPLOY / "systemd" / "proxy.conf", folder)
    status, text = run([analyze, "verify", "--man=no", unit], dict(os.environ))
    assert (status, text) == (0, ""), text
    _, env = drop_in("proxy.conf")
    assert_known(env)


def test_the_socket_is_where_the_unit_makes_room_and_the_recipes_look():
    unit = (DEPLOY / "systemd" / "weirgate@.service").read_text()
    _, env = drop_in("proxy.conf")
    where = env["WEIRGATE_LISTEN"]
    assert "RuntimeDirectory=weirgate/%i\n" in unit and where == "unix:/run/weirgate/levels/http.sock"
    assert f"server {where} max_fails=0;" in (DEPLOY / "nginx" / "weirgate.conf").read_text()
    assert where.replace(":", "@", 1) in (DEPLOY / "haproxy" / "weirgate.cfg").read_text()


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


def test_the_defaults_file_names_real_settings(tmp_path):
    text = (DEPLOY / "debian" / "weirgate.default").read_text()
    offered = dict(re.findall(r"^#?([A-Z_]+)=(\S+)$", text, re.M))
    assert len(offered) >= 5
    filter_file = tmp_path / "log-filter"
    filter_file.write_text("info\n")
    offered["WEIRGATE_LOG_FILTER_FILE"] = str(filter_file)
    assert_known(offered)


@pytest.fixture(scope="module")
def package_files(tmp_path_factory):
    """What scripts/package_files.py makes with this program."""
    folder = tmp_path_factory.mktemp("files") / "package"
    done = run([sys.executable, ROOT / "scripts" / "package_files.py", weirgate_binary(), folder], dict(os.environ))
    assert done == (0, ""), done
    return folder


def test_the_package_has_all_its_parts(package_files):
    package = tomllib.loads((ROOT / "Cargo.toml").read_text())["package"]["metadata"]["deb"]
    targets = set()
    for source, target, _ in package["assets"]:
        made = source.removeprefix("target/package/")
        if made != source:
            # What is above the first star stays behind.
            above = package_files / made.split("*")[0]
            found = [path for path in package_files.glob(made) if path.is_file()]
            assert found, f"{source}: scripts/package_files.py does not make it"
            names = [path.relative_to(above) if "*" in made else path.name for path in found]
            targets |= {f"/{target}{name}" for name in names}
            continue
        assert source == "target/release/weirgate" or (ROOT / source).is_file(), source
        targets.add("/" + (target + pathlib.Path(source).name if target.endswith("/") else target))
    assert set(package["conf-files"]) <= targets and "/usr/bin/weirgate" in targets
    assert {f"/usr/share/man/man1/weirgate-{name}.1" for name in gateways() - {"help"}} <= targets
    for wanted in ["man/man1/weirgate.1", "bash-completion/completions/weirgate", "zsh/vendor-completions/_weirgate",
                   "fish/vendor_completions.d/weirgate.fish", "doc/weirgate/README.md", "doc/weirgate/docs/guides/deploy.md",
                   "doc/weirgate/docs/images/slow-tab-light.webp", "doc/weirgate/deploy/systemd/proxy.conf"]:
        assert f"/usr/share/{wanted}" in targets, wanted
    assert (ROOT / package["changelog"]).read_text().startswith("weirgate (")
    # What the unit points to is in the package.
    unit = (DEPLOY / "systemd" / "weirgate@.service").read_text()
    for page in re.findall(r"file://(\S+)", unit):
        assert page in targets, page
    for script in (ROOT / package["maintainer-scripts"]).glob("p*"):
        assert script.stat().st_mode & stat.S_IXUSR, script
        assert run(["sh", "-n", script], dict(os.environ)) == (0, "")


def test_the_documents_of_the_package_link_to_each_other_alone(package_files):
    doc = package_files / "doc"
    pages = sorted(doc.rglob("*.md"))
    assert len(pages) > 20
    links = 0
    for page in pages:
        # Outside of code.
        text = re.sub(r"^```.*?^```|^    .*?$|`[^`\n]*`", "", page.read_text(), flags=re.M | re.S)
        targets = re.findall(r"\]\(([^)\s#]+)", text) + re.findall(r'(?:src|srcset|href)="([^"#]+)"', text)
        for target in targets:
            if not re.match(r"[a-z]+:", target):
                assert (page.parent / target).resolve().is_relative_to(doc) and (page.parent / target).exists(), f"{page}: {target}"
                links += 1
    assert links > 100, "links between pages stay"
    # And nothing for contributors is there.
    assert not list(doc.rglob("*.rs")) and not (doc / "ARCHITECTURE.md").exists()
    assert "ARCHITECTURE.md" not in re.findall(r"\]\(([^)]*)\)", (doc / "README.md").read_text())


def test_manual_pages_are_good_roff(package_files):
    mandoc = system_binary("mandoc", "mandoc")
    pages = sorted((package_files / "man").iterdir())
    assert len(pages) >= 10
    done = subprocess.run([mandoc, "-T", "lint", "-W", "error", *pages], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout

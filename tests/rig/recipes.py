"""Checks recipes for containers, packages and clusters against the program."""
import re
import subprocess

from processes import ROOT, weirgate_binary


def run(argv, env):
    """(status, output) of a program with only this environment."""
    done = subprocess.run(argv, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, timeout=180)
    return done.returncode, done.stdout


def assert_known(env, gateway="levels"):
    """Asserts that the program knows every name, accepts every value, and uses the value; an empty one is none."""
    status, text = run([weirgate_binary(), gateway, "--check"], env)
    assert status == 0 and "warning" not in text, text
    for name in {name for name, value in env.items() if value} - {"WEIRGATE_GATEWAY"}:
        assert re.search(rf"\b{name}$", text, re.M), f"{name} changes nothing:\n{text}"


def default_ms(name):
    """The default of a setting in milliseconds, from the program."""
    _, text = run([weirgate_binary(), "levels", "--check", "--all"], {})
    return int(re.search(rf"--{name}\s+(\d+)", text).group(1))


def with_mounts(service, text):
    """A text of a service of a compose file, with the directories that it mounts at their places in the repository, and the
    defaults of variables that nobody sets."""
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)
    for volume in service.get("volumes", []):
        here, inside, mode = volume.split(":")
        folder = ROOT / "deploy" / here
        assert folder.is_dir() and mode == "ro", f"{volume}: a mounted file would stay as it was at the start"
        text = text.replace(inside + "/", f"{folder}/")
    return text

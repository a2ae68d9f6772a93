"""What recipes for containers, packages and clusters say of the program, asked of the program."""
import re
import subprocess

from processes import weirgate_binary


def run(argv, env):
    """(status, output) of a program that sees this environment and no other."""
    done = subprocess.run(argv, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, timeout=20)
    return done.returncode, done.stdout


def assert_known(env, gateway="levels"):
    """Every name means something to the program, every value is good, and each one is what counts."""
    status, text = run([weirgate_binary(), gateway, "--check"], env)
    assert status == 0 and "warning" not in text, text
    for name in set(env) - {"WEIRGATE_GATEWAY"}:
        assert re.search(rf"\b{name}$", text, re.M), f"{name} changes nothing:\n{text}"


def default_ms(name):
    """The default of a setting in milliseconds, from the program."""
    _, text = run([weirgate_binary(), "levels", "--check", "--all"], {})
    return int(re.search(rf"--{name}\s+(\d+)", text).group(1))

"""The levels contract, as recorded cases: each is a test of its own; the runners beside this file do the work."""
import os
import pathlib
import re
import subprocess
import sys

import pytest
from processes import StartError, nats_server_binary, weirgate_binary

HERE = pathlib.Path(__file__).parent
CASES = sorted(path.stem for path in (HERE.parent / "vectors" / "levels" / "public").glob("*.json"))

pytestmark = [pytest.mark.timeout(420)]


def run(runner, *flags):
    """What a runner printed, and its exit status."""
    path = os.pathsep.join([str(pathlib.Path(nats_server_binary()).parent), os.environ["PATH"]])
    done = subprocess.run(
        [sys.executable, HERE / runner, "--cmd", f"{weirgate_binary()} levels", *flags],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=400,
        env={**os.environ, "PATH": path})
    return done.stdout, done.returncode


@pytest.fixture(scope="module")
def outcomes():
    """By case: None when it passed, else why not."""
    output, _ = run("check_levels.py", "--verbose")
    passed = {name: None for name in re.findall(r"^ok +(\S+)$", output, re.M)}
    failed = dict(re.findall(r"^FAIL \w+/(\w+): (.*)$", output, re.M))
    if not passed and not failed:
        raise StartError(f"the runner told of no case:\n{output}")
    return {**passed, **failed}


@pytest.mark.xdist_group("levels-cases")
@pytest.mark.parametrize("case", CASES)
def test_case(case, outcomes):
    why = outcomes.get(case, "the runner did not get to it")
    assert why is None, why


@pytest.mark.xdist_group("levels-behaviour")
def test_behaviour():
    output, status = run("check_levels_behaviour.py")
    wrong = [line for line in output.splitlines() if line.startswith(("FAIL", "differs"))]
    assert not wrong and status == 0, output

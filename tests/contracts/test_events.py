"""The events contract, as recorded cases: each is a test of its own; the runner beside this file does the work."""
import pathlib
import re
import subprocess
import sys

import pytest
from processes import StartError, weirgate_binary

HERE = pathlib.Path(__file__).parent
FOLDER = HERE.parent / "vectors" / "events"
CASES = sorted(path.stem for path in FOLDER.glob("*.json"))

pytestmark = [pytest.mark.timeout(240), pytest.mark.xdist_group("events-cases")]


@pytest.fixture(scope="module")
def outcomes():
    """By case: None when it passed, else why not."""
    done = subprocess.run(
        [sys.executable, HERE / "check_events.py", "--dir", FOLDER, "--cmd", f"{weirgate_binary()} events",
         "--port-env", "GATEWAY_PORT", "--verbose"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=220)
    passed = {name: None for name in re.findall(r"^ok +(\S+)$", done.stdout, re.M)}
    failed = dict(re.findall(r"^FAIL (\S+): (.*)$", done.stdout, re.M))
    if not passed and not failed:
        raise StartError(f"the runner told of no case:\n{done.stdout}")
    return {**passed, **failed}


@pytest.mark.parametrize("case", CASES)
def test_case(case, outcomes):
    why = outcomes.get(case, "the runner did not get to it")
    assert why is None, why

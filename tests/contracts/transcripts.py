"""Recorded cases of a contract: the runner beside this file does the work, this tells what came of each case."""
import pathlib
import re
import subprocess
import sys

from processes import StartError, weirgate_binary

HERE = pathlib.Path(__file__).parent


def folder(gateway):
    return HERE.parent / "vectors" / gateway


def cases(gateway):
    """The names of a gateway's cases."""
    return sorted(path.stem for path in folder(gateway).glob("*.json"))


def run(gateway, port_env, *options, runner="check_transcripts.py"):
    """By case: None when it passed, else why not."""
    done = subprocess.run(
        [sys.executable, HERE / runner, "--dir", folder(gateway), "--cmd", f"{weirgate_binary()} {gateway}",
         "--port-env", port_env, "--verbose", *options],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=220)
    passed = {name: None for name in re.findall(r"^ok +(\S+)", done.stdout, re.M)}
    failed = dict(re.findall(r"^FAIL (\S+): (.*)$", done.stdout, re.M))
    if not passed and not failed:
        raise StartError(f"the runner told of no case:\n{done.stdout}")
    return {**passed, **failed}

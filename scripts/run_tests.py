#!/usr/bin/env python3
"""Builds once, then runs every test to its end, parts side by side, and names all that failed: run_tests.py [--quick | WORD...]

A part is a test program of cargo, the doc tests, pytest, the tests of Node, or the quick part of the abuse suite; with
words, only parts whose name contains one of the words; with --quick, what a minute between two edits is enough for: units,
rules, some seeds of the simulation, a black-box test of each gateway. What a part prints is in target/test-logs/PART.log, and is shown
if the part fails. Exit status 0: all passed, 1: a part failed, 2: the build failed.

Most tests wait more than they compute, so the parts share two cores well: JOBS parts at once (3), of which pytest runs
WORKERS tests at once (12), the long ones first (tests/rig/lanes.py). Ports come from one file for all parts (tests/rig/ports.py).

With AGAIN=1, as in continuous integration, up to AGAIN_MAX failed tests run a second time, alone: a test that passes then is
named as flaky, each time, and is to be mended like any other fault, but nobody's unrelated change waits for it.
"""
import concurrent.futures
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")
LOGS = TARGET / "test-logs"
JOBS = int(os.environ.get("JOBS") or 3)
WORKERS = os.environ.get("WORKERS") or "12"
# A part that takes so long hangs.
PART_MAX_S = 1500
SHOWN_LINES = 200
AGAIN = os.environ.get("AGAIN") == "1"
# More failed tests than so many are no accident.
AGAIN_MAX = 3
# They take longest, so they begin first.
LONG = ["pytest", "simulation", "nats_source", "node", "commands", "weirgate", "abuse", "redis_source", "fuzz", "weirgate_server"]
PYTEST_PATHS = ["tests/contracts", "tests/blackbox", "tests/page", "clients/python/tests"]
QUICK_PROGRAMS = ["--lib", "--bins", "--test", "hub_rules", "--test", "simulation"]
QUICK_SEEDS = "100"
QUICK_TESTS = [
    "tests/blackbox/test_relays.py::test_without_flags_there_is_one_path_and_two_subjects",
    "tests/blackbox/test_trades_settings.py::test_symbols_and_rate_are_settings",
    "tests/blackbox/test_channels_nats.py::test_names_patterns_and_both",
    "tests/blackbox/test_events_services.py::test_what_the_document_says_happens",
]
# A failed test as pytest, Rust's harness and Node's reporter name it.
FAILED = re.compile(r"^(?:(?:FAILED|ERROR) (\S+)|test (\S+)(?: - should panic)? \.\.\. FAILED|✖ (.*?) \([\d.]+ms\))", re.MULTILINE)


class Part:
    """A command with a name; `run` returns whether it passed."""

    def __init__(self, name, command, folder=ROOT, env=None):
        self.name, self.command, self.folder, self.env = name, command, folder, env or {}
        self.log_path = LOGS / f"{name}.log"
        self.process = None

    def run(self):
        """Runs the part to its end, its output in its log; (exit status, seconds, CPU seconds with its children's)."""
        begin = time.monotonic()
        with open(self.log_path, "wb") as log:
            # A session of its own, so that all its processes can be ended.
            self.process = subprocess.Popen(self.command, cwd=self.folder, env={**os.environ, **self.env}, stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
            hangs = threading.Timer(PART_MAX_S, self.end)
            hangs.start()
            _, status, used = os.wait4(self.process.pid, 0)
            self.process.returncode = os.waitstatus_to_exitcode(status)
            seconds = time.monotonic() - begin
            hangs.cancel()
            self.end()
        status = f"ended after {PART_MAX_S} s" if seconds >= PART_MAX_S else self.process.returncode
        return status, seconds, used.ru_utime + used.ru_stime

    def end(self):
        """Ends what the part has started and left."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except (AttributeError, ProcessLookupError):
            pass

    def failed_tests(self):
        """Names of the tests that the log calls failed."""
        names = ("".join(found) for found in FAILED.findall(self.log_path.read_text(errors="replace")))
        return list(dict.fromkeys(names))

    def passes_again(self):
        """Whether the failed tests pass alone, the others of the part left out where its command can do so."""
        names = self.failed_tests()
        if not 0 < len(names) <= AGAIN_MAX:
            return False
        command = self.command
        if self.name == "pytest":
            # A parameter in brackets may have spaces: all cases of the test run. Behind an @ is the group of the workers.
            command = pytest(*dict.fromkeys(re.split(r"[\[@]", name)[0] for name in names)).command
        elif len(command) == 1:
            command = [*command, "--exact", *names]
        return Part(f"{self.name}-again", command, self.folder, self.env).run()[0] == 0


def build_previous():
    """Compiles the version released last, which tests run beside the one under test; where the history lacks it they are skipped."""
    status = subprocess.run([ROOT / "scripts/previous_build.sh"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL).returncode
    if status not in (0, 3):
        print("build of the previous version: failed", file=sys.stderr)
        sys.exit(2)


def build(*programs):
    """Compiles these programs and tests, or all, with one set of features; the test programs as parts."""
    command = ["cargo", "test", "--workspace", "--locked", "--no-run", "--message-format", "json-render-diagnostics", *programs]
    cargo = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    parts = []
    for line in cargo.stdout:
        message = json.loads(line)
        if message["reason"] != "compiler-artifact" or not message["profile"]["test"] or not message["executable"]:
            continue
        name, [kind, *_] = message["target"]["name"], message["target"]["kind"]
        folder = pathlib.Path(message["manifest_path"]).parent
        # As cargo runs a test program.
        env = {"CARGO_MANIFEST_DIR": str(folder), "CARGO": "cargo", "RUST_TEST_THREADS": os.environ.get("RUST_TEST_THREADS", "4")}
        parts.append(Part(name if kind in ("test", "lib") else f"{name}-{kind}", [message["executable"]], folder, env))
    if cargo.wait() != 0:
        print("build: failed", file=sys.stderr)
        sys.exit(2)
    return parts


PYTEST = [str(ROOT / ".venv/bin/python"), "-m", "pytest", "-q"]
# Every worker imports all test files.
BYTE_CODE_IS_KEPT = {"PYTHONDONTWRITEBYTECODE": ""}


def pytest(*tests):
    """The Python tests as a part."""
    return Part("pytest", [*PYTEST, "-n", WORKERS, "--dist", "loadgroup", *tests], env=BYTE_CODE_IS_KEPT)


def compile_python_tests():
    """Begins to compile the Python tests, once for all workers: each would take seconds of CPU for it."""
    return subprocess.Popen([*PYTEST, "--collect-only", *PYTEST_PATHS], cwd=ROOT, env={**os.environ, **BYTE_CODE_IS_KEPT},
                            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def quick_parts():
    """What --quick runs."""
    os.environ.setdefault("SIM_SEEDS", QUICK_SEEDS)
    return build(*QUICK_PROGRAMS) + [pytest(*QUICK_TESTS)]


def other_parts():
    """What is not a test program of cargo."""
    node_tests = sorted(str(path) for path in (ROOT / "clients/js/test").glob("*.test.mjs"))
    return [
        pytest(*PYTEST_PATHS),
        Part("doc", ["cargo", "test", "--workspace", "--locked", "--doc"]),
        Part("node", ["node", "--test", *node_tests]),
        Part("abuse", ["tests/conformance/run.sh", "abuse-quick"]),
    ]


def run_all(parts):
    """Runs the parts, JOBS at once; those that failed."""
    failed = []
    with concurrent.futures.ThreadPoolExecutor(JOBS) as pool:
        running = {pool.submit(part.run): part for part in parts}
        try:
            for done in concurrent.futures.as_completed(running):
                part, (status, seconds, cpu_seconds) = running[done], done.result()
                said = "ok    " if status == 0 else "FAILED"
                print(f"{said} {seconds:6.1f} s {cpu_seconds:6.1f} CPU s  {part.name}{f' (status {status})' if status else ''}", flush=True)
                if status != 0:
                    failed.append(part)
        except KeyboardInterrupt:
            for future, part in running.items():
                future.cancel()
                part.end()
            raise
    return failed


def main():
    begin = time.monotonic()
    LOGS.mkdir(parents=True, exist_ok=True)
    words = sys.argv[1:]
    if words == ["--quick"]:
        parts = quick_parts()
    else:
        with_pytest = not words or any(word in "pytest" for word in words)
        compiling = compile_python_tests() if with_pytest else None
        if with_pytest:
            build_previous()
        parts = [part for part in build() + other_parts() if not words or any(word in part.name for word in words)]
        if compiling:
            # Whatever is wrong with a test file, its part says.
            compiling.wait()
    parts.sort(key=lambda part: LONG.index(part.name) if part.name in LONG else len(LONG))
    built = time.monotonic()
    print(f"built in {built - begin:.0f} s; {len(parts)} parts, {JOBS} at once", flush=True)
    failed = run_all(parts)
    for part in failed:
        print(f"\n== {part.name}: the end of {part.log_path}")
        print("\n".join(part.log_path.read_text(errors="replace").splitlines()[-SHOWN_LINES:]))
    flaky = [part for part in failed if AGAIN and len(failed) <= AGAIN_MAX and part.passes_again()]
    failed = [part for part in failed if part not in flaky]
    print(f"\nran in {time.monotonic() - built:.0f} s")
    for part in flaky:
        print(f"flaky: {part.name}: {', '.join(part.failed_tests())}: failed beside others, passed alone")
    for part in failed:
        print(f"failed: {part.name}: {', '.join(part.failed_tests()) or 'see above'}")
    print(f"parts: {len(parts) - len(failed)} passed, {len(failed)} failed")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()

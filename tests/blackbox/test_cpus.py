"""`--cpus`: the loop and the thread of the bus each stay on a CPU."""
import contextlib
import os
import pathlib
import subprocess

from processes import weirgate_binary


def test_loop_and_bus_thread_stay_on_their_cpus(nats, start_weirgate):
    cpus = sorted(os.sched_getaffinity(0))
    loop, bus = cpus[0], cpus[-1]
    server = start_weirgate("levels", "--cpus", f"{loop},{bus}", nats=nats).wait_ready()
    threads = {}
    for task in pathlib.Path(f"/proc/{server.pid}/task").iterdir():
        # A short-lived thread of the start may end meanwhile.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            threads.setdefault((task / "comm").read_text().strip(), []).append(os.sched_getaffinity(int(task.name)))
    assert os.sched_getaffinity(server.pid) == {loop} and {bus} in threads["source"]
    assert set(cpus) in [cpus_of for name, all_cpus in threads.items() if name != "source" for cpus_of in all_cpus]
    checked = subprocess.run([weirgate_binary(), "levels", "--cpus", "0,4000", "--check"], capture_output=True, text=True)
    assert checked.returncode != 0 and "--cpus: there is no CPU 4000 for this process; it runs on" in checked.stdout + checked.stderr
    for wrong in ["x", "1,2,3", "-1", "1,"]:
        checked = subprocess.run([weirgate_binary(), "levels", f"--cpus={wrong}", "--check"], capture_output=True, text=True)
        assert checked.returncode == 2 and "one or two numbers of CPUs" in checked.stderr, checked

"""The EventSource of undici (Node) comes back by itself after a refusal that passes."""
import contextlib
import itertools
import subprocess

from event_stream import Stream
from processes import ROOT, node_binary

HERE = ROOT / "tests" / "clients" / "node"


def test_a_refusal_that_passes_does_not_end_it(start_weirgate):
    subprocess.run([HERE / "setup.sh"], check=True)
    weirgate = start_weirgate("demo", "--trusted-proxies", "127.0.0.1", "--connections-per-ip-max", "1").wait_ready()
    holder = Stream(weirgate.port, "/ws/stream")
    assert holder.event()[0] == "message", "the only place is taken"
    argv = [node_binary(), HERE / "event-source.mjs", f"{weirgate.http_url}/ws/stream"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as client, contextlib.ExitStack() as stack:
        stack.callback(client.kill)
        said = (line.split() for line in client.stdout)
        # Twice a stream that ends; the state is CONNECTING.
        assert list(itertools.islice(said, 4)) == [["open"], ["error", "0"]] * 2
        holder.close()
        assert ["message"] in said, "ended for ever"

"""A service whose name has two addresses, the first of which takes connections and never answers, or not to the end."""
import asyncio
import http.client
import json
import socket
import subprocess
import threading

import pytest
from services import Service, device

TWO_ADDRESSES = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <string.h>
typedef int (*look_up)(const char *, const char *, const struct addrinfo *, struct addrinfo **);
int getaddrinfo(const char *name, const char *port, const struct addrinfo *hints, struct addrinfo **found) {
    look_up real = (look_up)dlsym(RTLD_NEXT, "getaddrinfo");
    struct addrinfo *last;
    if (!name || strcmp(name, "two.test")) return real(name, port, hints, found);
    int failed = real("127.0.1.2", port, hints, found);
    if (failed) return failed;
    for (last = *found; last->ai_next; last = last->ai_next) {}
    return real("127.0.0.1", port, hints, &last->ai_next);
}
"""


@pytest.fixture
def two_addresses(tmp_path):
    """A library for LD_PRELOAD that knows the name, made by the linker that Rust needs too."""
    (tmp_path / "names.c").write_text(TWO_ADDRESSES)
    library = tmp_path / "names.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, tmp_path / "names.c", "-ldl"], check=True)
    return {"LD_PRELOAD": str(library)}


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"
# What the first address says after a request before it is silent, or closes.
FAILURES = {"closes": (b"", True), "silent": (b"", False), "half a head": (HEAD[:30], False), "half a body": (HEAD + b"{", False),
            "half a body and closes": (HEAD + b"{", True), "no HTTP": (b"+OK\r\n", True)}


@pytest.mark.parametrize("how", FAILURES)
async def test_a_request_goes_to_another_address_than_the_one_that_failed_last(start_weirgate, two_addresses, how):
    words, closes = FAILURES[how]
    message = "Upstream unreachable" if closes else "Upstream timeout"
    lobby = Service(lambda asked: asked["message"]["event"])
    port, taken = lobby.server.server_port, []
    first = socket.create_server(("127.0.1.2", port))

    def take():
        while True:
            taken.append(first.accept()[0])
            if words:
                taken[-1].recv(4096)
                taken[-1].sendall(words)
            if closes:
                taken[-1].close()
    threading.Thread(target=take, daemon=True).start()
    env = {**two_addresses, "LOBBY_URL": f"http://two.test:{port}", "HTTP_TIMEOUT_SECONDS": "1"}
    weirgate = start_weirgate("events", env=env).wait_ready()
    async with device(weirgate, "d") as client:
        for n in range(4):
            await client.send(json.dumps({"event": f"lobby.{n}"}))
            answer = json.loads(await asyncio.wait_for(client.recv(), 20))
            assert (answer["error"] or {}).get("message") == (None if n else message)
    assert (len(taken), lobby.events()) == (1, [f"lobby.{n}" for n in range(1, 4)])
    lobby.stop()


def test_the_proxy_does_so_too(start_weirgate, two_addresses):
    served, taken = Service(), []
    first = socket.create_server(("127.0.1.2", served.server.server_port))

    def take():
        while True:
            taken.append(first.accept()[0])
            with taken[-1]:
                taken[-1].recv(4096)
                taken[-1].sendall(HEAD + b"{")
    threading.Thread(target=take, daemon=True).start()
    env = {**two_addresses, "MEASUREMENT_URL": f"http://two.test:{served.server.server_port}"}
    weirgate = start_weirgate("events", env=env).wait_ready()
    with pytest.raises(http.client.IncompleteRead):
        weirgate.get("/v1/measurement/x")
    # The service knows POST alone.
    assert [weirgate.get("/v1/measurement/x")[0] for _ in range(3)] == [501] * 3
    assert len(taken) == 1
    served.stop()

"""Another user of the machine gets neither the credentials nor the session that weirgate has with a NATS server over TLS."""
import os
import pathlib
import re
import time

import loopback_attackers
import pytest
from ports import alone
from waiting import until

PASSWORD = "TOPSECRETPASSWORD"
ATTACK_S = 6

# One after another: an attacker of one test finds the listeners of another.
pytestmark = pytest.mark.xdist_group("loopback")


@pytest.fixture(autouse=True)
def the_only_attackers():
    """Those of another checkout's tests find the listeners of these."""
    with alone("loopback"):
        yield


def loopback_port(weirgate):
    """The port of the listener that is not the gateway's public one."""
    inodes = set()
    for descriptor in pathlib.Path(f"/proc/{weirgate.pid}/fd").iterdir():
        try:
            inodes.update(re.findall(r"socket:\[(\d+)\]", os.readlink(descriptor)))
        except OSError:
            pass
    for line in pathlib.Path("/proc/net/tcp").read_text().splitlines()[1:]:
        field = line.split()
        port = int(field[1].rsplit(":", 1)[1], 16)
        if field[3] == "0A" and field[9] in inodes and port != weirgate.port:
            return port
    return None


@pytest.mark.timeout(60)
def test_a_lost_connection_shows_its_password_to_nobody(start_nats, start_weirgate, certificates):
    user = f'authorization {{ user: gw, password: "{PASSWORD}" }}'
    server = start_nats(config=f"{certificates.nats_config()}\n{user}")
    url = f"tls://gw:{PASSWORD}@127.0.0.1:{server.port}"
    weirgate = start_weirgate("levels", "--nats-ca", certificates.ca, env={"NATS_URL": url}).wait_ready()
    attacker = loopback_attackers.start(loopback_attackers.SQUAT, loopback_port(weirgate), ATTACK_S)
    time.sleep(0.5)
    server.kill()
    said = attacker.communicate(timeout=20)[0]
    assert "got" not in said and PASSWORD not in said, said


@pytest.mark.timeout(90)
async def test_nobody_is_given_a_session_that_the_client_certificate_opened(start_nats, start_weirgate, certificates):
    server = start_nats(config=certificates.nats_config(verify=True))
    attacker = loopback_attackers.start(loopback_attackers.HIJACK, 20, server.port)
    time.sleep(0.5)
    files = [certificates.ca, *certificates.client]
    flags = zip(("--nats-ca", "--nats-cert", "--nats-key"), files, strict=True)
    weirgate = start_weirgate("levels", *(part for flag in flags for part in flag),
                              env={"NATS_URL": f"tls://127.0.0.1:{server.port}"}).wait_ready()
    for _ in range(4):
        server.kill()
        await until(lambda: not weirgate.health()["nats_connected"], 10, "the loss is noticed")
        server.start()
        await until(lambda: weirgate.health()["nats_connected"], 10, "the connection is made again")
    said = attacker.communicate(timeout=30)[0]
    # The attacker was there: it found listeners of the gateway.
    assert re.fullmatch(r"listeners [1-9]\d* won 0\n", said), said

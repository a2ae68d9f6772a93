"""The bus between instances of events over TLS."""
import pytest
from certificates import TlsRedis
from instances import ENV, know_each_other, pushed, received
from services import device
from waiting import until


@pytest.fixture(params=["redis", "nats"])
def tls_url(request, start_nats, started, certificates):
    """The URL of a bus of each kind over TLS."""
    if request.param == "nats":
        return f"tls://127.0.0.1:{start_nats(config=certificates.nats_config()).port}"
    started.append(TlsRedis(certificates))
    return f"rediss://127.0.0.1:{started[-1].tls_port}"


async def test_pushes_go_over_tls_with_an_authority_of_ones_own(start_weirgate, tls_url, certificates):
    flags = ["--events-bus", tls_url, "--events-bus-ca", certificates.ca, "--events-bus-wait-ms", "5000"]
    instances = [start_weirgate("events", *flags, env=ENV) for _ in range(2)]
    await know_each_other(instances)
    async with device(instances[1], "a", compression=None) as client:
        for n in range(3):
            # One of them is larger than a TLS record, and goes in several messages.
            data = {"n": n, "pad": "x" * (1_500_000 if n == 1 else 1)}
            assert await pushed(instances[0], data, "a") == {"sent": 1, "bus": "up", "instances": 2, "missing": []}
            assert await received(client) == data


@pytest.mark.parametrize("trusted", ["another", "the system's"])
async def test_an_unknown_authority_is_refused_and_said(start_weirgate, tls_url, other_certificates, trusted):
    ca = ["--events-bus-ca", other_certificates.ca] if trusted == "another" else []
    weirgate = start_weirgate("events", "--events-bus", tls_url, *ca, env=ENV).wait_ready()
    words = "invalid peer certificate: UnknownIssuer"
    await until(lambda: words in weirgate.log(), 20, f"the reason\n{weirgate.log_tail()}")
    line = next(line for line in weirgate.log().splitlines() if words in line)
    assert tls_url.split("//")[1] in line and ("and the CA" in line or "and certificates" in line), line
    assert (await pushed(weirgate, {}, "a"))["bus"] == "away"


async def test_a_nats_server_that_wants_a_certificate_gets_it(start_weirgate, start_nats, certificates):
    server = start_nats(config=certificates.nats_config(verify=True))
    flags = ["--events-bus", f"tls://127.0.0.1:{server.port}", "--events-bus-ca", certificates.ca]
    without = start_weirgate("events", *flags, env=ENV).wait_ready()
    await until(lambda: "ertificate" in without.log(), 20, f"the reason\n{without.log_tail()}")
    certificate, key = certificates.client
    more = ["--events-bus-cert", certificate, "--events-bus-key", key]
    await know_each_other([start_weirgate("events", *flags, *more, env=ENV) for _ in range(2)])
    assert (await pushed(without, {}, "a"))["bus"] == "away"

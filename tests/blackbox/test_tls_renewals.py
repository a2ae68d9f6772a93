"""Twenty certificates under fifty clients that come and go."""
import asyncio

from renewals import Plan, gateway, renew_under_clients


async def test_renewed_certificates_refuse_and_cut_nobody(tmp_path):
    with gateway(tmp_path) as (weirgate, port, redis, certificates):
        plan = Plan(renewals=20, clients=50, stay_s=0.5, looked_for=20, pause_s=0.05)
        report = await asyncio.wait_for(renew_under_clients(weirgate, port, redis.client(), certificates, plan), 180)
    assert not report.faults, report.faults[:5]
    assert report.visits > 50 and report.messages > report.visits

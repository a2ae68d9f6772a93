"""The events contract, as recorded cases: each is a test of its own."""
import pytest
import transcripts
from ports import hundred_ports

pytestmark = [pytest.mark.timeout(240), pytest.mark.xdist_group("events-cases")]


@pytest.fixture(scope="module")
def outcomes():
    with hundred_ports() as first:
        return transcripts.run("events", "GATEWAY_PORT", "--port-base", str(first), runner="check_events.py")


@pytest.mark.parametrize("case", transcripts.cases("events"))
def test_case(case, outcomes):
    why = outcomes.get(case, "the runner did not get to it")
    assert why is None, why

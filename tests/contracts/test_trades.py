"""The trades contract, as recorded cases: each is a test of its own."""
import pytest
import transcripts

pytestmark = [pytest.mark.timeout(240), pytest.mark.xdist_group("trades-cases")]


@pytest.fixture(scope="module")
def outcomes():
    return transcripts.run("trades", "WS_PORT")


@pytest.mark.parametrize("case", transcripts.cases("trades"))
def test_case(case, outcomes):
    why = outcomes.get(case, "the runner did not get to it")
    assert why is None, why

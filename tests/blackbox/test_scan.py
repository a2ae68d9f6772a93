"""What people read has no secret, nothing that steers a terminal, no forged line: some settings of each gateway."""
import pytest
from scan import scan


@pytest.mark.plain("the strangers speak no TLS")
async def test_what_people_read_has_no_secret_and_steers_nothing():
    found = await scan(settings=8, lines=4000, seconds=0.7, seed=3)
    assert not found.faults, found.faults[0]
    # Strangers were there, and pages and commands showed them.
    assert found.lines > 1000 and found.hostile > 50 and found.texts > 120, found

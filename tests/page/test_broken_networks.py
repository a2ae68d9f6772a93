"""Pages with `withFallback` on networks that treat WebSockets badly, in Chromium."""
import pytest
from networks import check_page

pytestmark = [pytest.mark.chromium, pytest.mark.plain("the relay is between")]


async def test_levels_have_data_on_every_network(start_weirgate):
    await check_page(start_weirgate)

"""Pages with `withFallback` on networks that treat WebSockets badly, in Firefox (Debian package firefox-esr)."""
import pytest
from browser import Firefox
from networks import check_page

pytestmark = pytest.mark.plain("the relay is between")


async def test_levels_have_data_on_every_network(start_weirgate):
    await check_page(start_weirgate, browser=Firefox)

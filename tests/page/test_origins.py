"""Where --allowed-origins is set, no page of another origin sends a message through Chromium."""
import pytest
from browser import open_page
from foreign_pages import NAMES, check_pages

pytestmark = pytest.mark.chromium


async def test_no_page_of_another_origin_reaches_a_service(start_weirgate, service):
    async with open_page("about:blank", hosts=("localhost", *NAMES)) as page:
        await check_pages(page, start_weirgate, service)

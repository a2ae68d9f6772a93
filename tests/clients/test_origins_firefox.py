"""Where --allowed-origins is set, no page of another origin sends a message through Firefox (Debian package firefox-esr)."""
from browser import Firefox, open_page
from foreign_pages import NAMES, check_pages


async def test_no_page_of_another_origin_reaches_a_service(start_weirgate, service):
    async with open_page("about:blank", Firefox, hosts=NAMES) as page:
        await check_pages(page, start_weirgate, service)

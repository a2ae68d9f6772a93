"""trio-websocket."""
import trio
import trio_websocket
from line import PROTOCOLS, URL, commands, show, show_message


async def obey(link):
    lines = commands()
    while line := await trio.to_thread.run_sync(next, lines, None, abandon_on_cancel=True):
        await (link.aclose if line[0] == "close" else link.send_message)(line[1])


async def main():
    async with trio.open_nursery() as nursery, \
            trio_websocket.open_websocket_url(URL, subprotocols=PROTOCOLS, max_message_size=1 << 30) as link:
        show("open", link.subprotocol)
        nursery.start_soon(obey, link)
        try:
            while True:
                show_message(await link.get_message())
        except trio_websocket.ConnectionClosed as end:
            show("closed", end.reason.code)
            nursery.cancel_scope.cancel()

trio.run(main)

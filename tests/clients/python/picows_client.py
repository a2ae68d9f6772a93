"""picows."""
import asyncio

import picows
from line import URL, obey_async, show


class Listener(picows.WSListener):
    def on_ws_connected(self, transport):
        show("open")

    def on_ws_frame(self, transport, frame):
        if frame.msg_type == picows.WSMsgType.TEXT:
            show("text", frame.get_payload_as_utf8_text())
        elif frame.msg_type == picows.WSMsgType.CLOSE:
            self.code = frame.get_close_code()
            transport.send_close(self.code)
            transport.disconnect()


async def main():
    transport, listener = await picows.ws_connect(Listener, URL)

    async def send(text):
        transport.send(picows.WSMsgType.TEXT, text.encode())

    async def close(code):
        transport.send_close(code)
    await obey_async(send, close)
    await transport.wait_disconnected()
    show("closed", listener.code)

asyncio.run(main())

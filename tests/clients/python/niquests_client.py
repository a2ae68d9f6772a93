"""niquests."""
import niquests
from line import URL, obey, show, show_message

with niquests.Session() as session:
    answer = session.get(URL)
    answer.raise_for_status()
    link = answer.extension
    show("open")
    obey(link.send_payload, lambda code: link.close())
    while (message := link.next_payload()) is not None:
        show_message(message)
    show("closed", 1005)

"""lomond, with compression."""
import lomond
from line import PROTOCOLS, URL, obey, show

link = lomond.WebSocket(URL, protocols=PROTOCOLS or None, compress=True)
code = 1006
for event in link.connect(ping_rate=0):
    match event.name:
        case "ready":
            show("open", event.protocol)
            obey(link.send_text, link.close)
        case "text":
            show("text", event.text)
        case "closing" | "closed":
            code = event.code
        case "disconnected":
            break
        case "connect_fail" | "protocol_error":
            show("failed", event)
show("closed", code)

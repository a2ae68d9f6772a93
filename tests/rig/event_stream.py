"""A client of an event stream on a plain socket."""
import json
import socket
import urllib.parse

DEADLINE_S = 10
ACCEPT = "Accept: text/event-stream"


class Stream:
    """A request for an event stream on a separate connection, or on `link`, with the response."""

    def __init__(self, port, path, *headers, sends=(), link=None, receive_bytes=None, version="1.1"):
        query = urllib.parse.urlencode([("send", text if isinstance(text, str) else json.dumps(text)) for text in sends])
        if query:
            path += ("&" if "?" in path else "?") + query
        self.link = link or socket.socket()
        self.link.settimeout(DEADLINE_S)
        if receive_bytes:
            self.link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        if link is None:
            self.link.connect(("127.0.0.1", port))
        self.link.sendall("\r\n".join([f"GET {path} HTTP/{version}", "Host: a", ACCEPT, *headers, "", ""]).encode())
        self.reader = self.link.makefile("rb")
        status, *lines = iter(lambda: self.reader.readline().decode().rstrip("\r\n"), "")
        self.status = int(status.split()[1])
        self.last_id = None
        self.headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}

    def event(self):
        """(type, data) of the next event with data; None at the end."""
        kind, data = "message", []
        for line in self.reader:
            name, _, value = line.decode().rstrip("\n").partition(": ")
            if name == "event":
                kind = value
            elif name == "data":
                data.append(value)
            elif name == "id":
                self.last_id = value
            elif name == "" and data:
                return kind, "\n".join(data)
        return None

    def until(self, is_it):
        """Reads until a message for which `is_it` is true; returns the JSON value."""
        while True:
            event = self.event()
            assert event and event[0] == "message", event
            if is_it(value := json.loads(event[1])):
                return value

    def end(self):
        """All events to the end of the connection."""
        return list(iter(self.event, None))

    def close(self):
        self.reader.close()
        self.link.close()

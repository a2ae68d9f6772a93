"""Server-Sent Events in the shape of a WebSocket, over HTTP/1.1 with asyncio: the rules of `EventStream` of the JavaScript
clients, in docs/reference/event-stream.md."""
from __future__ import annotations

import asyncio
import base64
import json
import math
import re
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, Self
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from .http1 import Response, request

# Between two reopenings: time for the responses to sent messages.
_REOPEN_MS = 300.0
# The gateway sends a comment every 20 s: a stream with data in this time is alive.
_ALIVE_MS = 45_000.0
# Too much for a request: a repetition would fail too.
_TOO_MUCH = {400, 414, 431}
# Messages that wait to be taken; then the stream is not read.
_WAITING_MAX = 256
# The types of responses.
_ANSWERS = {"success", "subscribed", "unsubscribed", "pong", "response", "error"}
_FIELD = re.compile(r"(data|event|id): ?(.*)", re.DOTALL)
_POSITION = re.compile(r'(,"pos":")[^"]+(?="\}(\n[\w+/=]*)?$)')


class EventStream:
    """`send` opens the stream again with the message in the query; messages of a tick go together. Subscriptions and
    `identify` are sent again with each later message, without `since`; other messages are sent once."""

    close_code: int | None = None
    close_reason = ""

    def __init__(self, url: str, options: dict[str, Any]) -> None:
        parts = urlsplit(url)
        self._url = urlunsplit((parts.scheme.replace("ws", "http", 1), *parts[1:]))
        self._options = options
        self._inbox: asyncio.Queue[str | bytes | None] = asyncio.Queue()
        self._taken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        # Messages sent again at each reopening; then those of this tick.
        self._kept: list[dict[str, Any]] = []
        self._batch: list[tuple[str, dict[str, Any]]] = []
        self._opened_at, self._heard_at = -math.inf, 0.0
        # The newest position, and the number of responses until another position counts: a stream that is cut before has not
        # brought all missed messages.
        self._id: str | None = None
        self._due = 0

    @classmethod
    async def open(cls, url: str, options: dict[str, Any]) -> Self:
        """Raises ConnectionError for a response that is no stream."""
        stream = cls(url, options)
        response = await stream._ask([])
        stream._task = asyncio.create_task(stream._run([], response))
        return stream

    @property
    def transport(self) -> Self:
        """As of a WebSocket, for `abort`."""
        return self

    def abort(self) -> None:
        if self._timer:
            self._timer.cancel()
        if self._task:
            self._task.cancel()
        self._timer = self._task = None

    async def close(self, code: int = 1000, reason: str = "") -> None:
        self.abort()
        self._end(code, reason)

    async def __aiter__(self) -> AsyncIterator[str | bytes]:
        while (message := await self._inbox.get()) is not None:
            self._taken.set()
            yield message

    async def send(self, message: str | bytes) -> None:
        if self.close_code is not None:
            return
        text = message if isinstance(message, str) else message.decode()
        parsed = _parsed(text)
        if (answer := self._own_answer(parsed)) is not None:
            self._inbox.put_nowait(json.dumps(answer))
            return
        # The old stream is ignored: old responses would be taken for responses to this message.
        if self._task:
            self._task.cancel()
            self._task = None
        if _is_kept(parsed):
            self._id = _since(parsed) or self._id
        self._batch.append((text, parsed))
        if self._timer is None:
            wait_ms = max(0.0, self._opened_at + _REOPEN_MS - _now())
            self._timer = asyncio.get_running_loop().call_later(wait_ms / 1000, self._reopen)

    def _own_answer(self, message: dict[str, Any]) -> dict[str, Any] | None:
        """A local response to a new token, or to a request for a sign of life if the stream is alive."""
        action, event = message.get("action"), message.get("event")
        # A token in the query would be in logs. The next connection has a new token.
        if action == "authenticate":
            return {"type": "error", "error": "Unknown action: authenticate", "requestId": message.get("requestId")}
        if message.get("last") == "all":
            # A stream has one position for all of its names.
            error = "Cannot subscribe to all kept messages on an event stream"
            return {"type": "error", "error": error, "requestId": message.get("requestId")}
        if self._task is None or _now() - self._heard_at > _ALIVE_MS:
            return None
        # Without a time: it would be the time of this machine, and not of the server.
        if action == "ping":
            return {"type": "pong", "requestId": message.get("requestId")}
        if event != "identify":
            return None
        # Without an id it is a probe: a token may have named the device.
        known = [None, dict(parse_qsl(urlsplit(self._url).query)).get("device_id"), *map(_device, self._kept)]
        error = {"code": "unknown_event", "message": "Unknown event 'identify'", "details": None}
        response = {"type": "error", "event": event, "request_id": message.get("request_id"), "data": None, "error": error}
        return response if _device(message) in known else None

    def _reopen(self) -> None:
        self._timer = None
        batch, kept = self._batch, [json.dumps(one) for one in self._kept]
        self._batch = []
        for _, message in batch:
            self._keep(message)
        # The order of subscriptions does not matter: the responses to new messages come first.
        adds = all(_is(message, "subscribe") for _, message in batch)
        texts = [text for text, _ in batch]
        everything = [*texts, *kept] if adds else [*kept, *texts]
        answered = [n for n, text in enumerate(everything) if _is_kept(_parsed(text))]
        self._due = answered[-1] + 1 if self._id and answered else 0
        self._task = asyncio.get_running_loop().create_task(self._run(everything))

    def _keep(self, message: dict[str, Any]) -> None:
        is_new = _is(message, "subscribe")
        if is_new or _is(message, "unsubscribe"):
            # A name that is asked for again is asked for once.
            gone = set(_names(message))
            self._kept = [left for one in self._kept if (left := _without(one, message, gone)) is not None]
        if _is_kept(message):
            # An old position would bring messages again.
            one = {name: value for name, value in message.items() if name != "since"}
            if isinstance(one.get("data"), dict):
                one["data"] = {name: value for name, value in one["data"].items() if name != "since"}
            self._kept.append(one)

    async def _ask(self, messages: list[str]) -> Response:
        """The response with the stream."""
        parts = urlsplit(self._url)
        query = [pair for pair in parse_qsl(parts.query, keep_blank_values=True) if not (self._id and pair[0] == "since")]
        query += [("send", message) for message in messages]
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": self._id} if self._id else {})
        response = await request(urlunsplit((*parts[:3], urlencode(query), "")), headers, self._options)
        try:
            if response.status != 200 or not response.headers.get("content-type", "").startswith("text/event-stream"):
                raise _Refused(response.status)
            if "content-length" in response.headers:
                # With a length the response is a wait, not a stream.
                wait = re.search(rb"\d+", b"".join([part async for part in response.body()]))
                raise ConnectionError(f"retry_after_ms={wait[0].decode()}" if wait else "refused")
        except BaseException:
            response.close()
            raise
        self._heard_at = _now()
        # Without messages there is no response to wait for.
        self._opened_at = self._heard_at if messages else -math.inf
        return response

    async def _run(self, messages: list[str], response: Response | None = None) -> None:
        """A stream, from its request to its end."""
        try:
            response = response or await self._ask(messages)
            await self._read(response)
            self._end(1006, "")
        except asyncio.CancelledError:
            # Another stream has replaced this stream, or the client has closed.
            raise
        except _Refused as error:
            self._end(1009 if messages and error.status in _TOO_MUCH else 1006, str(error))
        except Exception as error:
            self._end(1006, str(error) or type(error).__name__)
        finally:
            if response is not None:
                response.close()

    async def _read(self, response: Response) -> None:
        rest, event = b"", dict[str, str]()
        async for part in response.body():
            self._heard_at = _now()
            *lines, rest = (rest + part).split(b"\n")
            for line in lines:
                found = _FIELD.fullmatch(line.decode(errors="replace"))
                if found and found[1] == "data" and "data" in event:
                    event["data"] += "\n" + found[2]
                elif found:
                    event[found[1]] = found[2]
                elif not line:
                    while self._inbox.qsize() >= _WAITING_MAX:
                        self._taken.clear()
                        await self._taken.wait()
                    for message in self._take(event):
                        self._inbox.put_nowait(message)
                    if self.close_code is not None:
                        return
                    event = {}

    def _take(self, event: dict[str, str]) -> Iterator[str | bytes]:
        """The message of an event; the close event ends the stream."""
        if self._due:
            message = _parsed(event.get("data", ""))
            data = message.get("data")
            if message.get("type") in _ANSWERS and not (isinstance(data, dict) and data.get("connectionId")):
                self._due -= 1
            # The client keeps positions too.
            if self._due and "data" in event:
                event["data"] = _POSITION.sub(lambda found: f"{found[1]}{self._id}", event["data"])
        if not self._due:
            self._id = event.get("id") or self._id
        if event.get("event") == "close":
            close = _parsed(event.get("data", ""))
            self._end(close.get("code", 1006), close.get("reason", ""))
        elif "data" in event:
            yield _unpacked(event["data"]) if event.get("event") == "binary" else event["data"]

    def _end(self, code: int, reason: str) -> None:
        if self.close_code is None:
            self.close_code, self.close_reason = code, reason
            self._inbox.put_nowait(None)


class _Refused(ConnectionError):
    def __init__(self, status: int) -> None:
        super().__init__(f"HTTP status {status}")
        self.status = status


def _unpacked(data: str) -> bytes:
    """A binary message: lines of text, then base64."""
    at = data.rfind("\n") + 1
    return data[:at].encode() + base64.b64decode(data[at:])


def _parsed(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _is(message: dict[str, Any], name: str) -> bool:
    return message.get("action") in (name, f"{name}_candles")


def _is_kept(message: dict[str, Any]) -> bool:
    return _is(message, "subscribe") or message.get("event") == "identify"


def _since(message: dict[str, Any]) -> str | None:
    data = message.get("data")
    return message.get("since") or (data.get("since") if isinstance(data, dict) else None)


def _device(message: dict[str, Any]) -> Any:
    data = message.get("data")
    return data.get("device_id") if isinstance(data, dict) else None


def _names(message: dict[str, Any]) -> list[str]:
    names = message.get("symbols", message.get("channels", []))
    return [names] if isinstance(names, str) else names


def _without(kept: dict[str, Any], message: dict[str, Any], gone: set[str]) -> dict[str, Any] | None:
    """A kept message without the names that `message` gives up; None without any name."""
    if not _is(kept, "subscribe") or kept.get("interval") != message.get("interval"):
        return kept
    left = [name for name in _names(kept) if name not in gone]
    return kept | {"symbols" if "symbols" in kept else "channels": left} if left else None


def _now() -> float:
    return time.monotonic() * 1000

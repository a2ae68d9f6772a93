"""A GET of HTTP/1.1 whose body comes as it is sent, with asyncio alone."""
from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

_HEAD_MAX = 65_536
_PART_MAX = 65_536


class Response:
    """Status and headers (names in lower case) of a response, and its body."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, status: int, headers: dict[str, str]) -> None:
        self._reader, self._writer = reader, writer
        self.status, self.headers = status, headers

    async def body(self) -> AsyncIterator[bytes]:
        """The bytes as they come. Raises ConnectionError if the body breaks off."""
        if "chunked" in self.headers.get("transfer-encoding", "").lower():
            while size := int((await self._reader.readline()).split(b";")[0] or b"", 16):
                async for part in self._bytes(size):
                    yield part
                await self._reader.readline()
        elif "content-length" in self.headers:
            async for part in self._bytes(int(self.headers["content-length"])):
                yield part
        else:
            while part := await self._reader.read(_PART_MAX):
                yield part

    async def _bytes(self, left: int) -> AsyncIterator[bytes]:
        while left:
            part = await self._reader.read(min(left, _PART_MAX))
            if not part:
                raise ConnectionError("the body breaks off")
            left -= len(part)
            yield part

    def close(self) -> None:
        self._writer.transport.abort()


async def request(url: str, headers: dict[str, str], options: dict[str, Any]) -> Response:
    """The response to a GET, through the proxy of the system or of `options`; `options` are those of `connect` of websockets.
    Raises OSError, ValueError."""
    parts = urlsplit(url)
    is_tls = parts.scheme == "https"
    host, port = parts.hostname or "", parts.port or (443 if is_tls else 80)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    proxy = _proxy(host, port, is_tls, options.get("proxy", True))
    given_context = options.get("ssl")
    context = given_context if isinstance(given_context, ssl.SSLContext) else ssl.create_default_context()
    name = options.get("server_hostname") or host
    if proxy is None:
        reader, writer = await asyncio.open_connection(options.get("host") or host, options.get("port") or port,
                                                       ssl=context if is_tls else None, server_hostname=name if is_tls else None)
    else:
        reader, writer = await asyncio.open_connection(proxy.hostname, proxy.port or 80)
        if is_tls:
            await _tunnel(reader, writer, f"{_in_brackets(host)}:{port}", _credentials(proxy), context, name)
        else:
            target = f"http://{parts.netloc.rpartition('@')[2]}{target}"
            headers = headers | _credentials(proxy)
    try:
        given = dict(options.get("additional_headers") or {}) | ({"Origin": options["origin"]} if options.get("origin") else {})
        lines = {"Host": parts.netloc.rpartition("@")[2], "User-Agent": "weirgate-python", **given, **headers}
        if any("\r" in value or "\n" in value for value in lines.values()):
            raise ValueError("a header with a line break")
        writer.write("".join([f"GET {target} HTTP/1.1\r\n", *(f"{key}: {value}\r\n" for key, value in lines.items()), "\r\n"]).encode())
        return Response(reader, writer, *await _head(reader))
    except BaseException:
        writer.transport.abort()
        raise


async def _tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, to: str, credentials: dict[str, str],
                  context: Any, name: str) -> None:
    """TLS to the server, inside of a connection of the proxy."""
    try:
        more = "".join(f"{key}: {value}\r\n" for key, value in credentials.items())
        writer.write(f"CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n{more}\r\n".encode())
        status, _ = await _head(reader)
        if status != 200:
            raise ConnectionError(f"the proxy answers {status}")
        await writer.start_tls(context, server_hostname=name)
    except BaseException:
        writer.transport.abort()
        raise


async def _head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    """Status and headers of the response behind those of 1xx."""
    status, read = 100, 0
    while status < 200:
        first, headers = (await reader.readline()).decode("latin-1").split(" "), dict[str, str]()
        if len(first) < 2 or not first[0].startswith("HTTP/1.") or not first[1].strip().isdecimal():
            raise ConnectionError("no response of HTTP")
        status = int(first[1])
        while (line := await reader.readline()) not in (b"\r\n", b"\n"):
            read += len(line)
            name, colon, value = line.decode("latin-1").partition(":")
            if not colon or read > _HEAD_MAX:
                raise ConnectionError("no response of HTTP")
            headers[name.lower()] = value.strip()
    return status, headers


def _proxy(host: str, port: int, is_tls: bool, given: Any) -> Any:
    """The proxy to use, as websockets chooses it."""
    if given is True:
        found = getproxies()
        names = ("wss", "socks", "https") if is_tls else ("ws", "socks", "https", "http")
        given = None if proxy_bypass(f"{host}:{port}") else next((found[name] for name in names if name in found), None)
    if not given:
        return None
    proxy = urlsplit(given)
    if proxy.scheme != "http":
        raise ConnectionError(f"no event streams through a proxy of {proxy.scheme}")
    return proxy


def _credentials(proxy: Any) -> dict[str, str]:
    if not proxy.username:
        return {}
    text = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": f"Basic {base64.b64encode(text.encode()).decode()}"}


def _in_brackets(host: str) -> str:
    return f"[{host}]" if ":" in host else host

"""The options of the clients, as keyword arguments. Callbacks run in the event loop; in weirgate.sync, in the thread."""
from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Literal, TypedDict

from .core import Close, Gap, RequestError, Status
from .sessions import Push

Url = str | Callable[[], str | Awaitable[str]]
"""http(s) is taken for ws(s). A function, also a coroutine function, is called before each attempt."""


Interval = Literal["1s", "1m", "5m"]
"""The duration of a candle."""


class ConnectionOptions(TypedDict, total=False):
    """The options of every client. All times are in ms."""

    get_token: Callable[[bool], str | None | Awaitable[str | None]]
    """Returns the token, called before each attempt. The argument: the server refused the last token. A refused token
    is replaced once; if the new token is refused too, the connection is closed for good."""
    token_in: Literal["header", "query"]
    """`Authorization: Bearer`, the default, or `?token=`, as the replaced channels gateway needs."""
    retry: Callable[[Close], float | bool | None]
    """Overrides the reaction to a close: wait for this many ms, never reconnect (False), as usual (None)."""
    stale_ms: float
    """Time without a new message until `stale`. 0: never. 3,000 for levels and `connect`, otherwise 0."""
    silence_ms: float
    """Time without any message until a new connection, up to doubled at random; clients with a probe probe the server
    first. 0: never. 30,000."""
    handshake_ms: float
    """Longest wait for the handshake, the token included. 10,000."""
    stable_ms: float
    """Duration of a connection after which the back-off restarts. 5,000."""
    backoff_min_ms: float
    """Upper bound of the first wait; doubles with each failure. 300."""
    backoff_max_ms: float
    """Upper bound of the doubling. 15,000."""
    request_ms: float
    """Longest wait for a response, counted from the call. 10,000."""
    queue_max: int
    """Most waiting messages of an iteration; with more, the iteration ends with the error `late`. 10,000."""
    connect_options: dict[str, Any]
    """Arguments for `websockets.asyncio.client.connect`, such as `ssl` or `proxy`."""
    on_status: Callable[[Status], object]
    on_open: Callable[[], object]
    on_message: Callable[[str | bytes, bool], object]
    """Each message as received. The flag: the first state of a reconnection is the same as before the reconnection."""
    on_bad: Callable[[Exception, str | bytes], object]
    """A message without valid JSON, or without an object; the message is skipped."""


class LevelsOptions(ConnectionOptions, total=False):
    on_state: Callable[[dict[str, Any], bool], object]
    on_gap: Callable[[Gap], object]
    """States skipped by the gateway for this client, before the first state after the gap. For a gateway with `--state-seq`."""


class SessionOptions(ConnectionOptions, total=False):
    on_error: Callable[[RequestError], object]
    """Each refusal by the server; a refused request is rejected as well."""


class TradesOptions(SessionOptions, total=False):
    on_trade: Callable[[dict[str, Any], int], object]
    """The trade, and the time of the broadcast by the gateway (Unix time in ms)."""
    on_candle: Callable[[dict[str, Any]], object]
    """A running or closed candle of `subscribe_candles`."""
    on_welcome: Callable[[dict[str, Any]], object]


class ChannelsOptions(SessionOptions, total=False):
    on_data: Callable[[dict[str, Any]], object]
    on_welcome: Callable[[dict[str, Any]], object]
    on_gap: Callable[[Gap], object]
    """Called before the first message after a gap. Never with the replaced gateway: its numbers do not show gaps."""
    on_subscribed: Callable[[dict[str, Any]], object]
    """Each acknowledgement of a subscription, including renewals on a new connection. With a history on the server,
    `recovered` says for each name whether all missed messages follow; if false, no missed message follows."""


class DevicesOptions(SessionOptions, total=False):
    device_id: str
    """The id in the address. Without an id the device calls `identify`."""
    on_push: Callable[[Push], object]
    on_identify: Callable[[dict[str, Any]], object]
    """The gateway requests `identify`."""

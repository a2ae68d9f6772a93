"""The options of the clients, as keyword arguments. Callbacks run in the event loop; in weirgate.sync, in the thread."""
from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Literal, TypedDict

from .core import Close, Gap, RequestError, Status
from .sessions import Push

Url = str | Callable[[], str | Awaitable[str]]
"""http(s) is taken for ws(s). A function, also a coroutine function, is called before each attempt."""


Interval = Literal["1s", "1m", "5m"]
"""How long a candle takes."""


class ConnectionOptions(TypedDict, total=False):
    """The options of every client. All times are in ms."""

    get_token: Callable[[bool], str | None | Awaitable[str | None]]
    """Returns the token, called before each attempt. Its argument: the server refused the last token. A token that is
    refused is replaced once; if the next one is refused too, the connection is closed for good."""
    token_in: Literal["header", "query"]
    """`Authorization: Bearer`, the default, or `?token=`, which the replaced channels gateway needs."""
    retry: Callable[[Close], float | bool | None]
    """Overrides what to do after a close: wait so many ms, never come back (False), as usual (None)."""
    stale_ms: float
    """Nothing new for so long: `stale`. 0: never. 3,000 for levels and `connect`, otherwise 0."""
    silence_ms: float
    """Nothing at all for so long, up to doubled at random: a new connection; clients that can ask the server first do
    that. 0: never. 30,000."""
    handshake_ms: float
    """Longest wait for the handshake, the token included. 10,000."""
    stable_ms: float
    """Duration of a connection after which the back-off restarts. 5,000."""
    backoff_min_ms: float
    """The first wait is up to this long; it doubles with each failure. 300."""
    backoff_max_ms: float
    """What the doubling ends at. 15,000."""
    request_ms: float
    """Longest wait for a response, counted from the call. 10,000."""
    queue_max: int
    """An iteration that has not taken so many messages ends with the error `late`. 10,000."""
    connect_options: dict[str, Any]
    """Arguments for `websockets.asyncio.client.connect`, such as `ssl` or `proxy`."""
    on_status: Callable[[Status], object]
    on_open: Callable[[], object]
    on_message: Callable[[str | bytes, bool], object]
    """Each message as it came. The flag: the state that a reconnection brought is the one from before it."""
    on_bad: Callable[[Exception, str | bytes], object]
    """A message that is not JSON, or not an object; it is skipped."""


class LevelsOptions(ConnectionOptions, total=False):
    on_state: Callable[[dict[str, Any], bool], object]
    on_gap: Callable[[Gap], object]
    """States that the gateway skipped for this client, before the state that shows it. For a gateway with `--state-seq`."""


class SessionOptions(ConnectionOptions, total=False):
    on_error: Callable[[RequestError], object]
    """Whatever the server refused; a request is rejected as well."""


class TradesOptions(SessionOptions, total=False):
    on_trade: Callable[[dict[str, Any], int], object]
    """The trade, and when the gateway broadcast it (Unix time in ms)."""
    on_candle: Callable[[dict[str, Any]], object]
    """A running or closed candle of `subscribe_candles`."""
    on_welcome: Callable[[dict[str, Any]], object]


class ChannelsOptions(SessionOptions, total=False):
    on_data: Callable[[dict[str, Any]], object]
    on_welcome: Callable[[dict[str, Any]], object]
    on_gap: Callable[[Gap], object]
    """Before the message that shows it. The replaced gateway has no numbers that could tell."""
    on_subscribed: Callable[[dict[str, Any]], object]
    """Each acknowledgement of a subscription, also of those renewed on a new connection. Where the server keeps a history,
    its `recovered` says of each name whether all that was missed follows; if not, nothing of it does."""


class DevicesOptions(SessionOptions, total=False):
    device_id: str
    """Goes into the address. Without it the device calls `identify`."""
    on_push: Callable[[Push], object]
    on_identify: Callable[[dict[str, Any]], object]
    """The gateway asks who this is."""

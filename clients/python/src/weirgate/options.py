"""The options of the clients, as keyword arguments. Callbacks run in the event loop; in weirgate.sync, in the thread."""
from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Generic, Literal, NotRequired, TypedDict, TypeVar

from .core import Close, Gap, RequestError, Status
from .sessions import Push

Data = TypeVar("Data")
"""The data of a message, `Channels[Tick]`."""

Url = str | Callable[[], str | Awaitable[str]]
"""http(s) is taken for ws(s). A function, also a coroutine function, is called before each attempt."""


Interval = Literal["1s", "1m", "5m"]
"""The duration of a candle."""


Bus = Literal["up", "away"]
"""Whether the server gets messages from its bus."""

Why = Literal["bad", "off", "gap", "epoch", "ahead", "window", "large"]
"""Why missed messages do not follow. bad: no position of this feed; off: no history; gap: the server may have lost messages
itself; epoch: the position is unknown; ahead: the server is behind the position; window: missed messages are too old; large:
too many."""


class Trade(TypedDict):
    """A trade: each key only where the publisher sent it, with the publisher's value."""

    symbol: str
    price: float
    volume: NotRequired[float]
    timestamp: NotRequired[int]
    """Unix time in ms."""
    conditions: NotRequired[list[str]]
    exchange: NotRequired[str]


class Candle(TypedDict):
    """The trades of a symbol in an interval, by the timestamps of the trades."""

    symbol: str
    interval: Interval
    start: int
    """Begin of the interval, Unix time in ms."""
    open: float
    high: float
    low: float
    close: float
    volume: float
    trades: int
    """Number of trades."""
    closed: bool
    """The candle is final. A closed candle comes once."""
    partial: NotRequired[bool]
    """The gateway did not get all trades since `start`, so the candle may lack some."""


class ChannelMessage(TypedDict, Generic[Data]):
    """A published message."""

    type: Literal["data"]
    seq: int
    channel: str
    pattern: str | None
    """The matching pattern; None for an exact name."""
    data: Data
    timestamp: str
    """ISO 8601, UTC."""
    retained: NotRequired[bool]
    """The last value, from before the subscription."""
    deleted: NotRequired[bool]
    """The key of a NATS key-value bucket was deleted; `data` is None, also with `payload="binary"`."""
    recv_us: NotRequired[int]
    """When the message came from the bus to the server, Unix time in microseconds, from a gateway with `--stamp`."""
    pos: NotRequired[str]
    """The position, from a gateway with a history."""


Brings = TypedDict("Brings", {
    "from": Literal["live", "kept", "stream", "retained"],
    "reach_ms": NotRequired[int],
    "why": NotRequired[Literal["start", "bytes", "large"]],
    "newest_age_ms": NotRequired[int],
})
"""What the subscription to a name brings: where its messages come from, how far back the history reaches, why that is less than
the history of the server, and the age of the newest message."""


class RetainedEnd(TypedDict):
    """The end of the last values of a name, behind each `subscribed` with the name (`--retained`)."""

    type: Literal["retained"]
    seq: int
    channel: str
    """The name or pattern."""
    count: int
    """The messages with `retained` since `subscribed`."""
    cut: NotRequired[Literal["limit", "live", "unnamed", "large", "refused", "unreadable"]]
    """Why there are more values. Without: a row that has not come does not exist."""
    timestamp: str
    """ISO 8601, UTC."""


Last = int | Literal["all"]
"""The newest messages of each name, 1 to 100; or, on channels of a gateway with `--stream`, every message that the stream keeps, and
none again on a later connection. Of a name outside of a stream, only live messages."""


class LastEnd(TypedDict):
    """The end of all kept messages of a name (`last="all"`): live messages follow."""

    type: Literal["last"]
    seq: int
    channel: str
    """The name or pattern."""
    count: int
    """The messages since `subscribed`."""
    cut: NotRequired[Literal["window", "large", "epoch", "off", "unnamed", "refused", "unreadable", "limit"]]
    """Why messages may be missing. Without: none is."""
    pos: NotRequired[str]
    """The position."""
    timestamp: str
    """ISO 8601, UTC."""


class ConnectionOptions(TypedDict, total=False):
    """The options of every client. All times are in ms."""

    token: str | Callable[[bool], str | None | Awaitable[str | None]] | None
    """The token, or a function, called before each attempt. The argument: the server refused the last token. The client
    tries each new token of a function, with growing waits, and is closed for good if the function returns the refused token
    again. `Channels` calls the function also before a JWT ends, and sends the new token on the open connection."""
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
    max_hz: float
    """The most times a second at which states of levels, and messages of the conflated names of channels, are to come: 0.1 to
    1,000. The newest always arrives. The others are skipped, as for a slow client: numbers have gaps. Default: all."""
    queue_max: int
    """Most waiting messages of an iteration; with more, the iteration ends with the error `late`. 10,000."""
    fallback: bool
    """Where the network breaks WebSockets, an event stream (Server-Sent Events) takes their place. For a gateway with
    `--event-stream`; all connections of the program to an origin share what is known of the network. False."""
    connect_options: dict[str, Any]
    """Arguments for `websockets.asyncio.client.connect`, such as `ssl` or `proxy`."""
    on_status: Callable[[Status], object]
    on_open: Callable[[], object]
    on_message: Callable[[str | bytes, bool], object]
    """Each message as received. The flag: the first state of a reconnection is the same as before the reconnection."""
    on_bad: Callable[[Exception, str | bytes], object]
    """A message without valid JSON, or without an object; the message is skipped. Also a trade that matches no subscription: with
    several symbols, these go by the `symbol` of the payload."""


class LevelsOptions(ConnectionOptions, total=False):
    on_state: Callable[[dict[str, Any], bool], object]
    on_gap: Callable[[Gap], object]
    """States skipped by the gateway for this client, before the first state after the gap. For a gateway with `--state-seq`."""


class SessionOptions(ConnectionOptions, total=False):
    on_error: Callable[[RequestError], object]
    """Each refusal by the server, each exception of a subscription's handler, and each failure to get a new token on an open
    connection; a refused request is rejected as well."""


class SubscriberOptions(SessionOptions, total=False):
    names_max: int
    """Most names of all subscriptions together, a name of two subscriptions counted twice; more raise ValueError. 10,000."""


class ResumeOptions(TypedDict, total=False):
    """For a gateway with `--history-ms`."""

    since: str | None
    """The position to go on from, as a client before had it in `position`. Without: live messages alone."""


class HistoryOptions(ResumeOptions, total=False):
    last: int
    """The newest messages of each name, 1 to 100: with the first subscription, and where missed messages do not follow."""
    on_subscribed: Callable[[dict[str, Any]], object]
    """Each acknowledgement of names, also on a new connection; `recovered` says whether all missed messages follow. If false,
    no missed message follows, and `why` is a `Why`: without a history `off`, which the client adds itself. Of channels, both are
    by name."""
    on_bus: Callable[[Bus, bool], object]
    """The bus went or came back; the flag: messages were lost. The first status of a connection counts as a change."""
    on_refused: Callable[[dict[str, str]], object]
    """The refused names have changed: one was refused, granted or given up."""
    on_unanswered: Callable[[list[str]], object]
    """The names without an answer have changed."""
    on_coming: Callable[[list[str]], object]
    """The last values of other names are coming, or those of a name have come."""


class TradesOptions(SubscriberOptions, HistoryOptions, total=False):
    on_trade: Callable[[Trade, int], object]
    """The trade, and the time of the broadcast by the gateway (Unix time in ms)."""
    on_candle: Callable[[Candle], object]
    """A running or closed candle of `subscribe_candles`."""
    on_welcome: Callable[[dict[str, Any]], object]


class ChannelsOptions(SubscriberOptions, HistoryOptions, Generic[Data], total=False):
    payload: Literal["binary"]
    """`data` is the bytes of the payload as published, JSON or not: `Channels[bytes]`. Without: the payload as JSON, or
    `{"raw": text}`."""
    on_data: Callable[[ChannelMessage[Data]], object]
    on_welcome: Callable[[dict[str, Any]], object]
    on_gap: Callable[[Gap], object]
    """Called before the first message after a gap. Never with the replaced gateway: its numbers do not show gaps."""
    on_retained: Callable[[RetainedEnd], object]
    """Called after the last values of a name."""
    on_last: Callable[[LastEnd], object]
    """Called after all kept messages of a name."""


class DevicesOptions(SessionOptions, ResumeOptions, total=False):
    device_id: str
    """The id in the address. Without an id the token names the device, or the device calls `identify`."""
    on_push: Callable[[Push], object]
    on_identify: Callable[[dict[str, Any]], object]
    """The gateway requests `identify`."""
    on_identified: Callable[[dict[str, Any]], object]
    """The response to `identify`, and on a new connection to the position in the address: `device_id`, `recovered`, and `why`."""

"""What a core asks its driver to do."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Dial:
    """Make a connection; `refused`: the server refused the last token."""

    refused: bool


@dataclass(frozen=True)
class Send:
    """Send a text message."""

    text: str


@dataclass(frozen=True)
class Drop:
    """Close the connection, or abort the attempt, and report no further events of the connection."""

    code: int
    reason: str


@dataclass(frozen=True)
class Emit:
    """Call the listeners of `type` with `args`."""

    type: str
    args: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Deliver:
    """Pass `item` to the iterations of a subscription, and `details` to its handler."""

    subscription: Any
    item: Any
    details: tuple[Any, ...]


@dataclass(frozen=True)
class Renew:
    """Get a new token for the open connection, and report the token with `handle_token` or `handle_no_token`. If not
    `is_wanted`: stop getting one."""

    is_wanted: bool


@dataclass(frozen=True)
class Report:
    """Report that `what`, a function of the program, has failed. The failure has changed nothing."""

    what: str
    error: BaseException


@dataclass(frozen=True)
class Warn:
    """After a moment log `text()`, unless it is empty by then, or something listens to `type`: the program has heard otherwise."""

    text: Callable[[], str]
    type: str = "error"


Output = Dial | Send | Drop | Emit | Deliver | Renew | Report | Warn

"""The WebSocket of the library websockets."""
from __future__ import annotations

from websockets.asyncio.client import connect as _connect


class connect(_connect):  # noqa: N801
    """Opens a WebSocket as that of the library, and follows no redirect, as browsers do: another server must not get the
    token, wherever the token is."""

    def process_redirect(self, exc: Exception) -> Exception:
        return exc

"""The longest wait for an answer, in a program that may be busy; without input or output. wait.js has the same rule."""
from __future__ import annotations

# A timer so late: the event loop was blocked, or the machine slept.
_LATE_MS = 1_000.0


class AnswerWait:
    """A late timer is no evidence, because an answer may have come that nobody has read: so there are two halves, and a half with a
    late end counts as a quarter of one."""

    def __init__(self, now: float, ms: float) -> None:
        self._half_ms, self._quarters = ms / 2, 0
        self.due_at = now + self._half_ms

    def is_over(self, now: float) -> bool:
        """To be asked at `due_at`, which may move then; harmless before."""
        if now < self.due_at:
            return False
        self._quarters += 1 if now - self.due_at > _LATE_MS else 4
        self.due_at = now + self._half_ms
        return self._quarters >= 8

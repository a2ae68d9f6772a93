"""What was published, what the watchers saw, and which losses an outage explains."""
import collections
import time

# A broker that is killed takes what it had just accepted with it; subscriptions are back some seconds after its return.
BEFORE_S, AFTER_S = 1.5, 15.0


class Spans:
    """Times during which something was away; a span begins with `begin` and ends with `end`."""

    def __init__(self):
        self.spans = []

    def begin(self):
        self.spans.append([time.monotonic(), None])

    def end(self):
        self.spans[-1][1] = time.monotonic()

    def note(self, start, end):
        """A span that is over."""
        self.spans.append([start, end])

    def covers(self, at, before=BEFORE_S, after=AFTER_S):
        """Whether `at` is in a span, or so close to a span that the span may be the cause."""
        return any(start - before <= at <= (at if end is None else end + after) for start, end in self.spans)


class Sequence:
    """The numbers published on one subject: 0, 1, 2, …, and what is wrong with the way in which watchers saw them.

    `unsure` are numbers whose publication failed halfway: they may have arrived, later than their neighbours too.
    """

    def __init__(self, name):
        self.name = name
        self.at, self.unsure = [], set()
        self.missed = collections.Counter()
        self.older = self.twice = self.seen = 0

    def next(self):
        """A number for the next message."""
        self.at.append(time.monotonic())
        return len(self.at) - 1

    def newest(self):
        """The last number that was published for sure; None if there is none."""
        return next((n for n in range(len(self.at) - 1, -1, -1) if n not in self.unsure), None)

    def lost(self, *explanations):
        """Returns (numbers that nothing explains, count of explained losses)."""
        missed = {n: count for n, count in self.missed.items() if n not in self.unsure}
        bare = {n: count for n, count in missed.items() if not any(e.covers(self.at[n]) for e in explanations)}
        return bare, sum(missed.values()) - sum(bare.values())


class Follower:
    """What one watcher saw of a sequence, from its first number on."""

    def __init__(self, sequence):
        self.sequence, self.last = sequence, None

    def see(self, n):
        """A message with this number has arrived."""
        sequence = self.sequence
        sequence.seen += 1
        if n in sequence.unsure:
            return
        if self.last is None or n > self.last:
            if self.last is not None:
                sequence.missed.update(range(self.last + 1, n))
            self.last = n
        elif n == self.last:
            sequence.twice += 1
        else:
            sequence.older += 1

    def finish(self):
        """Everything is over: what did not arrive until now is missed too."""
        newest = self.sequence.newest()
        if newest is not None:
            self.sequence.missed.update(range(-1 if self.last is None else self.last + 1, newest + 1))
            self.last = newest

// The longest wait for an answer, in a program that may be busy.

/** A timer so late: the event loop was blocked, or the machine slept. Browsers let timers of a hidden page fire up to 1 s late. */
const LATE_MS = 1_000;

/**
 * Calls `call` after `ms` without the end of the wait; returns the function that ends it. A late timer is no evidence, because an
 * answer may have come that nobody has read: so there are two halves, and a half with a late end counts as a quarter of one.
 */
export function within(ms, call, { now, after, cancel }) {
  let alarm, quarters = 0;
  const wait = () => {
    const dueAt = now() + ms / 2;
    alarm = after(ms / 2, () => {
      quarters += now() - dueAt > LATE_MS ? 1 : 4;
      if (quarters < 8) wait();
      else call();
    });
  };
  wait();
  return () => cancel(alarm);
}

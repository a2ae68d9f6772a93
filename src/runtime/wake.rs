//! Wakes a thread that waits in its poll. However many threads wake it, only the first makes a system call; while the
//! thread is awake, none does.
//!
//! [`Spin`] polls without sleeping for some time after the last work (`--spin-us`).
//!
//! Waking a sleeping thread takes tens of microseconds if the CPU has to leave an idle state. A polling
//! thread finds its work at once, and no thread makes a system call to wake the polling thread. The price is
//! a whole CPU.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::{io, thread};

use mio::{Registry, Token, Waker};

use super::Clock;

/// A handle that wakes a thread out of its [`mio::Poll`], or out of the next wait. Until the thread is awake,
/// only the first call makes a system call.
#[derive(Clone, Debug)]
pub struct Wake {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// The name of the thread, for the log line.
    sleeper: &'static str,
    /// No system call is necessary: another thread made the call, or the thread is awake and will look before
    /// the next sleep.
    pending: AtomicBool,
    waker: Waker,
}

impl Wake {
    /// Makes a handle for the thread that polls `registry`, with an event of `token`. `sleeper` names the
    /// thread in a log line.
    ///
    /// # Errors
    /// No file descriptor is left.
    pub fn new(registry: &Registry, token: Token, sleeper: &'static str) -> io::Result<Self> {
        let inner = Inner {
            sleeper,
            pending: AtomicBool::new(false),
            waker: Waker::new(registry, token)?,
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Wakes the thread. Must be called after the send into the thread's channel.
    pub fn wake(&self) {
        self.inner.call();
    }

    /// Returns this handle as a waker of the standard library.
    pub fn waker(&self) -> std::task::Waker {
        Arc::clone(&self.inner).into()
    }

    /// Makes [`Wake::wake`] wake the thread again. The thread calls this function before it looks at its channels for
    /// the last time and sleeps: that look finds the messages sent before, and later messages wake the thread.
    pub fn arm(&self) {
        // A plain store could become visible after the look at the channels: a caller in between would find
        // the thread still marked as woken, and its message would wait for the next event. Of two swaps, one
        // always sees the other.
        self.inner.pending.swap(false, Ordering::AcqRel);
    }

    /// Marks the thread as awake: until the thread calls [`Wake::arm`], before its sleep, no other thread
    /// makes a system call.
    pub fn disarm(&self) {
        self.inner.pending.swap(true, Ordering::AcqRel);
    }
}

impl Inner {
    fn call(&self) {
        if !self.pending.swap(true, Ordering::AcqRel)
            && let Err(error) = self.waker.wake()
        {
            tracing::error!(%error, "{} could not be woken", self.sleeper);
        }
    }
}

impl std::task::Wake for Inner {
    fn wake(self: Arc<Self>) {
        self.call();
    }
}

/// The [`Wake`] of the loop, for threads that start before the loop.
#[derive(Clone, Debug, Default)]
pub struct LateWake(Arc<OnceLock<Wake>>);

impl LateWake {
    /// Sets the handle, once the loop exists.
    pub fn set(&self, wake: &Wake) {
        // A handle that is set already belongs to the same loop.
        let _ = self.0.set(wake.clone());
    }

    /// Wakes the loop with [`Wake::wake`]. Does nothing before the loop exists: the first turn looks at every
    /// channel.
    pub fn wake(&self) {
        if let Some(wake) = self.0.get() {
            wake.wake();
        }
    }
}

/// The spinning of a thread after work, and its counts.
#[derive(Clone, Copy, Debug)]
pub struct Spin {
    for_us: u64,
    until_us: u64,
    counts: SpinCounts,
}

/// The cost and the benefit of spinning. Counts only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpinCounts {
    /// Microseconds spent.
    pub spun_us: u64,
    /// Times that spinning found work: each time saved a wake-up.
    pub found: u64,
}

impl Spin {
    /// Spins for `for_us` microseconds after the last work; 0 for never.
    pub fn new(for_us: u64) -> Self {
        Self {
            for_us,
            until_us: 0,
            counts: SpinCounts::default(),
        }
    }

    /// Notes work at `now_us` of the monotonic clock.
    pub fn worked(&mut self, now_us: u64) {
        self.until_us = now_us + self.for_us;
    }

    /// Calls `has_work` repeatedly until it returns true or an error, the time to spin after the last work is over, or
    /// `due_us` has come. Returns the last result; if the time is over already, returns false without a call. Between
    /// two calls other threads may run on this CPU, because they may bring the work.
    ///
    /// # Errors
    /// The errors of `has_work`.
    pub fn poll<E>(
        &mut self,
        clock: Clock,
        due_us: u64,
        mut has_work: impl FnMut() -> Result<bool, E>,
    ) -> Result<bool, E> {
        if self.for_us == 0 {
            return Ok(false);
        }
        let until_us = self.until_us.min(due_us);
        let began_us = clock.now().mono_us;
        let mut now_us = began_us;
        let mut found = false;
        while now_us < until_us && !found {
            found = has_work()?;
            if !found {
                // Costs little while this thread has its CPU alone.
                thread::yield_now();
            }
            now_us = clock.now().mono_us;
        }
        self.counts.spun_us += now_us - began_us;
        self.counts.found += u64::from(found);
        Ok(found)
    }

    /// Returns the counts so far.
    pub fn counts(&self) -> SpinCounts {
        self.counts
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::mpsc;
    use std::thread;
    use std::time::{Duration, Instant};

    use mio::{Events, Poll};

    use super::*;

    /// A lost wake-up would take this long, and fails the test.
    const NEVER: Duration = Duration::from_secs(20);

    #[test]
    fn a_thread_that_will_look_is_not_called_and_another_is_called_once() {
        let mut poll = Poll::new().expect("a poll");
        let wake = Wake::new(poll.registry(), Token(0), "the test").expect("a waker");
        let mut events = Events::with_capacity(4);
        let mut is_called = || {
            let timeout = Some(Duration::ZERO);
            poll.poll(&mut events, timeout).expect("polled");
            !events.is_empty()
        };
        wake.disarm();
        wake.wake();
        assert!(!is_called());
        wake.arm();
        assert!(!is_called());
        wake.wake();
        wake.wake();
        assert!(is_called() && !is_called());
    }

    /// Two senders and a thread that spins for a while, then looks once more and sleeps. Each message is sent
    /// after the one before was taken, so each finds the thread at another point.
    #[test]
    fn no_wake_up_is_lost_between_spinning_and_sleeping() {
        let mut poll = Poll::new().expect("a poll");
        let wake = Wake::new(poll.registry(), Token(0), "the test").expect("a waker");
        let (messages, taken) = crossbeam_channel::unbounded::<mpsc::Sender<()>>();
        let senders = [1u32, 7].map(|step| {
            let (messages, wake) = (messages.clone(), wake.clone());
            thread::spawn(move || {
                for n in 0..10_000u32 {
                    let (done, is_done) = mpsc::channel();
                    messages.send(done).expect("the other end is there");
                    wake.wake();
                    is_done.recv().expect("taken");
                    for _ in 0..n.wrapping_mul(step) % 512 {
                        std::hint::spin_loop();
                    }
                }
            })
        });
        drop(messages);
        let mut events = Events::with_capacity(4);
        let (mut spins, mut left) = (0u32, 20_000);
        while left > 0 {
            let taken_now = taken.try_iter().take(left);
            left -= taken_now.filter(|done| done.send(()).is_ok()).count();
            spins = (spins + 13) % 400;
            if (0..spins).any(|_| !taken.is_empty()) || left == 0 {
                continue;
            }
            wake.arm();
            if taken.is_empty() {
                let began = Instant::now();
                poll.poll(&mut events, Some(NEVER)).expect("polled");
                assert!(began.elapsed() < NEVER, "a wake-up was lost");
            }
            wake.disarm();
        }
        for sender in senders {
            sender.join().expect("it ends");
        }
    }

    /// The shared state of the thread and two senders, and the step of each, in the steps of [`Wake`].
    #[derive(Clone, Default, PartialEq, Eq, Hash)]
    struct Shared {
        messages: u8,
        pending: bool,
        is_called: bool,
        /// The next step of the thread; [`SLEEPING`] has one way out.
        thread: u8,
        saw_messages: bool,
        senders: [Sender; 2],
    }

    #[derive(Clone, Default, PartialEq, Eq, Hash)]
    struct Sender {
        step: u8,
        has_to_call: bool,
        left: u8,
    }

    const SLEEPING: u8 = 3;

    impl Shared {
        fn thread_steps(&self) -> Option<Self> {
            let mut next = self.clone();
            match self.thread {
                // Takes all messages: a turn, or a look during spinning.
                0 => next.messages = 0,
                // arm
                1 => next.pending = false,
                2 => {
                    next.saw_messages = self.messages > 0;
                }
                // The poll: returns when called, or at once after a look that found a message.
                SLEEPING if !(self.saw_messages || self.is_called) => return None,
                SLEEPING => next.is_called = false,
                // disarm
                _ => next.pending = true,
            }
            next.thread = (self.thread + 1) % 5;
            Some(next)
        }

        fn sender_steps(&self, index: usize) -> Option<Self> {
            let mut next = self.clone();
            let sender = &mut next.senders[index];
            match sender.step {
                0 if sender.left == 0 => return None,
                0 => next.messages += 1,
                1 => sender.has_to_call = !std::mem::replace(&mut next.pending, true),
                _ => {
                    next.is_called |= sender.has_to_call;
                    sender.left -= 1;
                }
            }
            let sender = &mut next.senders[index];
            sender.step = (sender.step + 1) % 3;
            Some(next)
        }
    }

    /// Every order of the steps of a thread and two senders with three messages each.
    #[test]
    fn in_no_order_of_steps_does_the_thread_sleep_over_a_message() {
        let first = Shared {
            pending: true,
            senders: [3, 3].map(|left| Sender {
                left,
                ..Sender::default()
            }),
            ..Shared::default()
        };
        let mut seen = HashSet::from([first.clone()]);
        let mut open = vec![first];
        let mut sleeps = 0;
        while let Some(state) = open.pop() {
            let nexts = [
                state.thread_steps(),
                state.sender_steps(0),
                state.sender_steps(1),
            ];
            if nexts.iter().all(Option::is_none) {
                assert_eq!(state.messages, 0, "it sleeps, and nobody will call it");
                sleeps += 1;
            }
            for next in nexts.into_iter().flatten() {
                if seen.insert(next.clone()) {
                    open.push(next);
                }
            }
        }
        assert!(sleeps > 0 && seen.len() > 1_000, "{} states", seen.len());
    }
}

#[cfg(test)]
mod spin_tests {
    use std::convert::Infallible;

    use super::*;

    fn polled(spin: &mut Spin, due_us: u64, mut looks: u32) -> (bool, u32) {
        let clock = Clock::start();
        let mut made = 0;
        let found = spin.poll(clock, due_us, || {
            made += 1;
            looks -= 1;
            Ok::<_, Infallible>(looks == 0)
        });
        let Ok(found) = found;
        (found, made)
    }

    #[test]
    fn it_looks_until_there_is_work_and_counts_that() {
        let mut spin = Spin::new(60_000_000);
        spin.worked(Clock::start().now().mono_us);
        assert_eq!(polled(&mut spin, u64::MAX, 100), (true, 100));
        assert_eq!(polled(&mut spin, u64::MAX, 1), (true, 1));
        assert_eq!(spin.counts().found, 2);
    }

    #[test]
    fn it_ends_after_its_time_or_when_something_is_due() {
        let now_us = Clock::start().now().mono_us;
        // Long enough for a busy machine.
        let long_us = 300_000;
        let mut spin = Spin::new(long_us);
        spin.worked(now_us);
        let (found, looks) = polled(&mut spin, u64::MAX, u32::MAX);
        assert!(!found && looks > 1);
        assert!(spin.counts().spun_us > 0 && spin.counts().found == 0);

        let mut spin = Spin::new(60_000_000);
        spin.worked(now_us);
        assert!(!polled(&mut spin, now_us + long_us, u32::MAX).0);
        let spun_us = spin.counts().spun_us;
        assert!((1..30_000_000).contains(&spun_us), "{spun_us}");
    }

    #[test]
    fn without_a_time_and_long_after_the_last_work_it_does_not_look() {
        let mut spin = Spin::new(0);
        spin.worked(Clock::start().now().mono_us);
        assert_eq!(polled(&mut spin, u64::MAX, 1), (false, 0));
        let mut spin = Spin::new(500);
        spin.worked(1_000);
        assert_eq!(polled(&mut spin, u64::MAX, 1), (false, 0));
        assert_eq!(spin.counts(), SpinCounts::default());
    }

    #[test]
    fn an_error_ends_it() {
        let mut spin = Spin::new(60_000_000);
        spin.worked(Clock::start().now().mono_us);
        assert_eq!(
            spin.poll(Clock::start(), u64::MAX, || Err("gone")),
            Err("gone")
        );
    }
}

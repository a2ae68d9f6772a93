//! The open connections to services. Each is charged from before its socket exists until the socket is closed, because it
//! takes a descriptor and memory: hyper keeps the buffer of the largest read as long as the connection is open.
//!
//! A connection without a request is closed [`KEPT_FOR`] after its last use, and earlier if a new one needs its room.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::client::conn::http1::Builder;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

use super::activity::Activity;
use weirgate_runtime::Clock;
use weirgate_wire::admission::{ClientAddr, Permit, Quota, Rest, RestKind, Room, Sharing};

/// A connection that was unused for this long is closed. Common servers close idle connections after 5 s; with a shorter
/// time, few requests are sent into a connection that is just being closed.
pub(super) const KEPT_FOR: Duration = Duration::from_secs(4);

/// The time for the end of an unused connection, with TLS its last record.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// The most bytes of an answer's head, and the most bytes of its body that hyper reads at a time.
pub(crate) const ANSWER_HEAD_BYTES_MAX: usize = 64 * 1024;

/// Header lines in the head of an answer.
pub(crate) const ANSWER_HEADERS_MAX: usize = 100;

/// The most bytes that a connection for calls takes: [`ANSWER_HEAD_BYTES_MAX`], the head of a request, the records of TLS. The
/// bodies of calls are charged elsewhere, and are not copied.
pub(crate) const CALL_CONNECTION_BYTES: u64 = 80 * 1024;

/// The limit on open connections of one thread to all of its services. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct OpenConnections(Arc<OpenState>);

#[derive(Debug)]
struct OpenState {
    charges: Quota,
    connections_max: usize,
    clock: Clock,
    /// A connection has ended, or has no request any more.
    has_room: Notify,
}

/// The charge for an open connection, given back on drop.
#[derive(Debug)]
pub(crate) struct Charge {
    /// `None` while it is being given back.
    permit: Option<Permit>,
    open: OpenConnections,
}

impl OpenConnections {
    /// At most `connections_max` connections, at least one.
    pub(crate) fn new(connections_max: usize, clock: Clock) -> Self {
        let connections_max = connections_max.max(1);
        Self(Arc::new(OpenState {
            charges: Quota::new("service_connections", connections_max as u64),
            connections_max,
            clock,
            has_room: Notify::new(),
        }))
    }

    /// The sum of the charges: one for each open connection.
    pub(crate) fn charges(&self) -> &Quota {
        &self.0.charges
    }

    /// Waits for room for one more connection. Without room, the connection to any service is closed that has been
    /// without a request for the longest.
    pub(crate) async fn charge(&self) -> Charge {
        let state = &self.0;
        let room = Room {
            holders_max: state.connections_max,
            sharing: Sharing::Unshared,
            // The evicted connection may still be open when this one is charged: the second loop waits for its end.
            early: false,
        };
        let charge = loop {
            let has_room = state.has_room.notified();
            let now_us = state.clock.mono_us();
            // The same address for all: clients do not share these connections.
            let permit = state.charges.hold(ClientAddr::Unix, 1, now_us);
            if permit.fit(room, now_us).is_ok() {
                let permit = Some(permit);
                let open = self.clone();
                break Charge { permit, open };
            }
            drop(permit);
            has_room.await;
        };
        // The descriptor of an evicted connection is still open until its task has run.
        loop {
            let has_room = state.has_room.notified();
            if state.charges.holders() <= state.connections_max {
                return charge;
            }
            has_room.await;
        }
    }
}

impl Charge {
    /// Records that the connection has a request, so that it is not evicted.
    pub(super) fn note_request(&self) {
        self.permit.iter().for_each(Permit::work);
    }

    /// Records that the connection has no request, so that it may be evicted.
    pub(super) fn note_idle(&self) {
        let state = &self.open.0;
        let rest = Rest {
            kind: RestKind::Idle,
            since_us: state.clock.mono_us(),
        };
        self.permit.iter().for_each(|permit| permit.rest(rest));
        state.has_room.notify_waiters();
    }

    /// Whether the connection has to make room for another one.
    pub(super) fn is_evicted(&self) -> bool {
        self.permit.iter().any(Permit::is_evicted)
    }

    /// As [`is_evicted`](Self::is_evicted). If not, wakes the task once it has to.
    fn poll_evicted(&self, cx: &Context<'_>) -> bool {
        let mut permit = self.permit.iter();
        permit.any(|permit| {
            permit.wake_with(cx.waker());
            permit.is_evicted()
        })
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        drop(self.permit.take());
        self.open.0.has_room.notify_waiters();
    }
}

/// The protocol of every connection to a service.
pub(super) fn protocol() -> Builder {
    let mut builder = Builder::new();
    builder
        .max_buf_size(ANSWER_HEAD_BYTES_MAX)
        .max_headers(ANSWER_HEADERS_MAX);
    builder
}

/// Serves a connection of hyper until it ends: by itself, or because it was unused for [`KEPT_FOR`] or is evicted.
/// `retire` takes it from those that wait for a request, and returns false if it has one.
pub(super) async fn serve(
    connection: impl Future,
    activity: &Activity,
    charge: &Charge,
    retire: impl Fn() -> bool,
) {
    let mut connection = pin!(connection);
    let mut timer = pin!(sleep(KEPT_FOR));
    let is_retired = poll_fn(|cx| {
        if connection.as_mut().poll(cx).is_ready() {
            return Poll::Ready(false);
        }
        let mut is_due = charge.poll_evicted(cx);
        // Polled again after each reset, so that the timer wakes this task.
        while timer.as_mut().poll(cx).is_ready() {
            let unused = activity.silent_for();
            is_due |= unused >= KEPT_FOR;
            let left = KEPT_FOR.checked_sub(unused).filter(|left| !left.is_zero());
            // `None`: it is due. If it has a request, it is looked at again after as long.
            let next = Instant::now() + left.unwrap_or(KEPT_FOR);
            timer.as_mut().reset(next);
        }
        match is_due && retire() {
            true => Poll::Ready(true),
            false => Poll::Pending,
        }
    })
    .await;
    if is_retired {
        // Hyper ends the connection, because nothing can send requests any more.
        let _ = timeout(CLOSE_TIMEOUT, connection).await;
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;

    use tokio::runtime;
    use tokio::task::{LocalSet, spawn_local, yield_now};

    use super::*;

    fn run(test: impl Future<Output = ()>) {
        let runtime = runtime::Builder::new_current_thread().enable_time().build();
        LocalSet::new().block_on(&runtime.expect("a runtime"), test);
    }

    #[test]
    fn the_connection_that_was_idle_for_the_longest_makes_room_and_none_with_a_request() {
        run(async {
            let open = OpenConnections::new(3, Clock::start());
            let [busy, first, second] = [
                open.charge().await,
                open.charge().await,
                open.charge().await,
            ];
            first.note_idle();
            sleep(Duration::from_millis(2)).await;
            second.note_idle();
            let wait = || {
                let open = open.clone();
                spawn_local(async move { open.charge().await })
            };
            let third = wait();
            yield_now().await;
            let evicted = [&busy, &first, &second].map(Charge::is_evicted);
            assert_eq!(evicted, [false, true, false]);
            assert!(!third.is_finished(), "its socket is still open");
            drop(first);
            let third = third.await.expect("a task");
            // It has a request again.
            second.note_request();
            let fourth = wait();
            yield_now().await;
            assert!(!fourth.is_finished() && !second.is_evicted());
            busy.note_idle();
            yield_now().await;
            assert!(busy.is_evicted());
            drop(busy);
            drop((fourth.await.expect("a task"), second, third));
            assert_eq!(open.charges().held(), 0);
        });
    }
}

//! The permits of joined pages, which are made from the pages of all processes: only a few are made at the same time. Client
//! addresses share the permits by the rule of the connections to the admin address ([`Sharing::LargestFirst`]).

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use tokio::sync::Notify;

use weirgate_runtime::Clock;
use weirgate_wire::admission::{ClientAddr, Permit, Quota, Rest, RestKind, Room, Sharing};

/// The most pages at once that are joined from those of the processes. Many pages would delay the answers of the processes
/// to `/ready`.
const JOINED_MAX: usize = 8;

/// The permits of the pages. Clones share the permits.
#[derive(Clone)]
pub(super) struct Joins {
    held: Quota,
    /// Notified when a permit becomes free.
    freed: Arc<Notify>,
    clock: Clock,
}

/// The permit of a page, given back on drop.
struct JoinPermit<'j> {
    /// `None` while it is being given back.
    permit: Option<Permit>,
    joins: &'j Joins,
}

impl Joins {
    pub(super) fn new(clock: Clock) -> Self {
        Self {
            held: Quota::new("joined_pages", JOINED_MAX as u64),
            freed: Arc::default(),
            clock,
        }
    }

    /// Makes a page once there is a permit for it. If the permit has to go to an address with fewer pages, `page` is dropped,
    /// and made anew later: it only asks questions.
    pub(super) async fn join<F: Future>(
        &self,
        client: ClientAddr,
        page: impl Fn() -> F,
    ) -> F::Output {
        loop {
            let permit = self.permit(client).await;
            if let Some(made) = permit.unless_evicted(page()).await {
                return made;
            }
        }
    }

    /// Waits for a permit, perhaps that of a page of another address.
    async fn permit(&self, client: ClientAddr) -> JoinPermit<'_> {
        loop {
            let mut freed = pin!(self.freed.notified());
            // Before the look, so that a permit which becomes free after it is not missed.
            freed.as_mut().enable();
            let now_us = self.clock.mono_us();
            if self.held.may_fit(client, JOINED_MAX, now_us) {
                return self.take_permit(client, now_us);
            }
            freed.await;
        }
    }

    /// Takes a permit. If all are in use, the page of another address has to give way.
    fn take_permit(&self, client: ClientAddr, now_us: u64) -> JoinPermit<'_> {
        let permit = self.held.hold(client, 1, now_us);
        let room = Room {
            holders_max: JOINED_MAX,
            sharing: Sharing::LargestFirst,
            // Pages end on this thread, so none has to be evicted before all permits are in use.
            early: false,
        };
        // Cannot fail: the caller has checked for room.
        let _ = permit.fit(room, now_us);
        permit.rest(Rest {
            kind: RestKind::Asked,
            since_us: now_us,
        });
        JoinPermit {
            permit: Some(permit),
            joins: self,
        }
    }
}

impl JoinPermit<'_> {
    /// Makes the page; `None` if the permit has to be given back before.
    async fn unless_evicted<F: Future>(&self, page: F) -> Option<F::Output> {
        let mut page = pin!(page);
        poll_fn(|cx| {
            let is_evicted = self.permit.as_ref().is_some_and(|permit| {
                permit.wake_with(cx.waker());
                permit.is_evicted()
            });
            match is_evicted {
                true => Poll::Ready(None),
                false => page.as_mut().poll(cx).map(Some),
            }
        })
        .await
    }
}

impl Drop for JoinPermit<'_> {
    fn drop(&mut self) {
        // The permit is free before those that wait look for one.
        self.permit = None;
        self.joins.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::net::IpAddr;
    use std::rc::Rc;

    use tokio::runtime;
    use tokio::task::{JoinHandle, LocalSet, spawn_local, yield_now};

    use super::*;

    fn address(last: u8) -> ClientAddr {
        IpAddr::from([192, 0, 2, last]).into()
    }

    /// Pages that are made until they are told to end.
    #[derive(Clone)]
    struct Pages {
        joins: Joins,
        end: Rc<Notify>,
        /// The addresses of the pages that were begun, in this order.
        begun: Rc<RefCell<Vec<u8>>>,
        /// How many are being made.
        open: Rc<Cell<usize>>,
    }

    /// Counts a page while it is being made.
    struct Open(Rc<Cell<usize>>);

    impl Drop for Open {
        fn drop(&mut self) {
            self.0.set(self.0.get() - 1);
        }
    }

    impl Pages {
        fn new() -> Self {
            Self {
                joins: Joins::new(Clock::start()),
                end: Rc::default(),
                begun: Rc::default(),
                open: Rc::default(),
            }
        }

        async fn make(&self, last: u8) {
            self.begun.borrow_mut().push(last);
            self.open.set(self.open.get() + 1);
            let _open = Open(Rc::clone(&self.open));
            self.end.notified().await;
        }

        fn request(&self, last: u8) -> JoinHandle<()> {
            let pages = self.clone();
            spawn_local(async move {
                pages.joins.join(address(last), || pages.make(last)).await;
            })
        }

        async fn settle(&self) {
            for _ in 0..100 {
                yield_now().await;
            }
            assert!(self.open.get() <= JOINED_MAX, "{} at once", self.open.get());
        }

        fn begun(&self) -> Vec<u8> {
            self.begun.take()
        }
    }

    fn run(test: impl Future<Output = ()>) {
        let runtime = runtime::Builder::new_current_thread().build();
        LocalSet::new().block_on(&runtime.expect("a runtime"), test);
    }

    #[test]
    fn an_address_with_many_pages_gives_way_and_its_page_is_made_later() {
        run(async {
            let pages = Pages::new();
            let many: Vec<_> = (0..20).map(|_| pages.request(1)).collect();
            pages.settle().await;
            assert_eq!(
                pages.begun(),
                [1; JOINED_MAX],
                "as many as there is room for"
            );
            let other = pages.request(2);
            pages.settle().await;
            assert_eq!(pages.begun(), [2], "at once");
            while !many.iter().chain([&other]).all(JoinHandle::is_finished) {
                pages.end.notify_waiters();
                pages.settle().await;
            }
            let again = pages.begun();
            assert_eq!(again, [1; 20 - JOINED_MAX + 1], "the one that gave way too");
        });
    }

    #[test]
    fn addresses_with_as_many_pages_wait_for_each_other() {
        run(async {
            let pages = Pages::new();
            (1..=9).for_each(|last| drop(pages.request(last)));
            pages.settle().await;
            assert_eq!(pages.begun(), [1, 2, 3, 4, 5, 6, 7, 8]);
            pages.end.notify_one();
            pages.settle().await;
            assert_eq!(pages.begun(), [9]);
        });
    }

    #[test]
    fn a_request_that_ends_gives_its_permit_to_one_that_waits() {
        run(async {
            let pages = Pages::new();
            let requests: Vec<_> = (0..10).map(|_| pages.request(1)).collect();
            pages.settle().await;
            assert_eq!(pages.begun().len(), JOINED_MAX);
            // One that waits, and one of those that are being made.
            requests[8].abort();
            requests[0].abort();
            pages.settle().await;
            assert_eq!(pages.begun(), [1]);
            requests.iter().for_each(JoinHandle::abort);
            pages.settle().await;
            assert_eq!((pages.open.get(), pages.joins.held.held()), (0, 0));
        });
    }
}

//! The turns of the connections of a thread. A connection that has something to do waits for its turn, and the client
//! addresses take turns: an address with a thousand busy connections costs another address some dozen steps of work.
//!
//! The runtime polls tasks in the order in which they were woken, so each connection that is woken would work before the
//! next one. A task without a turn only takes its place in the line, which costs next to nothing.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use weirgate_wire::admission::{ClientAddr, FairQueue};
use weirgate_wire::base::ChunkedSlab;

/// How many connections may have a turn at the same time. More than one, because other tasks of the thread, those of
/// connections to services, are polled between two turns.
const TURNS_MAX: usize = 8;

/// How many steps connections may do without a turn after a time in which none had to wait: with few busy connections,
/// taking turns would only cost time.
const FREE_STEPS_MAX: u32 = 32;

/// The connections of a thread, which take turns.
#[derive(Default)]
pub(super) struct Turns(RefCell<Lines>);

/// The lines in which connections wait, one for each address, and who has a turn.
#[derive(Default)]
struct Lines {
    waiting: FairQueue<u32>,
    /// The number of steps that were done without a turn since the last turn ended and nobody waited.
    free_steps: u32,
    seats: ChunkedSlab<Rc<Seat>>,
    /// The number of connections that have a turn.
    have_turn: usize,
}

/// A connection as the turns see it: in which line it waits, and whether it has a turn.
pub(super) struct Seat {
    /// The address of the connection's peer.
    peer: ClientAddr,
    /// The address in whose line the connection waits: its peer's, or that of the sender of the request in progress.
    address: Cell<ClientAddr>,
    has_turn: Cell<bool>,
    /// Whether a request was answered in this turn.
    has_answered: Cell<bool>,
    waker: Cell<Option<Waker>>,
}

/// The seat of a connection until the connection ends.
struct Seated<'t> {
    turns: &'t Turns,
    seat: Rc<Seat>,
    number: u32,
}

/// The turns of a connection count for the sender of a request for as long as this value exists.
pub(super) struct SenderTurns(Rc<Seat>);

impl Turns {
    /// Does the work of a connection, step by step: a step in each turn. The work is in a box, because this future would
    /// hold it twice: as what it was given, and where it stays.
    pub(super) async fn run<W: Future<Output = ()>>(&self, seat: Rc<Seat>, mut work: Pin<Box<W>>) {
        let number = self.0.borrow_mut().seats.insert(Rc::clone(&seat));
        let seated = Seated {
            turns: self,
            seat,
            number,
        };
        poll_fn(|cx| seated.poll(work.as_mut(), cx)).await;
    }
}

impl Lines {
    /// Gives turns to those who wait.
    fn hand_out(&mut self) {
        while self.have_turn < TURNS_MAX
            && let Some(number) = self.waiting.pop()
        {
            let Some(seat) = self.seats.get(number) else {
                // Not expected: the end of a connection removes it from the line first.
                continue;
            };
            seat.has_turn.set(true);
            self.have_turn += 1;
            if let Some(waker) = seat.waker.take() {
                waker.wake();
            }
        }
    }

    /// Whether a connection may do a step without a turn: nobody waits, and few have done so lately.
    fn take_free_step(&mut self) -> bool {
        let is_free =
            self.free_steps < FREE_STEPS_MAX && self.have_turn == 0 && self.waiting.is_empty();
        self.free_steps += u32::from(is_free);
        is_free
    }

    /// Ends the turn of a connection.
    fn end_turn(&mut self, seat: &Seat) {
        if seat.has_turn.replace(false) {
            self.have_turn -= 1;
            self.hand_out();
            if self.have_turn == 0 {
                self.free_steps = 0;
            }
        }
    }
}

impl Seated<'_> {
    /// Does a step of the work if it is the connection's turn, or if nobody waits. If not, the connection waits for its turn.
    fn poll(&self, work: Pin<&mut impl Future<Output = ()>>, cx: &mut Context<'_>) -> Poll<()> {
        let seat = &self.seat;
        let mut lines = self.turns.0.borrow_mut();
        if !seat.has_turn.get() && !lines.take_free_step() {
            seat.waker.set(Some(cx.waker().clone()));
            lines.waiting.push(seat.address.get(), self.number);
            lines.hand_out();
            return Poll::Pending;
        }
        drop(lines);
        seat.has_answered.set(false);
        let step = work.poll(cx);
        self.turns.0.borrow_mut().end_turn(seat);
        step
    }
}

impl Drop for Seated<'_> {
    fn drop(&mut self) {
        let lines = &mut *self.turns.0.borrow_mut();
        lines.waiting.remove(&self.number);
        lines.end_turn(&self.seat);
        lines.seats.remove(self.number);
    }
}

impl Seat {
    /// The seat of a connection with this peer.
    pub(super) fn new(peer: ClientAddr) -> Rc<Self> {
        Rc::new(Self {
            peer: peer.group(),
            address: Cell::new(peer.group()),
            has_turn: Cell::new(false),
            has_answered: Cell::new(false),
            waker: Cell::new(None),
        })
    }

    /// Waits until the connection may answer a request of this sender: in a turn of the sender's address, in which it has
    /// answered no other request. Otherwise hyper would take all requests that have come at once, one after the other.
    pub(super) async fn turn_to_answer(self: &Rc<Self>, sender: ClientAddr) -> SenderTurns {
        let turns = SenderTurns(Rc::clone(self));
        poll_fn(|cx| {
            // From here on, the connection waits in the line of the sender.
            let is_senders = self.address.replace(sender.group()) == sender.group();
            if is_senders && !self.has_answered.replace(true) {
                return Poll::Ready(());
            }
            // Ends this turn, and waits for the next one.
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
        turns
    }
}

impl Drop for SenderTurns {
    fn drop(&mut self) {
        self.0.address.set(self.0.peer);
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::net::IpAddr;
    use std::pin::pin;

    use tokio::runtime;
    use tokio::task::{JoinHandle, LocalSet, spawn_local, yield_now};

    use super::*;

    /// Connections that note who works.
    #[derive(Clone, Default)]
    struct Steps {
        turns: Rc<Turns>,
        of: Rc<RefCell<Vec<u8>>>,
    }

    fn ip(last: u8) -> ClientAddr {
        IpAddr::from([192, 0, 2, last]).into()
    }

    fn run(test: impl Future<Output = ()>) {
        let runtime = runtime::Builder::new_current_thread().build();
        LocalSet::new().block_on(&runtime.expect("a runtime"), test);
    }

    impl Turns {
        fn is_empty(&self) -> bool {
            let lines = self.0.borrow();
            lines.have_turn == 0 && lines.waiting.is_empty() && lines.seats.is_empty()
        }
    }

    impl Steps {
        /// A connection of this address that does as many steps.
        fn connect(&self, address: u8, steps: usize) -> JoinHandle<()> {
            let Self { turns, of } = self.clone();
            spawn_local(async move {
                let work = Box::pin(async {
                    for _ in 0..steps {
                        of.borrow_mut().push(address);
                        yield_now().await;
                    }
                });
                turns.run(Seat::new(ip(address)), work).await;
            })
        }
    }

    #[test]
    fn an_address_with_many_connections_costs_another_address_few_steps() {
        run(async {
            let steps = Steps::default();
            let many: Vec<_> = (0..500).map(|_| steps.connect(1, 20)).collect();
            yield_now().await;
            let before = steps.of.borrow().len();
            steps.connect(2, 1).await.expect("a task");
            let others = steps.of.borrow().len() - before;
            // In the order in which they were woken, all others would have had theirs.
            assert!(others < 250, "{others} steps of others");
            for one in many {
                one.await.expect("a task");
            }
            assert_eq!(steps.of.borrow().len(), 500 * 20 + 1);
            assert!(steps.turns.is_empty());
        });
    }

    #[test]
    fn a_connection_that_ends_without_its_turn_gives_it_up() {
        let (turns, cx) = (Turns::default(), &mut Context::from_waker(Waker::noop()));
        let mut ended: Vec<_> = (0..FREE_STEPS_MAX + 30)
            .map(|_| Box::pin(turns.run(Seat::new(ip(1)), Box::pin(pending()))))
            .collect();
        let mut last = Box::pin(turns.run(Seat::new(ip(2)), Box::pin(async {})));
        for one in &mut ended {
            assert!(one.as_mut().poll(cx).is_pending());
        }
        assert_eq!(turns.0.borrow().have_turn, TURNS_MAX);
        assert!(last.as_mut().poll(cx).is_pending());
        assert!(last.as_mut().poll(cx).is_pending(), "no turn yet");
        drop(ended);
        assert!(last.as_mut().poll(cx).is_ready());
        drop(last);
        assert!(turns.is_empty());
    }

    /// The requests of a connection that have come at once are answered in turns of their senders.
    #[test]
    fn a_turn_has_one_answer_and_belongs_to_the_sender() {
        run(async {
            let (turns, answers) = (Turns::default(), Cell::new(0));
            let seat = Seat::new(ip(1));
            let (of_work, most) = (Rc::clone(&seat), Cell::new(0));
            let work = async {
                for sender in [1, 1, 2, 2, 1] {
                    let _turns = of_work.turn_to_answer(ip(sender)).await;
                    assert_eq!(of_work.address.get(), ip(sender));
                    answers.set(answers.get() + 1);
                }
                assert_eq!(of_work.address.get(), ip(1));
            };
            let mut work = pin!(work);
            let counted = poll_fn(|cx| {
                let before = answers.get();
                let polled = work.as_mut().poll(cx);
                most.set((answers.get() - before).max(most.get()));
                polled
            });
            turns.run(seat, Box::pin(counted)).await;
            assert_eq!((answers.get(), most.get()), (5, 1));
        });
    }
}

//! The thread that reads a bus, as the loop knows it: [`Source`], and [`SourceLink`], the channel to the loop.

mod beside;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, TrySendError};
use weirgate_core::{BusEvent, EventReader};
use weirgate_wire::base::Now;

use self::beside::{OneOfTwo, WithBeside};
use crate::{Clock, QueueBytes, Wake};

/// A blocking connection to a bus, run on a thread of its own until the process ends.
pub trait Source: Send {
    /// Connects, subscribes and sends events until the other end of `link` is gone.
    fn run(self: Box<Self>, link: SourceLink);

    /// Returns one source for a stream, which this is, and the names beside it, which `beside` reads on a thread of its own.
    /// [`BusStatus::with_beside`](crate::BusStatus::with_beside) joins their states.
    fn with_beside(self, beside: impl Source + 'static) -> Box<dyn Source>
    where
        Self: Sized + 'static,
    {
        Box::new(WithBeside {
            stream: Box::new(self),
            beside: Box::new(beside),
        })
    }
}

/// The channel from a source's thread to the loop, bounded in messages and bytes. Each event that is sent also wakes
/// the loop.
pub struct SourceLink {
    events: Sender<BusEvent>,
    /// `None`: only the number of events is bounded.
    bytes: Option<Arc<QueueBytes>>,
    wake: Arc<dyn Fn() + Send + Sync>,
    clock: Clock,
    spin_us: u64,
    /// The feed's function that parses each event before it is in the channel; `None`: nothing parses it here.
    reader: Option<EventReader<BusEvent>>,
    end: Arc<End>,
    /// Which of two sources this one is, if the loop has two.
    one_of_two: Option<OneOfTwo>,
}

/// What the loop and the source tell each other at a stop.
#[derive(Debug, Default)]
struct End {
    is_over: AtomicBool,
    /// The source has work to finish on the bus.
    owes: AtomicBool,
    /// Wakes the source.
    wake: Mutex<Option<Wake>>,
}

impl End {
    /// No holder of this lock can panic.
    fn wake(&self) -> MutexGuard<'_, Option<Wake>> {
        self.wake.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The loop's handle to stop the source: dropping it, or [`Self::stop_and_wait`], tells the source that the loop has ended.
#[derive(Debug)]
pub struct Stopping(Arc<End>);

impl Stopping {
    /// Stops the source, and waits at most `patience` while the source has work to finish on the bus.
    pub fn stop_and_wait(self, patience: Duration) {
        self.signal_end();
        let until = Instant::now() + patience;
        while self.0.owes.load(Ordering::Acquire) && Instant::now() < until {
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn signal_end(&self) {
        self.0.is_over.store(true, Ordering::Release);
        if let Some(wake) = &*self.0.wake() {
            wake.wake();
        }
    }
}

impl Drop for Stopping {
    fn drop(&mut self) {
        self.signal_end();
    }
}

/// The error of a source whose loop has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the loop that takes the events has ended")]
pub struct LoopGone;

impl SourceLink {
    /// Creates a link. `wake` is called after each event that was put in the channel.
    pub fn new(events: Sender<BusEvent>, wake: Box<dyn Fn() + Send + Sync>, clock: Clock) -> Self {
        Self {
            events,
            bytes: None,
            wake: Arc::from(wake),
            clock,
            spin_us: 0,
            reader: None,
            end: Arc::default(),
            one_of_two: None,
        }
    }

    /// A second link to the same channel, for events that need no side (`one_of_two`): those about stored messages, or those
    /// whose side [`Source::with_beside`] sets.
    #[must_use]
    pub fn another(&self) -> Self {
        Self {
            events: self.events.clone(),
            bytes: self.bytes.clone(),
            wake: Arc::clone(&self.wake),
            clock: self.clock,
            spin_us: self.spin_us,
            reader: self.reader.clone(),
            end: Arc::clone(&self.end),
            one_of_two: None,
        }
    }

    /// Returns the loop's handle to stop this source.
    pub fn stopping(&self) -> Stopping {
        Stopping(Arc::clone(&self.end))
    }

    /// Wakes the source with `wake` when the loop has ended.
    pub fn wake_at_end(&self, wake: &Wake) {
        *self.end.wake() = Some(wake.clone());
    }

    /// Whether the loop has ended.
    pub fn is_over(&self) -> bool {
        self.end.is_over.load(Ordering::Acquire)
    }

    /// Sets whether a stop should wait for work of the source on the bus.
    pub fn set_owing(&self, owes: bool) {
        self.end.owes.store(owes, Ordering::Release);
    }

    /// Bounds the events in the channel also by their bytes.
    #[must_use]
    pub fn bounded(mut self, bytes: Arc<QueueBytes>) -> Self {
        self.bytes = Some(bytes);
        self
    }

    /// Makes the source poll without sleeping for `spin_us` microseconds after each message.
    #[must_use]
    pub fn spinning(mut self, spin_us: u64) -> Self {
        self.spin_us = spin_us;
        self
    }

    /// Reads each event with the reader of the loop's feed ([`Feed::reader`](weirgate_core::Feed::reader)), on the thread that
    /// sends the event.
    #[must_use]
    pub fn reading(mut self, reader: Option<EventReader<BusEvent>>) -> Self {
        self.reader = reader;
        self
    }

    /// Puts an event in the channel, waiting while the channel is full, and wakes the loop.
    ///
    /// # Errors
    /// The loop is gone, before or during the wait: the source ends.
    pub fn send(&self, event: BusEvent) -> Result<(), LoopGone> {
        match &self.one_of_two {
            None => self.put(event),
            Some(one) => self.send_of_one(one, event),
        }
    }

    fn read(&self, event: &mut BusEvent) {
        if let Some(reader) = &self.reader {
            reader(event);
        }
    }

    /// Has the feed's reader parse an event, and puts the event in the channel, whichever of two sources has sent it.
    fn put(&self, mut event: BusEvent) -> Result<(), LoopGone> {
        self.read(&mut event);
        let bytes = self.bytes.as_ref();
        if bytes.is_some_and(|bytes| !bytes.take(event.message_bytes())) {
            return Err(LoopGone);
        }
        self.events.send(event).map_err(|_| LoopGone)?;
        (self.wake)();
        Ok(())
    }

    /// Puts an event in the channel if there is room now, and wakes the loop. Returns whether there
    /// was room: for a bus that cannot be made to wait.
    ///
    /// # Errors
    /// The loop is gone: the source ends.
    pub fn try_send(&self, mut event: BusEvent) -> Result<bool, LoopGone> {
        self.read(&mut event);
        let bytes = event.message_bytes();
        let room = self.bytes.as_ref();
        if room.is_some_and(|room| !room.try_take(bytes)) {
            return Ok(false);
        }
        match self.events.try_send(event) {
            Ok(()) => {
                (self.wake)();
                Ok(true)
            }
            Err(TrySendError::Full(_)) => {
                if let Some(room) = room {
                    room.give_back(bytes);
                }
                Ok(false)
            }
            Err(TrySendError::Disconnected(_)) => Err(LoopGone),
        }
    }

    /// The time for which the source polls without sleeping after a message, microseconds.
    pub fn spin_us(&self) -> u64 {
        self.spin_us
    }

    /// The clocks that the loop uses.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// Whether [`Self::send`] would not wait for a message of `bytes` bytes. For the only link to a channel, that stays true
    /// until its thread sends, because no other thread takes room.
    pub fn has_room(&self, bytes: usize) -> bool {
        let room = |queue: &Arc<QueueBytes>| queue.has_room(bytes);
        !self.events.is_full() && self.bytes.as_ref().is_none_or(room)
    }

    /// The instant now, on the clocks that the loop uses.
    pub fn now(&self) -> Now {
        self.clock.now()
    }
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::bounded;

    use super::*;
    use weirgate_core::{BusMessage, PayloadText};

    const MIB: usize = 1024 * 1024;

    fn message(bytes: usize) -> BusEvent {
        BusEvent::Message(BusMessage::new("a", vec![b'1'; bytes], Now::default()))
    }

    #[test]
    fn large_messages_wait_at_the_bus_and_not_in_memory() {
        let (bytes, taken) = QueueBytes::new(64 * MIB);
        let (sender, events) = bounded(1_024);
        let link = SourceLink::new(sender, Box::new(|| {}), Clock::start()).bounded(bytes);
        let source = thread::spawn(move || {
            for _ in 0..40 {
                link.send(message(15 * MIB)).expect("the loop is there");
            }
        });
        let (mut messages, mut most) = (0, 0);
        while let Ok(event) = events.recv() {
            // Time for the source to fill the queue, if nothing prevents that.
            thread::sleep(Duration::from_millis(2));
            most = most.max(taken.held());
            taken.give_back(event.message_bytes());
            messages += 1;
        }
        assert_eq!(messages, 40);
        assert!(most > 15 * MIB && most <= 64 * MIB, "{most} bytes");
        assert_eq!(taken.held(), 0);
        assert!(source.join().is_ok());
    }

    #[test]
    fn each_event_is_read_on_the_thread_that_sends_it() {
        let (sender, events) = bounded(8);
        let (bytes, taken) = QueueBytes::new(MIB);
        let reader: EventReader<BusEvent> = Arc::new(|event| {
            if let Some(message) = event.message_mut() {
                assert_eq!(thread::current().name(), Some("the source"));
                message.text = PayloadText::Made(vec![b'2'; 3]);
            }
        });
        let link = SourceLink::new(sender, Box::new(|| {}), Clock::start());
        let link = link.bounded(bytes).reading(Some(reader));
        let source = thread::Builder::new().name("the source".to_owned());
        let sent = source.spawn(move || {
            let value = |message: BusEvent| match message {
                BusEvent::Message(message) => BusEvent::LastValue {
                    message,
                    is_deletion: false,
                    number: 1,
                },
                other => other,
            };
            link.send(message(1)).expect("the loop is there");
            link.send(BusEvent::CaughtUp).expect("the loop is there");
            assert_eq!(link.try_send(message(1)), Ok(true));
            let another = link.another();
            another.send(value(message(1))).expect("the loop is there");
        });
        assert!(sent.expect("a thread").join().is_ok());
        let of = |event: &BusEvent| event.message_bytes();
        let read: Vec<_> = events.try_iter().collect();
        assert_eq!(read.iter().map(of).collect::<Vec<_>>(), [5, 0, 5, 5]);
        let what = "a text that was made takes room, too, and a name";
        assert_eq!(taken.held(), 15, "{what}");
    }

    #[test]
    fn a_bus_that_cannot_wait_learns_that_there_is_no_room() {
        let (bytes, taken) = QueueBytes::new(13);
        let (sender, events) = bounded(2);
        let link = SourceLink::new(sender, Box::new(|| {}), Clock::start()).bounded(bytes);
        assert_eq!(link.try_send(message(8)), Ok(true));
        assert_eq!(link.try_send(message(8)), Ok(false), "bytes");
        assert_eq!(link.try_send(message(1)), Ok(true));
        assert_eq!(link.try_send(message(1)), Ok(false), "messages");
        assert_eq!(taken.held(), 11, "what was not sent holds nothing");
        drop(events);
        assert_eq!(link.try_send(message(1)), Err(LoopGone));
    }
}

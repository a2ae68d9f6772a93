//! Hands pushes of other instances to the loop. Large bodies are read on a thread of their own: reading one takes up to half
//! a second, in which the answers of other instances, and small pushes of theirs, would wait on the bus.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the shell of a gateway: its start, its pages, its threads"
)]

use std::collections::HashMap;

use crossbeam_channel::{Receiver, Sender, unbounded};

use crate::gateways::events::Input;
use crate::gateways::events::aside::HERE_BYTES_MAX;
use crate::gateways::events::bus::InstanceId;
use crate::gateways::events::bus::thread::Command;
use crate::gateways::events::to_loop::ToLoop;

/// The most bytes of bodies that wait for the thread, or those of the largest push if that is less. While there are
/// more, the bus is not read; the body that came last may exceed the limit.
const UNREAD_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A push of another instance.
pub(super) struct ReceivedPush {
    pub(super) origin: InstanceId,
    pub(super) number: u64,
    pub(super) body: Vec<u8>,
}

/// What hands pushes to the loop.
#[derive(Clone)]
struct Reader {
    to_loop: ToLoop,
    /// The loop answers with a command.
    commands: Sender<Command>,
}

impl Reader {
    /// Reads a push, and hands it to the loop. Returns false if it cannot be read.
    fn read(&self, push: ReceivedPush) -> bool {
        let ReceivedPush {
            origin,
            number,
            body,
        } = push;
        let commands = self.commands.clone();
        let tell = move |sent| {
            let delivered = Command::Delivered {
                origin,
                number,
                sent,
            };
            // Fails only after the end of the bus thread.
            let _ = commands.send(delivered);
        };
        let parts = self.to_loop.parse_push(&body, tell);
        let is_good = parts.is_ok();
        let parts = parts.unwrap_or_default().into_iter();
        self.to_loop.send(parts.map(Input::Push));
        is_good
    }
}

/// The line of pushes before the loop. Pushes of one instance keep their order.
pub(super) struct PushLine {
    reader: Reader,
    to_thread: Sender<ReceivedPush>,
    /// Pushes that the thread has not read, by their instance.
    waiting: HashMap<InstanceId, usize>,
    waiting_bytes: usize,
    bytes_max: usize,
}

impl PushLine {
    /// An empty line, and the work of its thread. A push has at most `push_bytes_max`.
    pub(super) fn new(
        to_loop: ToLoop,
        commands: Sender<Command>,
        push_bytes_max: usize,
    ) -> (Self, impl FnOnce() + Send + 'static) {
        let (to_thread, pushes) = unbounded();
        let reader = Reader { to_loop, commands };
        let line = Self {
            reader: reader.clone(),
            to_thread,
            waiting: HashMap::new(),
            waiting_bytes: 0,
            bytes_max: UNREAD_BYTES_MAX.min(push_bytes_max),
        };
        (line, move || read_all(&reader, &pushes))
    }

    /// Hands a push to the loop: at once if it is small and no earlier push of its instance waits. Returns false if it
    /// cannot be read.
    pub(super) fn push(&mut self, push: ReceivedPush) -> bool {
        if push.body.len() <= HERE_BYTES_MAX && !self.waiting.contains_key(&push.origin) {
            return self.reader.read(push);
        }
        *self.waiting.entry(push.origin.clone()).or_default() += 1;
        self.waiting_bytes += push.body.len();
        // Fails only after the end of the thread, which is that of the process.
        let _ = self.to_thread.send(push);
        true
    }

    /// Notes that the thread has read a push.
    pub(super) fn note_read(&mut self, origin: &InstanceId, bytes: usize) {
        self.waiting_bytes -= bytes;
        if let Some(pushes) = self.waiting.get_mut(origin) {
            *pushes -= 1;
            if *pushes == 0 {
                self.waiting.remove(origin);
            }
        }
    }

    /// Whether no more pushes should come.
    pub(super) fn is_full(&self) -> bool {
        self.waiting_bytes > self.bytes_max
    }
}

/// The work of the thread.
fn read_all(reader: &Reader, pushes: &Receiver<ReceivedPush>) {
    for push in pushes {
        let (origin, bytes) = (push.origin.clone(), push.body.len());
        let is_good = reader.read(push);
        let read = Command::Read {
            origin,
            bytes,
            is_good,
        };
        if reader.commands.send(read).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use weirgate_core::FrameBytes;
    use weirgate_runtime::{Clock, LateWake};

    use super::*;

    fn push(origin: &str, bytes: usize) -> ReceivedPush {
        let body = r#"{"event":"e","targets":{}}"#;
        ReceivedPush {
            origin: InstanceId::from(origin),
            number: 1,
            body: format!("{body}{}", " ".repeat(bytes)).into_bytes(),
        }
    }

    #[test]
    fn pushes_wait_for_the_thread_in_the_order_of_their_instance_and_up_to_a_limit() {
        let (input, inputs) = unbounded();
        let to_loop = ToLoop {
            input,
            replies: unbounded().0,
            wake: LateWake::default(),
            frame_bytes: FrameBytes::default(),
            clock: Clock::start(),
        };
        let (commands, commanded) = unbounded();
        let (mut line, work) = PushLine::new(to_loop, commands, 2 * HERE_BYTES_MAX);
        assert!(line.push(push("a", HERE_BYTES_MAX)));
        assert!(line.push(push("a", 0)), "it waits too");
        assert_eq!(inputs.len(), 0);
        assert!(line.push(push("b", 0)));
        assert_eq!(inputs.len(), 1, "it is of another instance");
        assert!(!line.is_full());
        assert!(line.push(push("b", HERE_BYTES_MAX)));
        assert!(line.is_full());
        std::thread::spawn(work);
        for origin in ["a", "a", "b"] {
            let Ok(Command::Read {
                origin: of, bytes, ..
            }) = commanded.recv()
            else {
                panic!("the thread reads");
            };
            assert_eq!(of.as_str(), origin);
            line.note_read(&of, bytes);
        }
        assert_eq!(
            (line.is_full(), line.waiting.len(), line.waiting_bytes),
            (false, 0, 0)
        );
        assert_eq!(inputs.len(), 4);
        assert!(line.push(push("a", 0)));
        assert_eq!(inputs.len(), 5, "at once again");
    }
}

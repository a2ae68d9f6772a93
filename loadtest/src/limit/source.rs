//! The sources of the limit's messages: a thread, a channel, a single wake-up per turn of the loop.
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crossbeam_channel::Sender;
use mio::Waker;

use super::LimitArgs;
use super::frames::{Frames, frame};
use crate::bus::Subscriber;
use crate::clock;
use crate::fault::{Fault, Tried};
use crate::payload::Payload;

/// Room in a frame beside the payload: the header, and the text of a gateway.
const FRAME_EXTRA_BYTES: usize = 192;

/// The loop's side of the channel, for source threads.
pub(super) struct Inlet {
    pub(super) frames: Sender<Vec<u8>>,
    pub(super) waker: Arc<Waker>,
    /// Set by the source at a wake-up, cleared by the loop: at most one eventfd write per turn.
    pub(super) awake: Arc<AtomicBool>,
    /// Number of open clients.
    pub(super) clients: Arc<AtomicUsize>,
}

impl Inlet {
    /// Pushes a frame into the channel; returns false if the loop has ended.
    fn push(&self, frame: Vec<u8>) -> bool {
        if self.frames.send(frame).is_err() {
            return false;
        }
        if !self.awake.swap(true, Ordering::AcqRel) {
            return self.waker.wake().is_ok();
        }
        true
    }
}

/// Starts a thread to read a subscription. The end of the connection sets `stop`.
pub(super) fn relay(
    mut subscriber: Subscriber,
    mut frames: Frames,
    inlet: Inlet,
    stop: Arc<AtomicBool>,
) -> Result<(), Fault> {
    let work = move || {
        let mut is_alive = true;
        while is_alive {
            let read = subscriber.read(|payload| {
                let mut frame = Vec::with_capacity(payload.len() + FRAME_EXTRA_BYTES);
                frames.append(payload, &mut frame);
                is_alive &= inlet.push(frame);
            });
            if let Err(error) = read {
                eprintln!("limit: bus: {error}");
                is_alive = false;
            }
        }
        stop.store(true, Ordering::Relaxed);
    };
    thread::Builder::new()
        .name("bus".into())
        .spawn(work)
        .tried("a thread")
        .map(drop)
}

/// Starts a thread with stamped messages, as fast as the loop takes the messages or at a rate.
pub(super) fn generate(args: &LimitArgs, inlet: Inlet) -> Result<String, Fault> {
    let (rate, after) = (args.rate, args.after_clients);
    let mut payload = Payload::new(args.bytes);
    let started = format!("generate={} after_clients={after}", args.bytes);
    let work = move || {
        while inlet.clients.load(Ordering::Relaxed) < after {
            thread::sleep(Duration::from_millis(20));
        }
        let start = clock::now_us();
        for n in 1u64.. {
            if rate > 0.0 {
                clock::sleep_until(start + clock::due_after_us(n, rate));
            }
            if !inlet.push(frame(payload.stamped(clock::now_us(), n))) {
                return;
            }
        }
    };
    thread::Builder::new()
        .name("generate".into())
        .spawn(work)
        .tried("a thread")?;
    Ok(started)
}

/// Most messages from a bus waiting for the loop.
pub(super) const CHANNEL_MESSAGES: usize = 4096;

/// Sets `stop` when standard input ends: the parent is gone.
pub(super) fn stop_with_stdin(stop: Arc<AtomicBool>) {
    thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        stop.store(true, Ordering::Relaxed);
    });
}

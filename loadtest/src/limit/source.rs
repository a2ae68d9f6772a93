//! The sources of the limit's messages: a thread, a channel, a single wake-up per turn of the loop.
#![allow(
    deprecated,
    reason = "every entry point of the nats crate is marked so in favour of async-nats"
)]

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crossbeam_channel::Sender;
use mio::Waker;

use super::LimitArgs;
use crate::clock;
use crate::fault::{Fault, Tried};
use crate::payload::Payload;
use crate::wire::parser::{opcode, server_header};

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

/// The text frame of `{"flow":PAYLOAD}`: the same bytes as from a levels gateway with only the flow.
pub(crate) fn frame(payload: &[u8]) -> Vec<u8> {
    let mut frame = server_header(opcode::TEXT, payload.len() + br#"{"flow":}"#.len());
    frame.extend_from_slice(br#"{"flow":"#);
    frame.extend_from_slice(payload);
    frame.push(b'}');
    frame
}

/// Starts a core subscription on a separate thread.
pub(super) fn subscribe(url: &str, subject: &str, inlet: Inlet) -> Result<String, Fault> {
    let bus = |what: &'static str| move |e| Fault::Bus(format!("{what}: {e}"));
    let connection = nats::Options::new()
        .with_name("loadtest limit")
        .connect(url)
        .map_err(bus("connect"))?;
    let subscription = connection.subscribe(subject).map_err(bus("subscribe"))?;
    connection.flush().map_err(bus("flush"))?;
    let work = move || {
        // Keeps the connection alive while the subscription is read.
        let _connection = connection;
        while let Some(message) = subscription.next() {
            if !inlet.push(frame(&message.data)) {
                return;
            }
        }
    };
    thread::Builder::new()
        .name("nats".into())
        .spawn(work)
        .tried("a thread")?;
    Ok(format!("subject={subject}"))
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
                clock::sleep_until(start + (n as f64 * 1e6 / rate) as u64);
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

/// Starts a thread for the lines of standard input, each a message; sets `stop` at the end of input.
pub(super) fn lines(inlet: Inlet, stop: Arc<AtomicBool>) -> Result<String, Fault> {
    let work = move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            let mut frame = server_header(opcode::TEXT, line.len());
            frame.extend_from_slice(line.as_bytes());
            if !inlet.push(frame) {
                return;
            }
        }
        stop.store(true, Ordering::Relaxed);
    };
    thread::Builder::new()
        .name("lines".into())
        .spawn(work)
        .tried("a thread")?;
    Ok("lines".into())
}

/// Most messages from NATS waiting for the loop.
pub(super) const CHANNEL_MESSAGES: usize = 4096;

/// Sets `stop` when standard input ends: the parent is gone.
pub(super) fn stop_with_stdin(stop: Arc<AtomicBool>) {
    thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        stop.store(true, Ordering::Relaxed);
    });
}

//! What the benchmarks of the hub share: clients that came in through the public way, and sockets
//! that take everything without a system call. What is left is the cost of the core alone.

#![allow(dead_code, reason = "each benchmark uses its own part")]

use std::hint::black_box;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use weirgate_wire::admission::Transport;

use weirgate_core::{Core, Effect, FrameBytes, Gateway, Hub, Limits, SessionKey, Transmit, Write};
use weirgate_wire::base::Now;

/// The instant at which the clients connect.
pub(crate) const NOW: Now = Now {
    mono_us: 1_000_000,
    unix_us: 1_715_693_832_250 * 1_000,
};

/// Sockets that take all bytes at once.
pub(crate) struct TakesAll;

impl Transmit for TakesAll {
    fn send(&mut self, batch: &[Write<'_>], wrote: &mut Vec<io::Result<usize>>) {
        let bytes = |write: &Write<'_>| write.slices.iter().map(|slice| slice.len()).sum();
        wrote.extend(batch.iter().map(|write| Ok(bytes(black_box(write)))));
    }
}

/// A hub with the default limits and nobody in it.
pub(crate) fn hub<G: Gateway>(gateway: G) -> Hub<G> {
    let core = Core::new(Limits::default(), FrameBytes::default(), 1);
    Hub::new(core, gateway)
}

/// Accepts a client, takes its upgrade request and sends the 101; `extensions` is what it offers.
pub(crate) fn open<G: Gateway>(hub: &mut Hub<G>, extensions: Option<&str>) -> SessionKey {
    let offer = extensions.map(|e| format!("Sec-WebSocket-Extensions: {e}\r\n"));
    let request = format!(
        "GET /ws HTTP/1.1\r\nHost: localhost:8000\r\nUpgrade: websocket\r\n\
         Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Version: 13\r\n{}\r\n",
        offer.unwrap_or_default()
    );
    let key = hub.handle_accepted(
        NOW,
        SocketAddr::from((Ipv4Addr::LOCALHOST, 4_000)),
        Transport::Plain,
    );
    hub.handle_bytes(NOW, key, request.as_bytes());
    settle(hub, NOW);
    assert!(hub.core().is_open(key), "the upgrade is accepted");
    key
}

/// Flushes and carries out what the hub asks of the shell.
pub(crate) fn settle<G: Gateway>(hub: &mut Hub<G>, now: Now) {
    while hub.flush(now, &mut TakesAll) {}
    while let Some(effect) = hub.poll_effect() {
        if let Effect::Release { key, .. } = effect {
            hub.handle_released(key);
        }
    }
}

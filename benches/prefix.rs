//! The cost of a number for each client: a delivery with `Prefix::Seq` against a delivery with `Prefix::None`,
//! over real sockets of the loopback interface, in turns.
//!
//! A turn is a publication to all clients and its flush. The clients' input is read between the turns and not
//! timed. Exits with status 1 if the median of the pairs is over 1.10.

mod everybody;
mod open;

use std::collections::HashMap;
use std::io::{self, Read, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use everybody::{Everybody, TOPIC};
use open::{NOW, hub, open, settle};
use weirgate_core::{Frame, Hub, Prefix, Publication, SessionKey, Transmit, Write};

const CLIENTS: usize = 250;
const PAIRS: usize = 2_000;
const WARM_UP: usize = 100;
const BODY_BYTES: usize = 2 * 1024;
const RATIO_MAX: f64 = 1.10;
/// As in the reactor.
const JOIN_BYTES_MAX: usize = 16 * 1024;

/// Writes like the reactor: a single slice unchanged, several small slices joined.
#[derive(Default)]
struct Loopback {
    streams: HashMap<SessionKey, TcpStream>,
    joined: Vec<u8>,
}

impl Loopback {
    fn write(&mut self, write: &Write<'_>) -> io::Result<usize> {
        let Some(stream) = self.streams.get_mut(&write.key) else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        if let [one] = write.slices {
            return stream.write(one);
        }
        let bytes: usize = write.slices.iter().map(|slice| slice.len()).sum();
        if bytes > JOIN_BYTES_MAX {
            return stream.write_vectored(write.slices);
        }
        self.joined.clear();
        for slice in write.slices {
            self.joined.extend_from_slice(slice);
        }
        stream.write(&self.joined)
    }
}

impl Transmit for Loopback {
    fn send(&mut self, batch: &[Write<'_>], wrote: &mut Vec<io::Result<usize>>) {
        for write in batch {
            wrote.push(self.write(write));
        }
    }
}

/// A hub with clients behind sockets.
struct Room {
    hub: Hub<Everybody>,
    loopback: Loopback,
    peers: Vec<TcpStream>,
    prefix: Prefix,
    body: Vec<u8>,
}

impl Room {
    fn new(prefix: Prefix, extensions: Option<&str>) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let mut room = Self {
            hub: hub(Everybody),
            loopback: Loopback::default(),
            peers: Vec::new(),
            prefix,
            body: body(),
        };
        for _ in 0..CLIENTS {
            let peer = TcpStream::connect(listener.local_addr()?)?;
            let (stream, _) = listener.accept()?;
            for stream in [&peer, &stream] {
                stream.set_nonblocking(true)?;
                stream.set_nodelay(true)?;
            }
            let key = open(&mut room.hub, extensions);
            room.loopback.streams.insert(key, stream);
            room.peers.push(peer);
        }
        settle(&mut room.hub, NOW);
        Ok(room)
    }

    /// The time from the publication to the last write.
    fn turn(&mut self) -> Duration {
        let begin = Instant::now();
        let frame = Frame::text(self.hub.core().frame_bytes())
            .with_capacity(self.body.len())
            .prefix(self.prefix)
            .body(&self.body)
            .finish();
        let publication = Publication::new(TOPIC, frame);
        self.hub.handle_publication(NOW, &publication);
        while self.hub.flush(NOW, &mut self.loopback) {}
        begin.elapsed()
    }

    /// Reads the input of all clients; each must have got some bytes.
    fn drain(&mut self) {
        let mut scratch = vec![0; 64 * 1024];
        for peer in &mut self.peers {
            let mut bytes = 0;
            while let Ok(n @ 1..) = peer.read(&mut scratch) {
                bytes += n;
            }
            assert!(bytes > 0, "a client got nothing");
        }
    }
}

/// Text with about the entropy of market data.
fn body() -> Vec<u8> {
    let level = |n: usize| {
        let premium = n.wrapping_mul(2_654_435_761) % 100_000;
        format!(r#"{{"strike":{},"premium":-{premium}.75}},"#, 4_000 + n)
    };
    let mut body: Vec<u8> = (0..BODY_BYTES / 30)
        .flat_map(|n| level(n).into_bytes())
        .collect();
    body.truncate(BODY_BYTES);
    body
}

fn median<T: Copy + PartialOrd>(mut values: Vec<T>) -> T {
    values.sort_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
    values[values.len() / 2]
}

/// Returns the median of the pairs' ratios.
fn compare(name: &str, extensions: Option<&str>) -> io::Result<f64> {
    let mut none = Room::new(Prefix::None, extensions)?;
    let mut seq = Room::new(Prefix::Seq("{\"seq\":"), extensions)?;
    let mut pairs = Vec::with_capacity(PAIRS);
    for pair in 0..WARM_UP + PAIRS {
        // The order alternates, so that neither room always runs with the caches of the other.
        let (first, second) = match pair % 2 {
            0 => (&mut none, &mut seq),
            _ => (&mut seq, &mut none),
        };
        let mut times = [first, second].map(|room| {
            let time = room.turn().as_secs_f64();
            room.drain();
            time
        });
        if pair % 2 == 1 {
            times.reverse();
        }
        if pair >= WARM_UP {
            pairs.push(times);
        }
    }
    let each_us = |side: usize| {
        let times = pairs.iter().map(|pair| pair[side]).collect();
        median::<f64>(times) * 1e6 / CLIENTS as f64
    };
    let ratio = median(pairs.iter().map(|[none, seq]| seq / none).collect());
    println!(
        "prefix/{name}: {:.2} us a delivery without, {:.2} us with a number; median of {PAIRS} pairs {ratio:.3}",
        each_us(0),
        each_us(1),
    );
    Ok(ratio)
}

fn main() -> io::Result<ExitCode> {
    let plain = compare("plain_2k", None)?;
    let deflated = compare(
        "deflated_2k",
        Some("permessage-deflate; server_no_context_takeover; client_no_context_takeover"),
    )?;
    Ok(match plain.max(deflated) <= RATIO_MAX {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

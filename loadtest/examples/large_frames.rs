//! Large frames to many clients: `writev` from one buffer against `sendfile` from a memfd, which each
//! frame gets anew. Prints the CPU time of one delivery for both, by round, and their ratio. Repeats
//! the measurement of docs/contributing/decisions.md:
//!
//! cargo run --release -p loadtest --example large_frames -- --clients 200 --bytes 1048576

use std::error::Error;
use std::io::{ErrorKind, IoSlice, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use clap::Parser;
use mio::{Events, Interest, Poll, Token};
use rustix::fs::{MemfdFlags, memfd_create, sendfile};

/// What weirgate hands to one client in one write.
const WRITE_BYTES_MAX: usize = 128 * 1024;
const HEADER_BYTES: usize = 10;

#[derive(Parser)]
struct Args {
    #[arg(long, default_value_t = 200)]
    clients: usize,
    #[arg(long, default_value_t = 1024 * 1024)]
    bytes: usize,
    /// Frames of each way in a round
    #[arg(long, default_value_t = 5)]
    frames: usize,
    #[arg(long, default_value_t = 20)]
    rounds: usize,
}

/// How the bytes reach the kernel.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    Writev,
    Sendfile,
}

/// One frame, as each way wants it.
enum Frame {
    Bytes([u8; HEADER_BYTES], Vec<u8>),
    File(OwnedFd),
}

type Failed = Box<dyn Error>;

fn main() -> Result<(), Failed> {
    let args = Args::parse();
    let received = Arc::new(AtomicU64::new(0));
    let mut clients = connect(args.clients, &received)?;
    let payload: Vec<u8> = (0..args.bytes).map(|i| (i * 7 % 251) as u8).collect();
    let mut ratios = [Vec::new(), Vec::new()];
    for round in 0..args.rounds {
        let order = [Way::Writev, Way::Sendfile];
        let mut cost = [[0.0; 2]; 2];
        for turn in 0..2 {
            let way = order[(round + turn) % 2];
            let before = cpu_us()?;
            for _ in 0..args.frames {
                let wanted = received.load(Ordering::Relaxed)
                    + ((args.bytes + HEADER_BYTES) * args.clients) as u64;
                send_to_all(way, &payload, &mut clients)?;
                while received.load(Ordering::Relaxed) < wanted {
                    thread::yield_now();
                }
            }
            let deliveries = (args.frames * args.clients) as f64;
            let after = cpu_us()?;
            let us = [0, 1].map(|i| (after[i] - before[i]) / deliveries);
            cost[usize::from(way == Way::Sendfile)] = us;
        }
        let ratio = [0, 1].map(|i| cost[1][i] / cost[0][i]);
        println!(
            "writev {:7.1} us, sendfile {:7.1} us: {:.3} of the process, {:.3} of the machine",
            cost[0][0], cost[1][0], ratio[0], ratio[1]
        );
        ratios
            .iter_mut()
            .zip(ratio)
            .for_each(|(all, one)| all.push(one));
    }
    for (name, all) in ["process", "machine"].iter().zip(&mut ratios) {
        all.sort_by(f64::total_cmp);
        let (median, last) = (all[all.len() / 2], all[all.len() - 1]);
        println!(
            "{name}: sendfile / writev {median:.3} ({:.3} to {last:.3})",
            all[0]
        );
    }
    Ok(())
}

/// Connects the clients over loopback, and reads all of them on another thread.
fn connect(count: usize, received: &Arc<AtomicU64>) -> Result<Vec<mio::net::TcpStream>, Failed> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let (mut senders, mut readers) = (Vec::new(), Vec::new());
    for _ in 0..count {
        readers.push(TcpStream::connect(listener.local_addr()?)?);
        let (sender, _) = listener.accept()?;
        sender.set_nodelay(true)?;
        sender.set_nonblocking(true)?;
        senders.push(mio::net::TcpStream::from_std(sender));
    }
    let received = Arc::clone(received);
    thread::spawn(move || read_all(readers, &received).expect("the readers"));
    Ok(senders)
}

fn read_all(readers: Vec<TcpStream>, received: &AtomicU64) -> std::io::Result<()> {
    let mut poll = Poll::new()?;
    let mut streams = Vec::new();
    for (index, reader) in readers.into_iter().enumerate() {
        reader.set_nonblocking(true)?;
        let mut stream = mio::net::TcpStream::from_std(reader);
        let registry = poll.registry();
        registry.register(&mut stream, Token(index), Interest::READABLE)?;
        streams.push(stream);
    }
    let mut buffer = vec![0; 256 * 1024];
    let mut events = Events::with_capacity(1024);
    loop {
        poll.poll(&mut events, None)?;
        for event in &events {
            loop {
                match streams[event.token().0].read(&mut buffer) {
                    Ok(0) => return Ok(()),
                    Ok(n) => received.fetch_add(n as u64, Ordering::Relaxed),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                };
            }
        }
    }
}

fn frame(way: Way, payload: &[u8]) -> Result<Frame, Failed> {
    let mut header = [0x81, 127, 0, 0, 0, 0, 0, 0, 0, 0];
    header[2..].copy_from_slice(&(payload.len() as u64).to_be_bytes());
    // Either way a frame begins with one copy of the payload: that of the encoder.
    let bytes = payload.to_vec();
    if way == Way::Writev {
        return Ok(Frame::Bytes(header, bytes));
    }
    let mut file = std::fs::File::from(memfd_create("frame", MemfdFlags::CLOEXEC)?);
    file.write_all(&header)?;
    file.write_all(&bytes)?;
    Ok(Frame::File(file.into()))
}

/// One frame to each client: a write of [`WRITE_BYTES_MAX`] at most for each in turn, and again when
/// its socket has room.
fn send_to_all(
    way: Way,
    payload: &[u8],
    clients: &mut [mio::net::TcpStream],
) -> Result<(), Failed> {
    let frame = frame(way, payload)?;
    let whole = payload.len() + HEADER_BYTES;
    let mut poll = Poll::new()?;
    for (index, client) in clients.iter_mut().enumerate() {
        let registry = poll.registry();
        registry.register(client, Token(index), Interest::WRITABLE)?;
    }
    let mut sent = vec![0usize; clients.len()];
    let mut ready: Vec<usize> = (0..clients.len()).collect();
    let mut events = Events::with_capacity(1024);
    let mut left = clients.len();
    while left > 0 {
        let mut again = Vec::new();
        for index in ready.drain(..) {
            match write(&frame, &mut clients[index], sent[index], whole) {
                Ok(n) => {
                    sent[index] += n;
                    match sent[index] == whole {
                        true => left -= 1,
                        false => again.push(index),
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
        let timeout = (!again.is_empty() || left == 0).then_some(std::time::Duration::ZERO);
        poll.poll(&mut events, timeout)?;
        ready = again;
        for event in &events {
            let index = event.token().0;
            if sent[index] < whole && !ready.contains(&index) {
                ready.push(index);
            }
        }
    }
    for client in clients {
        poll.registry().deregister(client)?;
    }
    Ok(())
}

fn write(
    frame: &Frame,
    client: &mut mio::net::TcpStream,
    sent: usize,
    whole: usize,
) -> std::io::Result<usize> {
    let end = whole.min(sent + WRITE_BYTES_MAX);
    match frame {
        Frame::File(file) => {
            let mut offset = sent as u64;
            Ok(sendfile(client, file, Some(&mut offset), end - sent)?)
        }
        Frame::Bytes(header, bytes) if sent < HEADER_BYTES => {
            let body = &bytes[..end - HEADER_BYTES];
            client.write_vectored(&[IoSlice::new(&header[sent..]), IoSlice::new(body)])
        }
        Frame::Bytes(_, bytes) => client.write(&bytes[sent - HEADER_BYTES..end - HEADER_BYTES]),
    }
}

/// CPU time so far, microseconds: of all threads of this process, and of the whole machine. On
/// loopback the kernel receives within the send, or in a thread of its own, which the process does
/// not count.
fn cpu_us() -> Result<[f64; 2], Failed> {
    let mut process_ns = 0.0;
    for task in std::fs::read_dir("/proc/self/task")? {
        let text = std::fs::read_to_string(task?.path().join("schedstat"))?;
        process_ns += text.split(' ').next().unwrap_or("0").parse::<f64>()?;
    }
    let stat = std::fs::read_to_string("/proc/stat")?;
    let first = stat.lines().next().ok_or("/proc/stat is empty")?;
    let ticks: Vec<f64> = first
        .split_whitespace()
        .skip(1)
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    // user nice system idle iowait irq softirq steal; a tick is 10 ms everywhere.
    let busy = ticks[0] + ticks[1] + ticks[2] + ticks[5] + ticks[6];
    Ok([process_ns / 1e3, busy * 1e4])
}

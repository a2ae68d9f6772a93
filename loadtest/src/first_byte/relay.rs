//! The raw relay: a thread that reads the NATS socket and writes the frames to a single client.
#![allow(
    deprecated,
    reason = "every entry point of the nats crate is marked so in favour of async-nats"
)]

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread::{self, JoinHandle};

use nats::jetstream::{AckPolicy, ConsumerConfig, StreamConfig};

use crate::bus::Nats;
use crate::fault::{Fault, Tried};
use crate::limit;
use crate::process::pin_thread;
use crate::wire::handshake;

/// The deliver subject of the relay's consumer.
const DELIVER_SUBJECT: &str = "loadtest.first-byte.deliver";

/// The input of the relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum From {
    /// A core subscription to the subject; no stream stores the messages.
    Core,
    /// A push consumer of a stream on the subject, with acknowledgements, like weirgate's.
    JetStream,
}

/// A relay; stops on drop.
pub(super) struct Relay {
    pub(super) addr: SocketAddr,
    nats: TcpStream,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    /// Listens, and relays to the first client. `cpu`: the CPU of the thread, if pinned.
    pub(super) fn start(
        from: From,
        nats: SocketAddr,
        subject: &str,
        cpu: Option<usize>,
    ) -> Result<Self, Fault> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).tried("listen")?;
        let addr = listener.local_addr().tried("listen")?;
        let mut bus = Nats::connect(&nats.into())?;
        match from {
            From::Core => bus.subscribe(subject, 1)?,
            From::JetStream => {
                bus.subscribe(DELIVER_SUBJECT, 1)?;
                make_consumer(nats, subject)?;
            }
        }
        let ends = bus.stream().try_clone().tried("the relay's connection")?;
        let work = move || {
            if let Some(cpu) = cpu {
                // If the kernel refuses, pinning the servers fails too and is reported.
                let _ = pin_thread(None, cpu);
            }
            // The relay ends with either of the two connections.
            let _ = relay(from, bus, &listener);
        };
        let thread = thread::Builder::new().name("relay".into()).spawn(work);
        Ok(Self {
            addr,
            nats: ends,
            thread: Some(thread.tried("a thread")?),
        })
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.nats.shutdown(Shutdown::Both);
        // Wakes a relay that still waits for a client.
        let _ = TcpStream::connect(self.addr);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn make_consumer(nats: SocketAddr, subject: &str) -> Result<(), Fault> {
    let bus = |what: &'static str| move |e| Fault::Bus(format!("{what}: {e}"));
    let connection = nats::connect(nats.to_string()).map_err(bus("connect"))?;
    let stream = "first_byte";
    let jetstream = nats::jetstream::new(connection);
    let config = StreamConfig {
        name: stream.to_owned(),
        subjects: vec![subject.to_owned()],
        ..StreamConfig::default()
    };
    jetstream.add_stream(config).map_err(bus("make a stream"))?;
    let config = ConsumerConfig {
        deliver_subject: Some(DELIVER_SUBJECT.to_owned()),
        durable_name: Some("relay".to_owned()),
        ack_policy: AckPolicy::Explicit,
        filter_subject: subject.to_owned(),
        ..ConsumerConfig::default()
    };
    let made = jetstream.add_consumer(stream, config);
    made.map_err(bus("make a consumer")).map(drop)
}

fn relay(from: From, mut bus: Nats, listener: &TcpListener) -> io::Result<()> {
    let mut client = accept(listener)?;
    loop {
        let message = bus.next()?;
        client.write_all(&limit::frame(bus.payload(&message)))?;
        if from == From::JetStream {
            bus.ack(&message)?;
        }
    }
}

fn accept(listener: &TcpListener) -> io::Result<TcpStream> {
    let (mut client, _) = listener.accept()?;
    client.set_nodelay(true)?;
    let mut head = Vec::new();
    let mut chunk = [0; 4096];
    while handshake::head_length(&head).is_none() {
        match client.read(&mut chunk)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => head.extend_from_slice(&chunk[..n]),
        }
    }
    let answer = handshake::accept(&head).ok_or(io::ErrorKind::InvalidData)?;
    client.write_all(&answer)?;
    Ok(client)
}

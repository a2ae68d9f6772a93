//! The raw relay: a thread that reads the NATS socket and writes the frames to a single client.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread::{self, JoinHandle};

use crate::bus::{Bus, Subscriber};
use crate::fault::{Fault, Tried};
use crate::limit;
use crate::process::pin_thread;
use crate::wire::handshake;

/// A relay; stops on drop.
pub(super) struct Relay {
    pub(super) addr: SocketAddr,
    bus: TcpStream,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    /// Listens, and relays to the first client. `cpu`: the CPU of the thread, if pinned.
    pub(super) fn start(
        bus: Bus,
        url: &str,
        subject: &str,
        cpu: Option<usize>,
    ) -> Result<Self, Fault> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).tried("listen")?;
        let addr = listener.local_addr().tried("listen")?;
        let subscriber = Subscriber::open(bus, url, subject)?;
        let ends = subscriber.stream().try_clone();
        let ends = ends.tried("the relay's connection")?;
        let work = move || {
            if let Some(cpu) = cpu {
                // If the kernel refuses, pinning the servers fails too and is reported.
                let _ = pin_thread(None, cpu);
            }
            // The relay ends with either of the two connections.
            let _ = relay(subscriber, &listener);
        };
        let thread = thread::Builder::new().name("relay".into()).spawn(work);
        Ok(Self {
            addr,
            bus: ends,
            thread: Some(thread.tried("a thread")?),
        })
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.bus.shutdown(Shutdown::Both);
        // Wakes a relay that still waits for a client.
        let _ = TcpStream::connect(self.addr);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn relay(mut subscriber: Subscriber, listener: &TcpListener) -> io::Result<()> {
    let mut client = accept(listener)?;
    loop {
        let mut written = Ok(());
        subscriber.read(|payload| {
            if written.is_ok() {
                written = client.write_all(&limit::frame(payload));
            }
        })?;
        written?;
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

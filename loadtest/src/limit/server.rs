//! The limit's loop.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token, Waker};
use slab::Slab;
use socket2::{Domain, Socket, Type};

use super::source::Inlet;
use crate::fault::{Fault, Tried};
use crate::wire::handshake;

const LISTENER: Token = Token(usize::MAX);
const WAKER: Token = Token(usize::MAX - 1);
/// Most bytes joined into one send with `--batched`; at 64 KiB 8 KB frames cost 11 % more.
const BATCH_BYTES_MAX: usize = 128 * 1024;
const BACKLOG: i32 = 4096;

struct Client {
    stream: TcpStream,
    /// The request head until the response; `None` once open.
    head: Option<Vec<u8>>,
    /// The rest of a partly sent frame. The rest must follow, or the stream would be broken; until
    /// then, whole frames are skipped.
    tail: Vec<u8>,
}

/// The limit's state.
pub(super) struct Server {
    poll: Poll,
    listener: TcpListener,
    clients: Slab<Client>,
    frames: Receiver<Vec<u8>>,
    sender: Sender<Vec<u8>>,
    waker: Arc<Waker>,
    awake: Arc<AtomicBool>,
    open: Arc<AtomicUsize>,
    batched: bool,
    /// Takes no message while any client is behind, so no message is skipped.
    lossless: bool,
    behind: usize,
    batch: Vec<u8>,
    scratch: Box<[u8]>,
    /// Frames not sent because the socket was full.
    skipped: u64,
    /// Sends of only a part of the bytes.
    partial: u64,
}

impl Server {
    /// Listens on 127.0.0.1:`port`.
    pub(super) fn bind(
        port: u16,
        batched: bool,
        lossless: bool,
        in_flight: usize,
    ) -> Result<Self, Fault> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).tried("socket")?;
        socket.set_nonblocking(true).tried("O_NONBLOCK")?;
        socket.set_reuse_address(true).tried("SO_REUSEADDR")?;
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        socket.bind(&addr.into()).tried(format!("bind {addr}"))?;
        socket.listen(BACKLOG).tried("listen")?;
        let mut listener = TcpListener::from_std(socket.into());
        let poll = Poll::new().tried("epoll")?;
        poll.registry()
            .register(&mut listener, LISTENER, Interest::READABLE)
            .tried("epoll_ctl")?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER).tried("eventfd")?);
        let (sender, frames) = bounded(in_flight.max(1));
        Ok(Self {
            poll,
            listener,
            clients: Slab::new(),
            frames,
            sender,
            waker,
            awake: Arc::default(),
            open: Arc::default(),
            batched,
            lossless,
            behind: 0,
            batch: Vec::with_capacity(BATCH_BYTES_MAX),
            scratch: vec![0; 64 * 1024].into_boxed_slice(),
            skipped: 0,
            partial: 0,
        })
    }

    /// The handles for a source thread.
    pub(super) fn inlet(&self) -> Inlet {
        Inlet {
            frames: self.sender.clone(),
            waker: Arc::clone(&self.waker),
            awake: Arc::clone(&self.awake),
            clients: Arc::clone(&self.open),
        }
    }

    /// The listening port.
    pub(super) fn port(&self) -> Result<u16, Fault> {
        Ok(self.listener.local_addr().tried("own address")?.port())
    }

    /// Serves until `stop`.
    pub(super) fn run(&mut self, stop: &AtomicBool) -> Result<(), Fault> {
        let mut events = Events::with_capacity(1024);
        while !stop.load(Ordering::Relaxed) {
            match self
                .poll
                .poll(&mut events, Some(Duration::from_millis(500)))
            {
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                other => other.tried("epoll_wait")?,
            }
            for event in &events {
                match event.token() {
                    LISTENER => self.accept()?,
                    WAKER => {}
                    Token(key) => self.ready(key, event.is_writable()),
                }
            }
            self.awake.store(false, Ordering::Release);
            self.deliver();
        }
        eprintln!(
            "limit: {} frames skipped at full sockets, {} partial sends",
            self.skipped, self.partial
        );
        Ok(())
    }

    /// Sends everything from the channel to all clients.
    fn deliver(&mut self) {
        while !(self.lossless && self.behind > 0) {
            let Ok(frame) = self.frames.try_recv() else {
                return;
            };
            if !self.batched {
                self.send_all(&frame);
                continue;
            }
            let mut batch = std::mem::take(&mut self.batch);
            batch.clear();
            batch.extend_from_slice(&frame);
            while batch.len() + frame.len() <= BATCH_BYTES_MAX {
                let Ok(next) = self.frames.try_recv() else {
                    break;
                };
                batch.extend_from_slice(&next);
            }
            self.send_all(&batch);
            self.batch = batch;
        }
    }

    fn send_all(&mut self, bytes: &[u8]) {
        for (_, client) in &mut self.clients {
            if client.head.is_some() {
                continue;
            }
            if !client.tail.is_empty() {
                self.skipped += 1;
                continue;
            }
            match client.stream.write(bytes) {
                Ok(n) if n == bytes.len() => {}
                Ok(n) => {
                    self.partial += 1;
                    self.behind += 1;
                    client.tail.extend_from_slice(&bytes[n..]);
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock && self.lossless => {
                    self.behind += 1;
                    client.tail.extend_from_slice(bytes);
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => self.skipped += 1,
                // A broken socket is removed when its event comes.
                Err(_) => {}
            }
        }
    }

    fn accept(&mut self) -> Result<(), Fault> {
        while let Ok((mut stream, _)) = self.listener.accept() {
            let _ = stream.set_nodelay(true);
            let entry = self.clients.vacant_entry();
            let interest = Interest::READABLE | Interest::WRITABLE;
            self.poll
                .registry()
                .register(&mut stream, Token(entry.key()), interest)
                .tried("epoll_ctl")?;
            entry.insert(Client {
                stream,
                head: Some(Vec::new()),
                tail: Vec::new(),
            });
        }
        Ok(())
    }

    fn ready(&mut self, key: usize, writable: bool) {
        let Some(client) = self.clients.get_mut(key) else {
            return;
        };
        let was_behind = !client.tail.is_empty();
        if writable && was_behind {
            if let Ok(n) = client.stream.write(&client.tail) {
                client.tail.drain(..n);
            }
            self.behind -= usize::from(client.tail.is_empty());
        }
        let alive = loop {
            match client.stream.read(&mut self.scratch) {
                Ok(0) => break false,
                Ok(n) => {
                    let Some(head) = &mut client.head else {
                        continue;
                    };
                    head.extend_from_slice(&self.scratch[..n]);
                    if head.len() > handshake::HEAD_BYTES_MAX {
                        break false;
                    }
                    let Some(length) = handshake::head_length(head) else {
                        continue;
                    };
                    let Some(answer) = handshake::accept(&head[..length]) else {
                        break false;
                    };
                    if client.stream.write(&answer).ok() != Some(answer.len()) {
                        break false;
                    }
                    client.head = None;
                    self.open.fetch_add(1, Ordering::Relaxed);
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => break e.kind() == ErrorKind::WouldBlock,
            }
        };
        if !alive {
            let client = self.clients.remove(key);
            self.behind -= usize::from(!client.tail.is_empty());
            if client.head.is_none() {
                self.open.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }
}

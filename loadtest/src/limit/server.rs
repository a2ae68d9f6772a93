//! The limit's loop.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use mio::net::TcpListener;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use rustls::ServerConfig;
use slab::Slab;
use socket2::{Domain, Socket, Type};

use super::client::{Buffers, Client, Sent};
use super::frames::{Frames, Gateway};
use super::session::Session;
use super::source::Inlet;
use crate::bus::{Read, Subscriber};
use crate::fault::{Fault, Tried};

const LISTENER: Token = Token(usize::MAX);
const WAKER: Token = Token(usize::MAX - 1);
const BUS: Token = Token(usize::MAX - 2);
/// Most bytes joined into one send with `--batched`; at 64 KiB 8 KB frames cost 11 % more.
const BATCH_BYTES_MAX: usize = 128 * 1024;
const BACKLOG: i32 = 4096;

/// Longest wait of the loop: the stop flag and due acknowledgements have no event.
const WAIT: Duration = Duration::from_millis(200);

/// How a limit serves.
pub(super) struct Settings {
    /// On 127.0.0.1; 0 for any free port.
    pub(super) port: u16,
    /// The TLS of the clients; `None` for plain clients.
    pub(super) tls: Option<Arc<ServerConfig>>,
    /// What clients get beside the messages.
    pub(super) gateway: Gateway,
    /// Joins the frames of a turn.
    pub(super) batched: bool,
    /// Takes no message while any client is behind, so no message is skipped.
    pub(super) lossless: bool,
    /// Most messages waiting for the loop.
    pub(super) in_flight: usize,
}

/// The limit's state.
pub(super) struct Server {
    poll: Poll,
    listener: TcpListener,
    settings: Settings,
    clients: Slab<Client>,
    /// The subscription read by the loop itself.
    bus: Option<(Subscriber, Frames)>,
    frames: Receiver<Vec<u8>>,
    sender: Sender<Vec<u8>>,
    waker: Arc<Waker>,
    awake: Arc<AtomicBool>,
    open: Arc<AtomicUsize>,
    behind: usize,
    batch: Vec<u8>,
    /// The ends of the frames in `batch`.
    ends: Vec<usize>,
    buffers: Buffers,
    /// Frames not sent because the socket was full.
    skipped: u64,
    /// Frames of which the socket took only a part. Over TLS also frames of which the socket took nothing.
    partial: u64,
}

impl Server {
    /// Listens.
    pub(super) fn bind(settings: Settings) -> Result<Self, Fault> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).tried("socket")?;
        socket.set_nonblocking(true).tried("O_NONBLOCK")?;
        socket.set_reuse_address(true).tried("SO_REUSEADDR")?;
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, settings.port));
        socket.bind(&addr.into()).tried(format!("bind {addr}"))?;
        socket.listen(BACKLOG).tried("listen")?;
        let mut listener = TcpListener::from_std(socket.into());
        let poll = Poll::new().tried("epoll")?;
        poll.registry()
            .register(&mut listener, LISTENER, Interest::READABLE)
            .tried("epoll_ctl")?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER).tried("eventfd")?);
        let (sender, frames) = bounded(settings.in_flight.max(1));
        Ok(Self {
            poll,
            listener,
            clients: Slab::new(),
            bus: None,
            frames,
            sender,
            waker,
            awake: Arc::default(),
            open: Arc::default(),
            behind: 0,
            batch: Vec::with_capacity(BATCH_BYTES_MAX),
            ends: Vec::new(),
            buffers: Buffers::new(settings.gateway),
            settings,
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

    /// Makes the loop itself read a subscription.
    pub(super) fn read(&mut self, bus: Subscriber, frames: Frames) -> Result<(), Fault> {
        bus.stream().set_nonblocking(true).tried("O_NONBLOCK")?;
        let fd = bus.stream().as_raw_fd();
        self.poll
            .registry()
            .register(&mut SourceFd(&fd), BUS, Interest::READABLE)
            .tried("epoll_ctl")?;
        self.bus = Some((bus, frames));
        Ok(())
    }

    /// The listening port.
    pub(super) fn port(&self) -> Result<u16, Fault> {
        Ok(self.listener.local_addr().tried("own address")?.port())
    }

    /// Serves until `stop`.
    pub(super) fn run(&mut self, stop: &AtomicBool) -> Result<(), Fault> {
        let mut events = Events::with_capacity(1024);
        while !stop.load(Ordering::Relaxed) {
            match self.poll.poll(&mut events, Some(WAIT)) {
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                other => other.tried("epoll_wait")?,
            }
            // Acknowledgements may be due if there is no event.
            let mut is_fed = events.is_empty();
            for event in &events {
                match event.token() {
                    LISTENER => self.accept()?,
                    WAKER => {}
                    BUS => is_fed = true,
                    Token(key) => self.ready(key, event.is_writable()),
                }
            }
            if is_fed {
                self.relay()?;
            }
            self.awake.store(false, Ordering::Release);
            self.deliver();
        }
        if self.skipped + self.partial > 0 {
            eprintln!(
                "limit: {} frames skipped at full sockets, {} partial sends",
                self.skipped, self.partial
            );
        }
        Ok(())
    }

    /// Sends everything from the own subscription of the loop to all clients.
    fn relay(&mut self) -> Result<(), Fault> {
        let Some((mut bus, mut frames)) = self.bus.take() else {
            return Ok(());
        };
        let mut batch = std::mem::take(&mut self.batch);
        let mut ends = std::mem::take(&mut self.ends);
        loop {
            batch.clear();
            ends.clear();
            let read = bus.read(|payload| {
                frames.append(payload, &mut batch);
                ends.push(batch.len());
            });
            if self.settings.batched && !batch.is_empty() {
                ends.clear();
                ends.push(batch.len());
            }
            let mut start = 0;
            for &end in &ends {
                self.send_all(&batch[start..end]);
                start = end;
            }
            // A new edge comes only after the socket was empty.
            if read.tried("bus")? != Read::More {
                break;
            }
        }
        (self.batch, self.ends) = (batch, ends);
        self.bus = Some((bus, frames));
        Ok(())
    }

    /// Sends everything from the channel to all clients.
    fn deliver(&mut self) {
        while !(self.settings.lossless && self.behind > 0) {
            let Ok(frame) = self.frames.try_recv() else {
                return;
            };
            if !self.settings.batched {
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
            if !client.is_open() {
                continue;
            }
            if client.is_behind() {
                self.skipped += 1;
                continue;
            }
            match client.send(bytes, &mut self.buffers) {
                Sent::Whole | Sent::Broken => {}
                Sent::Part => self.partial += 1,
                Sent::Nothing if self.settings.lossless => client.keep(bytes),
                Sent::Nothing => self.skipped += 1,
            }
            self.behind += usize::from(client.is_behind());
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
            let session = self.settings.tls.as_ref().map(Session::new).transpose()?;
            entry.insert(Client::new(stream, session));
        }
        Ok(())
    }

    fn ready(&mut self, key: usize, is_writable: bool) {
        let Some(client) = self.clients.get_mut(key) else {
            return;
        };
        let (was_behind, was_open) = (client.is_behind(), client.is_open());
        if is_writable {
            client.flush();
        }
        let is_alive = client.read(&mut self.buffers);
        let is_behind = is_alive && client.is_behind();
        let is_open = is_alive && client.is_open();
        self.behind = self.behind + usize::from(is_behind) - usize::from(was_behind);
        match (was_open, is_open) {
            (false, true) => self.open.fetch_add(1, Ordering::Relaxed),
            (true, false) => self.open.fetch_sub(1, Ordering::Relaxed),
            _ => 0,
        };
        if !is_alive {
            self.clients.remove(key);
        }
    }
}

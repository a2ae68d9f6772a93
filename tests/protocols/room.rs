//! A hub with event streams and WebSockets, with sockets that take as many bytes as they are
//! told to.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use weirgate_wire::admission::Transport;

use weirgate_core::{
    Accepted, Admission, ByClient, CloseReason, Closed, ConflationKey, Core, Effect, Frame,
    FrameBytes, Gateway, Hub, Incoming, Limits, PeerEnd, Prefix, Publication, SessionKey,
    SocketEnd, TopicName, Transmit, Write,
};
use weirgate_wire::RequestHead;
use weirgate_wire::base::Now;

const TOPIC: TopicName = TopicName::fixed("all");

/// What is published, and to whom.
#[derive(Debug, Default)]
pub(crate) struct Say {
    pub(crate) body: &'static str,
    pub(crate) key: Option<u64>,
    pub(crate) numbered: bool,
}

/// Everyone is a member of one topic; what a client says comes back to it.
#[derive(Debug, Default)]
pub(crate) struct Everybody {
    pub(crate) closed: Vec<(SessionKey, CloseReason)>,
}

impl Gateway for Everybody {
    type Client = ();
    type In = Say;
    type Out = Infallible;

    fn admit(&mut self, _: &mut Core, _: SessionKey, _: &RequestHead<'_>) -> Admission<()> {
        Admission::Accept(Accepted::default(), ())
    }

    fn handle_opened(&mut self, core: &mut Core, key: SessionKey, (): &mut ()) {
        core.join(key, &TOPIC);
    }

    fn handle_message(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        (): &mut (),
        message: Incoming<'_>,
    ) {
        if let Incoming::Text(text) = message {
            let frame = Frame::text(core.frame_bytes())
                .answer()
                .body(text.as_bytes())
                .finish();
            core.send(key, &frame);
        }
    }

    fn handle_input(&mut self, core: &mut Core, _: &mut ByClient<()>, say: Say) {
        let mut frame = Frame::text(core.frame_bytes()).received(core.now());
        if let Some(key) = say.key {
            frame = frame.key(ConflationKey(key));
        }
        if say.numbered {
            frame = frame.prefix(Prefix::Seq("n="));
        }
        core.publish(&to_all(frame.body(say.body.as_bytes()).finish()));
    }

    fn handle_closed(&mut self, _: &mut Core, key: SessionKey, closed: Closed<()>) {
        let reason = closed.reason();
        self.closed.push((key, reason));
    }
}

fn to_all(frame: Arc<Frame>) -> Publication {
    Publication::new(TOPIC, frame)
}

#[derive(Debug, Default)]
pub(crate) struct Socket {
    /// What came and was not looked at.
    pub(crate) bytes: Vec<u8>,
    /// What the kernel still takes.
    pub(crate) room: usize,
    blocked: bool,
    /// What the next write fails with.
    pub(crate) error: Option<io::ErrorKind>,
    pub(crate) half_closed: bool,
    /// Whether the kernel's bytes were dropped at its end.
    pub(crate) released: Option<SocketEnd>,
}

#[derive(Debug, Default)]
struct Net(BTreeMap<SessionKey, Socket>);

impl Transmit for Net {
    fn send(&mut self, batch: &[Write<'_>], wrote: &mut Vec<io::Result<usize>>) {
        for write in batch {
            let socket = self.0.get_mut(&write.key).expect("a socket");
            assert!(!socket.blocked && !socket.half_closed, "{socket:?}");
            if let Some(error) = socket.error {
                wrote.push(Err(error.into()));
                continue;
            }
            let bytes: Vec<u8> = write.slices.iter().flat_map(|s| s.to_vec()).collect();
            let taken = bytes.len().min(socket.room);
            socket.room -= taken;
            socket.blocked = taken < bytes.len();
            socket.bytes.extend_from_slice(&bytes[..taken]);
            wrote.push(match taken {
                0 => Err(io::ErrorKind::WouldBlock.into()),
                _ => Ok(taken),
            });
        }
    }
}

pub(crate) struct Room {
    pub(crate) hub: Hub<Everybody>,
    net: Net,
    pub(crate) now: Now,
    pub(crate) frame_bytes: FrameBytes,
}

impl Room {
    pub(crate) fn new(limits: Limits) -> Self {
        let frame_bytes = FrameBytes::default();
        let core = Core::new(limits, frame_bytes.clone(), 1);
        Self {
            hub: Hub::new(core, Everybody::default()),
            net: Net::default(),
            now: Now {
                mono_us: 1_000_000,
                unix_us: 1_715_629_300_000 * 1_000,
            },
            frame_bytes,
        }
    }

    /// A client that sends this request; its kernel takes everything.
    pub(crate) fn connect(&mut self, request: &[u8]) -> SessionKey {
        let peer = SocketAddr::from(([127, 0, 0, 1], 4_000));
        let key = self.hub.handle_accepted(self.now, peer, Transport::Plain);
        let socket = Socket {
            room: usize::MAX,
            ..Socket::default()
        };
        self.net.0.insert(key, socket);
        self.send(key, request);
        key
    }

    pub(crate) fn socket(&mut self, key: SessionKey) -> &mut Socket {
        self.net.0.get_mut(&key).expect("a socket")
    }

    /// What came since the last call.
    pub(crate) fn take(&mut self, key: SessionKey) -> String {
        let bytes = std::mem::take(&mut self.socket(key).bytes);
        String::from_utf8(bytes).expect("text")
    }

    pub(crate) fn send(&mut self, key: SessionKey, bytes: &[u8]) {
        self.hub.handle_bytes(self.now, key, bytes);
        self.settle();
    }

    pub(crate) fn say(&mut self, say: Say) {
        self.hub.handle_input(self.now, say);
        self.settle();
    }

    pub(crate) fn publish(&mut self, frame: Arc<Frame>) {
        self.hub.handle_publication(self.now, &to_all(frame));
        self.settle();
    }

    /// The kernel takes so many bytes more.
    pub(crate) fn open_window(&mut self, key: SessionKey, room: usize) {
        let socket = self.socket(key);
        socket.room = socket.room.saturating_add(room);
        socket.blocked = false;
        self.hub.handle_writable(self.now, key);
        self.settle();
    }

    pub(crate) fn pass(&mut self, us: u64) {
        self.now = self.now.plus_us(us);
        self.hub.handle_timeout(self.now);
        self.settle();
    }

    /// The client ends its side.
    pub(crate) fn end(&mut self, key: SessionKey) {
        self.hub.handle_ended(self.now, key, PeerEnd::Closed);
        self.settle();
    }

    /// The client's connection breaks.
    pub(crate) fn fail(&mut self, key: SessionKey) {
        self.hub.handle_ended(self.now, key, PeerEnd::Failed);
        self.settle();
    }

    pub(crate) fn settle(&mut self) {
        loop {
            let more = self.hub.flush(self.now, &mut self.net);
            let mut any = false;
            while let Some(effect) = self.hub.poll_effect() {
                any = true;
                match effect {
                    Effect::HalfClose(key) => self.socket(key).half_closed = true,
                    Effect::Release {
                        key, socket_end, ..
                    } => {
                        self.socket(key).released = Some(socket_end);
                        self.hub.handle_released(key);
                    }
                    _ => {}
                }
            }
            if !more && !any {
                break;
            }
        }
        self.hub.check_invariants();
    }
}

//! The HTTP thread with its gate over a real socket: hyper sees the same requests as weirgate's rules, and a
//! connection with a WebSocket request comes back with every byte from the head on.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use weirgate_runtime::Clock;
use weirgate_server::http::{
    Answer, Handler, Handover, HttpHandle, HttpPlane, LateAnswer, RequestBody, RequestParts, Site,
    StatusCode,
};
use weirgate_server::run::CommonSettings;
use weirgate_wire::admission::{ConnectionPermit, HeldBytes, Peer, Quota};

use super::heads::{End, Seen, compare, split};
use super::{choices, outcome};

/// More than any input has.
const BODY_BYTES_MAX: usize = 1 << 20;

/// Longer than a response takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// The interval of checks for a connection that came back.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

struct Plane {
    _plane: HttpPlane,
    handle: HttpHandle,
    returned: Receiver<Handover>,
    listener: TcpListener,
    seen: Arc<Mutex<Vec<Seen>>>,
}

thread_local! {
    static PLANE: Plane = Plane::start();
}

impl Plane {
    fn start() -> Self {
        let seen = Arc::<Mutex<Vec<Seen>>>::default();
        let of_handler = Arc::clone(&seen);
        let record = move |parts: RequestParts, body: RequestBody| {
            let seen = Arc::clone(&of_handler);
            async move {
                let body = body.read(BODY_BYTES_MAX).await.ok();
                let request = Seen::of_hyper(&parts.head, body);
                seen.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(request);
                LateAnswer::from(Answer::empty(StatusCode::OK))
            }
        };
        let site = Site {
            fallback: Some(Handler::later(record)),
            ..Site::default()
        };
        let plane = HttpPlane::start(site, None, CommonSettings::default().http, Clock::start())
            .expect("a thread");
        let (back, returned) = mpsc::channel();
        Self {
            handle: plane.handle(Arc::new(move |handover| drop(back.send(handover)))),
            _plane: plane,
            returned,
            listener: TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port"),
            seen,
        }
    }

    /// Sends a stream in two pieces, behind `read` bytes that were read before the hand-over. The client ends
    /// its half when the handler has seen `requests` requests, if the number is known: earlier, hyper would
    /// give up a request in progress. Returns the text that came back on the socket, and the offset from
    /// which the connection came back.
    fn send(
        &self,
        stream: &[u8],
        read: usize,
        cut: usize,
        requests: Option<usize>,
    ) -> (String, Option<usize>) {
        let address = self.listener.local_addr().expect("bound");
        let mut client = TcpStream::connect(address).expect("a connection");
        let (accepted, peer) = self.listener.accept().expect("a connection");
        accepted.set_nonblocking(true).expect("a socket");
        client.set_read_timeout(Some(LOOK_AGAIN)).expect("a socket");
        client.set_nodelay(true).expect("a socket");
        let (first, rest) = stream.split_at(read);
        self.handle.serve(Handover {
            stream: accepted,
            tls: None,
            read: HeldBytes::new(
                &Quota::new("http", 1 << 25),
                Peer::from(peer).client(),
                first.to_vec(),
                0,
            ),
            peer: peer.into(),
            permit: ConnectionPermit::of(Quota::new("connections", 1).hold(
                Peer::from(peer).client(),
                1,
                0,
            )),
        });
        let (one, other) = rest.split_at(cut.min(rest.len()));
        // A connection may end before the whole stream is sent.
        let _ = client.write_all(one).and_then(|()| client.write_all(other));
        let (mut answers, mut buffer, begun) = (Vec::new(), [0; 4096], Instant::now());
        let returned = loop {
            match client.read(&mut buffer) {
                Ok(n @ 1..) => answers.extend_from_slice(&buffer[..n]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if requests.is_some_and(|requests| self.seen().len() >= requests) {
                        let _ = client.shutdown(Shutdown::Write);
                    }
                    if let Ok(handover) = self.returned.try_recv() {
                        break Some(place_of(handover, &client, stream));
                    }
                    assert!(
                        begun.elapsed() < PATIENCE,
                        "no end after {}",
                        answers.escape_ascii()
                    );
                }
                Ok(0) | Err(_) => break None,
            }
        };
        (String::from_utf8_lossy(&answers).into_owned(), returned)
    }

    fn seen(&self) -> MutexGuard<'_, Vec<Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the offset in the stream from which a connection comes back; the whole rest is there.
fn place_of(handover: Handover, client: &TcpStream, stream: &[u8]) -> usize {
    let _ = client.shutdown(Shutdown::Write);
    let (mut bytes, mut socket) = (handover.read.to_vec(), handover.stream);
    socket.set_nonblocking(false).expect("a socket");
    socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let _ = socket.read_to_end(&mut bytes);
    assert!(
        stream.ends_with(&bytes),
        "the end of what was sent comes back"
    );
    stream.len() - bytes.len()
}

pub(crate) fn run(data: &[u8]) -> u64 {
    let ([read, cut], stream) = choices(data);
    let read = usize::from(read).min(stream.len());
    PLANE.with(|plane| {
        plane.seen().clear();
        let (requests, end) = split(stream, read > 0);
        let mut ours: Vec<Seen> = requests.into_iter().map(|(seen, _)| seen).collect();
        let preflight = ours.iter().position(Seen::is_preflight);
        let expected =
            (end == End::Stream || preflight.is_some()).then(|| preflight.unwrap_or(ours.len()));
        let (text, returned) = plane.send(stream, read, usize::from(cut), expected);
        let mut theirs = std::mem::take(&mut *plane.seen());
        if let Some(at) = preflight {
            ours.truncate(at);
            theirs.truncate(at);
        }
        // A body without its end was begun nevertheless.
        let is_begun =
            matches!(end, End::Stream | End::Body) && theirs.last().is_some_and(Seen::is_broken);
        if is_begun {
            theirs.pop();
        }
        let refused = ["400", "414", "431"]
            .into_iter()
            .any(|status| text.contains(&format!("HTTP/1.1 {status}")));
        compare(&ours, &theirs, refused);
        if let Some(at) = returned {
            assert_eq!(
                End::Upgrade(at),
                end,
                "only a request for a WebSocket comes back"
            );
        }
        let goes_on = theirs.len() == ours.len()
            && preflight.is_none()
            && !theirs.last().is_some_and(Seen::may_close);
        match end {
            End::Refused(status) if goes_on => {
                assert!(
                    text.contains(&format!("HTTP/1.1 {status}")),
                    "no {status} in {text}"
                );
            }
            End::Upgrade(at) if goes_on => assert_eq!(returned, Some(at)),
            _ => {}
        }
        let kind = match end {
            End::Upgrade(_) => End::Upgrade(0),
            end => end,
        };
        outcome((
            theirs.len().min(4),
            is_begun,
            refused,
            kind,
            preflight.is_some(),
        ))
    })
}

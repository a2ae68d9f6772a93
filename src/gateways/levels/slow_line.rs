//! The slow line of the demo: a relay between a tab and the gateway that reads the gateway's socket slowly. To the
//! gateway, this socket is that of a slow client: the kernel takes no more bytes, messages wait in the send queue, and
//! newer states replace older ones. For each tab the relay makes a pair of connected sockets; it listens on a loopback
//! port only while it makes the pair. The gateway's end goes to the loop like a connection that comes back from the HTTP
//! side, with the request, the address and the permit of the tab.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the shell of a gateway: sockets and threads of the demo"
)]

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use socket2::SockRef;

use crate::gateways::levels::client::{DemoGateway, pace, tab_name};
use weirgate_runtime::detached;
use weirgate_server::http::{Answer, Handover, Route, StatusCode};

/// The response on the path of the slow line to requests that the line did not take.
pub(super) fn slow_route() -> Route {
    let full = |_: &_| Answer::detail(StatusCode::SERVICE_UNAVAILABLE, "No slow line is free");
    Route::get("/page/slow/{path}", full)
}

/// The most tabs on the slow line. Each needs two threads and two more descriptors.
const TABS_MAX: usize = 100;

/// The slowest pace. On a slower line, a pong would come too late.
const BYTES_PER_SECOND_MIN: u32 = 100;

/// Reads from the gateway's socket in a second.
const READS_PER_SECOND: u32 = 20;

/// Bytes of a read.
const READ_BYTES_MAX: usize = 16 * 1024;

/// The longest time in which a tab on the line may take no byte. Then the tab is disconnected.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// The tabs on the slow line by name, with the pace of each in bytes per second.
#[derive(Clone, Default)]
pub(super) struct SlowLine(Arc<Mutex<HashMap<String, Weak<AtomicU32>>>>);

impl SlowLine {
    /// If the request is for the slow line, such as `GET /page/slow/ws/stream?name=a&bytes_per_second=2000`, starts a
    /// relay for it and returns `None`; if the relay cannot start, the connection ends. Any other connection is
    /// returned, and so is one without a name, with a name in use, or over [`TABS_MAX`].
    pub(super) fn take(
        &self,
        mut handover: Handover,
        back: &dyn Fn(Handover),
        now_us: u64,
    ) -> Option<Handover> {
        let Some((pace, (gateway, relay))) = self.join(&handover.read).zip(pair().ok()) else {
            return Some(handover);
        };
        let client = std::mem::replace(&mut handover.stream, gateway);
        // Without the timeout, a tab that takes no byte stays until its connection ends.
        let _ = client.set_write_timeout(Some(WRITE_TIMEOUT));
        // To the gateway, `/page/slow/ws/stream` is `/ws/stream`.
        let slow = "GET ".len().."GET".len() + DemoGateway::SLOW_PATH.len();
        handover.read.change(now_us, |read| drop(read.drain(slow)));
        if detached("slow-line", move || drop(carry(&pace, &client, &relay))).is_ok() {
            back(handover);
        }
        None
    }

    /// Puts the tab of this request on the line, until the returned pace is dropped. `None`: the request is not for the
    /// line, or the line does not take it.
    fn join(&self, read: &[u8]) -> Option<Arc<AtomicU32>> {
        let line = read.split(|byte| *byte == b'\r').next()?;
        let target = str::from_utf8(line).ok()?.strip_prefix("GET ")?;
        let target = target.strip_prefix(DemoGateway::SLOW_PATH)?;
        let query = target.split([' ', '?']).nth(1)?;
        let name = tab_name(query)?;
        let mut tabs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tabs.retain(|_, pace| pace.strong_count() > 0);
        if tabs.len() >= TABS_MAX || tabs.contains_key(&name) {
            return None;
        }
        let pace = Arc::new(AtomicU32::new(bytes_per_second(query)?));
        tabs.insert(name, Arc::downgrade(&pace));
        Some(pace)
    }

    /// Sets the pace of a tab on the line.
    pub(super) fn set_pace(&self, query: &str) {
        let tabs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let tab = tab_name(query).and_then(|name| tabs.get(&name)?.upgrade());
        if let Some((pace, rate)) = tab.zip(bytes_per_second(query)) {
            pace.store(rate, Ordering::Relaxed);
        }
    }
}

fn bytes_per_second(query: &str) -> Option<u32> {
    pace(query).map(|rate| rate.max(BYTES_PER_SECOND_MIN))
}

/// Connects two sockets. Returns the gateway's end and the relay's end. Their buffers are the smallest that the kernel
/// allows, smaller than a compressed message of the demo, because a message there can no longer be replaced by a newer
/// one.
fn pair() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    SockRef::from(&listener).set_recv_buffer_size(1)?;
    let gateway = TcpStream::connect(listener.local_addr()?)?;
    let (relay, peer) = listener.accept()?;
    // Another process of this machine has connected first.
    if peer != gateway.local_addr()? {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    gateway.set_nonblocking(true)?;
    gateway.set_nodelay(true)?;
    SockRef::from(&gateway).set_send_buffer_size(1)?;
    SockRef::from(&gateway).set_tcp_notsent_lowat(1)?;
    Ok((gateway, relay))
}

/// Copies bytes both ways, until the gateway closes its end, or the tab takes no byte within its write timeout.
fn carry(pace: &AtomicU32, mut client: &TcpStream, mut gateway: &TcpStream) -> io::Result<()> {
    client.set_nonblocking(false)?;
    thread::scope(|scope| {
        thread::Builder::new().spawn_scoped(scope, move || {
            let _ = io::copy(&mut client, &mut gateway);
            gateway.shutdown(Shutdown::Write)
        })?;
        let mut buf = [0; READ_BYTES_MAX];
        let rate = || pace.load(Ordering::Relaxed);
        let room = || READ_BYTES_MAX.min((rate() / READS_PER_SECOND) as usize);
        while let Ok(n @ 1..) = gateway.read(&mut buf[..room()])
            && client.write_all(&buf[..n]).is_ok()
        {
            thread::sleep(Duration::from_secs(n as u64) / rate());
        }
        // Ends the other direction too.
        let _ = gateway.shutdown(Shutdown::Both);
        client.shutdown(Shutdown::Both)
    })
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, channel};
    use std::time::Instant;

    use super::*;
    use weirgate_wire::admission::{ConnectionPermit, HeldBytes, Peer, Quota};

    const FULL_SPEED: u32 = 1_000_000_000;

    /// A slow line, and the connections that it gives to the loop.
    struct Rig {
        line: SlowLine,
        back: Box<dyn Fn(Handover)>,
        returned: Receiver<Handover>,
    }

    impl Rig {
        fn new() -> Self {
            let (sender, returned) = channel();
            Self {
                line: SlowLine::default(),
                back: Box::new(move |handover| drop(sender.send(handover))),
                returned,
            }
        }

        /// Hands a connection with this request over. If the line takes it, returns the tab's end and the connection
        /// for the loop.
        fn ask(&self, read: &str) -> Option<(TcpStream, Handover)> {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let tab = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            tab.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            let (stream, peer) = listener.accept().unwrap();
            stream.set_nonblocking(true).unwrap();
            let all = Quota::new("http_bytes", 1_000);
            let handover = Handover {
                stream,
                tls: None,
                read: HeldBytes::new(&all, Peer::from(peer).client(), read.as_bytes().to_vec(), 0),
                peer: peer.into(),
                permit: ConnectionPermit::of(all.hold(Peer::from(peer).client(), 1, 0)),
            };
            match self.line.take(handover, &self.back, 0) {
                Some(kept) => {
                    assert_eq!(*kept.read, *read.as_bytes());
                    None
                }
                None => {
                    let handover = self.returned.recv().unwrap();
                    assert_eq!(handover.peer, Peer::from(peer));
                    Some((tab, handover))
                }
            }
        }

        fn join(&self, name: impl std::fmt::Display, rate: u32) -> Option<(TcpStream, Handover)> {
            let query = format!("name={name}&bytes_per_second={rate}");
            self.ask(&format!(
                "GET /page/slow/ws/stream?{query} HTTP/1.1\r\n\r\n"
            ))
        }
    }

    #[test]
    fn the_gateway_sees_the_request_without_the_slow_line_and_all_that_follows() {
        let query = "name=a&bytes_per_second=2000000";
        let rest = format!("ws/flow?{query} HTTP/1.1\r\nHost: x\r\n\r\nmore");
        let (mut tab, handover) = Rig::new().ask(&format!("GET /page/slow/{rest}")).unwrap();
        assert_eq!(*handover.read, *format!("GET /{rest}").as_bytes());
        let mut gateway = handover.stream;
        gateway.set_nonblocking(false).unwrap();
        let mut buf = [0; 5];
        tab.write_all(b"hello").unwrap();
        gateway.read_exact(&mut buf).unwrap();
        assert_eq!(&buf, b"hello");
        gateway.write_all(b"world").unwrap();
        tab.read_exact(&mut buf).unwrap();
        assert_eq!(&buf, b"world");
        // The end of either side reaches the other side.
        tab.shutdown(Shutdown::Write).unwrap();
        assert_eq!(gateway.read(&mut buf).unwrap(), 0);
        drop(gateway);
        assert_eq!(tab.read(&mut buf).unwrap(), 0);
    }

    #[test]
    fn other_requests_and_tabs_without_a_name_or_a_pace_are_not_taken() {
        let rig = Rig::new();
        for begin in [
            "GET /page/tab?name=a&bytes_per_second=2000",
            "GET /ws/stream?name=a&bytes_per_second=2000",
            "POST /page/slow/ws/stream?name=a&bytes_per_second=2000",
            "GET /page/slow/ws/stream?bytes_per_second=2000",
            "GET /page/slow/ws/stream?name=a",
            "GET /page/slow/ws/stream?name=a&bytes_per_second=fast",
            "GET /page/slow/ws/stream",
        ] {
            let taken = rig.ask(&format!("{begin} HTTP/1.1\r\n\r\n"));
            assert!(taken.is_none(), "{begin}");
        }
        assert_eq!(bytes_per_second("bytes_per_second=1"), Some(100));
    }

    #[test]
    fn tabs_on_the_line_are_bounded_and_a_name_is_free_after_its_tab() {
        let rig = Rig::new();
        let _tab = rig.join("a", FULL_SPEED).expect("a line");
        assert!(rig.join("a", FULL_SPEED).is_none(), "the name is in use");
        let mut tabs: Vec<_> = (1..TABS_MAX)
            .map(|name| rig.join(name, FULL_SPEED).expect("a line"))
            .collect();
        assert!(rig.join(TABS_MAX, FULL_SPEED).is_none());
        tabs.pop();
        let until = Instant::now() + Duration::from_secs(20);
        // The relay ends on its own threads.
        while rig.join("another", FULL_SPEED).is_none() {
            assert!(Instant::now() < until, "the line is not free again");
            thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn few_bytes_wait_in_the_kernel_and_none_is_lost() {
        let rig = Rig::new();
        let (mut tab, handover) = rig.join("a", 100).unwrap();
        let mut gateway = handover.stream;
        let message = vec![b'x'; 100_000];
        let mut taken = 0;
        for _ in 0..20 {
            taken += gateway.write(&message).unwrap_or(0);
            thread::sleep(Duration::from_millis(5));
        }
        assert!((1..2_800).contains(&taken), "{taken} bytes, no message");
        rig.line.set_pace("name=b&bytes_per_second=1000000000");
        rig.line.set_pace("name=a&bytes_per_second=1000000000");
        gateway.set_nonblocking(false).unwrap();
        let sender = thread::spawn(move || gateway.write_all(&vec![b'x'; 100_000]));
        let mut got = Vec::new();
        tab.read_to_end(&mut got).unwrap();
        sender.join().unwrap().unwrap();
        assert_eq!(got.len(), taken + 100_000);
    }

    #[test]
    fn a_tab_that_takes_nothing_leaves_the_line() {
        let [(_tab, client), (mut gateway, relay)] = [(), ()].map(|()| {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            (one, listener.accept().unwrap().0)
        });
        let timeout = Duration::from_millis(50);
        client.set_write_timeout(Some(timeout)).unwrap();
        let carried = thread::spawn(move || carry(&AtomicU32::new(FULL_SPEED), &client, &relay));
        // The write fails only because the relay has ended: the kernel's buffers are smaller.
        let sent = gateway.write_all(&vec![b'x'; 64 << 20]);
        assert!(sent.is_err(), "{sent:?}");
        let _ = carried.join().unwrap();
    }
}

//! What is read of a socket, over real sockets: all that came, in whatever order bytes and ends
//! arrive, since no event tells twice of the same bytes.

mod world;

use std::convert::Infallible;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use socket2::SockRef;
use weirgate_core::{
    Accepted, Admission, BusEvent, ByClient, Core, Feed, FeedStats, Frame, Gateway, Incoming,
    Publication, SessionKey,
};
use weirgate_runtime::Clock;
use weirgate_server::listening::ListenAddr;
use weirgate_server::run::{CommonSettings, Parts};
use weirgate_test_support::patient;
use weirgate_wire::RequestHead;
use weirgate_wire::base::Now;
use world::client::{frame, request};

/// Says how many clients are open if asked for `clients`, reads a client no more that says `pause`, and
/// echoes other texts. Another message costs three milliseconds.
struct Toy;

const LONG_BYTES: usize = 20_000;
const WORK: Duration = Duration::from_millis(3);

impl Gateway for Toy {
    type Client = ();
    type In = Infallible;
    type Out = Infallible;

    fn admit(&mut self, _: &mut Core, _: SessionKey, _: &RequestHead<'_>) -> Admission<()> {
        Admission::Accept(Accepted::default(), ())
    }

    fn handle_message(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        (): &mut (),
        message: Incoming<'_>,
    ) {
        let open = core.stats().open.to_string();
        let text = match message {
            Incoming::Text("clients") => &open,
            Incoming::Text("pause") => return core.pause_reading(key),
            Incoming::Text(text) => text,
            _ => return thread::sleep(WORK),
        };
        let frame = Frame::text(core.frame_bytes()).answer();
        core.send(key, &frame.body(text.as_bytes()).finish());
    }

    fn handle_input(&mut self, _: &mut Core, _: &mut ByClient<()>, never: Infallible) {
        match never {}
    }
}

/// There is no bus.
#[derive(Default)]
struct Nothing(FeedStats);

impl Feed for Nothing {
    type Event = BusEvent;

    fn event(&mut self, _: Now, _: BusEvent, _: &mut Vec<Publication>) {}

    fn stats(&self) -> &FeedStats {
        &self.0
    }
}

/// Runs until the test binary ends.
fn start() -> SocketAddr {
    let mut common = CommonSettings::default();
    common.reactor.listen.addrs = vec![ListenAddr::Tcp(([127, 0, 0, 1], 0).into())];
    let (send, listening) = mpsc::channel();
    thread::spawn(move || {
        Parts::new("toy", common, Nothing::default(), Toy)
            .run(Clock::start(), |listening| {
                send.send(listening.addrs[0].clone())
                    .expect("the test listens");
            })
            .expect("the loop runs");
    });
    match listening.recv().expect("it listens") {
        ListenAddr::Tcp(addr) => addr,
        ListenAddr::Unix(_) => unreachable!("a port was asked for"),
    }
}

/// One read of the loop.
const READ_BYTES: usize = 64 * 1024;
/// Far below every deadline of the loop: what takes longer was not read.
const SOON: Duration = Duration::from_secs(3);

struct Client(TcpStream);

fn connect(addr: SocketAddr) -> Client {
    let mut stream = TcpStream::connect(addr).expect("connected");
    stream.set_nodelay(true).expect("a socket");
    stream
        .set_read_timeout(Some(patient(SOON)))
        .expect("a socket");
    stream.write_all(&request("/ws", None)).expect("sent");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("a 101");
        head.extend(byte);
    }
    Client(stream)
}

impl Client {
    fn send(&mut self, text: &str) {
        self.0
            .write_all(&frame(0x81, text.as_bytes()))
            .expect("sent");
    }

    /// The next message, of less than 64 KiB; pings are passed over.
    fn text(&mut self) -> String {
        let mut header = [0; 2];
        self.0.read_exact(&mut header).expect("a frame");
        let mut bytes = usize::from(header[1]);
        if bytes == 126 {
            let mut length = [0; 2];
            self.0.read_exact(&mut length).expect("a length");
            bytes = usize::from(u16::from_be_bytes(length));
        }
        let mut text = vec![0; bytes];
        self.0.read_exact(&mut text).expect("a payload");
        let is_ping = header[0] & 0x0f == 9;
        match is_ping {
            true => self.text(),
            false => String::from_utf8(text).expect("text"),
        }
    }

    /// Sends a short message, whose echo has to come.
    fn is_heard(&mut self) {
        self.send("ask");
        assert_eq!(self.text(), "ask");
    }

    /// Returns once this is the only client.
    fn is_alone(&mut self) {
        let until = Instant::now() + patient(SOON);
        loop {
            self.send("clients");
            if self.text() == "1" {
                return;
            }
            assert!(Instant::now() < until, "clients that are gone stay open");
            thread::sleep(WORK);
        }
    }

    /// Returns once the server has ended the connection, whatever it sent before.
    fn is_ended(&mut self) {
        let mut rest = Vec::new();
        match self.0.read_to_end(&mut rest) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
            Err(error) => panic!("the server did not end the connection: {error}"),
        }
    }
}

#[test]
fn bytes_and_the_end_together_are_both_taken() {
    let addr = start();
    for _ in 0..100 {
        let mut client = connect(addr);
        client.send("last");
        client.0.shutdown(Shutdown::Write).expect("connected");
        client.is_ended();
    }
    // The end alone, after the bytes were read.
    let mut client = connect(addr);
    client.is_heard();
    client.0.shutdown(Shutdown::Write).expect("connected");
    client.is_ended();
}

#[test]
fn a_request_and_the_end_together_are_both_taken() {
    let addr = start();
    for _ in 0..100 {
        let stream = TcpStream::connect(addr).expect("connected");
        stream
            .set_read_timeout(Some(patient(SOON)))
            .expect("a socket");
        (&stream).write_all(&request("/ws", None)).expect("sent");
        stream.shutdown(Shutdown::Write).expect("connected");
        let mut client = Client(stream);
        client.is_ended();
    }
    let mut bystander = connect(addr);
    bystander.send("clients");
    assert_eq!(bystander.text(), "1", "those that ended are gone");
}

/// Long messages of so many bytes together.
fn filling(bytes: usize) -> Vec<u8> {
    let mut out = Vec::new();
    while bytes - out.len() > 2 * LONG_BYTES {
        out.extend(frame(0x82, &[0; LONG_BYTES]));
    }
    let header_bytes = 8;
    out.extend(frame(0x82, &vec![0; bytes - out.len() - header_bytes]));
    assert_eq!(out.len(), bytes);
    out
}

#[test]
fn bytes_that_fill_whole_reads_do_not_hide_what_follows() {
    let addr = start();
    for reads in 1..4 {
        let ping = frame(0x89, b"");
        let mut bytes = filling(reads * READ_BYTES - ping.len());
        bytes.extend(ping);

        let mut client = connect(addr);
        client.0.write_all(&bytes).expect("sent");
        let mut pong = [0; 2];
        client.0.read_exact(&mut pong).expect("a pong");
        assert_eq!(pong, [0x8a, 0]);
        client.is_heard();

        let mut client = connect(addr);
        client.0.write_all(&bytes).expect("sent");
        client.0.shutdown(Shutdown::Write).expect("connected");
        client.is_ended();
    }
}

#[test]
fn a_reset_behind_bytes_ends_the_client() {
    let addr = start();
    let mut bystander = connect(addr);
    for bytes in [LONG_BYTES, READ_BYTES, 3 * READ_BYTES] {
        let mut client = connect(addr);
        client.0.write_all(&filling(bytes)).expect("sent");
        SockRef::from(&client.0)
            .set_linger(Some(Duration::ZERO))
            .expect("a socket");
        drop(client);
    }
    bystander.is_alone();
}

/// The end comes behind bytes that nobody reads, in the packet of the pause or later.
#[test]
fn a_client_that_is_not_read_is_seen_to_end() {
    let addr = start();
    let mut bystander = connect(addr);
    for reset in [false, true] {
        for later in [None, Some(0), Some(1), Some(READ_BYTES)] {
            let mut client = connect(addr);
            client.send("pause");
            if let Some(bytes) = later {
                thread::sleep(20 * WORK);
                client.0.write_all(&vec![0; bytes]).expect("sent");
            }
            if reset {
                SockRef::from(&client.0)
                    .set_linger(Some(Duration::ZERO))
                    .expect("a socket");
            } else {
                client.0.shutdown(Shutdown::Write).expect("connected");
                client.is_ended();
            }
            drop(client);
            bystander.is_alone();
        }
    }
}

#[test]
fn many_small_writes_are_all_heard() {
    let mut client = connect(start());
    let mut writer = Client(client.0.try_clone().expect("a descriptor"));
    let messages = 5_000;
    let writing = thread::spawn(move || {
        for n in 0..messages {
            // Cut in two: the loop may read between the two.
            let bytes = frame(0x81, format!("m{n}").as_bytes());
            let (first, second) = bytes.split_at(n % bytes.len());
            writer.0.write_all(first).expect("sent");
            writer.0.write_all(second).expect("sent");
        }
    });
    for n in 0..messages {
        assert_eq!(client.text(), format!("m{n}"));
    }
    writing.join().expect("written");
}

/// Urgent data ends a read before bytes that are there already.
#[cfg(target_os = "linux")]
#[test]
fn bytes_behind_urgent_data_are_read() {
    let addr = start();
    let mut worker = connect(addr);
    for _ in 0..20 {
        let mut client = connect(addr);
        // The loop is busy meanwhile, so that all of it waits for one read.
        worker
            .0
            .write_all(&frame(0x82, &[0; LONG_BYTES]))
            .expect("sent");
        let bytes = frame(0x81, b"before and behind");
        let (before, behind) = bytes.split_at(9);
        client.0.write_all(before).expect("sent");
        // The urgent byte itself is no part of the stream.
        SockRef::from(&client.0)
            .send_out_of_band(b"!")
            .expect("sent");
        client.0.write_all(behind).expect("sent");
        assert_eq!(client.text(), "before and behind");
    }
}

#[test]
fn a_client_that_was_full_gets_the_rest_when_it_reads() {
    let addr = start();
    for _ in 0..3 {
        let mut client = connect(addr);
        let text = "x".repeat(LONG_BYTES - 1);
        // More than the kernel takes for a client that does not read, less than a queue may hold.
        let messages = 40;
        (0..messages).for_each(|_| client.send(&text));
        thread::sleep(Duration::from_millis(200));
        for _ in 0..messages {
            assert_eq!(client.text(), text);
        }
        client.is_heard();
    }
}

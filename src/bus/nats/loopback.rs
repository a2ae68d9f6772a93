//! The loopback connection between the crate and weirgate's TLS, closed to other processes.
//!
//! Other users of the machine see the port and can connect to it, or take over a free port. So the crate gets no
//! credentials: they are added to the crate's CONNECT line here, on the way into TLS. The CONNECT line must hold a
//! random name known only to the crate. The other end must be a socket of this process, if the system shows the owner.
//! The port stays taken for as long as the crate can connect, because the crate's options hold the listener.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use rustls::crypto::SecureRandom;
use sonic_rs::JsonValueMutTrait;

use super::settings::CLIENT_NAME;
use crate::runtime::Wake;
use crate::socket::Stream;
use weirgate_wire::json;

const LISTENER: Token = Token(0);
const WAKER: Token = Token(1);
/// The crate's CONNECT line has some 200 bytes.
const CONNECT_BYTES_MAX: usize = 16 * 1024;
/// Plain bytes read from a side before they are written to the other.
const CHUNK_BYTES: usize = 64 * 1024;

/// The listening end, on the thread that carries the bytes.
pub(super) struct Loopback {
    shared: Arc<Shared>,
    poll: Poll,
    wake: Wake,
}

struct Shared {
    /// Shared by both ends, so the port stays taken whichever end is dropped first.
    listener: Mutex<TcpListener>,
    address: SocketAddr,
    is_released: AtomicBool,
}

/// The part held by the crate's options. The port stays taken until the drop.
pub(super) struct Hold {
    shared: Arc<Shared>,
    wake: Wake,
}

/// The port and the name for the crate's connection.
pub(super) struct Door {
    pub(super) port: u16,
    /// The name for the crate's CONNECT line.
    pub(super) name: String,
    pub(super) hold: Hold,
}

impl Loopback {
    /// Listens on a free port.
    ///
    /// # Errors
    /// The system has no descriptor, no port or no randomness left.
    pub(super) fn listen(random: &dyn SecureRandom) -> io::Result<(Self, Door)> {
        let mut secret = [0; 16];
        let filled = random.fill(&mut secret);
        filled.map_err(|_| io::Error::other("the system gives no random bytes"))?;
        let poll = Poll::new()?;
        let wake = Wake::new(poll.registry(), WAKER, "nats-tls")?;
        let mut listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0).into())?;
        let interest = Interest::READABLE;
        poll.registry()
            .register(&mut listener, LISTENER, interest)?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            listener: Mutex::new(listener),
            address,
            is_released: AtomicBool::new(false),
        });
        let hold = Hold {
            shared: Arc::clone(&shared),
            wake: wake.clone(),
        };
        let name = format!("{:032x}", u128::from_ne_bytes(secret));
        let port = address.port();
        Ok((Self { shared, poll, wake }, Door { port, name, hold }))
    }

    /// Accepts the crate's connection. Connections of other processes are closed.
    ///
    /// # Errors
    /// The crate did not connect before `until`.
    fn accept(&mut self, until: Instant) -> io::Result<TcpStream> {
        loop {
            while let Some((stream, peer)) = self.next()? {
                // If the system does not show the owner of the socket, the name decides alone.
                match is_ours(peer, self.shared.address) {
                    Ok(false) => tracing::warn!(
                        %peer,
                        "another process connected to the loopback port of the NATS client; it was \
                         hung up on"
                    ),
                    Ok(true) | Err(_) => return Ok(stream),
                }
            }
            if Instant::now() >= until || self.is_released() {
                return Err(ErrorKind::TimedOut.into());
            }
            self.wait(Some(until))?;
        }
    }

    /// Accepts the crate's connection, then carries bytes between it and the server (`far`), until either side ends.
    /// `first`: the server's first line, for the crate ([`super::login::plain_info`]).
    ///
    /// # Errors
    /// The crate did not connect before `until`, or a connection has ended.
    pub(super) fn carry(
        &mut self,
        until: Instant,
        far: Stream,
        first: Vec<u8>,
        gate: Gate,
    ) -> io::Result<()> {
        let near = self.accept(until)?;
        near.set_nodelay(true)?;
        let pump = Pump {
            far,
            near,
            to_near: first,
            gate: Some(gate),
            chunk: vec![0; CHUNK_BYTES],
        };
        pump.run()
    }

    /// Keeps the port and closes every connection, further attempts of the crate too, until the crate's thread has
    /// ended.
    pub(super) fn refuse(mut self) {
        while !self.is_released() {
            if let Err(error) = self.hang_up() {
                // The crate still holds the listener, so a new connection is neither refused nor answered.
                tracing::debug!(%error, "a loopback port of NATS refuses nobody any more");
                return;
            }
        }
    }

    fn hang_up(&mut self) -> io::Result<()> {
        while self.next()?.is_some() {}
        self.wait(None)
    }

    fn is_released(&self) -> bool {
        self.shared.is_released.load(Ordering::Acquire)
    }

    fn next(&self) -> io::Result<Option<(TcpStream, SocketAddr)>> {
        let listener = self.shared.listener.lock();
        let listener = listener.map_err(|_| io::Error::other("a thread ended in the middle"))?;
        match listener.accept() {
            Ok(accepted) => Ok(Some(accepted)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            // Closed before the accept, or a signal.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::ConnectionAborted | ErrorKind::Interrupted
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn wait(&mut self, until: Option<Instant>) -> io::Result<()> {
        let timeout = until.map(|until| until.saturating_duration_since(Instant::now()));
        let mut events = Events::with_capacity(4);
        match self.poll.poll(&mut events, timeout) {
            Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error),
            _ => {}
        }
        self.wake.arm();
        Ok(())
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.shared.is_released.store(true, Ordering::Release);
        self.wake.wake();
    }
}

/// Whether the other end of a loopback connection, `peer` to `local`, is a socket of this process.
///
/// # Errors
/// The system does not show the owner.
#[cfg(target_os = "linux")]
fn is_ours(peer: SocketAddr, local: SocketAddr) -> io::Result<bool> {
    let table = std::fs::read_to_string("/proc/self/net/tcp")?;
    let Some(inode) = inode_of(&table, peer, local) else {
        return Ok(false);
    };
    let socket = format!("socket:[{inode}]");
    for descriptor in std::fs::read_dir("/proc/self/fd")? {
        // A descriptor closed meanwhile does not match.
        if let Ok(target) = std::fs::read_link(descriptor?.path())
            && target.as_os_str() == socket.as_str()
        {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(not(target_os = "linux"))]
fn is_ours(_: SocketAddr, _: SocketAddr) -> io::Result<bool> {
    Err(ErrorKind::Unsupported.into())
}

/// The inode of the socket at `near` connected with `far` (proc_net_tcp of the kernel's documentation).
#[cfg(target_os = "linux")]
fn inode_of(table: &str, near: SocketAddr, far: SocketAddr) -> Option<&str> {
    let end = |address: SocketAddr| match address {
        SocketAddr::V4(v4) => Some(format!(
            "{:08X}:{:04X}",
            u32::from_ne_bytes(v4.ip().octets()),
            v4.port()
        )),
        SocketAddr::V6(_) => None,
    };
    let (near, far) = (end(near)?, end(far)?);
    table.lines().find_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        (fields.next()? == near && fields.next()? == far).then(|| fields.nth(6))?
    })
}

/// The gate before TLS: takes the crate's CONNECT line, refuses anything else, and returns the CONNECT line for the
/// server.
pub(super) struct Gate {
    name: String,
    /// The log-in fields of CONNECT.
    login: Vec<(&'static str, String)>,
    line: Vec<u8>,
}

impl Gate {
    pub(super) fn new(name: String, login: Vec<(&'static str, String)>) -> Self {
        Self {
            name,
            login,
            line: Vec::new(),
        }
    }

    /// Takes the next bytes of the crate. Returns `Some` once the line is complete: the bytes for the server.
    ///
    /// # Errors
    /// The bytes are not from the crate.
    fn pass(&mut self, bytes: &[u8]) -> io::Result<Option<Vec<u8>>> {
        self.line.extend_from_slice(bytes);
        let Some(end) = self.line.windows(2).position(|two| two == b"\r\n") else {
            return match self.line.len() {
                0..CONNECT_BYTES_MAX => Ok(None),
                _ => Err(stranger()),
            };
        };
        let (line, rest) = self.line.split_at(end);
        let json = line.strip_prefix(b"CONNECT ").ok_or_else(stranger)?;
        let connect = json::read(json).and_then(|json| json.parse());
        let mut connect: sonic_rs::Value = connect.map_err(|_| stranger())?;
        let fields = connect.as_object_mut().ok_or_else(stranger)?;
        let name = fields
            .get(&"name")
            .and_then(sonic_rs::JsonValueTrait::as_str);
        if name != Some(self.name.as_str()) {
            return Err(stranger());
        }
        fields.insert("name", CLIENT_NAME);
        for (key, value) in &self.login {
            fields.insert(key, value.as_str());
        }
        let mut out = b"CONNECT ".to_vec();
        out.extend(sonic_rs::to_vec(&connect).map_err(io::Error::other)?);
        out.extend_from_slice(rest);
        Ok(Some(out))
    }
}

fn stranger() -> io::Error {
    let text = "what came over the loopback connection is not from the NATS client";
    io::Error::new(ErrorKind::PermissionDenied, text)
}

/// Carries bytes between the crate (near, plain) and the server (far, TLS).
struct Pump {
    far: Stream,
    near: TcpStream,
    to_near: Vec<u8>,
    /// Present until the crate has sent the right name.
    gate: Option<Gate>,
    chunk: Vec<u8>,
}

impl Pump {
    /// Runs until either side ends.
    fn run(mut self) -> io::Result<()> {
        let mut poll = Poll::new()?;
        let both = Interest::READABLE | Interest::WRITABLE;
        let registry = poll.registry();
        registry.register(&mut self.far.tcp, Token(0), both)?;
        registry.register(&mut self.near, Token(1), both)?;
        let mut events = Events::with_capacity(4);
        loop {
            // The poll reports each edge once, so everything is tried until nothing moves.
            while self.far_to_near()? | self.near_to_far()? {}
            match poll.poll(&mut events, None) {
                Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
        }
    }

    /// Carries bytes to the crate. Returns whether anything moved. Reads nothing more until the crate has taken the
    /// bytes read before.
    fn far_to_near(&mut self) -> io::Result<bool> {
        let mut moved = false;
        if self.to_near.is_empty()
            && let Some(n) = ready(self.far.read(&mut self.chunk))?
        {
            let read = self.chunk.get(..n).filter(|read| !read.is_empty());
            self.to_near
                .extend_from_slice(read.ok_or(ErrorKind::UnexpectedEof)?);
            moved = true;
        }
        if !self.to_near.is_empty()
            && let Some(n) = ready(self.near.write(&self.to_near))?
        {
            self.to_near.drain(..n);
            moved = true;
        }
        Ok(moved)
    }

    /// Carries bytes to the server. Returns whether anything moved. A chunk fits the empty buffer of the TLS session.
    fn near_to_far(&mut self) -> io::Result<bool> {
        if ready(self.far.flush())?.is_none() {
            return Ok(false);
        }
        let Some(n) = ready(self.near.read(&mut self.chunk))? else {
            return Ok(false);
        };
        let read = self.chunk.get(..n).filter(|read| !read.is_empty());
        let read = read.ok_or(ErrorKind::UnexpectedEof)?;
        let Some(gate) = &mut self.gate else {
            self.far.write_all(read)?;
            return Ok(true);
        };
        if let Some(passed) = gate.pass(read)? {
            self.far.write_all(&passed)?;
            self.gate = None;
        }
        Ok(true)
    }
}

/// Returns `None` if the operation would block.
fn ready<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(done) => Ok(Some(done)),
        Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(e) if e.kind() == ErrorKind::Interrupted => Ok(None),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};
    use std::time::Duration;

    use super::*;

    fn listen() -> (Loopback, Door) {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        Loopback::listen(provider.secure_random).expect("a port")
    }

    fn gate() -> Gate {
        let login = vec![("user", "gw".to_owned()), ("pass", "p\"w".to_owned())];
        Gate::new("secret".to_owned(), login)
    }

    #[test]
    fn the_login_is_added_to_the_line_with_the_right_name_and_to_no_other() {
        let mut gate = gate();
        let line = b"CONNECT {\"name\":\"secret\",\"echo\":true}\r\nPING\r\n";
        let (first, rest) = line.split_at(20);
        assert_eq!(gate.pass(first).expect("a part"), None);
        let sent = gate.pass(rest).expect("taken").expect("complete");
        let sent = String::from_utf8(sent).expect("text");
        let json = sent.strip_prefix("CONNECT ").expect("the verb");
        let json = json.strip_suffix("\r\nPING\r\n").expect("the rest");
        let json: serde_json::Value = serde_json::from_str(json).expect("JSON");
        let want =
            serde_json::json!({"name": "weirgate", "echo": true, "user": "gw", "pass": "p\"w"});
        assert_eq!(json, want);
    }

    #[test]
    fn lines_that_are_not_the_crates_pass_nothing() {
        for line in [
            "CONNECT {\"name\":\"weirgate\"}\r\n",
            "CONNECT {\"verbose\":false}\r\n",
            "CONNECT []\r\n",
            "PING\r\nCONNECT {\"name\":\"secret\"}\r\n",
            "SUB > 1\r\n",
            "CONNECT {\"name\":\"secret\"\r\n",
        ] {
            assert!(gate().pass(line.as_bytes()).is_err(), "{line}");
        }
        assert!(gate().pass(&vec![b'x'; CONNECT_BYTES_MAX]).is_err());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn another_process_is_hung_up_on_and_the_next_of_ours_is_taken() {
        let (mut loopback, door) = listen();
        let script = format!(
            "exec 3<>/dev/tcp/127.0.0.1/{}; cat <&3; echo over",
            door.port
        );
        let mut bash = Command::new("bash");
        let stranger = bash.args(["-c", &script]).stdout(Stdio::piped()).spawn();
        let mut stranger = stranger.expect("bash");
        let nobody = loopback.accept(Instant::now() + Duration::from_millis(500));
        assert!(nobody.is_err());
        let mut said = String::new();
        let output = stranger.stdout.as_mut().expect("its output");
        output.read_to_string(&mut said).expect("text");
        assert_eq!(said, "over\n");
        stranger.wait().expect("it ends");
        let ours = std::net::TcpStream::connect(("127.0.0.1", door.port)).expect("connected");
        let taken = loopback.accept(Instant::now() + Duration::from_secs(5));
        let taken = taken.expect("ours");
        assert_eq!(taken.peer_addr().ok(), ours.local_addr().ok());
    }

    #[test]
    fn the_port_is_kept_and_refuses_until_it_is_let_go_of() {
        let (loopback, door) = listen();
        let port = door.port;
        let listener = Arc::downgrade(&loopback.shared);
        let refusing = std::thread::spawn(move || loopback.refuse());
        for _ in 0..3 {
            let mut again = std::net::TcpStream::connect(("127.0.0.1", port)).expect("connected");
            assert!(matches!(again.read(&mut [0]), Ok(0) | Err(_)));
            assert!(std::net::TcpListener::bind(("127.0.0.1", port)).is_err());
        }
        drop(door.hold);
        refusing.join().expect("it ends");
        // The port itself is not tried: another test may have taken it by now.
        assert!(listener.upgrade().is_none(), "it listens still");

        let (loopback, door) = listen();
        drop(loopback);
        assert!(std::net::TcpListener::bind(("127.0.0.1", door.port)).is_err());
    }
}

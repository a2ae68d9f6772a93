//! A TCP link that can fail silently: forwarding stops, and neither end notices.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

/// Interval at which a forwarding thread checks the state of the connection.
const LOOK: Duration = Duration::from_millis(10);

/// Forwards connections from a free loopback port to another port, until switched off.
pub struct LinkProxy {
    port: u16,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// New connections are not forwarded.
    hole: AtomicBool,
    is_slow: Arc<AtomicBool>,
    /// Where new connections lead.
    server_port: AtomicU16,
    connections: Mutex<Vec<Arc<Connection>>>,
}

struct Connection {
    client: TcpStream,
    hole: AtomicBool,
    /// What the client sends is not forwarded.
    is_one_way: AtomicBool,
    ended: AtomicBool,
    is_slow: Arc<AtomicBool>,
}

impl LinkProxy {
    /// A proxy in front of `server` (host and port).
    pub fn to(server: (&'static str, u16)) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let (host, server_port) = server;
        let shared = Arc::new(Shared {
            server_port: server_port.into(),
            ..Shared::default()
        });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming() {
                accepting.take(client.expect("a connection"), host);
            }
        });
        Self { port, shared }
    }

    /// A NATS URL through the proxy.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Lets new connections lead to another port of the server's host.
    pub fn lead_to(&self, port: u16) {
        self.shared.server_port.store(port, SeqCst);
    }

    /// Stops forwarding, on existing and new connections. All connections stay open.
    pub fn black_hole(&self) {
        self.shared.hole.store(true, SeqCst);
        for connection in self.shared.connections().iter() {
            connection.hole.store(true, SeqCst);
        }
    }

    /// Stops forwarding what the clients of the connections so far send. What the server sends still arrives.
    pub fn make_one_way(&self) {
        for connection in self.shared.connections().iter() {
            connection.is_one_way.store(true, SeqCst);
        }
    }

    /// Forwards some 1.5 MB a second, piece after piece.
    pub fn slow(&self) {
        self.shared.is_slow.store(true, SeqCst);
    }

    /// Stops forwarding on one connection, in the order of the connections. The connection stays open.
    pub fn black_hole_one(&self, index: usize) {
        self.shared.connections()[index].hole.store(true, SeqCst);
    }

    /// Ends one connection, visibly for both ends.
    pub fn end_one(&self, index: usize) {
        self.shared.connections()[index].end();
    }

    /// Forwards new connections again; connections from before are never forwarded again.
    pub fn let_new_ones_through(&self) {
        self.shared.hole.store(false, SeqCst);
    }

    /// Ends the connections without forwarding, visibly for both ends.
    pub fn end_dead_ones(&self) {
        for connection in self.shared.connections().iter() {
            if connection.hole.load(SeqCst) {
                connection.end();
            }
        }
    }
}

impl Shared {
    fn connections(&self) -> MutexGuard<'_, Vec<Arc<Connection>>> {
        self.connections.lock().expect("no thread panicked")
    }

    fn take(&self, client: TcpStream, host: &str) {
        let connection = Arc::new(Connection {
            client,
            hole: AtomicBool::new(self.hole.load(SeqCst)),
            is_one_way: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            is_slow: Arc::clone(&self.is_slow),
        });
        self.connections().push(Arc::clone(&connection));
        if connection.hole.load(SeqCst) {
            return;
        }
        let Ok(server) = TcpStream::connect((host, self.server_port.load(SeqCst))) else {
            return connection.end();
        };
        let copy = |stream: &TcpStream| stream.try_clone().expect("another handle");
        for (from, to, is_of_client) in [
            (copy(&connection.client), copy(&server), true),
            (server, copy(&connection.client), false),
        ] {
            let connection = Arc::clone(&connection);
            thread::spawn(move || connection.forward(from, to, is_of_client));
        }
    }
}

impl Connection {
    fn end(&self) {
        self.ended.store(true, SeqCst);
        let _ = self.client.shutdown(Shutdown::Both);
    }

    fn forward(&self, mut from: TcpStream, mut to: TcpStream, is_of_client: bool) {
        let mut buffer = [0; 16 * 1024];
        from.set_read_timeout(Some(LOOK)).expect("a timeout");
        while !self.ended.load(SeqCst) {
            if self.hole.load(SeqCst) {
                thread::sleep(LOOK);
                continue;
            }
            if self.is_slow.load(SeqCst) {
                thread::sleep(LOOK);
            }
            match from.read(&mut buffer) {
                Ok(0) => break,
                // Bytes read after the stop are dropped.
                Ok(_) if self.hole.load(SeqCst) => {}
                Ok(_) if is_of_client && self.is_one_way.load(SeqCst) => {}
                Ok(n) => match to.write_all(&buffer[..n]) {
                    Ok(()) => {}
                    Err(_) => break,
                },
                Err(e) if [ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&e.kind()) => {}
                Err(_) => break,
            }
        }
        let _ = to.shutdown(Shutdown::Both);
        let _ = from.shutdown(Shutdown::Both);
    }
}

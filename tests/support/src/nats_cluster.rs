//! A cluster of three real nats-servers with JetStream, on free loopback ports.

use std::io::{BufRead as _, BufReader};
use std::net::TcpStream;
use std::ops::{Index, IndexMut};
use std::thread;
use std::time::{Duration, Instant};

use crate::free_port;
use crate::nats_server::NatsServer;

/// Number of servers: the smallest cluster that survives the loss of a server.
const SERVERS: usize = 3;
/// A busy machine takes seconds until the servers know one another.
const ROUTES_MAX: Duration = Duration::from_secs(30);

/// Three servers with routes to one another. JetStream needs some seconds after the start, until
/// the servers have elected a leader.
pub struct NatsCluster {
    servers: Vec<NatsServer>,
}

impl NatsCluster {
    /// Starts all servers, and waits until each of them announces all.
    pub fn start() -> Self {
        let mut cluster = Self::start_first();
        (1..SERVERS).for_each(|index| cluster.servers[index].restart());
        cluster.wait_for_routes(SERVERS);
        cluster
    }

    /// Starts the first server; the others join later, with [`Self::join`]. The name of a server is `n` and its
    /// index.
    pub fn start_first() -> Self {
        let ports: Vec<u16> = (0..SERVERS).map(|_| free_port()).collect();
        let routes: Vec<String> = ports
            .iter()
            .map(|port| format!("\"nats://127.0.0.1:{port}\""))
            .collect();
        let reserve = |(index, port): (usize, &u16)| {
            NatsServer::reserve(&format!(
                "server_name: n{index}\ncluster {{ name: test, listen: \"127.0.0.1:{port}\", \
                 routes: [{}] }}",
                routes.join(", ")
            ))
        };
        let mut servers: Vec<NatsServer> = ports.iter().enumerate().map(reserve).collect();
        servers[0].restart();
        Self { servers }
    }

    /// Starts the next server of a cluster of `running` servers, and waits until each of them announces all.
    pub fn join(&mut self, running: usize) {
        self.servers[running].restart();
        self.wait_for_routes(running + 1);
    }

    /// Waits until each of the first `running` servers announces all of them.
    fn wait_for_routes(&self, running: usize) {
        let begin = Instant::now();
        let is_missing = |server: &NatsServer| announced(server) < running;
        while self.servers[..running].iter().any(is_missing) {
            assert!(begin.elapsed() < ROUTES_MAX, "a server without routes");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// The URLs of all servers, in the form of `NATS_URL`.
    pub fn urls(&self) -> String {
        let urls: Vec<String> = self.servers.iter().map(NatsServer::url).collect();
        urls.join(",")
    }

    /// The number of servers.
    pub fn servers(&self) -> usize {
        self.servers.len()
    }

    /// The index of the server that leads JetStream, as the servers say. `None` while they elect it.
    pub fn leader(&self) -> Option<usize> {
        let says = |server: &NatsServer| {
            let log = server.log();
            let line = log
                .lines()
                .rev()
                .find(|line| line.contains("metadata leader"))?;
            Some(line.to_owned())
        };
        let leads = |server| says(server).is_some_and(|line| line.contains("Self is new"));
        self.servers.iter().position(leads)
    }

    /// The index of a server, by name.
    pub fn index_of(&self, name: &str) -> Option<usize> {
        (0..self.servers.len()).find(|index| name == format!("n{index}"))
    }
}

impl Index<usize> for NatsCluster {
    type Output = NatsServer;

    fn index(&self, index: usize) -> &NatsServer {
        &self.servers[index]
    }
}

impl IndexMut<usize> for NatsCluster {
    fn index_mut(&mut self, index: usize) -> &mut NatsServer {
        &mut self.servers[index]
    }
}

/// The number of addresses in the first line of a server.
fn announced(server: &NatsServer) -> usize {
    let stream = TcpStream::connect(server.address()).expect("a connection");
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).expect("INFO");
    let urls = line.split_once("\"connect_urls\":[").map(|(_, urls)| urls);
    let urls = urls.and_then(|urls| urls.split_once(']'));
    urls.map_or(0, |(urls, _)| urls.split(',').count())
}

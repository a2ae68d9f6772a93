//! A real nats-server with JetStream on a free loopback port, for a single test. The program is
//! `NATS_SERVER`, by default nats-server in the PATH.

use std::io::Read;
use std::net::TcpStream;
use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::program::Program;

/// A running (or killed, or stopped) nats-server; killed when dropped.
pub struct NatsServer {
    program: Program,
    store: u32,
    config: String,
    jetstream: bool,
}

impl NatsServer {
    /// Starts a server with an empty store.
    pub fn start() -> Self {
        Self::start_with("")
    }

    /// Starts a server with further lines of configuration, such as `max_payload: 16MB`.
    pub fn start_with(config: &str) -> Self {
        let mut server = Self::reserve(config);
        server.restart();
        server
    }

    /// Starts a server without JetStream, with core NATS only.
    pub fn start_without_jetstream(config: &str) -> Self {
        let mut server = Self::reserve(config);
        server.jetstream = false;
        server.restart();
        server
    }

    /// Finds a port for a server to start later, with [`Self::restart`].
    pub fn reserve(config: &str) -> Self {
        Self {
            program: Program::reserve("nats-server"),
            store: 0,
            config: config.to_owned(),
            jetstream: true,
        }
    }

    /// The server's URL.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Host and port.
    pub fn address(&self) -> (&'static str, u16) {
        ("127.0.0.1", self.port)
    }

    /// The URL with `user:password` or a token.
    pub fn url_as(&self, user_info: &str) -> String {
        format!("nats://{user_info}@127.0.0.1:{}", self.port)
    }

    /// Restarts the server on the same port with the same store; waits until the server responds.
    pub fn restart(&mut self) {
        let config = self.directory.path().join("server.conf");
        std::fs::write(&config, &self.config).expect("a configuration file");
        let program = std::env::var_os("NATS_SERVER").unwrap_or_else(|| "nats-server".into());
        let mut command = Command::new(program);
        command
            .args(["-a", "127.0.0.1", "-p", &self.port.to_string()])
            .arg("-c")
            .arg(&config);
        if self.jetstream {
            command.arg("-js").arg("-sd").arg(self.store_path());
        }
        let address = self.address();
        self.program.restart(&mut command, || answers(address));
    }

    /// Requests lame duck mode (SIGUSR2): the server moves all clients to other servers, then stops.
    pub fn lame_duck(&self) {
        self.signal("-USR2");
    }

    /// Restarts the server on the same port with an empty store.
    pub fn restart_empty(&mut self) {
        self.store += 1;
        self.restart();
    }

    /// Restarts the server with another configuration.
    pub fn restart_with(&mut self, config: &str) {
        self.config = config.to_owned();
        self.restart();
    }

    /// Has the running server read another configuration (SIGHUP); connections stay.
    pub fn reload_with(&mut self, config: &str) {
        self.config = config.to_owned();
        let file = self.directory.path().join("server.conf");
        // A reload forgets the argument -js.
        let store = self.store_path();
        let text = format!("jetstream {{ store_dir: {store:?} }}\n{config}");
        std::fs::write(file, text).expect("a configuration file");
        self.signal("-HUP");
    }

    fn store_path(&self) -> PathBuf {
        self.directory.path().join(format!("store-{}", self.store))
    }
}

fn answers(address: (&str, u16)) -> bool {
    let Ok(mut stream) = TcpStream::connect(address) else {
        return false;
    };
    let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
    let mut first = [0; 5];
    stream.read_exact(&mut first).is_ok() && &first == b"INFO "
}

impl Deref for NatsServer {
    type Target = Program;

    fn deref(&self) -> &Program {
        &self.program
    }
}

impl DerefMut for NatsServer {
    fn deref_mut(&mut self) -> &mut Program {
        &mut self.program
    }
}

//! A real nats-server with JetStream on a free loopback port, for one test: the one in the PATH, or
//! the program that `NATS_SERVER` names.

use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

const START_TIMEOUT: Duration = Duration::from_secs(10);

/// A port that nobody listens on, below those that the kernel hands out to clients: the server is
/// started later, and again and again.
fn free_port() -> u16 {
    loop {
        let port = 20_000 + (RandomState::new().hash_one(()) % 12_000) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A running (or killed, or stopped) nats-server; killed when dropped.
pub(crate) struct NatsServer {
    port: u16,
    directory: TempDir,
    store: u32,
    config: String,
    jetstream: bool,
    child: Option<Child>,
}

#[allow(dead_code)] // each test file uses its part
impl NatsServer {
    /// Starts a server with an empty store.
    pub(crate) fn start() -> Self {
        Self::start_with("")
    }

    /// Starts a server with further lines of configuration, such as `max_payload: 16MB`.
    pub(crate) fn start_with(config: &str) -> Self {
        let mut server = Self::reserve(config);
        server.restart();
        server
    }

    /// Starts a server without JetStream: one that only passes on.
    pub(crate) fn start_without_jetstream(config: &str) -> Self {
        let mut server = Self::reserve(config);
        server.jetstream = false;
        server.restart();
        server
    }

    /// Finds a port for a server that is started later, with [`Self::restart`].
    pub(crate) fn reserve(config: &str) -> Self {
        Self {
            port: free_port(),
            directory: tempfile::tempdir().expect("a directory"),
            store: 0,
            config: config.to_owned(),
            jetstream: true,
            child: None,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    pub(crate) fn address(&self) -> (&'static str, u16) {
        ("127.0.0.1", self.port)
    }

    /// The URL with `user:password` or a token.
    pub(crate) fn url_as(&self, user_info: &str) -> String {
        format!("nats://{user_info}@127.0.0.1:{}", self.port)
    }

    /// Ends it at once (SIGKILL).
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Ends it in good order (SIGTERM), everything written.
    pub(crate) fn shut_down(&mut self) {
        self.signal("-TERM");
        if let Some(mut child) = self.child.take() {
            let _ = child.wait();
        }
    }

    /// Freezes it (SIGSTOP): its connections stay, and the kernel goes on accepting new ones.
    pub(crate) fn freeze(&self) {
        self.signal("-STOP");
    }

    /// Lets it go on (SIGCONT).
    pub(crate) fn thaw(&self) {
        self.signal("-CONT");
    }

    /// Starts it again on the same port with the same store; waits until it answers.
    pub(crate) fn restart(&mut self) {
        self.kill();
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
        let child = command
            .stdout(Stdio::null())
            .stderr(File::create(self.log_path()).expect("a log"))
            .spawn();
        match child {
            Ok(child) => self.child = Some(child),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                panic!("nats-server is missing: apt-get install nats-server")
            }
            Err(error) => panic!("nats-server does not start: {error}"),
        }
        self.wait_until_it_answers();
    }

    /// Starts it again on the same port with nothing in its store.
    pub(crate) fn restart_empty(&mut self) {
        self.store += 1;
        self.restart();
    }

    /// Starts it again with other configuration.
    pub(crate) fn restart_with(&mut self, config: &str) {
        self.config = config.to_owned();
        self.restart();
    }

    fn store_path(&self) -> PathBuf {
        self.directory.path().join(format!("store-{}", self.store))
    }

    fn log_path(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    fn signal(&self, signal: &str) {
        let Some(child) = &self.child else { return };
        let pid = child.id().to_string();
        let done = Command::new("kill").args([signal, &pid]).status();
        assert!(done.is_ok_and(|s| s.success()), "kill {signal} {pid}");
    }

    fn wait_until_it_answers(&mut self) {
        let until = Instant::now() + START_TIMEOUT;
        while Instant::now() < until {
            if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.port)) {
                let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
                let mut first = [0; 5];
                if stream.read_exact(&mut first).is_ok() && &first == b"INFO " {
                    return;
                }
            }
            let ended = self
                .child
                .as_mut()
                .and_then(|c| c.try_wait().ok().flatten());
            assert!(
                ended.is_none(),
                "nats-server ended: {ended:?}\n{}",
                std::fs::read_to_string(self.log_path()).unwrap_or_default()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("nats-server does not answer on port {}", self.port);
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        self.kill();
    }
}

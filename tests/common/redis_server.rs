//! A real redis-server on a free loopback port, for one test.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

const START_TIMEOUT: Duration = Duration::from_secs(10);

/// A running (or killed, or frozen) redis-server or sentinel; killed when dropped.
pub(crate) struct RedisServer {
    port: u16,
    directory: TempDir,
    config: String,
    sentinel: bool,
    child: Option<Child>,
}

#[allow(dead_code)] // each test file uses its part
impl RedisServer {
    /// Starts a server that keeps nothing.
    pub(crate) fn start() -> Self {
        Self::start_with("")
    }

    /// Starts a server with further lines of configuration, such as `requirepass secret`.
    pub(crate) fn start_with(config: &str) -> Self {
        let mut server = Self::reserve(config);
        server.restart();
        server
    }

    /// Starts a sentinel with lines of configuration.
    pub(crate) fn start_sentinel(config: &str) -> Self {
        let mut server = Self::reserve(config);
        server.sentinel = true;
        server.restart();
        server
    }

    /// Finds a port for a server that is started later, with [`Self::restart`].
    pub(crate) fn reserve(config: &str) -> Self {
        Self {
            port: free_port(),
            directory: tempfile::tempdir().expect("a directory"),
            config: config.to_owned(),
            sentinel: false,
            child: None,
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// The URL with `user:password`.
    pub(crate) fn url_as(&self, user_info: &str) -> String {
        format!("redis://{user_info}@127.0.0.1:{}", self.port)
    }

    /// A directory that lives as long as the server.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// A client, which a command can be sent with.
    pub(crate) fn client(&self) -> redis::Connection {
        self.client_as("")
    }

    /// A client with `user:password@`.
    pub(crate) fn client_as(&self, user_info: &str) -> redis::Connection {
        let url = format!("redis://{user_info}127.0.0.1:{}", self.port);
        let client = redis::Client::open(url).expect("a URL");
        client.get_connection().expect("a connection")
    }

    /// Ends it at once (SIGKILL).
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
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

    /// Starts it again on the same port; waits until it answers.
    pub(crate) fn restart(&mut self) {
        self.kill();
        let config = self.write_config();
        let mut command = Command::new("redis-server");
        command.arg(config);
        if self.sentinel {
            command.arg("--sentinel");
        }
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        match child {
            Ok(child) => self.child = Some(child),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                panic!("redis-server is missing: apt-get install redis-server")
            }
            Err(error) => panic!("redis-server does not start: {error}"),
        }
        self.wait_until_it_answers();
    }

    /// Starts it again with other configuration.
    pub(crate) fn restart_with(&mut self, config: &str) {
        self.config = config.to_owned();
        self.restart();
    }

    fn write_config(&self) -> PathBuf {
        let path = self.directory.path().join("redis.conf");
        // A sentinel keeps what it has learnt in its file.
        if self.sentinel && path.exists() {
            return path;
        }
        let mut lines = vec![
            "bind 127.0.0.1 -127.0.0.2".to_owned(),
            format!("port {}", self.port),
            format!("dir {}", self.directory.path().display()),
        ];
        if !self.sentinel {
            lines.push("save \"\"".to_owned());
        }
        lines.push(self.config.clone());
        std::fs::write(&path, lines.join("\n") + "\n").expect("a configuration file");
        path
    }

    fn signal(&self, signal: &str) {
        let Some(child) = &self.child else { return };
        let pid = child.id().to_string();
        let done = Command::new("kill").args([signal, &pid]).status();
        assert!(done.is_ok_and(|s| s.success()), "kill {signal} {pid}");
    }

    fn wait_until_it_answers(&mut self) {
        let client = redis::Client::open(self.url()).expect("a URL");
        let until = Instant::now() + START_TIMEOUT;
        while Instant::now() < until {
            let timeout = Duration::from_secs(1);
            match client.get_connection_with_timeout(timeout) {
                Ok(mut connection) => match redis::cmd("PING").query::<String>(&mut connection) {
                    Ok(_) => return,
                    // It answers, though not to everyone.
                    Err(error) if error.code().is_some() => return,
                    Err(_) => {}
                },
                Err(error) if error.code().is_some() => return,
                Err(_) => {}
            }
            let ended = self
                .child
                .as_mut()
                .and_then(|c| c.try_wait().ok().flatten());
            assert!(ended.is_none(), "redis-server ended: {ended:?}");
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("redis-server does not answer on port {}", self.port);
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address").port()
}

//! A real redis-server on a free loopback port, for a single test.

use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::program::Program;

/// A running (or killed, or frozen) redis-server or sentinel; killed when dropped.
pub struct RedisServer {
    program: Program,
    config: String,
    sentinel: bool,
}

impl RedisServer {
    /// Starts a server without persistence.
    pub fn start() -> Self {
        Self::start_with("")
    }

    /// Starts a server with further lines of configuration, such as `requirepass secret`.
    pub fn start_with(config: &str) -> Self {
        let mut server = Self::reserve(config);
        server.restart();
        server
    }

    /// Starts a sentinel with lines of configuration.
    pub fn start_sentinel(config: &str) -> Self {
        let mut server = Self::reserve(config);
        server.sentinel = true;
        server.restart();
        server
    }

    /// Finds a port for a server to start later, with [`Self::restart`].
    pub fn reserve(config: &str) -> Self {
        Self {
            program: Program::reserve("redis-server"),
            config: config.to_owned(),
            sentinel: false,
        }
    }

    /// The server's port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The server's URL.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// The URL with `user:password`.
    pub fn url_as(&self, user_info: &str) -> String {
        format!("redis://{user_info}@127.0.0.1:{}", self.port)
    }

    /// A directory for the life of the server.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// A client for commands.
    pub fn client(&self) -> redis::Connection {
        self.client_as("")
    }

    /// A client with `user:password@`.
    pub fn client_as(&self, user_info: &str) -> redis::Connection {
        self.try_client_as(user_info).expect("a connection")
    }

    /// As [`Self::client_as`].
    ///
    /// # Errors
    /// The server does not admit it, or ends the connection at once: sentinels disconnect the clients of a server that they
    /// make a replica.
    pub fn try_client_as(&self, user_info: &str) -> redis::RedisResult<redis::Connection> {
        let url = format!("redis://{user_info}127.0.0.1:{}", self.port);
        redis::Client::open(url)?.get_connection()
    }

    /// Restarts the server on the same port; waits until the server responds.
    pub fn restart(&mut self) {
        let config = self.write_config();
        let mut command = Command::new("redis-server");
        command.arg(config);
        if self.sentinel {
            command.arg("--sentinel");
        }
        let client = redis::Client::open(self.url()).expect("a URL");
        self.program.restart(&mut command, || answers(&client));
    }

    /// Restarts the server with another configuration.
    pub fn restart_with(&mut self, config: &str) {
        self.config = config.to_owned();
        self.restart();
    }

    fn write_config(&self) -> PathBuf {
        let path = self.directory.path().join("redis.conf");
        // A sentinel writes new facts to this file.
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
}

/// Whether the server responds, even with an error.
fn answers(client: &redis::Client) -> bool {
    let asked = client
        .get_connection_with_timeout(Duration::from_secs(1))
        .and_then(|mut connection| redis::cmd("PING").query::<String>(&mut connection));
    match asked {
        Ok(_) => true,
        Err(error) => error.code().is_some(),
    }
}

impl Deref for RedisServer {
    type Target = Program;

    fn deref(&self) -> &Program {
        &self.program
    }
}

impl DerefMut for RedisServer {
    fn deref_mut(&mut self) -> &mut Program {
        &mut self.program
    }
}

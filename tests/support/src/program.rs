//! A server as a separate program, on a free loopback port.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::free_port;

const START_TIMEOUT: Duration = Duration::from_secs(60);

/// A running, killed or stopped program; killed when dropped.
pub struct Program {
    /// The name of the program and of the Debian package.
    name: &'static str,
    pub(crate) port: u16,
    pub(crate) directory: TempDir,
    child: Option<Child>,
}

impl Program {
    /// Finds a port and makes a directory for a program to start later.
    pub(crate) fn reserve(name: &'static str) -> Self {
        Self {
            name,
            port: free_port(),
            directory: tempfile::tempdir().expect("a directory"),
            child: None,
        }
    }

    /// Kills the program, starts `command`, and waits until `answers` returns true.
    pub(crate) fn restart(&mut self, command: &mut Command, answers: impl Fn() -> bool) {
        self.kill();
        let log = File::create(self.log_path()).expect("a log");
        let same_log = log.try_clone().expect("a descriptor");
        let name = self.name;
        match command.stdout(log).stderr(same_log).spawn() {
            Ok(child) => self.child = Some(child),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                panic!("{name} is missing: apt-get install {name}")
            }
            Err(error) => panic!("{name} does not start: {error}"),
        }
        let until = Instant::now() + START_TIMEOUT;
        while Instant::now() < until {
            if answers() {
                return;
            }
            let child = self.child.as_mut();
            let ended = child.and_then(|child| child.try_wait().ok().flatten());
            assert!(ended.is_none(), "{name} ended: {ended:?}\n{}", self.log());
            thread::sleep(Duration::from_millis(10));
        }
        panic!("{name} does not answer on port {}", self.port);
    }

    /// Ends the program immediately (SIGKILL).
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Ends the program in good order (SIGTERM), with all data written.
    pub fn shut_down(&mut self) {
        self.signal("-TERM");
        if let Some(mut child) = self.child.take() {
            let _ = child.wait();
        }
    }

    /// Freezes the program (SIGSTOP): connections stay, and the kernel still accepts new connections.
    pub fn freeze(&self) {
        self.signal("-STOP");
        // The signal takes a moment to reach all threads.
        while !self.is_stopped() {
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Whether all threads of the program are stopped.
    fn is_stopped(&self) -> bool {
        let Some(child) = &self.child else {
            return true;
        };
        let tasks = fs::read_dir(format!("/proc/{}/task", child.id())).expect("its threads");
        tasks.flatten().all(|task| {
            let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            stat.rsplit_once(") ")
                .is_none_or(|(_, state)| state.starts_with(['T', 'Z']))
        })
    }

    /// Continues the program (SIGCONT).
    pub fn thaw(&self) {
        self.signal("-CONT");
    }

    pub(crate) fn signal(&self, signal: &str) {
        let Some(child) = &self.child else { return };
        let pid = child.id().to_string();
        let done = Command::new("kill").args([signal, &pid]).status();
        assert!(done.is_ok_and(|s| s.success()), "kill {signal} {pid}");
    }

    /// The output of the program since its last start.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.directory.path().join("log")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
    }
}

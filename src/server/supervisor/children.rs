//! The processes of the supervisor: how one is started, signalled and waited for, and the ports that all of them share.

use std::ffi::{CString, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::{CommandExt, ExitStatusExt, parent_id};
use std::path::Path;
use std::process::{Child, ExitStatus};

use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::set_name;
use socket2::Socket;

use super::channel::Channel;
use super::core::{Ended, Listens, Number, Program};
use super::program::Programs;
use crate::listening::ListenAddr;
use crate::run::RunError;
use crate::settings::{Checked, ListenSettings};

/// What the environment has for the supervisor alone: systemd listens to one process of a unit (sd_notify(3)).
const OWN_ENV: [&str; 3] = ["NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"];

/// What the environment has for the processes alone: the pid of their supervisor. Not a flag, because a roll may start a
/// version that does not know it.
const SUPERVISOR_ENV: &str = "SUPERVISOR_PID";

/// Set for a process that listens only when its supervisor asks for it.
const LISTEN_ENV: &str = "LISTEN_WHEN_ASKED";

/// The ports of the clients, held while the processes come and go. A socket that is bound and does not listen gets no
/// connection.
pub(super) struct Ports {
    held: Vec<Socket>,
    port: Option<u16>,
    tls_port: Option<u16>,
}

impl Ports {
    /// Binds all addresses. If a port is 0, chooses a free one.
    ///
    /// # Errors
    /// An address is in use by a process of another user, or by one that does not share it, or is not of this machine.
    pub(super) fn hold(checked: &Checked) -> Result<Self, RunError> {
        let listen: ListenSettings = checked.get();
        let mut ports = Self {
            held: Vec::new(),
            port: None,
            tls_port: None,
        };
        ports.port = ports.bind(&listen.addrs())?;
        ports.tls_port = ports.bind(&listen.tls_addrs())?;
        Ok(ports)
    }

    /// Holds all addresses on one port: port 0 of the first chooses it. Returns the port, if there is an address.
    fn bind(&mut self, addrs: &[ListenAddr]) -> Result<Option<u16>, RunError> {
        let mut port = None;
        for addr in addrs {
            let addr = match (addr, port) {
                // The first address has chosen.
                (ListenAddr::Tcp(addr), Some(port)) => {
                    let mut addr = *addr;
                    addr.set_port(port);
                    ListenAddr::Tcp(addr)
                }
                (addr, _) => addr.clone(),
            };
            let (socket, bound) = addr
                .hold()
                .map_err(|error| RunError::listen(&addr, error))?;
            port = Some(bound);
            self.held.push(socket);
        }
        Ok(port)
    }

    /// The flags by which the processes listen on the held ports.
    fn flags(&self) -> impl Iterator<Item = String> {
        let flag = |name, port: Option<u16>| port.map(|port| format!("--{name}={port}"));
        let flags = [flag("port", self.port), flag("tls-port", self.tls_port)];
        flags.into_iter().flatten()
    }
}

/// The program to start, and the processes that are there.
pub(super) struct Children {
    pub(super) programs: Programs,
    args: Vec<OsString>,
    count: u32,
    ports: Ports,
    alive: Vec<(Number, Child, Channel)>,
}

impl Children {
    pub(super) fn new(count: u32, ports: Ports) -> io::Result<Self> {
        Ok(Self {
            programs: Programs::own()?,
            args: std::env::args_os().skip(1).collect(),
            count,
            ports,
            alive: Vec::new(),
        })
    }

    /// Starts a process of a program, with flags that override those of the supervisor. It is in a group of its own, so
    /// that Ctrl-C reaches the supervisor alone. Returns its pid, and the channel to it.
    ///
    /// # Errors
    /// The system refuses a process, or there is no new program.
    pub(super) fn spawn(
        &mut self,
        number: Number,
        listens: Listens,
        program: Program,
    ) -> io::Result<(u32, Channel)> {
        let (channel, end) = Channel::new()?;
        let mut command = self.programs.command(program)?;
        command
            .args(&self.args)
            .arg(format!("--processes={number}/{}", self.count))
            .arg("--reuse-port=true")
            .args(self.ports.flags())
            .stdin(end)
            .process_group(0);
        for name in OWN_ENV {
            command.env_remove(name);
        }
        command.env(SUPERVISOR_ENV, std::process::id().to_string());
        match listens {
            Listens::AtOnce => command.env_remove(LISTEN_ENV),
            Listens::WhenAsked => command.env(LISTEN_ENV, "1"),
        };
        let child = command.spawn()?;
        let pid = child.id();
        self.alive.push((number, child, channel.clone()));
        Ok((pid, channel))
    }

    /// The pid of the process of this number; `None` if there is none.
    pub(super) fn pid(&self, number: Number) -> Option<u32> {
        let mut alive = self.alive.iter();
        let (_, child, _) = alive.find(|(one, ..)| *one == number)?;
        Some(child.id())
    }

    /// The channel to the process of this number.
    pub(super) fn channel(&self, number: Number) -> Option<Channel> {
        let mut alive = self.alive.iter();
        let (.., channel) = alive.find(|(one, ..)| *one == number)?;
        Some(channel.clone())
    }

    /// Sends a signal. The process may have ended meanwhile, and is then there until it is waited for.
    pub(super) fn signal(&self, number: Number, signal: Signal) {
        let pid = self
            .pid(number)
            .and_then(|pid| Pid::from_raw(pid.cast_signed()));
        if let Some(pid) = pid
            && let Err(error) = kill_process(pid, signal)
        {
            tracing::warn!(process = number, %error, "a process could not be signalled");
        }
    }

    /// Takes the processes that have ended since the last call.
    pub(super) fn take_ended(&mut self) -> Vec<(Number, Ended)> {
        let mut ended = Vec::new();
        self.alive
            .retain_mut(|(number, child, _)| match child.try_wait() {
                Ok(Some(status)) => {
                    ended.push((*number, how(status)));
                    false
                }
                Ok(None) | Err(_) => true,
            });
        ended
    }

    /// Whether a signal has stopped the process. A debugger has other reasons to hold it.
    pub(super) fn is_stopped(&self, number: Number) -> bool {
        let stat = self.pid(number).map(|pid| format!("/proc/{pid}/stat"));
        let line = stat.and_then(|path| fs::read_to_string(path).ok());
        // The name of the process may have brackets.
        let state = line
            .as_deref()
            .and_then(|line| line.rsplit_once(')'))
            .and_then(|(_, rest)| rest.split_ascii_whitespace().next());
        state == Some("T")
    }
}

/// Whether the supervisor that has started this process has ended: the system has given the process another parent.
/// Always false for a process that a person or another program has started.
pub(crate) fn supervisor_is_gone() -> bool {
    supervisor().is_some_and(|pid| pid != parent_id())
}

/// Gives a process of a supervisor the name of its program in lists of processes: if the supervisor has started a file that
/// is no longer at its path, the system names the process by a number.
pub(crate) fn take_name() {
    let program = std::env::args_os().next().filter(|_| has_supervisor());
    let name = program.as_deref().map(Path::new).and_then(Path::file_name);
    if let Some(name) = name.and_then(|name| CString::new(name.as_bytes()).ok()) {
        // Nothing depends on it.
        let _ = set_name(&name);
    }
}

/// Whether this process listens only when its supervisor asks for it.
pub(crate) fn listens_when_asked() -> bool {
    has_supervisor() && std::env::var_os(LISTEN_ENV).is_some()
}

/// Whether a supervisor has started this process.
pub(super) fn has_supervisor() -> bool {
    supervisor().is_some()
}

/// The pid of the supervisor that has started this process.
fn supervisor() -> Option<u32> {
    std::env::var(SUPERVISOR_ENV).ok()?.parse().ok()
}

fn how(status: ExitStatus) -> Ended {
    match (status.code(), status.signal()) {
        (Some(code), _) => Ended::Status(u8::try_from(code).unwrap_or(1)),
        (None, signal) => Ended::Signal(signal.unwrap_or_default()),
    }
}

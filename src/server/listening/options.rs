//! The options of listening sockets.

use super::Owner;

/// The options of listening sockets.
#[derive(Clone, Debug)]
pub struct ListenOptions {
    /// The most connections that may wait in the kernel to be accepted.
    pub backlog: i32,
    /// If an accepted TCP socket has more unsent bytes than this, the kernel accepts no more, because bytes in the
    /// kernel cannot be conflated. 0 for the kernel's default.
    pub notsent_lowat_bytes: u32,
    /// The time without acknowledgement after which the kernel ends an accepted TCP connection, milliseconds: only the
    /// kernel notices a machine that vanished without a word. 0 for the kernel's default.
    pub user_timeout_ms: u32,
    /// Whether other processes of this user may listen on the same TCP port. The kernel then spreads new connections
    /// over all of these processes.
    pub reuse_port: bool,
    /// The mode of unix sockets: a client with write permission may connect.
    pub unix_mode: u32,
    /// The owner of unix sockets.
    pub unix_owner: Owner,
}

impl Default for ListenOptions {
    fn default() -> Self {
        Self {
            backlog: 4096,
            notsent_lowat_bytes: 0,
            user_timeout_ms: 0,
            reuse_port: false,
            unix_mode: 0o660,
            unix_owner: Owner::default(),
        }
    }
}

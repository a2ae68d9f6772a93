//! The loop: every system call of the socket side is here.
//!
//! One turn: socket events, clients that send little, inputs of other threads, the messages that the bus channel held
//! at entry (in parts), clients that send much, due deadlines, effects. A flush follows each step that has queued
//! something. Each step has a budget. The rest waits in a list of the step, because the poll reports an edge only once.
//! The loop serves any gateway and any feed: only their traits are known here.
//!
//! | file | owns |
//! | --- | --- |
//! | `turn` | the turn |
//! | `sockets`, `readiness`, `listeners` | the sockets of clients, what the poll says of them, and the listening sockets |
//! | `handshakes` | what comes before the first byte of HTTP, on a thread of its own |
//! | `report`, `lateness`, `tcp_info`, `feed_lines` | the numbers of the loop, how late it is, the kernel's numbers, the feed's lines in the log |
//! | `seams`, `settings` | the connections to other threads; the settings |

mod feed_lines;
mod handshakes;
mod lateness;
mod listeners;
mod readiness;
mod report;
mod seams;
mod settings;
mod sockets;
mod tcp_info;
mod turn;

pub(crate) use handshakes::{HandshakeCounts, Handshakes};
pub(crate) use listeners::{ListenError, ListenerSettings};
pub(crate) use seams::{Seams, return_to_reactor};
pub(crate) use settings::{ReactorSettings, TurnBudgets};
pub(crate) use turn::{BindError, Reactor};

//! The loop: every system call of the socket side is here.
//!
//! One turn: socket events, the messages that the bus channel held at entry (in parts), due deadlines, one flush,
//! effects. Each step has a budget. The rest waits in a list of the step, because the poll reports an edge only once.
//! The loop serves any gateway and any feed: only their traits are known here.

mod handshakes;
mod kernel;
mod latency;
mod listeners;
mod report;
mod seams;
mod sockets;
mod turn;

pub use handshakes::{HandshakeCounts, Handshakes};
pub use listeners::{ListenError, ListenSettings};
pub use seams::{ReactorSettings, Seams, TurnBudgets, way_back};
pub use turn::{BindError, Reactor};

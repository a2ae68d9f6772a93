//! The loop: every system call of the socket side is here.
//!
//! One turn: socket events, what the bus channel held at entry (in parts), due deadlines, one
//! flush, effects. Each step has a budget, and what is left over waits in a list of its own, since
//! no second edge comes. The loop serves any gateway and any feed: it knows only their traits.

mod listeners;
mod pace;
mod report;
mod seams;
mod sockets;
mod turn;
mod unread;

pub use listeners::{ListenError, ListenSettings};
pub use seams::{ReactorSettings, Seams, TurnBudgets, way_back};
pub use turn::{BindError, Reactor};

pub use crate::base::{LateWake, Wake};

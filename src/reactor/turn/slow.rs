//! Slow clients: the looks at them, while there are any.

use super::Reactor;
use crate::hub::{Feed, Gateway};

impl<G: Gateway, F: Feed> Reactor<G, F> {
    /// Looks at some of the clients whose send queue waits, if a look is due.
    pub(super) fn look_at_slow(&mut self) {
        if self.hub.slow_due().is_some_and(|at| at <= self.now_us) {
            let (now, late_us) = (self.clock.now(), self.report.late_us());
            self.hub.look_at_slow(now, late_us, &mut self.sockets);
        }
    }
}

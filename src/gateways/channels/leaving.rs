//! The clients that have ended: their names and their questions for last values are released over several turns, because a client
//! may hold very many.

use super::ChannelsGateway;
use super::held::HeldNames;
use super::replay::Replays;
use super::retained::Wants;
use weirgate_core::{Core, SessionKey};
use weirgate_wire::admission::ClientAddr;

/// What a client that has ended still holds.
#[derive(Debug)]
pub(super) struct Leaving {
    key: SessionKey,
    address: ClientAddr,
    ids: Vec<u32>,
    /// Names whose last values it waited for.
    wanted: Wants,
    replays: Replays,
}

impl Leaving {
    pub(super) fn new(
        key: SessionKey,
        held: &HeldNames,
        (wanted, replays): (Wants, Replays),
    ) -> Self {
        Self {
            key,
            address: held.address(),
            ids: held.ids(),
            wanted,
            replays,
        }
    }
}

impl ChannelsGateway {
    /// Releases names of clients that have ended, as many as there is time for.
    pub(super) fn release_leaving(&mut self, core: &mut Core) {
        while let Some(leaving) = self.leaving.front_mut() {
            if let Some((name, wanted)) = leaving.wanted.pop_first() {
                self.retained.stop_waiting(&name, leaving.key, &wanted);
            } else if let Some(replay) = leaving.replays.pop_first() {
                drop(replay);
            } else if let Some(id) = leaving.ids.pop() {
                if let Some(name) = self.names.release_id(leaving.address, id) {
                    self.patterns.remove(&name);
                }
            } else {
                self.leaving.pop_front();
                continue;
            }
            if !core.has_time() {
                break;
            }
        }
        self.names.store(&self.stats, core.memberships());
    }
}

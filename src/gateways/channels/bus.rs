//! Notices of the bus: confirmed and refused names, losses, the bus away.

use super::ChannelsGateway;
use super::client::Client;
use super::history::Epoch;
use crate::hub::{ByClient, Core, SessionKey, TopicName};

impl ChannelsGateway {
    /// Handles the bus's response to a request for a name. The members' answers may wait for this response.
    pub(super) fn settle(
        &mut self,
        core: &mut Core,
        clients: &mut ByClient<Client>,
        name: &TopicName,
        number: u64,
        stands: bool,
    ) {
        let is_news = self.names.settle(name, number, stands);
        match self.names.stands(name) {
            true if self.history.position(name).is_none() => self.begin_history(core, name),
            true => {}
            false => self.end_history(core, name),
        }
        // While the bus is away no answer waits.
        if !is_news || !self.up {
            return;
        }
        let members: Vec<SessionKey> = core.members(name).collect();
        for key in members {
            if let Some(client) = clients.get_mut(key)
                && !client.answers.is_empty()
            {
                client.answers.settle(name);
                self.send_ready(core, key, client);
            }
        }
    }

    /// Begins the history of a name: every message comes from here on. Names without members make room.
    pub(super) fn begin_history(&mut self, core: &mut Core, name: &TopicName) {
        if !self.history.is_on() {
            return;
        }
        while self.history.is_full() {
            let Some(oldest) = self.history.oldest_lingering(false) else {
                return self.stats.count_without_history();
            };
            self.give_up(&oldest);
        }
        self.begin_epoch(core, name);
        self.history.store(&self.stats);
    }

    /// Ends the history of a refused name. A name without members, kept only for clients that resume, is
    /// given up.
    fn end_history(&mut self, core: &Core, name: &TopicName) {
        self.history.end(name);
        if core.member_count(name) == 0 {
            self.release(core, name);
            self.names.store(&self.stats, core.memberships());
        }
        self.history.store(&self.stats);
    }

    fn begin_epoch(&mut self, core: &mut Core, name: &TopicName) {
        let is_pattern = self.syntax().is_pattern(name.as_str());
        let epoch = Epoch::new(core.random());
        self.history.begin(name, is_pattern, epoch);
    }

    /// Handles the loss of a connection to the bus. Messages published meanwhile are lost to the members of
    /// confirmed names: each such client misses a number. All histories are incomplete.
    pub(super) fn lost(&mut self, core: &mut Core, clients: &mut ByClient<Client>) {
        let mut told = 0;
        for (key, _) in clients.iter_mut() {
            if core.joined(key).any(|name| self.names.stands(name)) {
                core.skip_number(key);
                told += 1;
            }
        }
        self.names.lost();
        self.retained.lost();
        for name in self.history.end_all() {
            self.names.give_up(&name);
        }
        self.history.store(&self.stats);
        if told > 0 {
            self.stats.count_gaps_told(told);
            self.gap_told = Some(self.gap_told.unwrap_or(0) + told);
        }
    }

    /// Handles a message that was not relayed: each member of the topic misses a number.
    pub(super) fn skipped(&mut self, core: &mut Core, topic: &TopicName) {
        let members: Vec<SessionKey> = core.members(topic).collect();
        members.iter().for_each(|&key| core.skip_number(key));
        self.stats.count_gaps_told(members.len() as u64);
        if self.history.position(topic).is_some() {
            self.begin_epoch(core, topic);
        }
    }

    /// Handles the bus going away: nothing will be confirmed soon, so no answer waits.
    pub(super) fn down(&mut self, core: &mut Core, clients: &mut ByClient<Client>) {
        self.up = false;
        self.retained.down();
        for (key, client) in clients.iter_mut() {
            if !client.answers.is_empty() {
                client.answers.settle_all();
                self.send_ready(core, key, client);
            }
        }
    }
}

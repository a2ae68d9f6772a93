//! What follows from a notice of the bus: names are confirmed, refused or moved to another feed; messages are lost; the
//! bus is away. `Gateway::handle_notice` (`mod.rs`) calls each part. Begin at `confirmed`.

use std::sync::Arc;

use super::ChannelsGateway;
use super::bus_requests::BusAnswer;
use super::client::ChannelsClient;
use super::follow_up::FollowUp;
use super::messages::Answer;
use super::names::Route;
use super::patterns::{HeldPattern, matcher};
use weirgate_core::{ByClient, Core, NameRefusal, Place, SessionKey, TopicName};
use weirgate_wire::admission::ClientAddr;
use weirgate_wire::auth::StreamSubjects;

/// The error about a name that the bus does not subscribe to.
pub(super) const REFUSED: &str = "Refused by the bus";

/// While so many names have an error for their clients, no further names of the kept feed get one.
const ERRORS_QUEUED_MAX: usize = 256;

/// An error of the bus about a name, and the clients that still have to get it.
#[derive(Debug)]
pub(super) struct NameErrors {
    error: &'static str,
    name: TopicName,
    clients: Vec<SessionKey>,
}

/// A round over the clients whose answers may wait for a confirmed name.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SettlingRound {
    /// 0: the round has not begun.
    next_slot: usize,
    /// A round has to begin: this one, if it has not begun; otherwise one after it, because a name was confirmed whose members
    /// this one may have passed.
    is_another_due: bool,
}

/// If a name has more members, a round over several turns ends the wait of their answers.
const SETTLED_AT_ONCE_MAX: usize = 1_024;

impl ChannelsGateway {
    /// Handles the bus's confirmation of a request for a name, for which answers to the members may wait.
    pub(super) fn confirmed(
        &mut self,
        core: &mut Core,
        clients: &mut ByClient<ChannelsClient>,
        name: &TopicName,
        number: u64,
    ) {
        // `false`: the bus does not refuse it.
        self.settle_kept(name, false);
        let requests = &mut self.names.requests;
        let Some(before) = requests.record_answer(name, number, BusAnswer::Confirmed) else {
            // An answer to an earlier request for the name.
            return;
        };
        let names = self.with_covered(name);
        self.show_active(core, &names);
        if before == BusAnswer::Refused {
            // The members may wait for last values.
            self.settle_all();
        }
        for name in &names {
            if self.names.take_missing(name) {
                self.note_lost_name(core, name);
            }
        }
        if before == BusAnswer::Waits {
            self.settle_members(core, clients, &names);
        }
    }

    /// Handles the bus's refusal of a request for a name. If messages of the name have come until now, each member misses a
    /// number before the error, and gets the status of a loss when the bus confirms the name again.
    pub(super) fn refused(
        &mut self,
        core: &mut Core,
        clients: &mut ByClient<ChannelsClient>,
        name: &TopicName,
        number: u64,
    ) {
        self.settle_kept(name, true);
        let requests = &mut self.names.requests;
        let was_confirmed = requests.was_confirmed(name);
        let Some(before) = requests.record_answer(name, number, BusAnswer::Refused) else {
            // An answer to an earlier request for the name.
            return;
        };
        let is_missing = before == BusAnswer::Confirmed || self.names.is_missing(name);
        let names = self.with_covered(name);
        if was_confirmed {
            names.iter().for_each(|name| self.names.note_missing(name));
        }
        // The first of the names is `name` itself.
        self.ask_for_each(name, &names[1..]);
        self.show_active(core, &names);
        if before != BusAnswer::Refused {
            let members: Vec<_> = core.members(name).collect();
            if is_missing {
                self.skip_numbers(core, &members);
            }
            self.queue_name_error(REFUSED, name, members);
            self.retained.refused(name);
        }
        if before == BusAnswer::Waits {
            // After a refused cover, each pattern within it waits for its own request.
            self.settle_members(core, clients, &names[..1]);
        }
    }

    /// Handles the bus's answer for a name of the kept feed. The names of clients within it are refused with it, and their
    /// members get an error.
    fn settle_kept(&mut self, name: &TopicName, is_refused: bool) {
        if let Some(kept) = &mut self.kept
            && kept.settle(name.as_str(), is_refused)
        {
            // All held names are checked again, from the first number on.
            self.moving = Some(0);
        }
    }

    /// The name first, then the names whose messages come by the request for it.
    fn with_covered(&self, name: &TopicName) -> Vec<TopicName> {
        let mut names = vec![name.clone()];
        if self.names.requests.covers(name) {
            names.extend(self.patterns.within(name));
        }
        names
    }

    /// Tells the core whether messages of these names come.
    fn show_active(&self, core: &mut Core, names: &[TopicName]) {
        for name in names {
            core.set_active(name, self.names.active(name));
        }
    }

    /// Ends the wait of the members' answers for these names, which the bus has confirmed or refused. For a name with many
    /// members, a round over the clients does so.
    fn settle_members(
        &mut self,
        core: &mut Core,
        clients: &mut ByClient<ChannelsClient>,
        names: &[TopicName],
    ) {
        // While the bus is away no answer waits.
        if !self.statuses.is_up() {
            return;
        }
        for name in names {
            if core.member_count(name) > SETTLED_AT_ONCE_MAX {
                self.settle_all();
                continue;
            }
            let members: Vec<SessionKey> = core.members(name).collect();
            for key in members {
                // The answer to a request of very many names waits for each of them.
                if let Some(client) = clients.get_mut(key).filter(|c| c.may_wait()) {
                    client.settle(name);
                    self.send_ready(core, key, client);
                }
            }
        }
    }

    /// Begins a round over the clients whose answers, or last values, may no longer have to wait.
    pub(super) fn settle_all(&mut self) {
        self.settling.get_or_insert_default().is_another_due = true;
    }

    /// Continues the round over the clients whose answers may wait for a name with many members.
    pub(super) fn settle_next(&mut self, core: &mut Core, clients: &mut ByClient<ChannelsClient>) {
        let Some(round) = self.settling else {
            return;
        };
        // The round that is due is this one, if it begins only now.
        let begins = round.next_slot == 0 && round.is_another_due;
        let next = core.walk(clients, round.next_slot, |core, key, client| {
            self.settle_client(core, key, client);
        });
        // Names that were confirmed after a round began get a round of their own.
        let is_another_due = round.is_another_due && !begins;
        let has_more = next.is_some() || is_another_due;
        self.settling = has_more.then_some(SettlingRound {
            next_slot: next.unwrap_or(0),
            is_another_due,
        });
    }

    /// Stores an error about a name for these clients. Each client gets it after its waiting answers.
    pub(super) fn queue_name_error(
        &mut self,
        error: &'static str,
        name: &TopicName,
        clients: Vec<SessionKey>,
    ) {
        if !clients.is_empty() {
            self.name_errors.push_back(NameErrors {
                error,
                name: name.clone(),
                clients,
            });
        }
    }

    /// Sends errors of the bus to the next clients, as many as there is time for.
    pub(super) fn send_next_name_error(
        &mut self,
        core: &mut Core,
        clients: &mut ByClient<ChannelsClient>,
    ) {
        while let Some(name_errors) = self.name_errors.front_mut() {
            match name_errors.clients.pop() {
                Some(key) => {
                    let name = name_errors.name.as_str();
                    let answer = Answer::error(&format!("{}: {name}", name_errors.error), "null");
                    if name_errors.error == REFUSED {
                        core.note_refused_name(key, name, NameRefusal::Bus);
                    }
                    if let Some(client) = clients.get_mut(key) {
                        self.answer(core, key, client, answer, FollowUp::default());
                    }
                }
                None => drop(self.name_errors.pop_front()),
            }
            if !core.has_time() {
                return;
            }
        }
    }

    /// Ends the wait of a client's answers for names that the bus has confirmed or refused, and of its last values for
    /// names that the bus has accepted after a refusal.
    fn settle_client(&mut self, core: &mut Core, key: SessionKey, client: &mut ChannelsClient) {
        self.retained.client_up(key);
        if client.may_wait() {
            let names = &self.names;
            client.settle_if(|name| names.is_settled(name));
            self.send_ready(core, key, client);
        }
    }

    /// Handles a refused pattern that covers others: requests each pattern within it, because the bus may grant these.
    fn ask_for_each(&mut self, cover: &TopicName, within: &[TopicName]) {
        if !within.is_empty() {
            let refused = &mut self.names.requests.refused_covers;
            refused.insert(cover.clone());
        }
        for name in within {
            self.patterns.remove(name);
            self.names.set_route(name, Route::Requested);
        }
    }

    /// Handles the subjects of the stream that is the kept feed: names that it holds come from it, other names from the
    /// bus as they are published. A name that a client holds may move from one to the other, if the client came before
    /// the subjects were known, or if the stream has got other subjects.
    pub(super) fn set_subjects(
        &mut self,
        core: &mut Core,
        clients: &mut ByClient<ChannelsClient>,
        subjects: &StreamSubjects,
    ) {
        let Some(kept) = &mut self.kept else {
            return;
        };
        let new = kept.new_among(subjects);
        if !kept.set_subjects(subjects) {
            return;
        }
        if let Some(new) = new {
            core.note_new_names(new);
        }
        // All held names are checked again, from the first number on.
        self.moving = Some(0);
        self.move_next(core, clients);
    }

    /// Moves the next held names to or from the feed, because the stream has other subjects, as many as there is time
    /// for. Until its turn, a name that the stream has got comes as before. A name that has left the stream comes again
    /// once the bus has confirmed the name: what was published meanwhile is lost. If the bus refuses other names of the
    /// feed than before, the members of the next held names get an error.
    pub(super) fn move_next(&mut self, core: &mut Core, clients: &mut ByClient<ChannelsClient>) {
        while let (Some(id), Some(kept)) = (self.moving, &self.kept) {
            let has_id = id < self.names.numbers();
            self.moving = has_id.then_some(id.saturating_add(1));
            let numbered = self.names.numbered(id);
            let numbered = numbered
                .map(|(name, was_kept)| (name.clone(), was_kept, kept.covers(name.as_str())));
            // Whether the messages of the name have come with the feed until now, and whether the feed has them.
            match numbered {
                Some((name, true, false)) => self.move_out_of_feed(core, clients, &name),
                Some((name, false, true)) => self.move_into_feed(core, clients, &name),
                Some((name, true, true)) => self.note_refused_in_feed(core, &name),
                Some((_, false, false)) | None => {}
            }
            if !core.has_time() || self.name_errors.len() >= ERRORS_QUEUED_MAX {
                break;
            }
        }
        self.ask_retained(core);
    }

    /// If the bus refuses a held name of the feed, which it did not before, its members get an error; if it no longer
    /// refuses the name, the status of a loss.
    fn note_refused_in_feed(&mut self, core: &Core, name: &TopicName) {
        let is_refused = self.is_kept_refused(name);
        match (self.names.set_refused_in_feed(name, is_refused), is_refused) {
            (false, true) => self.queue_name_error(REFUSED, name, core.members(name).collect()),
            (true, false) => self.note_lost_name(core, name),
            (false, false) | (true, true) => {}
        }
    }

    /// The stream has got the subject of a held name: its messages come with the kept feed from now on.
    fn move_into_feed(
        &mut self,
        core: &mut Core,
        clients: &mut ByClient<ChannelsClient>,
        name: &TopicName,
    ) {
        let members: Vec<SessionKey> = core.members(name).collect();
        self.patterns.remove(name);
        let address = members.iter().find_map(|key| core.client_addr(*key));
        self.add_kept_pattern(name, address.unwrap_or(ClientAddr::Unix));
        self.names.set_route(name, Route::Kept);
        if self.names.take_missing(name) {
            self.note_lost_name(core, name);
        }
        core.set_active(name, self.names.active(name));
        for key in members {
            if let Some(client) = clients.get_mut(key) {
                client.held.note_moved(true);
            }
        }
    }

    /// The stream has lost the subject of a held name, or turns out not to have it: its messages come from the bus as
    /// they are published, after the last value.
    fn move_out_of_feed(
        &mut self,
        core: &mut Core,
        clients: &mut ByClient<ChannelsClient>,
        name: &TopicName,
    ) {
        self.patterns.remove(name);
        self.names.set_route(name, Route::Requested);
        self.names.note_missing(name);
        core.set_active(name, self.names.active(name));
        let members: Vec<SessionKey> = core.members(name).collect();
        for key in members {
            if let Some(client) = clients.get_mut(key) {
                client.held.note_moved(false);
            }
            if self.retained.has_values {
                // `None`: no answer has to be sent first, because the client is a member.
                self.retained.want(name, key, None);
                self.retained.client_up(key);
            }
        }
    }

    /// Adds a pattern of the kept feed to those that the gateway matches.
    fn add_kept_pattern(&mut self, name: &TopicName, address: ClientAddr) {
        if let Some(matcher) = matcher(self.syntax(), name.as_str()) {
            self.patterns.add(HeldPattern {
                name: name.clone(),
                matcher,
                // Patterns of the kept feed have no cover.
                cover: None,
                address: address.group(),
            });
        }
    }

    /// Handles the loss of a connection to the bus. The members of confirmed names lose the messages published
    /// meanwhile: the core makes each such client miss a number.
    pub(super) fn lost(&mut self) {
        self.names.requests.lost();
        self.retained.lost();
    }

    /// Continues the round over the clients, which sends losses and statuses. While the bus is away it also ends the
    /// wait of answers, because no confirmation will come soon.
    pub(super) fn continue_round(
        &mut self,
        core: &mut Core,
        clients: &mut ByClient<ChannelsClient>,
    ) {
        // A copy, because the closure needs the gateway.
        let mut statuses = self.statuses;
        statuses.handle_timeout(core, clients, |core, key, client| {
            match self.statuses.is_up() {
                true => self.retained.client_up(key),
                false => self.wait_not_for_bus(core, key, client),
            }
            // Whether its status has a position.
            client.held.has_kept()
        });
        self.statuses = statuses;
        if !core.is_notifying() {
            let reported = core.take_gaps_notified();
            self.stats.gaps_notified.add(reported);
            self.gap_notified = Some(reported)
                .filter(|count| *count > 0)
                .or(self.gap_notified);
        }
    }

    /// Handles a message that was not relayed: each member of its topic, or of a pattern that the gateway matches,
    /// misses a number.
    pub(super) fn skipped(
        &mut self,
        core: &mut Core,
        topic: &TopicName,
        subject: Option<&Arc<str>>,
        place: Place,
    ) {
        let syntax = self.syntax();
        let is_pattern = syntax.is_pattern(topic.as_str());
        let is_kept = self.kept.is_some() && place != Place::Outside;
        // If a name of the feed is also a pattern, its members hold the pattern, which matches.
        let own = Some(topic).filter(|_| !is_kept || !is_pattern);
        // A message outside the feed has come by the bus's subscription to `topic`, which may cover further patterns.
        let cover = (!is_kept).then_some(topic);
        let patterns: Vec<TopicName> = match (is_kept, subject) {
            // Without its name, nobody knows which of these match.
            (true, None) if is_pattern => self.patterns.of_feed_within(syntax, topic),
            // `None`: patterns of the kept feed have no cover.
            (true, _) => self
                .patterns
                .matching(topic.as_str(), None)
                .cloned()
                .collect(),
            (false, Some(name)) => self.patterns.matching(name, cover).cloned().collect(),
            (false, None) => self.patterns.within(topic),
        };
        let members: Vec<SessionKey> = own
            .into_iter()
            .chain(&patterns)
            .flat_map(|topic| core.members(topic))
            .collect();
        self.skip_numbers(core, &members);
    }

    /// Makes each of these clients miss a number, because a message for it was lost, and counts them.
    pub(super) fn skip_numbers(&self, core: &mut Core, members: &[SessionKey]) {
        members.iter().for_each(|&key| core.skip_number(key));
        self.stats.gaps_notified.add(members.len() as u64);
    }

    /// Ends the wait of a client's answers for the bus, and sends those that wait for nothing else.
    fn wait_not_for_bus(&mut self, core: &mut Core, key: SessionKey, client: &mut ChannelsClient) {
        if !client.answers.is_empty() {
            client.answers.wait_not_for_bus();
            self.send_ready(core, key, client);
        }
    }
}

//! Requests about names, sending answers, and resuming: the missed messages follow the answer to the request, and come
//! before newer messages.
//!
//! A client that resumes a name joins it with the answer. In a single step the gateway answers which names are
//! complete, sends the missed messages, and makes the client a member.

use super::ChannelsGateway;
use super::asked::{holds_kept, wanted};
use super::authenticate::Verdict;
use super::bus::REFUSED;
use super::client::Client;
use super::messages::{Answer, Behind, Resumed};
use super::patterns::matcher;
use crate::gateways::shared::history::{Follow, gets_newest};
use weirgate_core::{Core, Left, NotRecovered, Outcome, SessionKey, TopicName, Wanted};
use weirgate_wire::auth::NamePatterns;

impl ChannelsGateway {
    /// Subscribes to the entries in order. Returns the answer with the names that it waits for.
    pub(super) fn subscribe(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        client: &mut Client,
        (names, resumed): (Vec<String>, Option<Resumed>),
        request_id: &str,
    ) -> (Answer, Behind) {
        let (mut granted, mut errors) = (Vec::new(), Vec::new());
        let mut behind = Behind {
            resumed,
            ..Behind::default()
        };
        let mut check = self.check(client);
        for name in names {
            let verdict = self.judge(client, &name, &mut check);
            if let Some(reason) = verdict.refusal() {
                core.note_refused_name(key, &name, reason);
            }
            match verdict {
                Verdict::Granted(topic) => {
                    self.grant(core, key, client, topic, &mut behind);
                    granted.push(name);
                }
                Verdict::Refused(_, error) => errors.push(error),
                Verdict::Denied(error) => {
                    // The client may hold the name under an older table: a client that gets "denied" must lose it.
                    self.release(core, key, client, name);
                    errors.push(error);
                }
                Verdict::Full(error) => {
                    errors.push(error);
                    break;
                }
            }
        }
        self.names.store(&self.stats, core.memberships());
        (Answer::subscribed(&granted, &errors, request_id), behind)
    }

    pub(super) fn unsubscribe(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        client: &mut Client,
        names: Vec<String>,
        request_id: &str,
    ) -> Answer {
        let mut gone = names;
        gone.retain(|name| self.release(core, key, client, name.clone()));
        self.names.store(&self.stats, core.memberships());
        Answer::unsubscribed(&gone, request_id)
    }

    /// Makes the client a member of a name that it holds: at once, or with the answer if the client resumes.
    fn grant(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        client: &Client,
        name: TopicName,
        behind: &mut Behind,
    ) {
        if client.answers.is_resuming(&name) || behind.is_resuming(&name) {
            return;
        }
        let is_kept = self.is_kept(&name);
        let is_member = core.joined(key).any(|joined| *joined == name);
        if let Some(resumed) = &mut behind.resumed {
            if is_kept && !is_member {
                resumed.names.push(name);
                return;
            }
            if resumed.since.is_some() {
                resumed.off.push(name.clone());
            }
        }
        self.join(core, key, &name);
        if is_kept {
            return;
        }
        if self.retained.bytes.max() > 0 {
            self.retained.want(&name, key);
            behind.retained.insert(name.clone());
        }
        if self.names.is_refused(&name) {
            self.tell_later(REFUSED, &name, vec![key]);
        } else if self.statuses.is_up() && !self.names.is_settled(&name) {
            behind.unconfirmed.insert(name);
        }
    }

    pub(super) fn is_kept(&self, name: &TopicName) -> bool {
        let kept = self.kept.as_ref();
        kept.is_some_and(|kept| kept.covers(name.as_str()))
    }

    fn join(&self, core: &mut Core, key: SessionKey, name: &TopicName) {
        core.join(key, name);
        core.set_active(name, self.names.active(name));
    }

    /// Makes the client give up a name. Returns false if it does not hold the name.
    pub(super) fn release(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        client: &mut Client,
        name: String,
    ) -> bool {
        let topic = TopicName::from(name);
        if core.leave(key, &topic) == Left::NoMember && !client.answers.forget_resume(&topic) {
            return false;
        }
        if self.names.release(&mut client.held, &topic) {
            self.patterns.remove(&topic);
        }
        client.answers.settle(&topic);
        self.retained.forget(&topic, key);
        self.ask_retained(core);
        true
    }

    /// Sends an answer, or queues it after earlier answers and until its names are confirmed.
    pub(super) fn answer(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        client: &mut Client,
        answer: Answer,
        behind: Behind,
    ) {
        let due_us = core.now().mono_us + self.bus_wait_us;
        client.answers.push(answer, behind, due_us);
        self.send_ready(core, key, client);
        // Most answers are sent by now; only waiting answers are charged.
        let (bytes, address) = (self.names.bytes(), client.held.address());
        if !client.answers.charge(bytes, address, core.now().mono_us) {
            client.answers.settle_if(|_| true);
            self.send_ready(core, key, client);
        }
        if client.answers.are_too_many() && !core.has_requests(key) {
            core.pause_reading(key);
        }
    }

    /// Sends the ready answers, and sets the next deadline.
    pub(super) fn send_ready(&mut self, core: &mut Core, key: SessionKey, client: &mut Client) {
        let now = core.now();
        while !core.has_requests(key) {
            let ready = client.answers.pop_ready(now.mono_us, client.is_stream());
            if ready.is_empty() {
                break;
            }
            self.send(core, key, client, ready);
        }
        if !client.answers.are_too_many() && !client.is_judged_again() {
            core.resume_reading(key);
        }
        let end = client.token_end.due_us(now);
        let due = client.answers.due_us();
        core.set_deadline(key, due.into_iter().chain(end).min());
    }

    /// Sends answers, and the messages after all of them.
    fn send(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        client: &mut Client,
        mut answers: Vec<(Answer, Behind)>,
    ) {
        let mut follow = Follow::default();
        for (answer, behind) in &mut answers {
            if let Some(resumed) = &behind.resumed {
                let outcomes = self.find(core, key, resumed, &mut follow);
                if outcomes.contains(&Err(NotRecovered::Large)) {
                    client.requests.charge_search(core.now());
                }
                answer.recovered(resumed, &outcomes);
                for name in &resumed.names {
                    self.join(core, key, name);
                }
            }
        }
        // Also for a request about other names: after an answer without a position, the client would have no position
        // to resume from.
        let has_kept = holds_kept(core, key, self.kept.as_ref());
        let mut retained = Vec::new();
        let mut left = answers.len();
        for (answer, behind) in answers {
            left -= 1;
            let position = follow.position(core, has_kept && left == 0);
            let frame = answer.frame(core, position);
            core.send(key, &frame);
            retained.extend(behind.retained);
        }
        self.statuses.send_behind(core, key, follow, has_kept);
        for name in &retained {
            self.retained.answered(name, key);
        }
        self.names.store(&self.stats, core.memberships());
        self.ask_retained(core);
    }

    /// Adds the messages after an answer. Returns the outcome for each name to resume.
    fn find(
        &self,
        core: &mut Core,
        key: SessionKey,
        resumed: &Resumed,
        follow: &mut Follow,
    ) -> Vec<Outcome> {
        let patterns_of = |name| matcher(self.syntax(), name);
        let names: Vec<(TopicName, Option<NamePatterns>)> = resumed
            .names
            .iter()
            .map(|name| (name.clone(), patterns_of(name)))
            .collect();
        let names: Vec<Wanted<'_>> = names.iter().map(wanted).collect();
        let Some(since) = &resumed.since else {
            let newest = follow.newest(core, key, &names, resumed.last);
            return vec![newest; names.len()];
        };
        resumed
            .off
            .iter()
            .for_each(|_| core.count_not_recovered(NotRecovered::Off));
        let outcomes = follow.missed(core, key, since, &names);
        let lost = names.iter().zip(&outcomes);
        let lost = lost.filter(|(_, outcome)| gets_newest(Some(**outcome)));
        let lost: Vec<Wanted<'_>> = lost.map(|(name, _)| *name).collect();
        // If the newest messages cannot be sent either, the answer gives the outcome of the position.
        let _ = follow.newest(core, key, &lost, resumed.last);
        outcomes
    }
}

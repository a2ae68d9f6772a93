//! What happens when a client gets or gives up a name. A client that resumes a name joins it only when the answer is sent
//! ([`super::sending`]).

use super::ChannelsGateway;
use super::bus::REFUSED;
use super::client::ChannelsClient;
use super::follow_up::FollowUp;
use super::past::PastOf;
use super::resume::Earlier;
use super::rights::GrantedName;
use weirgate_core::{Core, Joined, Left, SessionKey, TopicName};

/// Whether a client held a name before a request granted it, and when the client joins it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// It has not held the name: it joins now, or with the answer if it resumes.
    New,
    /// It has held the name, and asks for the newest messages once more. By the time of this answer it is a member, because
    /// answers go out in order.
    AsksAgain,
    /// It is a member, and gets nothing of the time before.
    Member,
    /// It gets all kept messages of the name, and joins after them.
    Replayed,
    /// It joins with an answer that waits, or with this one.
    JoinsLater,
}

impl ChannelsGateway {
    /// Makes the client a member of a name that it holds: at once, or with the answer if the client resumes.
    pub(super) fn grant(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        client: &mut ChannelsClient,
        granted: GrantedName,
        follow_up: &mut FollowUp,
    ) {
        let is_kept = self.is_kept(&granted.name);
        let is_refused = match is_kept {
            true => self.is_kept_refused(&granted.name),
            false => self.names.is_refused(&granted.name),
        };
        let resumes = is_kept && !is_refused;
        let standing = self.standing(core, key, &granted, follow_up, resumes);
        let name = granted.name;
        match standing {
            Standing::JoinsLater => return,
            Standing::Replayed => {
                // The earlier request brings all kept messages; this one resumes nothing.
                if let Some(resume) = &mut follow_up.resume {
                    resume.off.insert(name);
                }
                return;
            }
            Standing::New | Standing::AsksAgain | Standing::Member => {}
        }
        if let Some(resume) = &mut follow_up.resume {
            if resumes && standing != Standing::Member {
                let asks_again = standing == Standing::AsksAgain;
                return self.resume_with_answer(core, key, name, asks_again, follow_up);
            }
            if resume.earlier.reports_off() {
                resume.off.insert(name.clone());
            }
        }
        self.join(core, key, client, &name);
        // If the members of a name of the feed are still to get the error, the client gets it with them.
        if is_refused && (!is_kept || self.names.is_refused_in_feed(&name)) {
            self.queue_name_error(REFUSED, &name, vec![key]);
        }
        if !is_kept {
            self.follow_outside_feed(key, name, follow_up);
        }
    }

    /// Returns the standing of a client for a granted name. `resumes`: the name brings messages of the time before.
    fn standing(
        &self,
        core: &Core,
        key: SessionKey,
        GrantedName { name, was_held }: &GrantedName,
        follow_up: &FollowUp,
        resumes: bool,
    ) -> Standing {
        let is_member = *was_held && core.is_member(key, name);
        let resume = follow_up.resume.as_ref();
        match *was_held {
            false => Standing::New,
            true if !is_member && self.retained.is_replayed(name, key) => Standing::Replayed,
            true if resumes && resume.is_some_and(|resume| resume.asks_again(name)) => {
                Standing::AsksAgain
            }
            true if is_member => Standing::Member,
            true => Standing::JoinsLater,
        }
    }

    /// The client joins this name of the kept feed with the answer, and the missed or newest messages follow. With
    /// `asks_again`, it has joined before.
    fn resume_with_answer(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        name: TopicName,
        asks_again: bool,
        follow_up: &mut FollowUp,
    ) {
        let Some(resume) = &mut follow_up.resume else {
            return;
        };
        resume.names.insert(name.clone());
        if asks_again {
            resume.held.insert(name.clone());
        }
        // Only newest messages may have to come from the stream before the answer, and these only if the history does not
        // have all missed messages.
        let can_resume = match &resume.earlier {
            Earlier::Newest(_) => false,
            Earlier::Missed {
                since,
                newest: Some(_),
            } => core.resumes_from(key, since).is_ok(),
            Earlier::None | Earlier::Missed { newest: None, .. } | Earlier::All(_) => return,
        };
        if let Some(forgotten) = self.forgotten_for(core, &name) {
            let past = follow_up.past.get_or_insert_default();
            past.note_forgotten(forgotten);
        }
        if can_resume {
            return;
        }
        match self.past_of(core, &name) {
            PastOf::Here(None) => {}
            PastOf::Here(Some(cut)) => {
                let past = follow_up.past.get_or_insert_default();
                past.note_cut(name, cut);
            }
            PastOf::Missing => {
                let wait = self.wait_for_past(core, key, &name);
                let past = follow_up.past.get_or_insert_default();
                past.waits.insert(name, wait);
            }
        }
    }

    /// What the answer waits for, and what follows it, for a name outside of the kept feed: the confirmation of the bus,
    /// and the last values.
    fn follow_outside_feed(&mut self, key: SessionKey, name: TopicName, follow_up: &mut FollowUp) {
        if self.retained.has_values {
            let retained = &mut self.retained;
            let answer = follow_up
                .retained
                .get_or_insert_with(|| retained.next_answer());
            retained.want_of_request(&name, key, Some(*answer), follow_up.wants_end);
        }
        if self.statuses.is_up() && !self.names.is_settled(&name) {
            follow_up.unconfirmed.insert(name);
        }
    }

    /// Whether the messages of a held name come with the kept feed. If the stream has got other subjects, it is so only
    /// once the name has [moved](Self::move_next).
    pub(super) fn is_kept(&self, name: &TopicName) -> bool {
        self.names.is_of_feed(name)
    }

    /// Whether the bus refuses this name of the kept feed: then the messages of the time before are not sent either.
    pub(super) fn is_kept_refused(&self, name: &TopicName) -> bool {
        let kept = self.kept.as_ref();
        kept.is_some_and(|kept| kept.is_refused(name.as_str()))
    }

    /// Whether a client that joins this name of the kept feed gets an error, because the bus refuses the name.
    pub(super) fn joins_refused(&self, name: &TopicName) -> bool {
        self.is_kept_refused(name) && self.names.is_refused_in_feed(name)
    }

    /// Makes the client a member now, and counts the name: `move_next` keeps the count of names of the feed right when
    /// the stream gets other subjects.
    pub(super) fn join(
        &self,
        core: &mut Core,
        key: SessionKey,
        client: &mut ChannelsClient,
        name: &TopicName,
    ) {
        if matches!(core.join(key, name), Joined::First | Joined::Another) {
            let (is_kept, is_skippable) = (self.is_kept(name), self.is_skippable(name));
            client.held.note_joined(is_kept, is_skippable);
        }
        core.set_active(name, self.names.active(name));
    }

    /// Makes the client give up a name. Returns false if it does not hold the name.
    pub(super) fn release(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        client: &mut ChannelsClient,
        name: String,
    ) -> bool {
        let topic = TopicName::from(name);
        let is_resuming = client.answers.forget_resume(&topic);
        if core.leave(key, &topic) != Left::NoMember {
            let (is_kept, is_skippable) = (self.is_kept(&topic), self.is_skippable(&topic));
            client.held.note_left(is_kept, is_skippable);
        } else if !is_resuming && !self.retained.forget_replayed(&topic, key) {
            return false;
        }
        if self.names.release(&mut client.held, &topic) {
            self.patterns.remove(&topic);
        }
        client.answers.settle(&topic);
        client.answers.forget_past(&topic);
        self.past.stop_waiting(&topic, key);
        self.retained.forget(&topic, key);
        self.ask_retained(core);
        true
    }
}

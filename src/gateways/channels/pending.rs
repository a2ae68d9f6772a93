//! Requests about names, one name at a time: a request may have so many names that the loop has no time for all of them
//! in one turn. The rest of it is carried out when the client has its next share. Until then, the client is not read,
//! so no other request of it comes.

use std::collections::BTreeSet;

use super::ChannelsGateway;
use super::client::ChannelsClient;
use super::follow_up::FollowUp;
use super::leaving::DropLater;
use super::messages::{Answer, Entries};
use super::resume::Resume;
use super::rights::Verdict;
use crate::auth::{Rights, RightsCheck, Undecided};
use weirgate_core::{Core, NameRefusal, SessionKey, TopicName};
use weirgate_wire::json::{ListWriter, TextList};

/// A request under way, with the answer so far.
#[derive(Debug)]
pub(super) enum PendingRequest {
    Subscribe(Box<Subscribing>),
    Unsubscribe(UnsubscribingNames),
    Authenticate(Reauthentication),
}

/// What a client asks for with a `subscribe`.
#[derive(Debug)]
pub(super) struct NewSubscribe {
    pub(super) names: TextList,
    pub(super) resume: Option<Resume>,
    /// The answer says what each granted name brings, and the end of its last values is said too.
    pub(super) status: bool,
    pub(super) request_id: String,
}

#[derive(Debug)]
pub(super) struct Subscribing {
    names: TextList,
    check: RightsCheck,
    entries: Entries,
    follow_up: FollowUp,
    request_id: String,
}

#[derive(Debug)]
pub(super) struct UnsubscribingNames {
    names: TextList,
    gone: ListWriter,
    request_id: String,
}

/// The names that a client's new token has not been compared with yet, and the answer to the token.
#[derive(Debug)]
pub(super) struct Reauthentication {
    /// The numbers of the names.
    ids: Vec<u32>,
    /// The check that the names share. `None` before the first name, and after a name that has used up the steps.
    check: Option<RightsCheck>,
    /// The names that the token does not grant, sorted. After the comparison they are moved to `written`.
    revoked: BTreeSet<TopicName>,
    written: ListWriter,
    request_id: String,
}

impl PendingRequest {
    pub(super) fn unsubscribe(names: TextList, request_id: String) -> Self {
        Self::Unsubscribe(UnsubscribingNames {
            names,
            gone: ListWriter::default(),
            request_id,
        })
    }

    /// Compares names with a new token; `ids` are their numbers.
    pub(super) fn authenticate(ids: Vec<u32>, request_id: String) -> Self {
        Self::Authenticate(Reauthentication {
            ids,
            check: None,
            revoked: BTreeSet::new(),
            written: ListWriter::default(),
            request_id,
        })
    }

    /// The memory of the request and of the answer so far.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Subscribe(request) => request.names.bytes() + request.entries.bytes(),
            Self::Unsubscribe(request) => request.names.bytes() + request.gone.bytes(),
            Self::Authenticate(request) => size_of_val(&*request.ids) + request.written.bytes(),
        }
    }

    /// Moves all names to `to_drop`, as [`FollowUp::drop_later`] does.
    pub(super) fn drop_later(self, to_drop: &mut DropLater) {
        match self {
            Self::Subscribe(request) => {
                request.follow_up.drop_later(to_drop);
                to_drop.add_names(request.entries.names.unwrap_or_default());
            }
            Self::Unsubscribe(_) => {}
            Self::Authenticate(request) => to_drop.add_set(request.revoked),
        }
    }

    /// Has the names that are left judged by these rights, which were made by a newer table of roles.
    fn renew_check(&mut self, rights: &Rights) {
        let check = match self {
            Self::Subscribe(request) => Some(&mut request.check),
            Self::Authenticate(request) => request.check.as_mut(),
            Self::Unsubscribe(_) => None,
        };
        if let Some(check) = check {
            check.renew(rights);
        }
    }

    /// What the answer will wait for; `None` if it waits for nothing.
    pub(super) fn follow_up(&mut self) -> Option<&mut FollowUp> {
        match self {
            Self::Subscribe(request) => Some(&mut request.follow_up),
            Self::Unsubscribe(_) | Self::Authenticate(_) => None,
        }
    }

    /// Returns the answer to the request, whose last name is done, with the names that it waits for.
    fn answer(self, client: &ChannelsClient) -> (Answer, FollowUp) {
        match self {
            Self::Subscribe(request) => (
                Answer::subscribed(request.entries, &request.request_id),
                request.follow_up,
            ),
            Self::Unsubscribe(request) => (
                Answer::unsubscribed(&request.gone, &request.request_id),
                FollowUp::default(),
            ),
            Self::Authenticate(request) => (
                Answer::authenticated(&client.rights.role, &request.written, &request.request_id),
                FollowUp::default(),
            ),
        }
    }
}

/// Leaves the rest of a request for a later turn.
fn put_off(core: &mut Core, key: SessionKey, client: &mut ChannelsClient, rest: PendingRequest) {
    client.set_rest(rest);
    core.go_on_later(key, client.later_bytes());
}

impl ChannelsGateway {
    /// A request to subscribe to the names, in their order.
    pub(super) fn pending_subscribe(
        &self,
        client: &ChannelsClient,
        new: NewSubscribe,
    ) -> PendingRequest {
        PendingRequest::Subscribe(Box::new(Subscribing {
            names: new.names,
            check: self.check(client),
            entries: match new.status {
                true => Entries::with_brings(),
                false => Entries::default(),
            },
            follow_up: FollowUp {
                resume: new.resume,
                wants_end: new.status,
                ..FollowUp::default()
            },
            request_id: new.request_id,
        }))
    }

    /// Begins with a request, unless reading it has used up the client's share of the turn: a request may be long.
    /// Returns what [`continue_request`](Self::continue_request) does.
    pub(super) fn begin(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        client: &mut ChannelsClient,
        request: PendingRequest,
    ) -> Option<(Answer, FollowUp)> {
        if core.has_share() {
            return self.continue_request(core, key, client, request);
        }
        put_off(core, key, client, request);
        None
    }

    /// Continues a request while the client has a share. Returns the answer, with the names that it waits for; `None`:
    /// the rest is for a later turn, or the client is closed.
    pub(super) fn continue_request(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        client: &mut ChannelsClient,
        mut request: PendingRequest,
    ) -> Option<(Answer, FollowUp)> {
        if client.rights_table != self.table {
            if !self.renew_rights(core, key, client) {
                // The client is closed. The names of the request are dropped with its others.
                client.set_rest(request);
                return None;
            }
            request.renew_check(&client.rights);
        }
        let mut has_more = true;
        while has_more {
            has_more = match &mut request {
                PendingRequest::Subscribe(it) => self.subscribe_next(core, key, client, it),
                PendingRequest::Unsubscribe(it) => self.unsubscribe_next(core, key, client, it),
                PendingRequest::Authenticate(it) => self.recheck_next_name(core, key, client, it),
            };
            if has_more && !core.has_share() {
                put_off(core, key, client, request);
                self.names.update_stats(&self.stats, core.memberships());
                return None;
            }
        }
        self.names.update_stats(&self.stats, core.memberships());
        Some(request.answer(client))
    }

    /// Subscribes to the next entry. Returns whether entries are left.
    fn subscribe_next(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        client: &mut ChannelsClient,
        request: &mut Subscribing,
    ) -> bool {
        let Some(name) = request.names.next() else {
            return false;
        };
        let resume = request.follow_up.resume.as_ref();
        let asks_again = resume.is_some_and(Resume::asks_newest_alone);
        let verdict = self.judge(client, &name, &mut request.check, asks_again);
        if let Some(reason) = verdict.refusal() {
            core.note_refused_name(key, &name, reason);
        }
        match verdict {
            Verdict::Granted(granted) => {
                if let Some(names) = &mut request.entries.names {
                    names.push(granted.name.clone());
                }
                self.grant(core, key, client, granted, &mut request.follow_up);
                request.entries.granted.push(&name);
            }
            Verdict::Refused(_, error) => request.entries.errors.push(&error),
            Verdict::Denied(_, error) => {
                // The client may hold the name under an older table: a client that gets "denied" must lose it.
                self.release(core, key, client, name);
                request.entries.errors.push(&error);
            }
            Verdict::Full(error) => {
                request.entries.errors.push(&error);
                // The entries after this one are not checked.
                request.names = TextList::default();
            }
        }
        request.names.len() > 0
    }

    /// Unsubscribes from the next entry. Returns whether entries are left.
    fn unsubscribe_next(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        client: &mut ChannelsClient,
        request: &mut UnsubscribingNames,
    ) -> bool {
        let Some(name) = request.names.next() else {
            return false;
        };
        if self.release(core, key, client, name.clone()) {
            request.gone.push(&name);
        }
        request.names.len() > 0
    }

    /// Ends the next subscription that the client's rights no longer grant. The names share the steps of a request;
    /// when these are used up, the next name begins with new steps, and may take them all, because a request of its
    /// own may have granted it. Returns whether names are left.
    fn recheck_next_name(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        client: &mut ChannelsClient,
        request: &mut Reauthentication,
    ) -> bool {
        let Some(id) = request.ids.pop() else {
            // All names are compared: the revoked ones are written, in their order.
            if let Some(name) = request.revoked.pop_first() {
                request.written.push(name.as_str());
            }
            return !request.revoked.is_empty();
        };
        let Some(name) = self.names.held(&client.held, id) else {
            // The client has lost it meanwhile.
            return true;
        };
        let is_first = request.check.is_none();
        let mut check = request.check.take().unwrap_or_else(|| self.check(client));
        match self.settings.acl.grants(&mut check, name.as_str()) {
            // The names before this one have used up the steps: it is judged again, with new ones.
            Err(Undecided::Request) if !is_first => request.ids.push(id),
            Ok(true) => request.check = Some(check),
            // Not granted, or not decided with all steps for this name alone.
            _ => {
                request.check = Some(check);
                if self.release(core, key, client, name.as_str().to_owned()) {
                    core.note_refused_name(key, name.as_str(), NameRefusal::NewToken);
                    request.revoked.insert(name);
                }
            }
        }
        true
    }
}

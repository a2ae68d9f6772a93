//! Whether a client may hold a name: its rights, the limits, and how the messages of a new name come.

use super::ChannelsGateway;
use super::client::ChannelsClient;
use super::names::{Full, News, Route};
use super::patterns::{HeldPattern, matcher};
use crate::auth::{RightsCheck, Undecided};
use weirgate_core::{NameRefusal, TopicName};

/// Steps of matching for each entry that a request may have; the whole request shares them. With the default limits
/// these are 100,000 steps, less than a millisecond.
const STEPS_PER_ENTRY: usize = 100;

/// The most patterns that the gateway requests from the bus although an entry of the table covers them. While patterns
/// are few, such as those of a single client, the bus then sends only messages that some client wants. In return, the
/// bus sends a copy of a message for each of these patterns.
const BESIDE_COVERS_MAX: usize = 5;

/// A name that a client holds.
pub(super) struct GrantedName {
    pub(super) name: TopicName,
    /// The client held it before the request.
    pub(super) was_held: bool,
}

/// The verdict on an entry of a request.
pub(super) enum Verdict {
    /// The client holds the name from now on.
    Granted(GrantedName),
    /// An error for this entry; the next entries are still checked.
    Refused(NameRefusal, String),
    /// An error for this entry: the client may not hold the name, and loses it if it does.
    Denied(NameRefusal, String),
    /// An error for this entry, because the client holds as many names as it may; the next entries are not checked.
    Full(String),
}

impl Verdict {
    /// Why the client does not get the name; `None` if it does.
    pub(super) fn refusal(&self) -> Option<NameRefusal> {
        match self {
            Self::Granted(_) => None,
            Self::Refused(reason, _) | Self::Denied(reason, _) => Some(*reason),
            Self::Full(_) => Some(NameRefusal::ClientLimit),
        }
    }
}

impl ChannelsGateway {
    /// A check of the names of one request.
    pub(super) fn check(&self, client: &ChannelsClient) -> RightsCheck {
        RightsCheck::new(&client.rights, self.steps_max())
    }

    /// The steps of matching that a request has.
    fn steps_max(&self) -> usize {
        STEPS_PER_ENTRY * self.request_limits().entries_max
    }

    /// Checks limits, the syntax of the bus and the role, in the contract's order. After `Granted` the client holds the
    /// name. `asks_again`: a client that holds the name already asks for its newest messages, however many it holds.
    pub(super) fn judge(
        &mut self,
        client: &mut ChannelsClient,
        name: &str,
        check: &mut RightsCheck,
        asks_again: bool,
    ) -> Verdict {
        use NameRefusal::{ClientLimit, Invalid};

        let is_new = !(asks_again && self.names.is_held(&client.held, name));
        let settings = &self.settings;
        if is_new && client.held.count() >= settings.channels_max {
            let max = settings.channels_max;
            return Verdict::Full(format!("Max channels exceeded ({max})"));
        }
        if name.len() > settings.name_bytes_max {
            let max = settings.name_bytes_max;
            return Verdict::Refused(Invalid, format!("Channel name too long (max {max} bytes)"));
        }
        let syntax = settings.acl.syntax();
        if syntax.check(name).is_err() {
            return Verdict::Refused(Invalid, format!("Invalid subject: {name}"));
        }
        let kept = self.kept.as_ref();
        if kept.is_some_and(|kept| kept.cannot_match(name)) {
            return Verdict::Refused(
                Invalid,
                format!("Range outside of ASCII in pattern: {name}"),
            );
        }
        let has_max_patterns = client.held.patterns as usize >= settings.patterns_max;
        if is_new && syntax.is_pattern(name) && has_max_patterns {
            let max = settings.patterns_max;
            let error = format!("Max wildcard subscriptions exceeded ({max})");
            return Verdict::Refused(ClientLimit, error);
        }
        self.judge_rights(client, name, check)
    }

    /// Checks the rights of the client, then the limits over all clients. A client whose rights are unknown is told of the
    /// limit: with "Access denied" it would not ask again, and its operator would look for a fault in the table.
    fn judge_rights(
        &mut self,
        client: &mut ChannelsClient,
        name: &str,
        check: &mut RightsCheck,
    ) -> Verdict {
        use NameRefusal::{ClientLimit, Denied};

        let denied = || format!("Access denied to channel: {name}");
        let settings = &mut self.settings;
        // The marks are messages between the instances: no client can hold this name, so there is none to take away.
        if settings.marks_channel.as_deref() == Some(name) {
            return Verdict::Refused(Denied, denied());
        }
        match settings.acl.grants(check, name) {
            Ok(true) => self.hold_name(client, name, check),
            Ok(false) => {
                let error = match settings.acl.fault(check, name) {
                    Some((placeholder, fault)) => format!("{} ({placeholder}: {fault})", denied()),
                    None => denied(),
                };
                Verdict::Denied(Denied, error)
            }
            // No request can decide it, so the client loses the name as if the table did not grant it.
            Err(Undecided::Name { steps_max }) => {
                let limit = format!("Channel name takes too many steps to match (max {steps_max})");
                Verdict::Denied(ClientLimit, format!("{limit}: {name}"))
            }
            // Another request can decide it: what the client holds already, it keeps.
            Err(Undecided::Request) => {
                let limit = Full::Steps.error(self.steps_max() as u64);
                let error = format!("{limit}, ask again in another request: {name}");
                Verdict::Refused(ClientLimit, error)
            }
        }
    }

    /// Grants the name if the limits over all clients leave room for the client's address.
    fn hold_name(
        &mut self,
        client: &mut ChannelsClient,
        name: &str,
        check: &mut RightsCheck,
    ) -> Verdict {
        match self.names.hold(&mut client.held, name) {
            Ok((name, news)) => {
                if news == News::ToAll {
                    self.choose_route(client, &name, check);
                }
                let was_held = news == News::Nothing;
                Verdict::Granted(GrantedName { name, was_held })
            }
            Err((limit, max)) => {
                self.stats.limited[limit as usize].add(1);
                Verdict::Refused(NameRefusal::ServerLimit, limit.error(max))
            }
        }
    }

    /// Chooses how the messages of a new name come: see [`Route`].
    fn choose_route(&mut self, client: &ChannelsClient, name: &TopicName, check: &mut RightsCheck) {
        let matcher = matcher(self.syntax(), name.as_str());
        let kept = self.kept.as_ref();
        let is_kept = kept.is_some_and(|kept| kept.covers(name.as_str()));
        let cover = match &matcher {
            Some(_) if !is_kept => self.settings.acl.cover(check, name.as_str()),
            _ => None,
        };
        let cover = cover.map(TopicName::from);
        let cover = cover.filter(|cover| !self.names.requests.refused_covers.contains(cover));
        let route = match &cover {
            _ if is_kept => Route::Kept,
            None => Route::Requested,
            Some(_) if self.names.beside_covers() < BESIDE_COVERS_MAX => {
                Route::RequestedBesideCover
            }
            Some(cover) => Route::Within(cover.clone()),
        };
        let cover = cover.filter(|_| matches!(route, Route::Within(_)));
        if let Some(matcher) = matcher.filter(|_| is_kept || cover.is_some()) {
            self.patterns.add(HeldPattern {
                name: name.clone(),
                matcher,
                cover,
                address: client.held.address(),
            });
        }
        self.names.set_route(name, route);
        if is_kept {
            let is_refused = self.is_kept_refused(name);
            self.names.set_refused_in_feed(name, is_refused);
        }
    }
}

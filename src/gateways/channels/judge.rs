//! Whether a client may hold a name.

use super::ChannelsGateway;
use super::client::Client;
use super::names::Way;
use super::patterns::{HeldPattern, matcher};
use crate::auth::{OverBudget, RightsCheck};
use crate::hub::TopicName;

/// Steps of matching for each entry that a request may have, shared by the whole request: 100,000 with the
/// default limits, less than a millisecond.
const STEPS_PER_ENTRY: usize = 100;

/// So many patterns are requested from the bus although an entry of the table covers them. While patterns are few,
/// such as those of a single client, the bus then sends no message that nobody wants. The price is a copy of a
/// message for each of these patterns.
const BESIDE_COVERS_MAX: usize = 5;

/// The verdict on an entry of a request.
pub(super) enum Verdict {
    Granted(TopicName),
    /// An error for this entry; the next entries are still checked.
    Refused(String),
    /// An error for this entry, because the role may not hold the name.
    Denied(String),
    /// An error for this entry; the next entries are not checked.
    Full(String),
}

impl ChannelsGateway {
    /// A check of the names of one request.
    pub(super) fn check(&self, client: &Client) -> RightsCheck {
        RightsCheck::new(
            &client.rights,
            STEPS_PER_ENTRY * self.request_limits().entries_max,
        )
    }

    /// Checks limits, the syntax of the bus and the role, in the contract's order. The client holds a granted name.
    pub(super) fn judge(
        &mut self,
        client: &mut Client,
        name: &str,
        check: &mut RightsCheck,
    ) -> Verdict {
        let settings = &mut self.settings;
        if client.held.count() >= settings.channels_max {
            let max = settings.channels_max;
            return Verdict::Full(format!("Max channels exceeded ({max})"));
        }
        if name.len() > settings.name_bytes_max {
            let max = settings.name_bytes_max;
            return Verdict::Refused(format!("Channel name too long (max {max} bytes)"));
        }
        let syntax = settings.acl.syntax();
        if syntax.check(name).is_err() {
            return Verdict::Refused(format!("Invalid subject: {name}"));
        }
        let kept = self.kept.as_ref();
        if kept.is_some_and(|kept| kept.cannot_match(name)) {
            return Verdict::Refused(format!("Range outside of ASCII in pattern: {name}"));
        }
        if syntax.is_pattern(name) && client.held.patterns() >= settings.patterns_max {
            let max = settings.patterns_max;
            return Verdict::Refused(format!("Max wildcard subscriptions exceeded ({max})"));
        }
        let denied = || format!("Access denied to channel: {name}");
        if settings.marks_channel.as_deref() == Some(name) {
            return Verdict::Refused(denied());
        }
        match settings.acl.grants(check, name) {
            Ok(true) => self.hold_name(client, name, check),
            Ok(false) => Verdict::Denied(match settings.acl.fault(check, name) {
                Some((place, fault)) => format!("{} ({place}: {fault})", denied()),
                None => denied(),
            }),
            Err(OverBudget) => Verdict::Refused(denied()),
        }
    }

    /// Grants the name if the limits of all clients leave room for the client's address.
    fn hold_name(&mut self, client: &mut Client, name: &str, check: &mut RightsCheck) -> Verdict {
        match self.names.hold(&mut client.held, name) {
            Ok((name, is_new)) => {
                if is_new {
                    self.choose_way(client, &name, check);
                }
                Verdict::Granted(name)
            }
            Err((limit, max)) => {
                self.stats.limited[limit as usize].add(1);
                Verdict::Refused(limit.error(max))
            }
        }
    }

    /// Finds the way of the messages of a name that nobody has held.
    fn choose_way(&mut self, client: &Client, name: &TopicName, check: &mut RightsCheck) {
        let matcher = matcher(self.syntax(), name);
        let is_kept = self.is_kept(name);
        let cover = match &matcher {
            Some(_) if !is_kept => self.settings.acl.cover(check, name.as_str()),
            _ => None,
        };
        let cover = cover.map(TopicName::from);
        let cover = cover.filter(|cover| !self.names.asked.refused_covers.contains(cover));
        let way = match &cover {
            _ if is_kept => Way::Kept,
            None => Way::Asked,
            Some(_) if self.names.beside_covers() < BESIDE_COVERS_MAX => Way::AskedBesideCover,
            Some(cover) => Way::Within(cover.clone()),
        };
        let cover = cover.filter(|_| matches!(way, Way::Within(_)));
        if let Some(matcher) = matcher.filter(|_| is_kept || cover.is_some()) {
            self.patterns.add(HeldPattern {
                name: name.clone(),
                matcher,
                cover,
                address: client.held.address(),
            });
        }
        self.names.set_way(name, way);
    }
}

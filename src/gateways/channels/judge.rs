//! Whether a client may hold a name.

use super::ChannelsGateway;
use super::client::Client;
use super::names::Full;
use crate::auth::{OverBudget, RightsCheck};

/// Steps of matching for each entry that a request may have, shared by the whole request: 100,000 with the
/// default limits, less than a millisecond.
const STEPS_PER_ENTRY: usize = 100;

/// The verdict on an entry of a request.
pub(super) enum Verdict {
    Granted,
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

    /// Checks limits, the syntax of the bus and the role, in the contract's order.
    pub(super) fn judge(
        &mut self,
        held: usize,
        client: &Client,
        name: &str,
        check: &mut RightsCheck,
    ) -> Verdict {
        let settings = &mut self.settings;
        if held >= settings.channels_max {
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
        if kept.is_some_and(|kept| kept.refuse(name)) {
            return Verdict::Refused(format!("Range outside of ASCII in pattern: {name}"));
        }
        if syntax.is_pattern(name) && client.patterns.count() >= settings.patterns_max {
            let max = settings.patterns_max;
            return Verdict::Refused(format!("Max wildcard subscriptions exceeded ({max})"));
        }
        let denied = || format!("Access denied to channel: {name}");
        if settings.marks_channel.as_deref() == Some(name) {
            return Verdict::Refused(denied());
        }
        match settings.acl.grants(check, name) {
            Ok(true) => self.room(client, name),
            Ok(false) => Verdict::Denied(denied()),
            Err(OverBudget) => Verdict::Refused(denied()),
        }
    }

    /// Grants the name if the limits of all clients and of the client's address leave room.
    fn room(&self, client: &Client, name: &str) -> Verdict {
        let full = self.names.full(name);
        let full = full.or_else(|| self.full_for_address(client, name));
        let Some((limit, max)) = full else {
            return Verdict::Granted;
        };
        self.stats.limited[limit as usize].add(1);
        let of = match limit {
            Full::Names => "channels",
            Full::Patterns => "wildcard subscriptions",
            Full::NameBytes => "channel name bytes",
            Full::AddressPatterns => "wildcard subscriptions of an address",
        };
        Verdict::Refused(format!("Server limit of {of} exceeded ({max})"))
    }

    /// Applies to a pattern of other clients too: after they have left, the pattern would stay with this
    /// address.
    fn full_for_address(&self, client: &Client, name: &str) -> Option<(Full, usize)> {
        let max = self.settings.all_clients.address_patterns_max?;
        let is_pattern = self.settings.acl.syntax().is_pattern(name);
        let is_full = is_pattern && self.shares.is_full(&client.patterns, name, max);
        is_full.then_some((Full::AddressPatterns, max))
    }
}

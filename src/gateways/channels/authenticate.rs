//! The token of a client: at the start of a connection, and new tokens on a living connection. New tokens have a rate for
//! all clients together, with a share for each address.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::quality::RandomState;

use super::client::ChannelsClient;
use super::follow_up::FollowUp;
use super::messages::Answer;
use super::pending::PendingRequest;
use super::stats::Renewal;
use super::{ChannelsGateway, keep_apart};
use crate::auth::{Identity, Rights, Token, TokenNameLimits};
use crate::gateways::shared::access::{TokenEnd, close_of};
use weirgate_core::{Core, SessionKey};
use weirgate_wire::RequestHead;
use weirgate_wire::admission::{ClientAddr, TokenBucket};
use weirgate_wire::auth::{Refusal, TokenMarks};

/// The least time between two new tokens of a client.
const EVERY_US: u64 = 1_000_000;

/// How long the new tokens of an address are counted; then the counts of all addresses begin again.
const COUNTED_US: u64 = 1_000_000;

/// What is known of a client by its accepted token, or without a token if none is required.
pub(super) struct Authenticated {
    pub(super) identity: Identity,
    pub(super) rights: Rights,
    /// The properties of the token by which an operator may cut the client off.
    pub(super) marks: Arc<TokenMarks>,
}

/// The rate of new tokens of all clients on living connections.
#[derive(Debug)]
pub(super) struct Renewals {
    bucket: TokenBucket,
    /// The renewals of each address since `counted_from_us`. There are at most twice as many entries as the rate: a
    /// burst, and what the bucket permits in a second.
    by_address: HashMap<ClientAddr, usize, RandomState>,
    counted_from_us: u64,
}

impl Renewals {
    pub(super) fn new(per_second: u32) -> Self {
        Self {
            // A full bucket, whatever the time is.
            bucket: TokenBucket::new(per_second, 0),
            by_address: HashMap::default(),
            counted_from_us: 0,
        }
    }

    /// Whether a client of this address may renew its token now; counts the renewal if so. An address may not if it had
    /// more renewals in this second than the bucket still permits to all. So a lone address can use most of the rate, and
    /// always leaves some for other addresses.
    pub(super) fn permit(&mut self, address: ClientAddr, now_us: u64) -> bool {
        if now_us >= self.counted_from_us.saturating_add(COUNTED_US) {
            self.by_address.clear();
            self.counted_from_us = now_us;
        }
        let had = self.by_address.get(&address).copied().unwrap_or_default();
        let is_permitted = self.bucket.holds(had, now_us) && self.bucket.take(now_us);
        if is_permitted {
            self.by_address.insert(address, had + 1);
        }
        is_permitted
    }
}

impl ChannelsGateway {
    /// Returns the identity and the rights in the request's token. Refuses a bad token, and a role that is
    /// not in the table.
    pub(super) fn identify(
        &self,
        core: &Core,
        key: SessionKey,
        head: &RequestHead<'_>,
    ) -> Result<Authenticated, Refusal> {
        if self.settings.authenticator.required {
            let token = self.settings.authenticator.token(head)?;
            return self.judge_token(core, key, token.as_ref());
        }
        let role = self.settings.acl.shared_name(&self.settings.default_role);
        let marks = Arc::clone(&self.marks_without_token);
        Ok(Authenticated {
            identity: Identity::default(),
            rights: Rights::of_role(role),
            marks,
        })
    }

    /// Returns the identity and the rights in a token.
    ///
    /// # Errors
    /// The token is refused.
    pub(super) fn judge_token(
        &self,
        core: &Core,
        key: SessionKey,
        token: Option<&Token>,
    ) -> Result<Authenticated, Refusal> {
        let settings = &self.settings;
        let authenticator = &settings.authenticator;
        let identity = authenticator.identify(token, core.now())?;
        let limits = TokenNameLimits {
            names_max: settings.channels_max,
            name_bytes_max: settings.name_bytes_max,
        };
        let rights = settings
            .acl
            .admit(&identity, &settings.default_role, limits)?;
        if identity.lacks_role_claim {
            self.stats.access.count_without_role();
        }
        let marks = Arc::new(identity.marks(Some(&rights.role)));
        core.check_not_cut_off(key, identity.user.as_deref(), Some(&marks))?;
        Ok(Authenticated {
            identity,
            rights,
            marks,
        })
    }

    /// Replaces the token of a client, and judges every name of the client again by the rights of the new token. If the
    /// new token is refused, the old token stays. Returns the answer; `None` if names are still to be judged in a later
    /// turn.
    pub(super) fn authenticate(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        client: &mut ChannelsClient,
        token: &Token,
        request_id: String,
    ) -> Option<(Answer, FollowUp)> {
        let error = |text| Some((Answer::error(text, &request_id), FollowUp::default()));
        if !self.settings.authenticator.required {
            return error("Authentication is not required");
        }
        if !self.take_renewal(core, client) {
            self.stats.count_renewal(Renewal::Limited);
            return error("Too many new tokens");
        }
        let Authenticated {
            identity,
            rights,
            marks,
        } = match self.judge_token(core, key, Some(token)) {
            Ok(authenticated) => authenticated,
            Err(refusal) => {
                self.stats.access.count_refusal(refusal);
                self.stats.count_renewal(Renewal::Refused);
                return error(close_of(refusal).text);
            }
        };
        self.stats.count_renewal(Renewal::Accepted);
        // If so, all names of the client have been judged by these rights already.
        let is_same = client.rights.have_same_names(&rights) && client.names_table == self.table;
        keep_apart(core, key, &rights);
        client.rights = rights;
        (client.rights_table, client.names_table) = (self.table, self.table);
        client.token_end = TokenEnd::of(&identity);
        core.set_token(key, identity.user.map(Into::into), marks);
        core.set_client_bytes(key, client.rights.memory_bytes());
        let ids = if is_same {
            Vec::new()
        } else {
            client.held.ids()
        };
        self.begin(
            core,
            key,
            client,
            PendingRequest::authenticate(ids, request_id),
        )
    }

    /// Makes the rights of a client again if the table of roles has been replaced since. Returns whether the client may stay:
    /// an operator may have cut off the role that now counts.
    pub(super) fn renew_rights(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        client: &mut ChannelsClient,
    ) -> bool {
        client.rights_table = self.table;
        let role = Arc::clone(&client.rights.role);
        let settings = &self.settings;
        (settings.acl).renew(&mut client.rights, &settings.default_role);
        core.set_client_bytes(key, client.rights.memory_bytes());
        if client.rights.role == role {
            return true;
        }
        core.set_role(key, &client.rights.role);
        core.check_or_close(key)
    }

    /// Counts a new token of the client. Returns whether the client may send one now: each token that is judged costs the
    /// check of a signature.
    fn take_renewal(&mut self, core: &Core, client: &mut ChannelsClient) -> bool {
        let now_us = core.now().mono_us;
        let is_early = client
            .authenticated_us()
            .is_some_and(|at| now_us < at.saturating_add(EVERY_US));
        if is_early || !self.renewals.permit(client.held.address(), now_us) {
            return false;
        }
        client.set_authenticated(now_us);
        true
    }
}

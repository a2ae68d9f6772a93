//! The rights in a token: at the start of a connection, and with a new token on a living connection.

use super::super::access::{TokenEnd, close_of, shown_user};
use super::answer::Answer;
use super::client::Client;
use super::stats::Renewal;
use super::{ChannelsGateway, STEPS_PER_ENTRY};
use crate::auth::{Identity, MatchBudget, Refusal, Rights, Token, TokenNameLimits};
use crate::hub::{Core, SessionKey};

/// A client may send a new token once in this time.
const EVERY_US: u64 = 1_000_000;

impl ChannelsGateway {
    /// Returns the identity and the rights in a token.
    ///
    /// # Errors
    /// Why the token admits nobody.
    pub(super) fn judge_token(
        &self,
        core: &Core,
        token: Option<&Token>,
    ) -> Result<(Identity, Rights), Refusal> {
        let settings = &self.settings;
        let authenticator = &settings.authenticator;
        let identity = authenticator.identify(token, core.now().unix_ms)?;
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
        Ok((identity, rights))
    }

    /// Replaces the token of a client. With the rights of the new token, every name of the client is judged
    /// again. After a refused token, the old token stays.
    pub(super) fn authenticate(
        &mut self,
        core: &mut Core,
        key: SessionKey,
        client: &mut Client,
        token: &Token,
        request_id: &str,
    ) -> Answer {
        if !self.settings.authenticator.required {
            return Answer::error("Authentication is not required", request_id);
        }
        if !self.may_authenticate(core, client) {
            self.stats.count_renewal(Renewal::Limited);
            return Answer::error("Too many new tokens", request_id);
        }
        let (identity, rights) = match self.judge_token(core, Some(token)) {
            Ok(judged) => judged,
            Err(refusal) => {
                self.stats.access.count_refusal(refusal);
                self.stats.count_renewal(Renewal::Refused);
                return Answer::error(close_of(refusal).text, request_id);
            }
        };
        self.stats.count_renewal(Renewal::Accepted);
        client.rights = rights;
        client.token_end = TokenEnd::of(&identity);
        core.set_user(
            key,
            shown_user(identity.user.as_deref().unwrap_or_default()),
        );
        let revoked = self.revoke(core, key, client);
        Answer::authenticated(&client.rights.role, &revoked, request_id)
    }

    /// Each judged token costs the check of a signature.
    fn may_authenticate(&mut self, core: &Core, client: &mut Client) -> bool {
        let now_us = core.now().mono_us;
        let is_early = client
            .authenticated_us
            .is_some_and(|at| now_us < at.saturating_add(EVERY_US));
        if is_early || !self.renewals.take(now_us) {
            return false;
        }
        client.authenticated_us = Some(now_us);
        true
    }

    /// Ends the subscriptions that the client's rights do not grant any more. Returns their names.
    fn revoke(&mut self, core: &mut Core, key: SessionKey, client: &mut Client) -> Vec<String> {
        let joined = core.joined(key).chain(client.answers.resuming());
        let mut names: Vec<String> = joined.map(|name| name.as_str().to_owned()).collect();
        names.sort();
        names.dedup();
        let entries_max = self.request_limits().entries_max;
        let mut budget = MatchBudget::new(STEPS_PER_ENTRY * entries_max);
        let acl = &mut self.settings.acl;
        // A name that the budget does not suffice for is not granted.
        names.retain(|name| acl.grants(&mut client.rights, name, &mut budget) != Ok(true));
        for name in &names {
            self.let_go(core, key, client, name.clone());
        }
        self.names.store(&self.stats, core.memberships());
        names
    }
}

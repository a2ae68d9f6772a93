//! What the server says of an account of JetStream (`$JS.API.INFO`): its limits, and what it uses. Pure.

use std::collections::HashMap;

use serde::Deserialize;

/// The state of an account.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Account {
    pub(super) streams: u64,
    /// Bytes of files that streams may use by their own limits.
    pub(super) reserved_storage: u64,
    /// Bytes in files and in memory.
    pub(super) storage: u64,
    pub(super) memory: u64,
    pub(super) limits: Option<AccountLimits>,
    tiers: HashMap<String, Self>,
}

/// The limits of an account; 0 or less means no limit.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct AccountLimits {
    pub(super) max_streams: i64,
    pub(super) max_consumers: i64,
    /// Here 0 means that there is no storage.
    pub(super) max_storage: Option<i64>,
    pub(super) max_memory: i64,
    pub(super) max_bytes_required: bool,
    /// Of a consumer: messages without acknowledgement.
    pub(super) max_ack_pending: i64,
}

impl Account {
    /// What counts for a stream with so many copies: an account can have limits for each number of copies, and then has
    /// no others.
    pub(super) fn of_copies(&self, copies: u64) -> &Self {
        self.tiers.get(&format!("R{copies}")).unwrap_or(self)
    }

    /// The limits; no limit if the server says nothing of them.
    pub(super) fn limits(&self) -> AccountLimits {
        self.limits.unwrap_or_default()
    }
}

/// A limit; 0 or less means no limit.
pub(super) fn limit(number: i64) -> Option<u64> {
    u64::try_from(number).ok().filter(|number| *number > 0)
}

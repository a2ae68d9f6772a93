//! The numbers of the subscriptions on a connection.

use std::collections::HashMap;
use std::sync::Arc;

use weirgate_core::Subscription;

/// The subscriptions on a connection, by number and by name.
#[derive(Debug, Default)]
pub(super) struct Sids {
    by_sid: HashMap<u64, Subscription>,
    by_name: HashMap<Arc<str>, u64>,
    last: u64,
}

impl Sids {
    /// Gives a new number to a subscription without one.
    pub(super) fn add(&mut self, subscription: Subscription) -> u64 {
        self.last += 1;
        let name = Arc::clone(&subscription.name);
        if let Some(before) = self.by_name.insert(name, self.last) {
            debug_assert!(false, "a second number for a subscription");
            self.by_sid.remove(&before);
        }
        self.by_sid.insert(self.last, subscription);
        self.last
    }

    /// The number of a subscription, if any.
    pub(super) fn sid_of(&self, name: &str) -> Option<u64> {
        self.by_name.get(name).copied()
    }

    /// The subscription of this number.
    pub(super) fn get(&self, sid: u64) -> Option<&Subscription> {
        self.by_sid.get(&sid)
    }

    /// The subscription of this name.
    pub(super) fn named(&self, name: &str) -> Option<&Subscription> {
        self.get(self.sid_of(name)?)
    }

    /// Forgets a subscription. Messages still coming for the number are ignored.
    pub(super) fn remove(&mut self, name: &str) -> Option<u64> {
        let sid = self.by_name.remove(name)?;
        self.by_sid.remove(&sid);
        Some(sid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_given_once() {
        let mut sids = Sids::default();
        let name = Subscription::channel("a");
        let first = sids.add(name.clone());
        assert_eq!(sids.get(first), Some(&name));
        assert_eq!(sids.named("a"), Some(&name));
        assert_eq!(sids.remove("a"), Some(first));
        assert_eq!((sids.get(first), sids.sid_of("a")), (None, None));
        assert_ne!(sids.add(name), first);
    }
}

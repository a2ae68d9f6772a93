//! The keys in force, and whether newer keys are due.

use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};

use super::Refusal;
use super::keys::KeySet;

/// The current keys, replaceable while connections are judged. Copies share the keys.
#[derive(Clone, Debug, Default)]
pub struct KeyRing(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    keys: RwLock<Arc<KeySet>>,
    newer: AtomicU8,
}

/// Whether newer keys may come, for tokens with an unknown key id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum NewerKeys {
    /// The keys come only from settings and files.
    Never,
    /// The keys were fetched a moment ago: a token with an unknown key id is refused.
    Fetched,
    /// A token with an unknown key id asks for newer keys.
    OnDemand,
    /// Newer keys are due: they are fetched, or the identity provider is away.
    Due,
}

impl KeyRing {
    /// Creates a ring with these keys.
    pub fn new(keys: KeySet) -> Self {
        Self(Arc::new(Inner {
            keys: RwLock::new(Arc::new(keys)),
            newer: AtomicU8::new(NewerKeys::Never as u8),
        }))
    }

    /// The current keys. The lock is held only to clone a pointer, and never while keys are made.
    pub fn current(&self) -> Arc<KeySet> {
        Arc::clone(&self.0.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces the keys; live connections stay.
    pub fn replace(&self, keys: KeySet) {
        *self.0.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
    }

    /// Whether newer keys may come.
    pub fn newer(&self) -> NewerKeys {
        let newer = self.0.newer.load(Relaxed);
        [NewerKeys::Fetched, NewerKeys::OnDemand, NewerKeys::Due]
            .into_iter()
            .find(|state| *state as u8 == newer)
            .unwrap_or(NewerKeys::Never)
    }

    /// Sets whether newer keys may come.
    pub fn set_newer(&self, newer: NewerKeys) {
        self.0.newer.store(newer as u8, Relaxed);
    }

    /// The refusal of a token that no key fits. Asks for newer keys, if that is possible.
    pub(super) fn unknown_key(&self) -> Refusal {
        match self.newer() {
            NewerKeys::Never | NewerKeys::Fetched => Refusal::UnknownKey,
            NewerKeys::OnDemand => {
                self.set_newer(NewerKeys::Due);
                Refusal::KeysDue
            }
            NewerKeys::Due => Refusal::KeysDue,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{Authenticator, Token};

    #[test]
    fn an_unknown_key_asks_once_for_newer_keys() {
        let ring = KeyRing::default();
        assert_eq!(ring.unknown_key(), Refusal::UnknownKey);
        assert_eq!(ring.newer(), NewerKeys::Never);
        ring.set_newer(NewerKeys::OnDemand);
        assert_eq!(ring.unknown_key(), Refusal::KeysDue);
        assert_eq!(ring.newer(), NewerKeys::Due);
        assert_eq!(ring.unknown_key(), Refusal::KeysDue);
        ring.set_newer(NewerKeys::Fetched);
        assert_eq!(ring.unknown_key(), Refusal::UnknownKey);
        assert_eq!(ring.newer(), NewerKeys::Fetched);
    }

    /// Only where newer keys may come, a client is asked to try again.
    #[test]
    fn a_token_with_an_unknown_key_waits_for_newer_keys() {
        let authenticator = Authenticator::default();
        // {"alg":"RS256","kid":"new"} and {}.
        let token = Token::new("eyJhbGciOiJSUzI1NiIsImtpZCI6Im5ldyJ9.e30.AA");
        let judged = || authenticator.identify(token.as_ref(), 0).map(drop);
        assert_eq!(judged(), Err(Refusal::UnknownKey));
        authenticator.keys.set_newer(NewerKeys::OnDemand);
        // {"alg":"HS256"}: no key set has a secret.
        let secret = Token::new("eyJhbGciOiJIUzI1NiJ9.e30.AA");
        let secret = authenticator.identify(secret.as_ref(), 0).map(drop);
        assert_eq!(secret, Err(Refusal::UnknownKey));
        assert_eq!(authenticator.keys.newer(), NewerKeys::OnDemand);
        assert_eq!(judged(), Err(Refusal::KeysDue));
        assert_eq!(authenticator.keys.newer(), NewerKeys::Due);
        for refusal in Refusal::ALL {
            let later = refusal == Refusal::KeysDue;
            assert_eq!(refusal.close_code(), if later { 1013 } else { 1008 });
        }
    }
}

//! The keys in force, and when to fetch newer keys for tokens that none of them has signed.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use foldhash::quality::RandomState;

use super::keys::{Algorithm, KeySet};
use weirgate_wire::auth::Refusal;

/// The most remembered key ids and tokens that no key fits. Further ones may always try again.
const UNKNOWN_MAX: usize = 1024;

/// An unknown key id or token is forgotten after this time, because a provider may publish a key later than the first
/// token signed with it.
const UNKNOWN_US: u64 = 5 * 60 * 1_000_000;

/// The keys in force. They can be replaced while tokens are being checked. Clones share the keys.
#[derive(Clone, Debug, Default)]
pub struct KeyRing(Arc<RwLock<InForce>>);

#[derive(Debug, Default)]
struct InForce {
    keys: Arc<KeySet>,
    /// `None`: the keys come only from settings and files.
    newer: Option<NewerKeys>,
}

/// What is known of fetches of newer keys. Times are microseconds of the monotonic clock.
#[derive(Debug, Default)]
struct NewerKeys {
    /// When the last successful fetch began.
    fetched_us: Option<u64>,
    /// The earliest time of the next fetch for a token; in the past while that fetch runs.
    next_us: u64,
    /// When each unknown key id or token was first seen, by its hash.
    unknown: HashMap<u64, u64, RandomState>,
    /// When a new unknown key id or token was last seen, even if `unknown` had no room for it.
    newest_us: Option<u64>,
}

/// A token that no key in force has signed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unsigned<'a> {
    /// Why, if no newer key changes that: [`Refusal::UnknownKey`] or [`Refusal::Signature`].
    pub(super) refusal: Refusal,
    pub(super) algorithm: Algorithm,
    pub(super) id: Option<&'a str>,
    pub(super) token: &'a str,
}

/// What waits for a fetch. All tokens with the same value wait for the same fetch.
#[derive(Hash)]
struct WantedKey<'a> {
    algorithm: &'a str,
    id: Option<&'a str>,
    token: Option<&'a str>,
}

impl Unsigned<'_> {
    /// If no key has the token's key id, all tokens with this id wait for the same fetch. Otherwise a newer key may
    /// have the id of an older one, or none. Nobody knows when the provider changed the key, so each token waits for a
    /// fetch that begins after the token was first seen.
    fn wanted_key(&self) -> WantedKey<'_> {
        let is_new_id = self.refusal == Refusal::UnknownKey && self.id.is_some();
        WantedKey {
            algorithm: self.algorithm.name(),
            id: self.id,
            token: (!is_new_id).then_some(self.token),
        }
    }
}

impl NewerKeys {
    /// Returns the refusal of a token. It is final only if a fetch that began after the token or its key id was first
    /// seen did not bring the key: an earlier fetch may have come a moment before the provider published it.
    fn judge(&mut self, unsigned: Unsigned<'_>, now_us: u64) -> Refusal {
        let hash = self.unknown.hasher().hash_one(unsigned.wanted_key());
        let seen_us = self.unknown.get(&hash).copied();
        match seen_us.filter(|at| now_us.saturating_sub(*at) < UNKNOWN_US) {
            // Before the first good fetch, `None` is less than any time.
            Some(at) if self.fetched_us > Some(at) => return unsigned.refusal,
            Some(_) => {}
            None => {
                self.newest_us = Some(now_us);
                if seen_us.is_some() || self.unknown.len() < UNKNOWN_MAX {
                    self.unknown.insert(hash, now_us);
                }
            }
        }
        let wait_ms = self.next_us.saturating_sub(now_us).div_ceil(1000);
        Refusal::KeysDue {
            wait_ms: u32::try_from(wait_ms).unwrap_or(u32::MAX),
        }
    }

    fn wants_fetch(&self) -> bool {
        self.newest_us.is_some() && self.newest_us >= self.fetched_us
    }

    /// Forgets what was unknown for too long before the last good fetch.
    fn forget_old(&mut self) {
        // 0 before the first good fetch: nothing is forgotten.
        let now_us = self.fetched_us.unwrap_or_default();
        let is_recent = |at: u64| now_us.saturating_sub(at) < UNKNOWN_US;
        self.unknown.retain(|_, at| is_recent(*at));
    }
}

impl KeyRing {
    /// Creates a ring with these keys.
    pub fn new(keys: KeySet) -> Self {
        let ring = Self::default();
        ring.replace(keys);
        ring
    }

    /// Returns the current keys. The lock is held only to clone a pointer, never while keys are parsed.
    pub fn current(&self) -> Arc<KeySet> {
        Arc::clone(&self.read().keys)
    }

    /// Replaces the keys; live connections stay.
    pub fn replace(&self, keys: KeySet) {
        self.write().keys = Arc::new(keys);
    }

    /// From now on, newer keys can be fetched, because of a token that no key has signed.
    pub fn expect_newer(&self) {
        self.write().newer.get_or_insert_default();
    }

    /// Whether newer keys are fetched.
    pub fn expects_newer(&self) -> bool {
        self.read().newer.is_some()
    }

    /// Whether a fetch may help a token: since the last good fetch began, a token has come that no key in force has signed.
    pub fn wants_fetch(&self) -> bool {
        let newer = &self.read().newer;
        newer.as_ref().is_some_and(NewerKeys::wants_fetch)
    }

    /// Records a fetch that began at `began_us`, and whose keys are now in force. `next_us`: the earliest time of the next
    /// fetch for a token. Both are microseconds of the monotonic clock.
    pub fn note_good_fetch(&self, began_us: u64, next_us: u64) {
        if let Some(newer) = &mut self.write().newer {
            newer.fetched_us = Some(began_us);
            newer.next_us = next_us;
            newer.forget_old();
        }
    }

    /// Records a fetch that failed. `next_us` as for a good one.
    pub fn note_failed_fetch(&self, next_us: u64) {
        if let Some(newer) = &mut self.write().newer {
            newer.next_us = next_us;
            newer.forget_old();
        }
    }

    /// Returns the refusal of a token, and notes that a fetch may help it, if keys can be fetched.
    pub(super) fn refuse(&self, unsigned: Unsigned<'_>, now_us: u64) -> Refusal {
        match &mut self.write().newer {
            // No key set has the secret of HS256.
            Some(newer) if unsigned.algorithm != Algorithm::Hs256 => newer.judge(unsigned, now_us),
            _ => unsigned.refusal,
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, InForce> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, InForce> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The verdict on a key id, at this second.
    fn judged(ring: &KeyRing, id: &str, at_s: u64) -> Refusal {
        let unsigned = Unsigned {
            id: Some(id),
            token: "its token",
            ..BAD_SIGNATURE
        };
        let refusal = Refusal::UnknownKey;
        ring.refuse(
            Unsigned {
                refusal,
                ..unsigned
            },
            at_s * 1_000_000,
        )
    }

    const BAD_SIGNATURE: Unsigned<'static> = Unsigned {
        refusal: Refusal::Signature,
        algorithm: Algorithm::Rs256,
        id: None,
        token: "a token",
    };

    const fn due_in(s: u32) -> Refusal {
        Refusal::KeysDue { wait_ms: s * 1000 }
    }

    fn fetched(ring: &KeyRing, at_s: u64, next_s: u64) {
        ring.note_good_fetch(at_s * 1_000_000, next_s * 1_000_000);
    }

    #[test]
    fn an_unknown_key_is_refused_only_after_a_fetch_of_its_own() {
        let ring = KeyRing::default();
        assert_eq!(judged(&ring, "a", 1), Refusal::UnknownKey);
        assert!(!ring.expects_newer() && !ring.wants_fetch());
        ring.expect_newer();
        fetched(&ring, 1, 0);
        assert!(ring.expects_newer() && !ring.wants_fetch());
        assert_eq!(judged(&ring, "stranger", 10), due_in(0));
        assert!(ring.wants_fetch());
        fetched(&ring, 11, 71);
        assert_eq!(judged(&ring, "stranger", 12), Refusal::UnknownKey);
        assert!(!ring.wants_fetch());
        assert_eq!(judged(&ring, "next", 20), due_in(51));
        assert_eq!(judged(&ring, "next", 70), due_in(1));
        // The provider is away at first.
        ring.note_failed_fetch(131_000_000);
        assert_eq!(judged(&ring, "next", 80), due_in(51));
        assert_eq!(judged(&ring, "stranger", 80), Refusal::UnknownKey);
        assert!(ring.wants_fetch());
        fetched(&ring, 131, 191);
        assert_eq!(judged(&ring, "next", 132), Refusal::UnknownKey);
        // The same id with another algorithm is another key.
        let other = Unsigned {
            refusal: Refusal::UnknownKey,
            algorithm: Algorithm::Es256,
            id: Some("next"),
            ..BAD_SIGNATURE
        };
        assert_eq!(ring.refuse(other, 132_000_000), due_in(59));
        // The provider published the key late.
        assert_eq!(judged(&ring, "next", 320), due_in(0));
        assert!(ring.wants_fetch());
    }

    /// A provider may change a key and keep its id, or have no ids at all.
    #[test]
    fn a_bad_signature_is_refused_only_after_a_fetch_of_its_own() {
        for id in [None, Some("k")] {
            let ring = KeyRing::default();
            let refused = |token, at_s: u64| {
                let unsigned = Unsigned {
                    id,
                    token,
                    ..BAD_SIGNATURE
                };
                ring.refuse(unsigned, at_s * 1_000_000)
            };
            assert_eq!(refused("forged", 1), Refusal::Signature, "no URL");
            ring.expect_newer();
            fetched(&ring, 1, 0);
            assert_eq!(refused("forged", 10), due_in(0));
            assert!(ring.wants_fetch());
            fetched(&ring, 11, 71);
            assert_eq!(refused("forged", 12), Refusal::Signature);
            assert!(!ring.wants_fetch());
            // The key changes now. What was found out about a forged token says nothing about a good one.
            assert_eq!(refused("good", 13), due_in(58));
            assert_eq!(refused("forged", 14), Refusal::Signature);
            assert!(ring.wants_fetch());
            // Who has the secret of HS256 is no matter of the URL.
            let shared = Unsigned {
                algorithm: Algorithm::Hs256,
                ..BAD_SIGNATURE
            };
            assert_eq!(ring.refuse(shared, 15_000_000), Refusal::Signature);
        }
    }

    #[test]
    fn the_remembered_key_ids_are_bounded() {
        let ring = KeyRing::default();
        ring.expect_newer();
        for n in 0..2 * UNKNOWN_MAX {
            assert_eq!(judged(&ring, &n.to_string(), 1), due_in(0));
        }
        let remembered = || ring.read().newer.as_ref().map(|newer| newer.unknown.len());
        assert_eq!(remembered(), Some(UNKNOWN_MAX));
        fetched(&ring, 2, 62);
        assert_eq!(judged(&ring, "0", 3), Refusal::UnknownKey);
        // An id that was not remembered gets no final refusal.
        assert_eq!(judged(&ring, "next", 3), due_in(59));
        assert!(ring.wants_fetch());
        fetched(&ring, 62, 122);
        assert_eq!(judged(&ring, "next", 63), due_in(59));
        fetched(&ring, 400, 460);
        assert_eq!(remembered(), Some(0));
    }
}

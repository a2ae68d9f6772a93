//! Decides when to fetch the key set at a URL, and fetches it on its own thread.
//!
//! The identity provider may be silent, slow or away for hours. Then only this thread waits, and the keys in force
//! stay. A token that no key has signed asks for a fetch through [`KeyRing`].

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::{KeyFileError, KeyUrl, KeysInForce};
use crate::auth::KeyRing;
use crate::services::fetch::FetchError;
use weirgate_runtime::{Clock, detached};

/// The time between two regular fetches.
const REFRESH_MS: u64 = 60 * 60 * 1000;

/// The least time between two fetches for tokens that no key has signed, and the time between two attempts while the
/// identity provider is away.
const FETCH_AGAIN_MS: u64 = 60 * 1000;

/// The time before the second attempt of the first fetch; it doubles with each attempt, up to [`FETCH_AGAIN_MS`].
const FIRST_RETRY_MS: u64 = 1000;

/// How often the thread looks whether a fetch is due.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Decides when to fetch. Times are milliseconds of any clock that does not jump.
#[derive(Debug, Default)]
struct Schedule {
    /// When the next regular fetch is due, or the next attempt after a failure.
    due_ms: u64,
    /// The begin of the last fetch for a token.
    asked_ms: Option<u64>,
    /// Failed attempts since the last good fetch.
    failures: u32,
    /// Whether any fetch has succeeded.
    has_keys: bool,
}

impl Schedule {
    /// The earliest time of the next fetch that can bring a missing key: a fetch for a token, or the regular fetch.
    fn next_for_token_ms(&self) -> u64 {
        // 0: at once, if no token has caused a fetch so far.
        let again_ms = self.asked_ms.map_or(0, |at| at + FETCH_AGAIN_MS);
        // After a failure, a token waits for the next attempt like everybody.
        match self.failures {
            0 => again_ms.min(self.due_ms),
            _ => self.due_ms,
        }
    }

    /// Whether the regular fetch is due.
    fn is_due(&self, now_ms: u64) -> bool {
        now_ms >= self.due_ms
    }

    /// Begins a fetch for a token if one may begin now, so that the next one has to wait. Returns whether it has begun.
    fn try_begin_for_token(&mut self, now_ms: u64) -> bool {
        let begins = now_ms >= self.next_for_token_ms();
        if begins {
            self.asked_ms = Some(now_ms);
        }
        begins
    }

    /// Records a good fetch that began at `now_ms`.
    fn succeeded(&mut self, now_ms: u64) {
        self.failures = 0;
        self.has_keys = true;
        self.due_ms = now_ms + REFRESH_MS;
    }

    /// Records a failed fetch that began at `now_ms`.
    fn failed(&mut self, now_ms: u64) {
        let wait_ms = match self.has_keys {
            true => FETCH_AGAIN_MS,
            // 16 doublings are over the limit by far, and do not overflow.
            false => (FIRST_RETRY_MS << self.failures.min(16)).min(FETCH_AGAIN_MS),
        };
        self.failures = self.failures.saturating_add(1);
        self.due_ms = now_ms + wait_ms;
    }
}

/// The outcome of a fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FetchOutcome {
    Changed,
    Unchanged,
    Unreachable,
    Timeout,
    Status,
    TooLarge,
    NoKeys,
}

/// The metric labels of [`FetchOutcome`], in its order.
const OUTCOMES: [&str; 7] = [
    "changed",
    "unchanged",
    "unreachable",
    "timeout",
    "status",
    "too_large",
    "no_keys",
];

impl FetchOutcome {
    /// The outcome of a fetch; `Ok` says whether the keys have changed.
    fn of(fetched: &Result<bool, KeyFileError>) -> Self {
        match fetched {
            Ok(true) => Self::Changed,
            Ok(false) => Self::Unchanged,
            Err(KeyFileError::Fetch { error, .. }) => match error {
                FetchError::Unreachable(_) => Self::Unreachable,
                FetchError::Timeout(_) => Self::Timeout,
                FetchError::Status(_) => Self::Status,
                FetchError::TooLarge(_) => Self::TooLarge,
            },
            Err(_) => Self::NoKeys,
        }
    }

    fn is_failure(self) -> bool {
        !matches!(self, Self::Changed | Self::Unchanged)
    }
}

/// Counters of the fetches, and the age of the keys. Any thread may read.
#[derive(Debug)]
pub(crate) struct KeyFetchStats {
    outcomes: [AtomicU64; OUTCOMES.len()],
    /// The last good fetch, or the start.
    good_us: AtomicU64,
    clock: Clock,
}

impl KeyFetchStats {
    /// Ended fetches, by outcome.
    pub(crate) fn outcomes(&self) -> Vec<(&'static str, u64)> {
        let counts = self.outcomes.iter().map(|count| count.load(Relaxed));
        OUTCOMES.into_iter().zip(counts).collect()
    }

    /// Seconds since the last good fetch, or since the start if there is none yet.
    pub(crate) fn age_s(&self) -> u64 {
        let now_us = self.clock.mono_us();
        now_us.saturating_sub(self.good_us.load(Relaxed)) / 1_000_000
    }
}

/// The fetches of the key set at a URL.
#[derive(Debug)]
pub(crate) struct KeyFetches {
    url: KeyUrl,
    keys: Arc<Mutex<KeysInForce>>,
    ring: KeyRing,
    schedule: Schedule,
    stats: Arc<KeyFetchStats>,
    /// True until there is a key at all.
    awaits_keys: Arc<AtomicBool>,
    /// The outcome of the last fetch.
    last: Option<FetchOutcome>,
}

impl KeyFetches {
    /// Makes the fetches for these keys; `None` if their settings have no URL.
    pub(crate) fn new(keys: &Arc<Mutex<KeysInForce>>, clock: Clock) -> Option<Self> {
        let in_force = keys.lock().unwrap_or_else(PoisonError::into_inner);
        Some(Self {
            url: in_force.url()?.clone(),
            keys: Arc::clone(keys),
            ring: in_force.ring(),
            schedule: Schedule::default(),
            stats: Arc::new(KeyFetchStats {
                outcomes: Default::default(),
                good_us: clock.mono_us().into(),
                clock,
            }),
            awaits_keys: Arc::new(in_force.ring().current().is_empty().into()),
            last: None,
        })
    }

    /// The counters.
    pub(crate) fn stats(&self) -> Arc<KeyFetchStats> {
        Arc::clone(&self.stats)
    }

    /// A flag that is true while there is no key at all, neither from a file, nor a setting, nor the URL.
    pub(crate) fn awaits_keys(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.awaits_keys)
    }

    /// Starts the thread, which ends with the process.
    ///
    /// # Errors
    /// The system has no thread left.
    pub(crate) fn start(mut self) -> io::Result<()> {
        detached("key-set", move || {
            loop {
                self.fetch_if_due();
                thread::sleep(LOOK_EVERY);
            }
        })
    }

    /// Fetches the set if it is time, if an operator has requested it, or if a token may need a newer key.
    fn fetch_if_due(&mut self) {
        let now_us = self.stats.clock.mono_us();
        let now_ms = now_us / 1000;
        if self.in_force(KeysInForce::take_request) {
            self.schedule.due_ms = now_ms;
        }
        if self.schedule.is_due(now_ms)
            || self.ring.wants_fetch() && self.schedule.try_begin_for_token(now_ms)
        {
            let fetched = self.fetch();
            match &fetched {
                Ok(_) => self.schedule.succeeded(now_ms),
                Err(_) => self.schedule.failed(now_ms),
            }
            // After the schedule was changed, because the time follows from it.
            let next_us = self.schedule.next_for_token_ms() * 1000;
            match &fetched {
                Ok(_) => self.ring.note_good_fetch(now_us, next_us),
                Err(_) => self.ring.note_failed_fetch(next_us),
            }
            self.report_fetch(&fetched);
        }
    }

    /// Fetches the set and puts its keys in force. Returns whether the set has changed.
    fn fetch(&self) -> Result<bool, KeyFileError> {
        let fetched = self.url.fetch();
        let text = fetched.map_err(|error| self.url.failed(error))?;
        let changed = self.in_force(|keys| keys.take_fetched(text))?;
        if let Some(changed) = &changed {
            let (keys, before) = (changed.keys, changed.before);
            let url = self.url.shown();
            tracing::info!(keys, before, %url, "the keys of tokens have changed");
        }
        Ok(changed.is_some())
    }

    fn in_force<T>(&self, work: impl FnOnce(&mut KeysInForce) -> T) -> T {
        work(&mut self.keys.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Counts an outcome, and logs the first of several equal failures.
    fn report_fetch(&mut self, fetched: &Result<bool, KeyFileError>) {
        let outcome = FetchOutcome::of(fetched);
        self.stats.outcomes[outcome as usize].fetch_add(1, Relaxed);
        match fetched {
            Ok(_) => {
                let now_us = self.stats.clock.mono_us();
                self.stats.good_us.store(now_us, Relaxed);
                self.awaits_keys.store(false, Relaxed);
                if self.last.is_some_and(FetchOutcome::is_failure) {
                    tracing::info!(url = %self.url.shown(), "the key set is there again");
                }
            }
            Err(error) if self.last != Some(outcome) => {
                let then = match self.awaits_keys.load(Relaxed) {
                    true => "there are no keys for tokens yet; trying again until there are",
                    false => "the keys stay as they were",
                };
                tracing::warn!("{error}; {then}");
            }
            Err(_) => {}
        }
        self.last = Some(outcome);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpListener};

    use super::*;
    use crate::auth::{Authenticator, Token};
    use crate::keys::KeyFiles;
    use weirgate_server::settings::{AuthSettings, KeySetUrl};
    use weirgate_wire::auth::{ClaimRules, Refusal};

    /// The times of the fetches until `end_ms`, with a look each 200 ms.
    fn times(end_ms: u64, is_good: impl Fn(u64) -> bool, asked: impl Fn(u64) -> bool) -> Vec<u64> {
        let mut schedule = Schedule::default();
        let mut times = Vec::new();
        for now_ms in (0..end_ms).step_by(200) {
            if schedule.is_due(now_ms) || asked(now_ms) && schedule.try_begin_for_token(now_ms) {
                times.push(now_ms);
                match is_good(now_ms) {
                    true => schedule.succeeded(now_ms),
                    false => schedule.failed(now_ms),
                }
            }
        }
        times
    }

    #[test]
    fn a_set_is_fetched_each_hour() {
        let times = times(3 * REFRESH_MS, |_| true, |_| false);
        assert_eq!(times, [0, REFRESH_MS, 2 * REFRESH_MS]);
    }

    #[test]
    fn tokens_with_unknown_keys_cause_one_fetch_a_minute() {
        let times = times(200_000, |_| true, |now_ms| now_ms >= 5_000);
        assert_eq!(times, [0, 5_000, 65_000, 125_000, 185_000]);
    }

    #[test]
    fn a_provider_that_is_away_is_asked_less_and_less() {
        let first = times(300_000, |_| false, |_| true);
        let seconds = [0, 1, 3, 7, 15, 31, 63, 123, 183, 243];
        assert_eq!(first, seconds.map(|s| s * 1000));
        // With keys, once a minute, whatever tokens ask for.
        let later = times(
            REFRESH_MS + 150_000,
            |now_ms| now_ms == 0,
            |now_ms| now_ms > REFRESH_MS,
        );
        let minutes = [0, 60_000, 120_000].map(|ms| REFRESH_MS + ms);
        assert_eq!(later, [&[0][..], &minutes].concat());
    }

    const JWKS: &str = include_str!("../../tests/vectors/tokens/jwks.json");

    /// A server of key sets: each connection gets the present text; if this is `None`, no answer at all.
    fn serve(text: &Arc<Mutex<Option<String>>>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let addr = listener.local_addr().expect("an address");
        let text = Arc::clone(text);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.expect("a connection");
                let mut head = [0; 4096];
                drop(stream.read(&mut head));
                if let Some(text) = text.lock().expect("a text").as_ref() {
                    let length = text.len();
                    let answer =
                        format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{text}");
                    drop(stream.write_all(answer.as_bytes()));
                }
            }
        });
        addr
    }

    fn settings(addr: SocketAddr) -> AuthSettings {
        AuthSettings {
            required: true,
            api_key: None,
            jwt_secret: None,
            jwt_secret_before: None,
            public_key_files: Vec::new(),
            jwks_file: None,
            jwks_url: KeySetUrl::parse(&format!("http://{addr}/keys")),
            jwks_ca_file: None,
            rules: ClaimRules::default(),
            token_cookie: String::new(),
        }
    }

    #[test]
    fn the_last_good_set_stays_until_another_good_one() {
        let served = Arc::new(Mutex::new(None));
        let settings = settings(serve(&served));
        let (keys, _) = KeyFiles::new(&settings).load().expect("keys");
        let ring = keys.ring();
        let keys = Arc::new(Mutex::new(keys));
        let mut fetches = KeyFetches::new(&keys, Clock::start()).expect("a URL");
        let (stats, awaits_keys) = (fetches.stats(), fetches.awaits_keys());
        let mut look = |text: Option<String>| {
            *served.lock().expect("a text") = text;
            fetches.schedule.due_ms = 0;
            fetches.fetch_if_due();
            ring.current().len()
        };
        assert_eq!(look(None), 0);
        assert!(awaits_keys.load(Relaxed));
        assert_eq!(look(Some(JWKS.to_owned())), 3);
        assert!(!awaits_keys.load(Relaxed));
        assert_eq!(look(Some(JWKS.to_owned())), 3);
        for bad in [None, Some("garbage".to_owned()), Some("{}".to_owned())] {
            assert_eq!(look(bad), 3, "tokens wait for another set");
        }
        assert_eq!(look(Some("x".repeat(2 << 20))), 3);
        let next = JWKS.replacen("\"sig\"", "\"enc\"", 1);
        assert_eq!(look(Some(next)), 2);
        let counts: Vec<u64> = stats.outcomes().iter().map(|(_, count)| *count).collect();
        assert_eq!(counts, [2, 1, 2, 0, 0, 1, 2]);
        assert!(stats.age_s() < 60);
    }

    #[test]
    fn a_request_and_an_unknown_key_are_fetched_without_waiting_for_the_hour() {
        let served = Arc::new(Mutex::new(Some(JWKS.to_owned())));
        let settings = settings(serve(&served));
        let (keys, _) = KeyFiles::new(&settings).load().expect("keys");
        let ring = keys.ring();
        let keys = Arc::new(Mutex::new(keys));
        let clock = Clock::start();
        let mut fetches = KeyFetches::new(&keys, clock).expect("a URL");
        let stats = fetches.stats();
        let fetched = || stats.outcomes().iter().map(|(_, count)| count).sum::<u64>();
        fetches.fetch_if_due();
        fetches.fetch_if_due();
        assert_eq!(fetched(), 1);
        keys.lock().expect("keys").request_fetch();
        fetches.fetch_if_due();
        fetches.fetch_if_due();
        assert_eq!((fetched(), ring.wants_fetch()), (2, false));
        let authenticator = Authenticator {
            keys: ring.clone(),
            ..Authenticator::default()
        };
        // {"alg":"RS256","kid":"new"} and {}; then with the key id "next".
        let [stranger, next] = ["Im5ldyJ9", "Im5leHQifQ"]
            .map(|kid| Token::new(format!("eyJhbGciOiJSUzI1NiIsImtpZCI6{kid}.e30.AA")));
        let judged = |token: &Option<Token>| authenticator.identify(token.as_ref(), clock.now());
        let due = Err(Refusal::KeysDue { wait_ms: 0 });
        assert_eq!(judged(&stranger), due);
        fetches.fetch_if_due();
        assert_eq!((fetched(), ring.wants_fetch()), (3, false));
        assert_eq!(judged(&stranger), Err(Refusal::UnknownKey));
        // The fetch for the stranger's token may have come before the provider had its new key.
        let later = judged(&next);
        assert!(
            matches!(
                later,
                Err(Refusal::KeysDue {
                    wait_ms: 50_000..=60_000
                })
            ),
            "{later:?}"
        );
        fetches.fetch_if_due();
        assert_eq!(
            (fetched(), ring.wants_fetch()),
            (3, true),
            "not within the minute"
        );
        fetches.schedule.asked_ms = None;
        fetches.fetch_if_due();
        assert_eq!((fetched(), ring.wants_fetch()), (4, false));
        assert_eq!(judged(&next), Err(Refusal::UnknownKey));
    }
}

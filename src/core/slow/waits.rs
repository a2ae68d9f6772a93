//! The clients whose send queue waits, and the polls of these clients.
//!
//! A wait begins when the kernel takes less than offered, and ends when the queue is empty. Only these clients have an
//! entry here, and only while there are entries the shell polls, four times a second. A client that waits for long is
//! sampled once a second; two samples give a verdict.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::ops::Bound::{Excluded, Unbounded};

use foldhash::quality::RandomState;

use super::{Cause, Pair, SlowReason, TcpSample, late};
use crate::clients::Clients;
use crate::session::Session;
use crate::shell::Transmit;
use crate::stats::SlowStats;
use crate::{Now, SessionKey};
use weirgate_wire::admission::{ClientAddr, Peer, TrustedProxies};

/// Time between two polls.
const EVERY_US: u64 = 250_000;
/// The polls that are remembered: the polls of the last second, and the poll at its start.
const POLLS: usize = 5;
/// A client is slow if its queue waited for this long in the last second.
const SLOW_US: u64 = 500_000;
/// A client is sampled if its queue waited for this long since the last poll.
const SAMPLE_FROM_US: u64 = EVERY_US / 2;
/// The shortest time between two samples of a client: a second, less the time by which a poll may come early.
const APART_US: u64 = 900_000;
/// The most calls of the kernel in one poll; the next poll continues with the clients after.
const CALLS_MAX: u32 = 64;
/// The most clients with samples; the others are [`SlowReason::Unclear`].
const SAMPLED_MAX: usize = 1_024;
/// The most clients that one turn polls.
const SLICE: usize = 2_048;
/// A client that has no second sample after this time is [`SlowReason::Unclear`].
const PENDING_US: u64 = 2_000_000;
/// A client stops being slow after this time in which no poll found it slow.
const SLOW_ENDS_US: u64 = 3_000_000;
/// The log line about an ended connection gets a verdict only if the client was slow within this time before.
const VERDICT_KEPT_US: u64 = 10_000_000;
/// If at least this many clients behind a proxy are slow, and at least half of all its clients, the proxy itself is
/// slow.
const PROXY_ITSELF_MIN: u64 = 3;

/// A client whose queue waits, or has waited a moment ago.
#[derive(Debug, Default)]
struct Wait {
    /// When the current wait began; `None` while the queue does not wait.
    since_us: Option<u64>,
    /// The total time of the waits that have ended.
    ended_us: u64,
    /// The total time of waiting as of each of the last polls, the oldest first.
    at_polls: [u64; POLLS],
    /// Since when the client has been slow; `None`: it is not.
    slow_since_us: Option<u64>,
    /// The last poll in which the client was slow.
    slow_at_us: u64,
    /// The verdict, and the line for a person.
    why: Option<SlowReason>,
    say: Box<str>,
    sampled: Option<Box<Sampled>>,
}

#[derive(Debug, Default)]
struct Sampled {
    /// The newest sample, unless the client has stopped waiting since.
    newest: Option<TcpSample>,
    lost_permille: u32,
    /// The kernel has no numbers about this socket.
    has_none: bool,
}

/// The cause of a slow client, for operators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlowSnapshot {
    /// The cause; `None` before the second sample.
    pub why: Option<SlowReason>,
    /// The cause in words for people, with figures.
    pub say: Box<str>,
    /// For how long the client has been slow, microseconds.
    pub slow_us: u64,
    /// The kernel's last numbers.
    pub kernel: Option<TcpSample>,
    /// Of a thousand bytes, the number that was sent again.
    pub lost_permille: u32,
}

/// The facts of a poll about the time since the last polls.
#[derive(Clone, Copy, Debug, Default)]
struct Poll {
    now_us: u64,
    late_us: u64,
    /// From the poll a second ago to this poll.
    passed_us: u64,
    /// Since the last poll.
    step_us: u64,
}

/// All clients that wait.
#[derive(Debug, Default)]
pub(crate) struct Waits {
    by_client: BTreeMap<SessionKey, Wait>,
    /// The times of the last polls, the oldest first.
    polls: [u64; POLLS],
    /// The poll under way, and the last client that it has reached.
    walk: Option<(Poll, Option<SessionKey>)>,
    /// Calls of the kernel in this poll, at most [`CALLS_MAX`].
    calls: u32,
    /// The last client that a poll sampled, if the poll had no call left for the clients after it: the next poll
    /// continues there.
    called: Option<SessionKey>,
    /// Clients with samples, at most [`SAMPLED_MAX`].
    sampled: usize,
    by_proxy: HashMap<ClientAddr, ProxyClients, RandomState>,
}

/// The clients behind a proxy.
#[derive(Clone, Copy, Debug, Default)]
struct ProxyClients {
    open: u64,
    /// Slow clients at the last whole poll.
    slow: u64,
    /// Slow clients that the poll under way has found so far.
    slow_so_far: u64,
}

impl Wait {
    fn total_us(&self, now_us: u64) -> u64 {
        let under_way = self.since_us.map_or(0, |at| now_us.saturating_sub(at));
        self.ended_us + under_way
    }

    /// Notes the total time of waiting as of this poll.
    fn note_poll(&mut self, now_us: u64) {
        self.at_polls.rotate_left(1);
        self.at_polls[POLLS - 1] = self.total_us(now_us);
    }

    /// The time of waiting since the last poll, and in the last second.
    fn waited_us(&self) -> [u64; 2] {
        let [first, .., last, now] = self.at_polls;
        [now - last, now - first]
    }

    /// Whether nothing is left to remember.
    fn is_over(&self, now_us: u64) -> bool {
        let was_slow = self.slow_at_us > 0 && now_us < self.slow_at_us + VERDICT_KEPT_US;
        self.since_us.is_none() && self.waited_us()[1] == 0 && !was_slow
    }
}

impl Waits {
    /// Notes that a client's queue begins to wait (`waits`), or has become empty.
    pub(crate) fn note_waiting(&mut self, now: Now, key: SessionKey, waits: bool) {
        if self.by_client.is_empty() {
            self.polls = [now.mono_us; POLLS];
        }
        let wait = self.by_client.entry(key).or_default();
        wait.ended_us = wait.total_us(now.mono_us);
        wait.since_us = waits.then_some(now.mono_us);
    }

    /// Forgets a client that ends. Returns its verdict, if recent; for a client that waits without a verdict,
    /// [`SlowReason::Unclear`].
    pub(crate) fn remove(
        &mut self,
        now: Now,
        key: SessionKey,
        stats: &mut SlowStats,
    ) -> Option<(SlowReason, Box<str>)> {
        let mut wait = self.by_client.remove(&key)?;
        self.sampled -= usize::from(wait.sampled.is_some());
        let is_young = now.mono_us <= wait.slow_at_us + VERDICT_KEPT_US;
        let reported = match wait.why.filter(|_| is_young) {
            Some(why) => Some((why, wait.say.clone())),
            None => wait.since_us.map(|_| (SlowReason::Unclear, Box::default())),
        };
        wait.end_slowness(stats);
        reported
    }

    /// Counts a client behind a proxy that has opened.
    pub(crate) fn count_opened_by_proxy(&mut self, proxy: ClientAddr) {
        self.by_proxy.entry(proxy).or_default().open += 1;
    }

    /// Counts the end of an open client behind a proxy.
    pub(crate) fn count_ended_by_proxy(&mut self, proxy: ClientAddr) {
        if let Entry::Occupied(mut clients) = self.by_proxy.entry(proxy) {
            clients.get_mut().open = clients.get().open.saturating_sub(1);
            if clients.get().open == 0 {
                clients.remove();
            }
        }
    }

    /// The time of the next poll; `None` while no client waits.
    pub(crate) fn due_us(&self) -> Option<u64> {
        match self.walk {
            // A poll is under way, and goes on at once.
            Some(_) => Some(0),
            None if self.by_client.is_empty() => None,
            None => Some(self.polls[POLLS - 1] + EVERY_US),
        }
    }

    /// Whether the client is slow.
    pub(crate) fn is_slow(&self, key: SessionKey) -> bool {
        let wait = self.by_client.get(&key);
        wait.is_some_and(|wait| wait.slow_since_us.is_some())
    }

    /// The facts about a slow client; `None` if it is not slow.
    pub(crate) fn snapshot(&self, now: Now, key: SessionKey) -> Option<SlowSnapshot> {
        let wait = self.by_client.get(&key)?;
        let sampled = wait.sampled.as_deref();
        Some(SlowSnapshot {
            why: wait.why,
            say: wait.say.clone(),
            slow_us: now.mono_us.saturating_sub(wait.slow_since_us?),
            kernel: sampled.and_then(|sampled| sampled.newest),
            lost_permille: sampled.map_or(0, |sampled| sampled.lost_permille),
        })
    }

    /// Polls the next clients that wait. `late_us`: the lateness of the loop in the last second.
    pub(crate) fn poll_clients(
        &mut self,
        now: Now,
        late_us: u64,
        clients: &mut Clients,
        trusted: &TrustedProxies,
        tx: &mut dyn Transmit,
    ) {
        let (poll, reached) = match self.walk.take() {
            Some(under_way) => under_way,
            None => (self.begin(now, late_us), None),
        };
        let mut waits = std::mem::take(&mut self.by_client);
        let from = reached.map_or(Unbounded, Excluded);
        let mut over = Vec::new();
        let mut last = None;
        for (&key, wait) in waits.range_mut((from, Unbounded)).take(SLICE) {
            last = Some(key);
            wait.note_poll(poll.now_us);
            let Some(session) = clients.session(key) else {
                continue;
            };
            let peer = session.peer();
            let found = self.judge(poll, key, wait, session, trusted, tx);
            wait.set(poll, found, &mut clients.stats.slow);
            if wait.slow_since_us.is_some()
                && wait.why == Some(SlowReason::Proxy)
                && let Some(clients) = self.by_proxy.get_mut(&peer.client())
            {
                clients.slow_so_far += 1;
            }
            if wait.is_over(poll.now_us) {
                over.push(key);
            }
        }
        self.by_client = waits;
        for key in over {
            self.remove(now, key, &mut clients.stats.slow);
        }
        match last.filter(|last| {
            self.by_client
                .range((Excluded(*last), Unbounded))
                .next()
                .is_some()
        }) {
            Some(last) => self.walk = Some((poll, Some(last))),
            None => self.end(&mut clients.stats.slow),
        }
    }

    /// Begins a poll of the clients that wait.
    fn begin(&mut self, now: Now, late_us: u64) -> Poll {
        self.polls.rotate_left(1);
        self.polls[POLLS - 1] = now.mono_us;
        self.calls = 0;
        let [first, .., last, now_us] = self.polls;
        Poll {
            now_us,
            late_us,
            passed_us: now_us.saturating_sub(first),
            step_us: now_us.saturating_sub(last),
        }
    }

    /// Ends a poll that has reached all clients that wait.
    fn end(&mut self, stats: &mut SlowStats) {
        if self.calls < CALLS_MAX {
            self.called = None;
        }
        stats.calls += u64::from(self.calls);
        for clients in self.by_proxy.values_mut() {
            clients.slow = std::mem::take(&mut clients.slow_so_far);
        }
    }

    /// The verdict on a client in a poll; `None` if the client is not slow.
    fn judge(
        &mut self,
        poll: Poll,
        key: SessionKey,
        wait: &mut Wait,
        session: &Session,
        trusted: &TrustedProxies,
        tx: &mut dyn Transmit,
    ) -> Option<Judged> {
        let [recent_us, waited_us] = wait.waited_us();
        // If polls were late, more than a second has passed, and half of that counts.
        let slow_us = SLOW_US.max(poll.passed_us / 2);
        let waits = waited_us >= slow_us;
        let pair = match waits || recent_us >= SAMPLE_FROM_US {
            true => self.sample(poll, key, wait, tx),
            false => {
                if let Some(sampled) = &mut wait.sampled {
                    sampled.newest = None;
                }
                None
            }
        };
        if !waits {
            return None;
        }
        let sampled = wait.sampled.as_ref();
        let has_none = sampled.is_some_and(|sampled| sampled.has_none);
        if waited_us < slow_us + poll.late_us {
            // Without the lateness of the loop the client would not be slow, so the loop is the cause. But a wait that has
            // just begun may soon be long enough by itself, so there is no verdict before the time of the second sample.
            return match pair.is_some() || has_none {
                true => Some(Judged::new(SlowReason::Gateway, late(poll.late_us))),
                false => wait.slow_since_us.map(|_| Judged::AsBefore),
            };
        }
        if session.is_paced() {
            return Some(Judged::new(
                SlowReason::Paced,
                "the demo holds its bytes back",
            ));
        }
        match pair {
            Some(pair) => Some(self.judge_samples(poll, pair, wait, session, trusted)),
            None => Some(self.judge_unsampled(poll, wait, session, trusted)),
        }
    }

    /// The verdict from two samples of a slow client.
    fn judge_samples(
        &self,
        poll: Poll,
        pair: Pair,
        wait: &Wait,
        session: &Session,
        trusted: &TrustedProxies,
    ) -> Judged {
        let untaken_us = session.untaken_us(poll.now_us);
        let cause = pair.cause(poll.late_us);
        let peer = session.peer();
        if is_proxy(&peer, trusted) && cause != Cause::Late && cause != Cause::Idle {
            return self.proxy(&peer, pair.say_of_proxy(untaken_us));
        }
        let say = || pair.say(cause, poll.late_us, untaken_us);
        match (cause.why(), wait.slow_since_us.and(wait.why)) {
            (Some(why), _) => Judged::new(why, say()),
            (None, Some(_)) => Judged::AsBefore,
            (None, None) => Judged::new(SlowReason::Unclear, say()),
        }
    }

    /// The verdict on a slow client without two samples: it had no turn yet, or the kernel has no numbers.
    fn judge_unsampled(
        &self,
        poll: Poll,
        wait: &Wait,
        session: &Session,
        trusted: &TrustedProxies,
    ) -> Judged {
        let peer = session.peer();
        let is_pending = |since_us| poll.now_us < since_us + PENDING_US;
        match &wait.sampled {
            Some(sampled) if sampled.has_none && is_proxy(&peer, trusted) => {
                self.proxy(&peer, String::new())
            }
            Some(sampled) if sampled.has_none => {
                Judged::new(SlowReason::Unclear, "the kernel has no numbers of it")
            }
            None if self.sampled >= SAMPLED_MAX => Judged::new(
                SlowReason::Unclear,
                "too many clients are slow to look at each",
            ),
            // It has a verdict of this slowness; that of an earlier one may still be in `why`, for the log.
            _ if wait.slow_since_us.and(wait.why).is_some() => Judged::AsBefore,
            // No verdict yet: the second sample may still come.
            _ if wait.slow_since_us.is_none_or(is_pending) => Judged::AsBefore,
            _ => Judged::new(SlowReason::Unclear, "not looked at twice yet"),
        }
    }

    /// Samples a client if its turn has come; returns the sample together with the previous sample.
    fn sample(
        &mut self,
        poll: Poll,
        key: SessionKey,
        wait: &mut Wait,
        tx: &mut dyn Transmit,
    ) -> Option<Pair> {
        let had_turn = self.called.is_some_and(|called| key <= called);
        if had_turn || self.calls >= CALLS_MAX {
            return None;
        }
        if wait.sampled.is_none() {
            if self.sampled >= SAMPLED_MAX {
                return None;
            }
            self.sampled += 1;
        }
        let sampled = wait.sampled.get_or_insert_default();
        let is_young = |sample: TcpSample| poll.now_us < sample.at_us + APART_US;
        if sampled.has_none || sampled.newest.is_some_and(is_young) {
            return None;
        }
        self.calls += 1;
        if self.calls == CALLS_MAX {
            self.called = Some(key);
        }
        let newest = tx.sample(key).map(|sample| TcpSample {
            at_us: poll.now_us,
            ..sample
        });
        sampled.has_none = newest.is_none();
        let before = std::mem::replace(&mut sampled.newest, newest)?;
        let pair = Pair::new(before, newest?)?;
        sampled.lost_permille = (pair.lost_percent() * 10.0) as u32;
        Some(pair)
    }

    /// The verdict on a client behind a proxy.
    fn proxy(&self, peer: &Peer, say: String) -> Judged {
        let addr = peer.client();
        let Some(ProxyClients { open, slow, .. }) = self.by_proxy.get(&addr).copied() else {
            return Judged::new(SlowReason::Proxy, say);
        };
        match slow >= PROXY_ITSELF_MIN && slow * 2 >= open {
            true => Judged::new(
                SlowReason::Proxy,
                format!("the proxy itself: {slow} of {open} clients behind {addr} are slow"),
            ),
            false => Judged::new(SlowReason::Proxy, say),
        }
    }
}

/// Whether the socket is that of a proxy, or of a program on this machine.
pub(crate) fn is_proxy(peer: &Peer, trusted: &TrustedProxies) -> bool {
    !matches!(peer, Peer::Tcp(_)) || trusted.trusts_peer(peer)
}

/// The outcome of the poll of a slow client.
enum Judged {
    /// The verdict stays, or there is still none.
    AsBefore,
    New(SlowReason, Box<str>),
}

impl Judged {
    fn new(why: SlowReason, say: impl Into<Box<str>>) -> Self {
        Self::New(why, say.into())
    }
}

impl Wait {
    /// Records the outcome of a poll, and counts it.
    fn set(&mut self, poll: Poll, found: Option<Judged>, stats: &mut SlowStats) {
        let Some(found) = found else {
            if poll.now_us > self.slow_at_us + SLOW_ENDS_US {
                self.end_slowness(stats);
            }
            return;
        };
        if self.slow_since_us.is_none() {
            self.why = None;
            self.say = Box::default();
            self.slow_since_us = Some(poll.now_us.saturating_sub(self.waited_us()[1]));
        }
        self.slow_at_us = poll.now_us;
        if let Judged::New(why, say) = found {
            if let Some(before) = self.why {
                stats.clients[before as usize] -= 1;
            }
            stats.clients[why as usize] += 1;
            (self.why, self.say) = (Some(why), say);
        }
        if let Some(why) = self.why {
            stats.slow_us[why as usize] += poll.step_us;
        }
    }

    /// Notes that the client is no longer slow. The verdict stays for the log line about its end ([`VERDICT_KEPT_US`]).
    fn end_slowness(&mut self, stats: &mut SlowStats) {
        if self.slow_since_us.take().is_some()
            && let Some(why) = self.why
        {
            stats.clients[why as usize] -= 1;
        }
    }
}

//! Slow clients: which send queues wait for long, and why.

use std::net::IpAddr;

use weirgate_core::{Effect, Limits, PeerEnd, SessionKey, SlowReason, SlowSnapshot, TcpSample};
use weirgate_wire::admission::TrustedProxies;

use super::deadlines::pinged;
use super::{SECOND, small_queue, state, symbols};
use crate::world::World;
use crate::world::client::frame;
use crate::world::state::State;
use crate::world::toys::Symbols;

const LOOK: u64 = SECOND / 4;

/// The limits of docs/contributing/limits.md.
const CALLS_MAX: usize = 64;
const SAMPLED_MAX: usize = 1_024;

fn limits() -> Limits {
    Limits {
        ping_interval_us: 0,
        ..Limits::default()
    }
}

/// A connection of which the kernel is busy all the time, and whose window is closed.
fn frozen(now_us: u64) -> TcpSample {
    TcpSample {
        mss_bytes: 1_448,
        cwnd_segments: 10,
        busy_us: now_us,
        window_limited_us: now_us,
        ..TcpSample::default()
    }
}

trait Looks {
    /// Passes so many quarters of a second, each with a look.
    fn looks(&mut self, looks: u64, late_us: u64, sample: impl Fn(u64) -> Option<TcpSample>);
    fn slow(&self, key: SessionKey) -> Option<SlowSnapshot>;
}

macro_rules! looks {
    ($gateway:ty) => {
        impl Looks for World<$gateway> {
            fn looks(
                &mut self,
                looks: u64,
                late_us: u64,
                sample: impl Fn(u64) -> Option<TcpSample>,
            ) {
                for _ in 0..looks {
                    self.advance(LOOK);
                    for socket in self.net.sockets.values_mut() {
                        socket.sample = sample(self.now.mono_us);
                    }
                    while self.hub.slow_due().is_some_and(|at| at <= self.now.mono_us) {
                        self.hub.check_slow(self.now, late_us, &mut self.net);
                    }
                }
            }

            fn slow(&self, key: SessionKey) -> Option<SlowSnapshot> {
                self.hub.core().snapshot_of(key)?.slow
            }
        }
    };
}
looks!(Symbols);
looks!(State);

fn some_frozen(now_us: u64) -> Option<TcpSample> {
    Some(frozen(now_us))
}

#[test]
fn a_client_that_reads_nothing_is_named_within_a_second_and_a_half() {
    let mut world = symbols(limits());
    let (frozen, healthy) = (world.reader(None, 100), world.reader(None, usize::MAX));
    world.publish(1_000);
    assert_eq!(world.slow(frozen), None);
    world.looks(4, 0, some_frozen);
    let slow = world
        .slow(frozen)
        .expect("slow for more than half of a second");
    assert_eq!(
        (slow.why, slow.slow_us),
        (None, SECOND),
        "one sample is not enough"
    );
    world.looks(1, 0, some_frozen);
    let slow = world.slow(frozen).expect("slow");
    assert_eq!(slow.why, Some(SlowReason::Client));
    assert_eq!(&*slow.say, "takes nothing for 1.2 s: its window is closed");
    world.looks(20, 0, some_frozen);
    assert_eq!(
        world.net.samples, [frozen; 7],
        "one call a second, none for {healthy:?}"
    );
    let stats = world.hub.stats().slow;
    assert_eq!((stats.clients.iter().sum::<u64>(), stats.calls), (1, 7));
    assert_eq!(stats.slow_us[SlowReason::Client as usize], 21 * LOOK);

    world.open_window(frozen, usize::MAX);
    world.looks(12, 0, some_frozen);
    assert!(world.slow(frozen).is_some(), "three seconds count");
    world.looks(3, 0, some_frozen);
    assert!(world.slow(frozen).is_none() && world.hub.slow_due().is_some());
    assert_eq!(world.hub.stats().slow.clients, [0; SlowReason::ALL.len()]);
    world.looks(41, 0, some_frozen);
    assert_eq!(world.hub.slow_due(), None, "nobody is looked at");
}

#[test]
fn a_healthy_client_with_a_small_buffer_is_never_slow_and_costs_no_call() {
    let mut world = symbols(limits());
    let key = world.reader(None, 16_384);
    for _ in 0..100 {
        world.publish(20_000);
        world.advance(SECOND / 100);
        world.open_window(key, 20_000);
        world.looks(1, 0, some_frozen);
        assert_eq!(world.slow(key), None);
    }
    assert!(world.net.samples.is_empty(), "{:?}", world.net.samples);
}

#[test]
fn a_wait_ends_with_the_queue_whatever_empties_it() {
    let mut world = state(limits());
    let key = world.viewer(0);
    world.publish("levels/1", "a state");
    world.looks(5, 0, some_frozen);
    assert_eq!(
        world.slow(key).and_then(|slow| slow.why),
        Some(SlowReason::Client)
    );
    world.hub.handle_ended(world.now, key, PeerEnd::Failed);
    world.settle();
    assert_eq!(world.hub.stats().slow.clients, [0; SlowReason::ALL.len()]);
    assert_eq!(world.hub.slow_due(), None);
}

#[test]
fn a_late_loop_is_not_the_fault_of_the_client() {
    let mut world = symbols(limits());
    let key = world.reader(None, 0);
    for _ in 0..8 {
        world.publish(100);
        world.looks(3, 300_000, some_frozen);
        world.open_window(key, 100);
        world.looks(1, 300_000, some_frozen);
        world.net.sockets.get_mut(&key).expect("a socket").room = 0;
    }
    let slow = world.slow(key).expect("it waited");
    assert_eq!(slow.why, Some(SlowReason::Gateway));
    assert_eq!(&*slow.say, "our loop was late: 300 ms in the last second");
}

#[test]
fn a_pong_says_how_long_the_way_through_the_client_is() {
    let mut world = symbols(pinged());
    let key = world.reader(None, usize::MAX);
    while world.client(key).pings == 0 {
        world.advance(SECOND / 10);
    }
    assert_eq!(world.hub.take_pongs_us().next(), None);
    world.advance(SECOND / 4);
    world.send(key, &frame(0x8a, b""));
    assert_eq!(world.hub.take_pongs_us().collect::<Vec<_>>(), [LOOK as u32]);
    world.send(key, &frame(0x8a, b""));
    assert_eq!(
        world.hub.take_pongs_us().next(),
        None,
        "a pong without a ping"
    );
}

#[test]
fn a_loop_that_is_a_little_late_hides_no_cause() {
    let mut world = symbols(limits());
    let key = world.reader(None, 0);
    world.publish(100);
    for look in 1..=8 {
        world.looks(1, 100_000, some_frozen);
        let why = world.slow(key).and_then(|slow| slow.why);
        assert_ne!(why, Some(SlowReason::Gateway), "at look {look}");
    }
    assert_eq!(
        world.slow(key).and_then(|slow| slow.why),
        Some(SlowReason::Client)
    );
}

#[test]
fn without_numbers_of_the_kernel_nothing_is_guessed() {
    let mut world = symbols(limits());
    let key = world.reader(None, 0);
    world.publish(100);
    world.looks(2, 0, |_| None);
    assert_eq!(
        world.slow(key).and_then(|slow| slow.why),
        Some(SlowReason::Unclear)
    );
    world.looks(20, 0, |_| None);
    assert_eq!(world.net.samples.len(), 1, "not asked again");
    let mut idle = symbols(limits());
    let key = idle.reader(None, 0);
    idle.publish(100);
    let stopped = |_| Some(frozen(0));
    idle.looks(9, 0, stopped);
    assert_eq!(
        idle.slow(key).and_then(|slow| slow.why),
        Some(SlowReason::Unclear)
    );
}

#[test]
fn thousands_that_wait_share_the_calls_of_a_look_and_few_have_samples() {
    let mut world = symbols(limits());
    let keys: Vec<_> = (0..1_200).map(|_| world.reader(None, 0)).collect();
    world.publish(100);
    for look in 1..=40 {
        world.net.samples.clear();
        world.looks(1, 0, some_frozen);
        let calls = world.net.samples.len();
        assert!(calls <= CALLS_MAX, "{calls} calls at look {look}");
    }
    let mut of = [0; 3];
    for key in keys {
        match world.slow(key).and_then(|slow| slow.why) {
            Some(SlowReason::Client) => of[0] += 1,
            Some(SlowReason::Unclear) => of[1] += 1,
            _ => of[2] += 1,
        }
    }
    assert_eq!(of, [SAMPLED_MAX, 1_200 - SAMPLED_MAX, 0]);
    let clients = world.hub.stats().slow.clients;
    assert_eq!(
        clients[SlowReason::Unclear as usize],
        1_200 - SAMPLED_MAX as u64
    );
}

#[test]
fn behind_a_proxy_only_the_proxy_is_seen_and_named_if_half_of_its_clients_are_slow() {
    let trusted = Limits {
        trusted_proxies: TrustedProxies::Any,
        ..limits()
    };
    let mut world = symbols(trusted);
    let proxy = IpAddr::from([10, 0, 0, 7]);
    let mut behind = |room| {
        let key = world.connect_from(proxy, "/ws", None);
        world.text(key, "sub A");
        world.net.sockets.get_mut(&key).expect("a socket").room = room;
        key
    };
    let first = behind(0);
    let rest: Vec<_> = (0..4).map(|_| behind(usize::MAX)).collect();
    world.publish(100);
    world.looks(6, 0, some_frozen);
    let slow = world.slow(first).expect("slow");
    assert_eq!(slow.why, Some(SlowReason::Proxy));
    assert_eq!(&*slow.say, "its proxy takes nothing for 1.2 s");
    for key in &rest[..2] {
        world.net.sockets.get_mut(key).expect("a socket").room = 0;
    }
    world.publish(100);
    world.looks(12, 0, some_frozen);
    let say = world.slow(first).expect("slow").say;
    assert_eq!(
        &*say,
        "the proxy itself: 3 of 5 clients behind 10.0.0.7 are slow"
    );
}

#[test]
fn a_dropped_client_leaves_its_verdict_and_what_waited() {
    let mut world = symbols(small_queue());
    let key = world.reader(None, 50);
    world.publish(200);
    world.looks(5, 0, some_frozen);
    world.held = true;
    world.publish(1_000);
    world.publish(1_900);
    world.publish(1_000);
    let ended = std::iter::from_fn(|| world.hub.poll_effect()).find_map(|effect| match effect {
        Effect::Release { ended, .. } => Some(ended),
        _ => None,
    });
    let dropped = ended.expect("an end").dropped.expect("dropped");
    assert_eq!((dropped.messages, dropped.bytes), (3, 3_100), "{key:?}");
    assert_eq!(
        (dropped.why, dropped.untaken_us),
        (Some(SlowReason::Client), 5 * LOOK)
    );
    assert!(
        dropped.say.starts_with("takes nothing for"),
        "{}",
        dropped.say
    );
}

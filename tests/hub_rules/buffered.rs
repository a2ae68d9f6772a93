//! A client behind buffers that take everything at once and carry little: its state stays young, by the pongs alone.

use weirgate_core::{Limits, SessionKey, SlowReason};

use super::{SECOND, small_queue, state};
use crate::world::World;
use crate::world::client::frame;
use crate::world::state::State;

/// The time between two looks at a line.
const STEP_US: u64 = 10_000;

/// A way to a client: the gateway's kernel takes everything, and the client reads `bytes_per_s`, each byte `delay_us`
/// after it left.
struct Line {
    key: SessionKey,
    bytes_per_s: u64,
    delay_us: u64,
    /// Bytes that have come to the client.
    came: f64,
    /// For each ping and each state: the bytes up to its end, and when the last one left; of a state, when it was made.
    pings: Vec<(u64, u64)>,
    states: Vec<(u64, u64, u64)>,
    pongs: usize,
    /// When the newest state that has come was made.
    newest_us: u64,
}

impl Line {
    fn new(world: &mut World<State>, bytes_per_s: u64, delay_us: u64) -> Self {
        let key = world.connect("/ws", None);
        Self {
            key,
            bytes_per_s,
            delay_us,
            came: world.net.sockets[&key].bytes as f64,
            pings: Vec::new(),
            states: Vec::new(),
            pongs: 0,
            newest_us: world.now.mono_us,
        }
    }

    /// What has left since the last step, and what comes in this step. Returns the age of the newest state.
    fn step(&mut self, world: &mut World<State>) -> u64 {
        let (now_us, sent) = (world.now.mono_us, world.net.sockets[&self.key].bytes);
        for text in world.texts(self.key) {
            let made_us = text.trim_start_matches('.').parse().expect("a time");
            self.states.push((sent, now_us, made_us));
        }
        let pings = world.client(self.key).pings;
        self.pings.resize(pings, (sent, now_us));
        let step_bytes = self.bytes_per_s as f64 * STEP_US as f64 / 1e6;
        self.came = (self.came + step_bytes).min(sent as f64);
        let came = self.came as u64;
        for (_, _, made_us) in self.states.iter().filter(|(end, _, _)| *end <= came) {
            self.newest_us = self.newest_us.max(*made_us);
        }
        self.states.retain(|(end, _, _)| *end > came);
        while let Some((end, left_us)) = self.pings.get(self.pongs)
            && *end <= came
            && left_us + self.delay_us <= now_us
        {
            self.pongs += 1;
            world.send(self.key, &frame(0x8a, b""));
        }
        now_us - self.newest_us
    }
}

fn pinged() -> Limits {
    Limits {
        ping_interval_us: 20 * SECOND,
        pong_timeout_us: 60 * SECOND,
        ..Limits::default()
    }
}

/// So many states of so many bytes a second, for so many seconds; returns the largest age in the last half.
fn oldest(
    world: &mut World<State>,
    line: &mut Line,
    per_s: u64,
    bytes: usize,
    seconds: u64,
) -> u64 {
    let steps = seconds * SECOND / STEP_US;
    let every = SECOND / STEP_US / per_s;
    let mut oldest = 0;
    for n in 0..steps {
        if n % every == 0 {
            world.publish("levels/1", &format!("{:.>bytes$}", world.now.mono_us));
        }
        let age_us = line.step(world);
        if n > steps / 2 {
            oldest = oldest.max(age_us);
        }
        world.advance(STEP_US);
    }
    world.hub.check_invariants();
    oldest
}

fn gates(world: &World<State>) -> u64 {
    world.hub.stats().slow.clients[SlowReason::Buffered as usize]
}

#[test]
fn a_line_behind_deep_buffers_carries_young_states() {
    for (bytes_per_s, per_s, bytes) in [
        (20_000, 20, 2_000),
        (20_000, 50, 1_000),
        (20_000, 2, 20_000),
        (4_000, 10, 2_000),
        (100_000, 20, 40_000),
        (2_000, 1, 6_000),
    ] {
        let mut world = state(pinged());
        let mut line = Line::new(&mut world, bytes_per_s, 40_000);
        let oldest_us = oldest(&mut world, &mut line, per_s, bytes, 400);
        let one_us = bytes as u64 * SECOND / bytes_per_s;
        let limit_us = 2 * one_us + SECOND;
        assert!(
            oldest_us <= limit_us,
            "{bytes} bytes at {bytes_per_s}: {oldest_us} us, at most {limit_us}"
        );
        assert_eq!(gates(&world), 1);
        let look = world.hub.core().snapshot_of(line.key).expect("it is there");
        assert_eq!(
            look.slow.and_then(|slow| slow.why),
            Some(SlowReason::Buffered)
        );
        world.end(line.key, true);
        assert_eq!(gates(&world), 0);
        assert!(world.hub.stats().slow.slow_us[SlowReason::Buffered as usize] > 100 * SECOND);
    }
}

#[test]
fn a_client_far_away_misses_nothing() {
    for delay_us in [300_000, 800_000] {
        let mut world = state(pinged());
        let mut line = Line::new(&mut world, 10_000_000, delay_us);
        let oldest_us = oldest(&mut world, &mut line, 20, 2_000, 100);
        assert!(oldest_us <= SECOND / 10, "{oldest_us}");
        assert_eq!(world.hub.stats().messages_conflated, 0);
        assert_eq!(gates(&world), 0);
    }
}

/// A line that stands still for three seconds, and goes on as before.
#[test]
fn a_line_that_was_slow_once_is_free_after_some_pongs() {
    let mut world = state(pinged());
    let mut line = Line::new(&mut world, 10_000_000, 30_000);
    oldest(&mut world, &mut line, 20, 2_000, 30);
    line.bytes_per_s = 0;
    while gates(&world) == 0 {
        oldest(&mut world, &mut line, 20, 2_000, 1);
    }
    line.bytes_per_s = 10_000_000;
    oldest(&mut world, &mut line, 20, 2_000, 5);
    assert_eq!(gates(&world), 0);
    let before = world.hub.stats().messages_conflated;
    let oldest_us = oldest(&mut world, &mut line, 20, 2_000, 60);
    assert!(oldest_us <= SECOND / 10, "{oldest_us}");
    assert_eq!(world.hub.stats().messages_conflated, before);
}

#[test]
fn without_pings_and_for_frames_without_a_key_nothing_waits() {
    let mut world = state(small_queue());
    let mut line = Line::new(&mut world, 20_000, 0);
    oldest(&mut world, &mut line, 20, 2_000, 60);
    assert_eq!(
        (gates(&world), world.hub.stats().messages_conflated),
        (0, 0)
    );
    let mut world = state(pinged());
    let mut line = Line::new(&mut world, 20_000, 0);
    oldest(&mut world, &mut line, 20, 2_000, 60);
    assert_eq!(gates(&world), 1);
    let sent = world.net.sockets[&line.key].bytes;
    (0..9).for_each(|_| world.publish("levels/none", "at once"));
    assert_eq!(world.net.sockets[&line.key].bytes - sent, 9 * 9);
}

/// A proxy takes megabytes before the first interval of pings is over.
#[test]
fn the_first_ping_comes_early_where_much_was_sent() {
    let mut world = state(pinged());
    let mut line = Line::new(&mut world, 20_000, 40_000);
    let oldest_us = oldest(&mut world, &mut line, 20, 17_000, 100);
    assert!(oldest_us <= 3 * SECOND, "{oldest_us}");
    assert!(world.client(line.key).pings > 20);
    // A client that got little is asked at the interval.
    let mut world = state(Limits {
        ping_interval_us: 600 * SECOND,
        ..pinged()
    });
    let mut line = Line::new(&mut world, 20_000_000, 40_000);
    oldest(&mut world, &mut line, 20, 500, 15);
    let before = world.client(line.key).pings;
    oldest(&mut world, &mut line, 20, 20_000, 4);
    assert_eq!(world.client(line.key).pings, before + 1);
}

/// Some networks drop pings: states come all the same until the pong's deadline.
#[test]
fn a_client_whose_pings_are_lost_goes_on_with_states() {
    let mut world = state(pinged());
    let mut line = Line::new(&mut world, 1_000_000, 0);
    line.pongs = usize::MAX / 2;
    let oldest_us = oldest(&mut world, &mut line, 20, 2_000, 40);
    assert_eq!(gates(&world), 1);
    assert!((SECOND..=2 * SECOND).contains(&oldest_us), "{oldest_us}");
}

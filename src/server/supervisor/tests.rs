//! The core against a model of processes: seeded events in random order.

use std::collections::{BTreeMap, BTreeSet};

use std::net::IpAddr;

use weirgate_core::{Connected, Cut, Revoked};
use weirgate_wire::auth::TokenMarks;

use super::core::{
    Action, Ended, Event, Listens, Number, Program, Readiness, SlotState, Supervisor,
};
use super::refusals::{Refusals, read_refusals};

const SECOND: u64 = 1_000_000;
const STOP_US: u64 = 15 * SECOND;

/// A process of the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Starts,
    Serves,
    /// It was asked to stop.
    Stops,
    /// It lives and answers nothing, as its HTTP thread has too much to do.
    IsBusy,
    /// It gives no sign of life, and ends only if it is killed.
    Hangs,
}

struct World {
    supervisor: Supervisor,
    alive: BTreeMap<Number, Life>,
    /// The version of the program that is at the path.
    installed: u32,
    in_force: u32,
    /// The version of a roll under way.
    new: Option<u32>,
    /// The version that each process runs.
    versions: BTreeMap<Number, u32>,
    /// Those that get clients.
    listening: BTreeSet<Number>,
    /// The processes that were asked to read files again.
    hung_up: Vec<Number>,
    now: u64,
    events: Vec<Event>,
    status: Option<u8>,
}

impl World {
    fn new(count: u32) -> Self {
        let mut world = Self {
            supervisor: Supervisor::new(count, STOP_US, 0),
            alive: BTreeMap::new(),
            installed: 1,
            in_force: 1,
            new: None,
            versions: BTreeMap::new(),
            listening: BTreeSet::new(),
            hung_up: Vec::new(),
            now: 0,
            events: Vec::new(),
            status: None,
        };
        world.act();
        world
    }

    /// Carries out what the supervisor wants, and checks each action.
    fn act(&mut self) {
        while let Some(action) = self.supervisor.next_action() {
            match action {
                Action::Spawn(number, listens, program) => {
                    let version = match program {
                        Program::InForce => self.in_force,
                        Program::New => *self.new.get_or_insert(self.installed),
                    };
                    self.versions.insert(number, version);
                    self.listening.remove(&number);
                    if listens == Listens::AtOnce {
                        self.listen(number);
                    }
                    assert!(
                        (1..=2 * self.supervisor.count()).contains(&number),
                        "{number}"
                    );
                    let before = self.alive.insert(number, Life::Starts);
                    assert_eq!(before, None, "the slot was free");
                    assert_eq!(self.status, None);
                }
                Action::AdoptNew => self.in_force = self.new.take().unwrap(),
                Action::DropNew => self.new = None,
                Action::Listen(number) => {
                    self.listen(number);
                    self.supervisor.listens(number, self.now);
                }
                Action::Terminate(number) => match self.alive.get_mut(&number) {
                    Some(life) if *life != Life::Hangs => *life = Life::Stops,
                    Some(_) => {}
                    None => panic!("{number} has ended"),
                },
                Action::Kill(number) => {
                    if self.alive.remove(&number).is_some() {
                        let now = self.now;
                        self.supervisor.ended(number, Ended::Signal(9), now);
                    }
                }
                Action::HangUp(number) => {
                    let life = self.alive.get(&number);
                    assert!(life.is_some_and(|life| *life != Life::Starts), "{life:?}");
                    self.hung_up.push(number);
                }
                Action::Say(event) => self.events.push(event),
                Action::End(status) => {
                    assert!(self.alive.is_empty(), "nobody is left behind");
                    self.status = Some(status);
                }
            }
        }
    }

    /// A process gets clients from now on.
    fn listen(&mut self, number: Number) {
        let ready = self.serving();
        let is_other = |other: &&Number| **other != number && self.listening.contains(other);
        if !ready.contains(&number) {
            assert_eq!(ready.iter().find(is_other), None, "beside {number}");
        }
        self.listening.insert(number);
    }

    fn answer(&mut self, number: Number, answer: Readiness) {
        self.supervisor.answered(number, answer, self.now);
        self.act();
    }

    fn listening(&self) -> Vec<Number> {
        let alive = |number: &&Number| self.alive.contains_key(number);
        self.listening.iter().filter(alive).copied().collect()
    }

    fn end(&mut self, number: Number, ended: Ended) {
        self.alive.remove(&number);
        self.supervisor.ended(number, ended, self.now);
        self.act();
    }

    /// A second passes: processes answer, and those that were asked to stop end.
    fn second(&mut self) {
        self.now += SECOND;
        self.supervisor.tick(self.now);
        self.act();
        for (number, life) in self.alive.clone() {
            self.supervisor.look(number, || false, self.now);
            self.act();
            match life {
                Life::Starts | Life::Serves => {
                    self.alive.insert(number, Life::Serves);
                    self.supervisor.answered(number, Readiness::Ready, self.now);
                }
                Life::Stops => {
                    self.alive.remove(&number);
                    self.supervisor.ended(number, Ended::Status(0), self.now);
                }
                Life::IsBusy => {
                    self.supervisor.lives(number, self.now);
                    self.supervisor
                        .answered(number, Readiness::Silent, self.now);
                }
                Life::Hangs => self
                    .supervisor
                    .answered(number, Readiness::Silent, self.now),
            }
            self.act();
        }
    }

    fn seconds(&mut self, seconds: u64) {
        (0..seconds).for_each(|_| self.second());
    }

    /// The versions that the living run.
    fn running(&self) -> Vec<u32> {
        let alive = self.alive.keys();
        alive.map(|number| self.versions[number]).collect()
    }

    fn serving(&self) -> Vec<Number> {
        let serves = |(number, state): (Number, SlotState)| {
            matches!(state, SlotState::Serving { is_ready: true, .. }).then_some(number)
        };
        self.supervisor.states().filter_map(serves).collect()
    }
}

/// A process that has just been started does not take SIGHUP yet, and would end by it: so would a roll.
#[test]
fn files_are_read_again_by_a_process_that_starts_once_it_has_answered() {
    let mut world = World::new(2);
    world.second();
    world.supervisor.roll(world.now);
    world.act();
    world.supervisor.hang_up();
    world.act();
    assert_eq!(world.hung_up, [1, 2]);
    world.second();
    assert_eq!(world.hung_up, [1, 2, 3, 4]);
    world.seconds(60);
    assert_eq!(world.serving(), [3, 4]);
    assert_eq!(world.hung_up.len(), 4, "once each");
}

#[test]
fn a_process_with_many_connections_is_killed_only_after_the_time_that_its_closes_need() {
    let mut world = World::new(2);
    world.second();
    let longer = 2 * STOP_US;
    world.supervisor.set_stop_us(1, longer);
    assert_eq!(world.supervisor.longest_stop_us(), longer);
    world.alive.extend([(1, Life::Hangs), (2, Life::Hangs)]);
    world.supervisor.stop(world.now);
    world.act();
    world.seconds(STOP_US / SECOND);
    assert_eq!(world.alive.keys().collect::<Vec<_>>(), [&1]);
    world.seconds((longer - STOP_US) / SECOND);
    assert_eq!(world.status, Some(0));
}

#[test]
fn all_start_and_one_that_is_killed_is_there_again() {
    let mut world = World::new(3);
    world.second();
    assert_eq!(world.serving(), [1, 2, 3]);
    world.end(2, Ended::Signal(9));
    assert_eq!(world.serving(), [1, 3]);
    world.seconds(3);
    assert_eq!(world.serving(), [1, 2, 3]);
    assert_eq!(world.supervisor.restarts, 1);
}

#[test]
fn one_that_cannot_start_ends_all_with_its_status() {
    let mut world = World::new(3);
    world.supervisor.answered(1, Readiness::Ready, 0);
    world.end(2, Ended::Status(2));
    world.seconds(2);
    assert_eq!(world.status, Some(2));
    assert!(matches!(
        world.events[0],
        Event::CannotStart { number: 2, .. }
    ));
}

#[test]
fn who_ends_again_and_again_waits_longer_and_the_others_stay() {
    let mut world = World::new(2);
    world.second();
    let mut starts = 0;
    for _ in 0..300 {
        if world.alive.contains_key(&1) {
            starts += 1;
            world.end(1, Ended::Status(1));
        }
        world.second();
    }
    assert!((8..25).contains(&starts), "{starts} starts in 300 s");
    assert_eq!(world.status, None);
    assert!(world.serving().contains(&2));
}

#[test]
fn one_that_hangs_is_killed_and_one_that_is_stopped_sooner() {
    let mut world = World::new(2);
    world.second();
    world.alive.insert(1, Life::Hangs);
    world.seconds(9);
    let late = Event::Unanswered { number: 1 };
    assert_eq!(world.events, [Event::Started, late.clone()]);
    world.seconds(3);
    let hangs = Event::Hangs {
        number: 1,
        is_stopped: false,
    };
    assert_eq!(world.events[1..3], [late, hangs]);
    assert_eq!(world.serving(), [1, 2]);
    for _ in 0..3 {
        assert!(world.alive.contains_key(&2));
        world.now += SECOND;
        world.supervisor.look(2, || true, world.now);
        world.act();
    }
    assert!(!world.alive.contains_key(&2), "after three seconds");
}

/// Its loop serves the clients, and they would all have to come back.
#[test]
fn one_that_is_late_over_http_is_not_ready_and_stays() {
    let mut world = World::new(2);
    world.second();
    world.alive.insert(1, Life::IsBusy);
    world.seconds(2);
    assert_eq!(world.serving(), [1, 2]);
    world.seconds(600);
    assert_eq!(world.serving(), [2]);
    let told = [Event::Started, Event::Unanswered { number: 1 }];
    assert_eq!(world.events, told, "once");
    assert!(!world.supervisor.is_unsettled(), "it is not asked more");
    world.alive.insert(1, Life::Serves);
    world.second();
    assert_eq!(world.serving(), [1, 2]);
    assert_eq!(world.supervisor.restarts, 0);
}

/// Who does not run counts no seconds: after a pause of all, nobody hangs.
#[test]
fn a_pause_of_the_supervisor_too_ends_nobody() {
    let mut world = World::new(2);
    world.second();
    for _ in 0..5 {
        world.now += 3_600 * SECOND;
        world.second();
    }
    assert_eq!(world.events, [Event::Started]);
}

/// While a process is not ready, all are looked at ten times a second.
#[test]
fn many_looks_a_second_end_no_process_sooner() {
    for (has_answered, is_stopped, seconds) in
        [(false, false, 60), (true, false, 10), (true, true, 3)]
    {
        let mut world = World::new(2);
        world.supervisor.answered(2, Readiness::NotReady, world.now);
        if has_answered {
            world.supervisor.answered(1, Readiness::Ready, world.now);
        }
        let mut waited = 0;
        while world.alive.contains_key(&1) {
            world.now += SECOND / 10;
            waited += SECOND / 10;
            world.supervisor.answered(1, Readiness::Silent, world.now);
            world.supervisor.look(1, || is_stopped, world.now);
            world.act();
            assert!(waited < 90 * SECOND, "never");
        }
        let within = (seconds - 1) * SECOND * 9 / 10..=seconds * SECOND;
        assert!(within.contains(&waited), "{waited} for {seconds} s");
    }
}

#[test]
fn a_roll_starts_all_new_ones_before_it_ends_an_old_one() {
    let mut world = World::new(3);
    world.second();
    world.supervisor.roll(world.now);
    world.act();
    assert_eq!(world.alive.len(), 6);
    for number in [4, 5] {
        world
            .supervisor
            .answered(number, Readiness::Ready, world.now);
        world.act();
    }
    assert!(!world.alive.values().any(|life| *life == Life::Stops));
    world.supervisor.answered(6, Readiness::NotReady, world.now);
    world.act();
    assert!(!world.alive.values().any(|life| *life == Life::Stops));
    world.supervisor.answered(6, Readiness::Ready, world.now);
    world.act();
    world.second();
    assert!(!world.alive.values().any(|life| *life == Life::Stops));
    world.now += SECOND;
    world.supervisor.tick(world.now);
    world.act();
    let stops: Vec<_> = world
        .alive
        .iter()
        .filter(|(_, life)| **life == Life::Stops)
        .collect();
    assert_eq!(stops.len(), 3);
    world.seconds(2);
    assert_eq!(world.serving(), [4, 5, 6]);
    assert_eq!(world.supervisor.rolls, 1);
    world.supervisor.roll(world.now);
    world.act();
    world.seconds(6);
    assert_eq!(world.serving(), [1, 2, 3]);
}

#[test]
fn a_roll_to_a_program_that_cannot_start_is_given_up_and_a_later_one_works() {
    let mut world = World::new(2);
    world.second();
    world.supervisor.roll(world.now);
    world.act();
    world.end(3, Ended::Status(2));
    world.seconds(1);
    assert!(
        world
            .events
            .contains(&Event::RollGivenUp { number: Some(3) })
    );
    assert_eq!(world.serving(), [1, 2]);
    // While the others of the new ones still stop.
    world.supervisor.roll(world.now);
    world.act();
    world.seconds(7);
    assert_eq!(world.serving(), [3, 4]);
}

/// Whoever asks again may have put the program right meanwhile.
#[test]
fn a_roll_that_was_asked_for_during_another_follows_also_if_that_one_is_given_up() {
    let begun = |world: &World| {
        let events = world.events.iter();
        events.filter(|event| **event == Event::RollBegins).count()
    };
    for is_late in [false, true] {
        let mut world = World::new(2);
        world.second();
        world.supervisor.roll(world.now);
        world.act();
        world.installed = 2;
        world.supervisor.roll(world.now);
        world.supervisor.roll(world.now);
        match is_late {
            true => {
                world.alive.extend([(3, Life::IsBusy), (4, Life::IsBusy)]);
                world.now += 120 * SECOND;
                world.supervisor.tick(world.now);
                world.act();
            }
            false => world.end(3, Ended::Status(1)),
        }
        assert_eq!(begun(&world), 2);
        world.seconds(7);
        assert_eq!(world.serving(), [3, 4]);
        assert_eq!(world.running(), [2, 2], "what is at the path by then");
        world.seconds(60);
        assert_eq!(begun(&world), 2, "one more, however often it was asked for");
    }
}

/// Nobody has tried what is at the path but the processes of a roll: so a program that is broken there harms only these.
#[test]
fn a_process_that_has_ended_runs_the_program_of_the_others_again() {
    let mut world = World::new(2);
    world.second();
    world.installed = 2;
    world.end(1, Ended::Signal(9));
    world.seconds(3);
    assert_eq!(world.running(), [1, 1], "nobody asked for a roll");
    world.supervisor.roll(world.now);
    world.act();
    assert_eq!(world.running(), [1, 1, 2, 2]);
    world.end(2, Ended::Signal(9));
    world.installed = 3;
    world.end(3, Ended::Status(1));
    world.seconds(3);
    assert_eq!(world.running(), [1, 1], "the roll was given up");
    world.supervisor.roll(world.now);
    world.act();
    world.seconds(2);
    world.installed = 4;
    world.end(1, Ended::Signal(9));
    world.seconds(3);
    assert_eq!(world.running(), [3, 3], "the roll is done");
    world.end(4, Ended::Signal(9));
    world.seconds(3);
    assert_eq!(world.running(), [3, 3]);
}

#[test]
fn a_process_beside_ready_ones_gets_no_client_before_it_is_ready() {
    let mut world = World::new(2);
    assert_eq!(world.listening(), [1, 2], "nobody else could serve them");
    world.second();
    world.end(2, Ended::Signal(9));
    world.now += SECOND;
    world.supervisor.tick(world.now);
    world.act();
    world.answer(2, Readiness::NotReady);
    assert_eq!(world.listening(), [1]);
    world.answer(2, Readiness::Ready);
    assert_eq!(world.listening(), [1, 2]);
    // As while the bus is away.
    world.answer(1, Readiness::NotReady);
    world.end(2, Ended::Signal(9));
    world.now += SECOND / 5;
    world.supervisor.tick(world.now);
    world.act();
    assert_eq!(world.listening(), [1, 2], "none is ready");
}

#[test]
fn new_ones_of_a_roll_get_clients_once_all_of_them_are_ready() {
    let mut world = World::new(2);
    world.second();
    world.supervisor.roll(world.now);
    world.act();
    world.answer(3, Readiness::Ready);
    world.answer(4, Readiness::NotReady);
    assert_eq!(world.listening(), [1, 2]);
    for old in [1, 2] {
        world.answer(old, Readiness::NotReady);
    }
    world.answer(4, Readiness::NotReady);
    assert_eq!(world.listening(), [1, 2, 3], "the only one that is ready");
    world.answer(4, Readiness::Ready);
    assert_eq!(world.listening(), [1, 2, 3, 4]);
    world.seconds(4);
    assert_eq!(world.listening(), [3, 4]);
    world.supervisor.roll(world.now);
    world.act();
    world.answer(1, Readiness::NotReady);
    for old in [3, 4] {
        world.end(old, Ended::Signal(9));
    }
    world.answer(1, Readiness::NotReady);
    assert_eq!(world.listening(), [1], "there is no other");
}

#[test]
fn random_days_lose_no_process_and_end_with_all() {
    for seed in 1..400_u64 {
        let mut random = seed;
        let mut next = |below: u64| {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (random >> 33) % below
        };
        let count = 1 + next(5) as u32;
        let mut world = World::new(count);
        world.second();
        for _ in 0..200 {
            match next(12) {
                0 => world.supervisor.roll(world.now),
                1 => world.supervisor.hang_up(),
                2..=4 => {
                    let numbers: Vec<_> = world.alive.keys().copied().collect();
                    let number = numbers.get(next(2 * u64::from(count)) as usize).copied();
                    let ended = match next(3) {
                        0 => Ended::Status(1),
                        1 => Ended::Status(0),
                        _ => Ended::Signal(9),
                    };
                    if let Some(number) = number {
                        world.end(number, ended);
                    }
                }
                5 => {
                    let last = world.alive.values_mut().last();
                    if let Some(life) = last.filter(|life| **life == Life::Serves) {
                        *life = Life::Hangs;
                    }
                }
                6 => {
                    let busy = |life: &&mut Life| **life == Life::IsBusy;
                    let serves = |life: &&mut Life| **life == Life::Serves;
                    if let Some(life) = world.alive.values_mut().find(busy) {
                        *life = Life::Serves;
                    } else if let Some(life) = world.alive.values_mut().find(serves) {
                        *life = Life::IsBusy;
                    }
                }
                _ => world.second(),
            }
            world.act();
            assert_eq!(world.status, None, "seed {seed}");
            let living = world
                .supervisor
                .states()
                .filter(|(_, state)| state.is_alive());
            let living: Vec<_> = living.map(|(number, _)| number).collect();
            let alive: Vec<_> = world.alive.keys().copied().collect();
            assert_eq!(living, alive, "seed {seed}");
        }
        let busy = |life: &&mut Life| **life == Life::IsBusy;
        if let Some(life) = world.alive.values_mut().find(busy) {
            *life = Life::Serves;
        }
        // Longer than the longest wait, a roll that is given up, and a stop.
        world.seconds(300);
        assert_eq!(world.serving().len(), count as usize, "seed {seed}");
        world.supervisor.stop(world.now);
        world.act();
        world.seconds(60);
        assert_eq!(world.status, Some(0), "seed {seed}");
    }
}

const NOW: i64 = 1_800_000_000_000;

/// What a process that starts at a time gets of the supervisor's list.
fn started(refusals: &Refusals, now: i64) -> Revoked {
    let list = Revoked::default();
    let file = refusals.written().expect("memory");
    read_refusals(file, &list, now).expect("whole lines");
    list
}

fn cut(json: &str) -> Cut {
    Cut::read(json.as_bytes()).expect("a cut")
}

fn is_refused(list: &Revoked, user: Option<&str>, address: &str, issued: i64, now: i64) -> bool {
    let marks = TokenMarks {
        issued_unix_ms: Some(issued),
        ..TokenMarks::default()
    };
    let address: IpAddr = address.parse().expect("an address");
    let client = Connected {
        user,
        certificate: None,
        address: Some(address),
        session: "",
        marks: Some(&marks),
    };
    list.admit(&client, now).is_err()
}

#[test]
fn a_process_that_starts_later_refuses_the_same_for_as_long() {
    let mut refusals = Refusals::new(Revoked::new(10_000));
    let (since, until) = (NOW / 1000 - 5, NOW / 1000 + 8);
    let cut = cut(&format!(
        r#"{{"user":"ann","since":{since},"until":{until}}}"#
    ));
    refusals.add(&cut, NOW).expect("room");
    let old = |list: &Revoked, now| is_refused(list, Some("ann"), "192.0.2.1", NOW - 600_000, now);
    let new = |list: &Revoked, now| is_refused(list, Some("ann"), "192.0.2.1", NOW, now);
    for (at, is_old, is_new) in [
        (NOW, true, true),
        (NOW + 9_000, true, false),
        (NOW + 86_394_000, true, false),
        (NOW + 86_396_000, false, false),
    ] {
        let list = started(&refusals, at);
        assert_eq!((old(&list, at), new(&list, at)), (is_old, is_new), "{at}");
    }
}

#[test]
fn a_refusal_is_taken_back_in_any_spelling() {
    let mut refusals = Refusals::new(Revoked::new(10_000));
    for spelling in [
        r#"{"address":"127.0.0.77"}"#,
        r#"{"address":"::ffff:127.0.0.77"}"#,
        r#"{"user":null,"address":"127.0.0.77"}"#,
    ] {
        let address = cut(r#"{"address":"127.0.0.77"}"#);
        refusals.add(&address, NOW).expect("room");
        assert!(is_refused(
            &started(&refusals, NOW),
            None,
            "127.0.0.77",
            NOW,
            NOW
        ));
        refusals.lift(&cut(spelling), NOW);
        assert!(!is_refused(
            &started(&refusals, NOW),
            None,
            "127.0.0.77",
            NOW,
            NOW
        ));
    }
}

#[test]
fn the_supervisor_remembers_as_many_refusals_as_the_settings_say() {
    let mut refusals = Refusals::new(Revoked::new(2));
    let [ann, bob, cid] = ["ann", "bob", "cid"].map(|user| cut(&format!(r#"{{"user":"{user}"}}"#)));
    refusals.add(&ann, NOW).expect("room");
    refusals.add(&bob, NOW).expect("room");
    assert!(refusals.add(&cid, NOW).is_err());
}

#[test]
fn what_has_no_room_in_a_process_is_left_out() {
    let mut refusals = Refusals::new(Revoked::new(10_000));
    for user in 0..5 {
        let cut = cut(&format!(r#"{{"user":"u{user}"}}"#));
        refusals.add(&cut, NOW).expect("room");
    }
    let list = Revoked::new(3);
    let file = refusals.written().expect("memory");
    read_refusals(file, &list, NOW).expect("whole lines");
    assert_eq!(list.newest(NOW).0, 3);
}

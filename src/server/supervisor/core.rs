//! What the supervisor decides, without a process, a clock or a signal: the states of the processes, and for each event
//! what is to be done.
//!
//! There are two slots for each of the processes that share the clients, so that a roll starts all new processes
//! before it ends an old one. A roll changes from one half of the slots to the other. The numbers of the slots are the
//! numbers of the processes, so there are never more than twice the count.

#![cfg_attr(not(test), warn(clippy::disallowed_methods, clippy::disallowed_types))]

use std::collections::VecDeque;

/// Time, microseconds of the monotonic clock.
type Us = u64;

/// A process that ended later than this after its start is started again at once.
const LASTED_US: Us = 60_000_000;
/// The wait before a process is started again. It doubles with each further end soon after a start, up to
/// [`WAIT_MAX_US`]. By then the clients of the process have reconnected to processes that serve: these know what the
/// clients have missed, and a new process does not.
const WAIT_MIN_US: Us = 1_000_000;
/// The wait before a process is started again if no other process serves.
const WAIT_ALONE_US: Us = 100_000;
const WAIT_MAX_US: Us = 30_000_000;
/// Seconds in a row without a sign of life after which a process that has answered before counts as hanging. A process gives
/// a sign each second, whatever its HTTP does, and its own watchdog ends it if its loop hangs.
const SILENT_MAX: u32 = 10;
/// The same of a process that a signal has stopped: it holds its clients, and gets new ones.
const STOPPED_MAX: u32 = 3;
/// The same of a process that has never answered: its start may wait for a slow disk.
const START_SILENT_MAX: u32 = 60;
/// Seconds in a row with an unanswered question after which a process counts as not ready. It serves its clients all the same.
const UNANSWERED_MAX: u32 = 3;
/// The least time between two seconds that count. The processes are looked at ten times a second while one of them starts or
/// is not ready, and otherwise once, a little earlier or later.
const SECOND_COUNTS_US: Us = 900_000;
/// The most time for all new processes of a roll to be ready.
const ROLL_READY_US: Us = 120_000_000;
/// How long all new processes of a roll are ready before the old ones stop. By then each new one has seen a mark of the
/// bus, which is published every second, and knows the positions of clients that come from old ones.
const ROLL_SETTLE_US: Us = 2_000_000;

/// The number of a process, from 1.
pub(super) type Number = u32;

/// How a process has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// With this exit status.
    Status(u8),
    /// By this signal.
    Signal(i32),
}

/// The answer of a process to the question whether it is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Readiness {
    /// It serves clients.
    Ready,
    /// It listens, and a load balancer should send it no clients.
    NotReady,
    /// It does not answer in time.
    Silent,
}

/// The seconds in a row in which something did not come. Looks are counted, not the time that the clock says: while the
/// supervisor does not run, as on a machine that is asleep, there are none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Silence {
    /// How many seconds were counted.
    count: u32,
    /// When the last one was counted, or, without any, when the silence began.
    counted: Us,
}

impl Silence {
    /// No silence so far.
    fn since(now: Us) -> Self {
        Self {
            count: 0,
            counted: now,
        }
    }

    /// The silence after another look.
    fn with_one_more(self, now: Us) -> Self {
        match now < self.counted + SECOND_COUNTS_US {
            true => self,
            false => Self {
                count: self.count + 1,
                counted: now,
            },
        }
    }
}

/// When a new process listens for clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Listens {
    /// As soon as it can: no other process could serve its clients.
    AtOnce,
    /// When it is asked to.
    WhenAsked,
}

/// The program of a new process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Program {
    /// The one that the other processes run. Nobody has tried what is at its path by now.
    InForce,
    /// The one of the roll under way: what was at the path when the roll started its first process.
    New,
}

/// The state of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SlotState {
    /// There is no process, and none is wanted.
    Empty,
    /// Its process has not answered yet.
    Starting { since: Us },
    /// Its process has answered.
    Serving { since: Us, is_ready: bool },
    /// Its process was asked to stop, and is killed at this time.
    Stopping { kill_at: Us },
    /// Its process has ended, and is started again at this time.
    Waiting { until: Us },
}

impl SlotState {
    /// Whether there is a process.
    pub(super) fn is_alive(self) -> bool {
        !matches!(self, Self::Empty | Self::Waiting { .. })
    }

    fn is_empty(self) -> bool {
        self == Self::Empty
    }

    fn is_serving(self) -> bool {
        matches!(self, Self::Serving { .. })
    }

    fn is_ready(self) -> bool {
        matches!(self, Self::Serving { is_ready: true, .. })
    }

    /// Whether there is a process that does not stop.
    fn stays(self) -> bool {
        matches!(self, Self::Starting { .. } | Self::Serving { .. })
    }
}

/// A process and its replacements, one after the other.
#[derive(Clone, Copy, Debug)]
struct ProcessSlot {
    state: SlotState,
    /// Ends in a row, each soon after a start.
    ends: u32,
    /// The most time that the stop of its process takes, with the connections of its last answer.
    stop_us: Us,
    /// Whether its process listens for clients.
    listens: bool,
    /// Whether its process is to read files again as soon as it has answered.
    hang_up_due: bool,
    /// Since the last sign of life of its process.
    silent: Silence,
    /// Since the last answer of its process.
    unanswered: Silence,
}

/// What the supervisor is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RollPhase {
    /// The first processes start. If one of them cannot, the supervisor ends with its status.
    Starting,
    Running,
    /// The processes of the other half start.
    RollStarting {
        /// When the roll is given up, unless all of them listen and are ready then.
        until: Us,
        /// Since when all of them listen and are ready; `None`: not all are.
        ready_since: Option<Us>,
    },
    /// The new processes are ready, and the old ones end.
    RollEnding {
        since: Us,
    },
    /// All processes end. Then the supervisor does, with this status.
    Stopping {
        status: u8,
    },
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Start the process of this slot.
    Spawn(Number, Listens, Program),
    /// From here on the new program is the one in force.
    AdoptNew,
    /// Forget the new program: the next roll looks again.
    DropNew,
    /// Ask it to listen for clients.
    Listen(Number),
    /// Ask it to stop (SIGTERM).
    Terminate(Number),
    /// Ask it to read files again (SIGHUP).
    HangUp(Number),
    /// End it at once (SIGKILL).
    Kill(Number),
    /// Tell the operator.
    Say(Event),
    /// All processes have ended; end with this status.
    End(u8),
}

/// What an operator reads in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// All processes of the start have answered.
    Started,
    /// A process has ended by itself. `wait_ms`: until it is started again; `None` for a new process of a roll, which is not.
    Died {
        number: Number,
        ended: Ended,
        wait_ms: Option<u64>,
    },
    /// A process could not start at the start of the supervisor.
    CannotStart { number: Number, ended: Ended },
    /// A process gave no sign of life, and is killed.
    Hangs { number: Number, is_stopped: bool },
    /// A process lives and answers no question.
    Unanswered { number: Number },
    /// A process did not end in time, and is killed.
    TooSlow { number: Number },
    /// New processes are started.
    RollBegins,
    /// All new processes are ready; the old ones stop.
    RollEndsOld,
    /// The old processes have ended.
    RollDone { ms: u64 },
    /// The new process of this number has ended, or (`None`) not all were ready in time. The old ones stay.
    RollGivenUp { number: Option<Number> },
    /// A roll was asked for while the first processes start, or at a stop.
    RollRefused,
}

/// One half of the slots: a roll changes from one to the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Half {
    First,
    Second,
}

impl Half {
    fn other(self) -> Self {
        match self {
            Self::First => Self::Second,
            Self::Second => Self::First,
        }
    }
}

/// The processes and what is under way.
#[derive(Debug)]
pub(super) struct Supervisor {
    /// Twice as many as processes that share the clients.
    slots: Vec<ProcessSlot>,
    /// The half of the slots that is in use.
    half: Half,
    phase: RollPhase,
    /// Whether another roll follows.
    roll_again: bool,
    /// The most time that the stop of a process without connections takes.
    stop_us: Us,
    actions: VecDeque<Action>,
    /// Starts after an end, since the start of the supervisor.
    pub(super) restarts: u64,
    /// Rolls that were done.
    pub(super) rolls: u64,
}

impl Supervisor {
    /// A supervisor of `count` processes, of which each stops within `stop_us` while it has no connections. Starts all.
    pub(super) fn new(count: u32, stop_us: Us, now: Us) -> Self {
        let slot = ProcessSlot {
            state: SlotState::Empty,
            ends: 0,
            stop_us,
            listens: false,
            hang_up_due: false,
            silent: Silence::default(),
            unanswered: Silence::default(),
        };
        let mut supervisor = Self {
            slots: vec![slot; 2 * count as usize],
            half: Half::First,
            phase: RollPhase::Starting,
            roll_again: false,
            stop_us,
            actions: VecDeque::new(),
            restarts: 0,
            rolls: 0,
        };
        for number in supervisor.numbers_of(Half::First) {
            supervisor.spawn(number, now);
        }
        supervisor
    }

    /// The next thing to do.
    pub(super) fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// The numbers and states of all slots.
    pub(super) fn states(&self) -> impl Iterator<Item = (Number, SlotState)> + '_ {
        (1..).zip(self.slots.iter().map(|slot| slot.state))
    }

    /// How many processes share the clients.
    pub(super) fn count(&self) -> u32 {
        (self.slots.len() / 2) as u32
    }

    /// Whether a stop is under way.
    pub(super) fn is_stopping(&self) -> bool {
        matches!(self.phase, RollPhase::Stopping { .. })
    }

    /// Whether all processes serve, and nothing else is under way.
    pub(super) fn is_settled(&self) -> bool {
        let mut of_half = self.numbers_of(self.half);
        self.phase == RollPhase::Running && of_half.all(|number| self.state(number).is_ready())
    }

    /// The most time that the stop of all processes takes.
    pub(super) fn longest_stop_us(&self) -> Us {
        let alive = self.slots.iter().filter(|slot| slot.state.is_alive());
        let longest = alive.map(|slot| slot.stop_us).max();
        longest.unwrap_or(self.stop_us)
    }

    /// The time of the next [`tick`](Self::tick).
    pub(super) fn deadline(&self) -> Option<Us> {
        let of_slots = self.slots.iter().filter_map(|slot| match slot.state {
            SlotState::Waiting { until } => Some(until),
            SlotState::Stopping { kill_at } => Some(kill_at),
            _ => None,
        });
        let of_roll = match self.phase {
            RollPhase::RollStarting {
                ready_since: Some(since),
                ..
            } => Some(since + ROLL_SETTLE_US),
            RollPhase::RollStarting { until, .. } => Some(until),
            _ => None,
        };
        of_slots.chain(of_roll).min()
    }

    /// Does what is due.
    pub(super) fn tick(&mut self, now: Us) {
        for number in 1..=2 * self.count() {
            match self.state(number) {
                SlotState::Waiting { until } if until <= now => {
                    self.restarts += 1;
                    self.spawn(number, now);
                }
                SlotState::Stopping { kill_at } if kill_at <= now => {
                    self.say(Event::TooSlow { number });
                    self.actions.push_back(Action::Kill(number));
                    // Asked again if the process is still there, as after an uninterruptible wait.
                    self.set_stopping(number, now);
                }
                _ => {}
            }
        }
        match self.phase {
            RollPhase::RollStarting {
                until,
                ready_since: None,
            } if until <= now => self.give_up_roll(None, now),
            _ => self.advance(now),
        }
    }

    /// Takes the most time that the stop of a process takes: it grows with its connections.
    pub(super) fn set_stop_us(&mut self, number: Number, stop_us: Us) {
        if let Some(slot) = self.slot(number) {
            slot.stop_us = stop_us;
        }
    }

    /// Takes a sign of life of a process.
    pub(super) fn lives(&mut self, number: Number, now: Us) {
        if let Some(slot) = self.slot(number) {
            slot.silent = Silence::since(now);
        }
    }

    /// Takes the answer of a process, which is a sign of life too.
    pub(super) fn answered(&mut self, number: Number, answer: Readiness, now: Us) {
        let (SlotState::Starting { since } | SlotState::Serving { since, .. }) = self.state(number)
        else {
            return;
        };
        if answer == Readiness::Silent {
            self.unanswered(number, now);
        } else {
            self.lives(number, now);
            self.hang_up_if_due(number);
            if let Some(slot) = self.slot(number) {
                slot.unanswered = Silence::since(now);
            }
            let is_ready = answer == Readiness::Ready;
            self.set(number, SlotState::Serving { since, is_ready });
        }
        self.ask_to_listen();
        self.advance(now);
    }

    /// Notes that a process listens.
    pub(super) fn listens(&mut self, number: Number, now: Us) {
        if let Some(slot) = self.slot(number) {
            slot.listens = true;
        }
        self.advance(now);
    }

    /// Asks the processes to listen that should and do not yet.
    fn ask_to_listen(&mut self) {
        for number in 1..=2 * self.count() {
            if self.is_due_to_listen(number) {
                self.actions.push_back(Action::Listen(number));
            }
        }
    }

    /// Whether a process has answered and should listen, but does not yet. A ready process should. But a ready new
    /// process of a roll waits until all new ones are ready, because all of them end if one is not ready in time,
    /// unless no ready process listens. A process that is not ready should if no ready process listens; a new one of a
    /// roll, if no process listens that stays.
    fn is_due_to_listen(&self, number: Number) -> bool {
        let state = self.state(number);
        if self.does_listen(number) || !state.is_serving() {
            return false;
        }
        let is_new = self.is_new(number);
        match state.is_ready() {
            true if is_new && self.all_in(self.half.other(), SlotState::is_ready) => true,
            true => !is_new || !self.has_listener(SlotState::is_ready),
            false if is_new => !self.has_listener(SlotState::stays),
            false => !self.has_listener(SlotState::is_ready),
        }
    }

    /// Whether the process of this number is one of the new ones of a roll under way.
    fn is_new(&self, number: Number) -> bool {
        let is_rolling = matches!(self.phase, RollPhase::RollStarting { .. });
        is_rolling && !self.numbers_of(self.half).contains(&number)
    }

    fn does_listen(&self, number: Number) -> bool {
        let at = (number as usize).wrapping_sub(1);
        // No slot has the number 0.
        self.slots.get(at).is_some_and(|slot| slot.listens)
    }

    /// Whether a process in such a state listens.
    fn has_listener(&self, is: fn(SlotState) -> bool) -> bool {
        self.slots.iter().any(|slot| slot.listens && is(slot.state))
    }

    /// Counts a question without an answer. A process whose HTTP is late serves its clients, so it is not killed.
    fn unanswered(&mut self, number: Number, now: Us) {
        let Some(slot) = self.slot(number) else {
            return;
        };
        let before = slot.unanswered.count;
        slot.unanswered = slot.unanswered.with_one_more(now);
        let is_late = slot.unanswered.count >= UNANSWERED_MAX;
        if let SlotState::Serving { is_ready, .. } = &mut slot.state
            && is_late
        {
            *is_ready = false;
            if before < UNANSWERED_MAX {
                self.say(Event::Unanswered { number });
            }
        }
    }

    /// Looks for signs of life of a process; called at least once a second. A process that hangs is killed. `is_stopped` says
    /// whether a signal has stopped it.
    pub(super) fn look(&mut self, number: Number, is_stopped: impl FnOnce() -> bool, now: Us) {
        let Some(slot) = self.slot(number) else {
            return;
        };
        slot.silent = slot.silent.with_one_more(now);
        let count = slot.silent.count;
        let max = match slot.state {
            SlotState::Starting { .. } => START_SILENT_MAX,
            SlotState::Serving { .. } => SILENT_MAX,
            _ => return,
        };
        let is_stopped = count >= STOPPED_MAX && is_stopped();
        if count < max && !is_stopped {
            return;
        }
        slot.silent = Silence::since(now);
        if let SlotState::Serving { is_ready, .. } = &mut slot.state {
            *is_ready = false;
        }
        self.say(Event::Hangs { number, is_stopped });
        self.actions.push_back(Action::Kill(number));
        self.advance(now);
    }

    /// Whether a process starts, should listen and does not yet, or has answered that it is not ready: then the next answer may
    /// be another soon.
    pub(super) fn is_unsettled(&self) -> bool {
        let mut all = 1..=2 * self.count();
        all.any(|number| self.is_due_to_listen(number))
            || self.slots.iter().any(|slot| match slot.state {
                SlotState::Starting { .. } => true,
                SlotState::Serving { is_ready, .. } => !is_ready && slot.unanswered.count == 0,
                _ => false,
            })
    }

    /// Notes that a process has ended, or could not be started.
    pub(super) fn ended(&mut self, number: Number, ended: Ended, now: Us) {
        let state = self.state(number);
        let since = match state {
            SlotState::Empty | SlotState::Waiting { .. } => return,
            SlotState::Stopping { .. } => None,
            SlotState::Starting { since } | SlotState::Serving { since, .. } => Some(since),
        };
        self.set(number, SlotState::Empty);
        match (since, self.phase, ended) {
            (None, _, _) | (_, RollPhase::Stopping { .. }, _) => {}
            // A new process of the roll.
            (_, RollPhase::RollStarting { .. }, _) if self.is_new(number) => {
                self.say(Event::Died {
                    number,
                    ended,
                    wait_ms: None,
                });
                self.give_up_roll(Some(number), now);
            }
            // A process that ends by itself while others start has a reason that stays.
            (_, RollPhase::Starting, Ended::Status(status)) => {
                self.say(Event::CannotStart { number, ended });
                // Not 0, because the start has failed.
                self.stop_all(status.max(1), now);
            }
            (Some(since), _, _) => self.wait(number, ended, since, now),
        }
        self.advance(now);
    }

    /// Has a process started again, soon if it was there for long.
    fn wait(&mut self, number: Number, ended: Ended, since: Us, now: Us) {
        let is_alone = !self.states().any(|(_, state)| state.is_ready());
        let Some(slot) = self.slot(number) else {
            return;
        };
        if now.saturating_sub(since) >= LASTED_US {
            slot.ends = 0;
        }
        let least = if is_alone { WAIT_ALONE_US } else { WAIT_MIN_US };
        // 20 doublings are over the maximum by far, and do not overflow.
        let doubled = least << slot.ends.min(20);
        slot.ends += 1;
        let wait = match ended {
            // Wrong settings: somebody has changed a file, and has to change it again.
            Ended::Status(2) => WAIT_MAX_US,
            _ => doubled.min(WAIT_MAX_US),
        };
        slot.state = SlotState::Waiting { until: now + wait };
        self.say(Event::Died {
            number,
            ended,
            wait_ms: Some(wait / 1_000),
        });
    }

    /// Replaces all processes by new ones.
    pub(super) fn roll(&mut self, now: Us) {
        match self.phase {
            RollPhase::Running => {
                self.say(Event::RollBegins);
                self.phase = RollPhase::RollStarting {
                    until: now + ROLL_READY_US,
                    ready_since: None,
                };
                self.advance(now);
            }
            RollPhase::RollStarting { .. } | RollPhase::RollEnding { .. } => self.roll_again = true,
            RollPhase::Starting | RollPhase::Stopping { .. } => self.say(Event::RollRefused),
        }
    }

    /// Passes on a request to read files again. A process that has not answered yet may not handle the signal yet,
    /// which would then end it; and it may have read the files before they changed. So it is asked after its first
    /// answer.
    pub(super) fn hang_up(&mut self) {
        for (number, slot) in (1..).zip(&mut self.slots) {
            match slot.state {
                SlotState::Empty | SlotState::Waiting { .. } => {}
                SlotState::Starting { .. } => slot.hang_up_due = true,
                SlotState::Serving { .. } | SlotState::Stopping { .. } => {
                    self.actions.push_back(Action::HangUp(number));
                }
            }
        }
    }

    /// Has a process read its files again if that was requested while it started. Called when the process has answered.
    fn hang_up_if_due(&mut self, number: Number) {
        if self
            .slot(number)
            .is_some_and(|slot| std::mem::take(&mut slot.hang_up_due))
        {
            self.actions.push_back(Action::HangUp(number));
        }
    }

    /// Stops all processes. A second call passes the signal on again, which ends them at once.
    pub(super) fn stop(&mut self, now: Us) {
        match self.phase {
            RollPhase::Stopping { .. } => {
                for (number, _) in self.alive() {
                    self.actions.push_back(Action::Terminate(number));
                }
            }
            // 0: a stop on request is no failure.
            _ => self.stop_all(0, now),
        }
        self.advance(now);
    }

    fn stop_all(&mut self, status: u8, now: Us) {
        self.phase = RollPhase::Stopping { status };
        for number in 1..=2 * self.count() {
            self.terminate(number, now);
        }
    }

    /// Ends the present phase if its condition holds.
    fn advance(&mut self, now: Us) {
        match self.phase {
            RollPhase::Starting if self.all_in(self.half, SlotState::is_serving) => {
                self.phase = RollPhase::Running;
                self.say(Event::Started);
            }
            RollPhase::RollStarting { until, ready_since } => {
                let new = self.half.other();
                let all_listen = self.numbers_of(new).all(|number| self.does_listen(number));
                if all_listen && self.all_in(new, SlotState::is_ready) {
                    let since = ready_since.unwrap_or(now);
                    let ready_since = Some(since);
                    self.phase = RollPhase::RollStarting { until, ready_since };
                    if now >= since + ROLL_SETTLE_US {
                        self.end_old(now);
                    }
                } else {
                    let ready_since = None;
                    self.phase = RollPhase::RollStarting { until, ready_since };
                    self.start_new(now);
                }
            }
            RollPhase::RollEnding { since }
                if self.all_in(self.half.other(), SlotState::is_empty) =>
            {
                self.rolls += 1;
                let ms = now.saturating_sub(since) / 1_000;
                self.say(Event::RollDone { ms });
                self.phase = RollPhase::Running;
                self.roll_if_asked(now);
            }
            RollPhase::Stopping { status } if self.alive().is_empty() => {
                self.actions.push_back(Action::End(status));
            }
            _ => {}
        }
    }

    /// Whether all numbers of a half are in such a state.
    fn all_in(&self, half: Half, is: fn(SlotState) -> bool) -> bool {
        self.numbers_of(half).all(|number| is(self.state(number)))
    }

    /// Roll: starts the new processes that are missing. Processes of a roll that was given up may still be stopping at
    /// first.
    fn start_new(&mut self, now: Us) {
        for number in self.numbers_of(self.half.other()) {
            if self.state(number) == SlotState::Empty {
                self.spawn(number, now);
            }
        }
    }

    /// Roll: ends the old processes. From here on the new ones are the half in use.
    fn end_old(&mut self, now: Us) {
        self.say(Event::RollEndsOld);
        self.phase = RollPhase::RollEnding { since: now };
        for number in self.numbers_of(self.half) {
            self.terminate(number, now);
        }
        self.half = self.half.other();
        self.actions.push_back(Action::AdoptNew);
        self.advance(now);
    }

    /// Gives up a roll: the new processes end, and the old ones stay. `number`: the new process that has ended; `None`
    /// if not all were ready in time.
    fn give_up_roll(&mut self, number: Option<Number>, now: Us) {
        self.say(Event::RollGivenUp { number });
        self.phase = RollPhase::Running;
        self.actions.push_back(Action::DropNew);
        for number in self.numbers_of(self.half.other()) {
            self.terminate(number, now);
        }
        // Whoever has asked meanwhile may have put the program right. Each request is one more try.
        self.roll_if_asked(now);
    }

    fn roll_if_asked(&mut self, now: Us) {
        if std::mem::take(&mut self.roll_again) {
            self.roll(now);
        }
    }

    /// Starts a process. If another process listens and takes the clients meanwhile, the new one listens only when
    /// asked.
    fn spawn(&mut self, number: Number, now: Us) {
        let stop_us = self.stop_us;
        let (program, has_other) = match self.is_new(number) {
            // During a roll, clients wait at the old processes, even if these are not ready.
            true => (Program::New, self.has_listener(SlotState::stays)),
            false => (Program::InForce, self.has_listener(SlotState::is_ready)),
        };
        let listens = match has_other {
            true => Listens::WhenAsked,
            false => Listens::AtOnce,
        };
        if let Some(slot) = self.slot(number) {
            (slot.stop_us, slot.hang_up_due) = (stop_us, false);
            slot.listens = listens == Listens::AtOnce;
            (slot.silent, slot.unanswered) = (Silence::since(now), Silence::since(now));
        }
        self.set(number, SlotState::Starting { since: now });
        self.actions
            .push_back(Action::Spawn(number, listens, program));
    }

    /// Ends the process of a slot, or if it waits for its restart, the wait. One that is stopping already is left
    /// alone.
    fn terminate(&mut self, number: Number, now: Us) {
        match self.state(number) {
            SlotState::Empty | SlotState::Stopping { .. } => {}
            SlotState::Waiting { .. } => self.set(number, SlotState::Empty),
            SlotState::Starting { .. } | SlotState::Serving { .. } => {
                self.set_stopping(number, now);
                self.actions.push_back(Action::Terminate(number));
            }
        }
    }

    fn set_stopping(&mut self, number: Number, now: Us) {
        if let Some(slot) = self.slot(number) {
            let kill_at = now + slot.stop_us;
            slot.state = SlotState::Stopping { kill_at };
        }
    }

    fn alive(&self) -> Vec<(Number, SlotState)> {
        let all = self.states();
        all.filter(|(_, state)| state.is_alive()).collect()
    }

    /// The numbers of one half of the slots.
    fn numbers_of(&self, half: Half) -> std::ops::RangeInclusive<Number> {
        let count = self.count();
        match half {
            Half::First => 1..=count,
            Half::Second => count + 1..=2 * count,
        }
    }

    fn slot(&mut self, number: Number) -> Option<&mut ProcessSlot> {
        let at = (number as usize).checked_sub(1)?;
        self.slots.get_mut(at)
    }

    pub(super) fn state(&self, number: Number) -> SlotState {
        let at = (number as usize).wrapping_sub(1);
        let slot = self.slots.get(at);
        slot.map_or(SlotState::Empty, |slot| slot.state)
    }

    fn set(&mut self, number: Number, state: SlotState) {
        if let Some(slot) = self.slot(number) {
            slot.state = state;
        }
    }

    fn say(&mut self, event: Event) {
        self.actions.push_back(Action::Say(event));
    }
}

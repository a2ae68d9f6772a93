//! Deploys of the gateways whose clients resume: instances are killed or replaced behind nginx, and
//! no client loses a message or gets one twice.

mod figures;
mod heard;
mod outcome;
mod seen;
mod stage;
mod topics;
mod visitors;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use self::outcome::{Outcome, Replacement};
use self::stage::Stage;
use self::topics::Topics;
use self::visitors::Visitors;
use super::roll::{Rolled, end_instance, next_instance};
use super::{DeployArgs, SETTLE_US, while_watched};
use crate::clock;
use crate::fault::Fault;
use crate::fleet::{Fleet, Kind};
use crate::launch::Program;
use crate::report;

/// Messages a second.
const RATE: f64 = 20.0;
/// Seconds before each kill. The position of a client of quiet names may be 10 s old, and only an
/// instance of that age knows the position.
const PAUSE_BEFORE_KILL_S: f64 = 12.0;
/// Seconds before each roll: a stopping instance gives its clients a young position.
const PAUSE_BEFORE_ROLL_S: f64 = 3.0;
/// Seconds for which a new instance runs before the old instance is stopped.
const UP_S: f64 = 2.0;
/// Longest wait for the last messages of a run.
const LATE_US: u64 = 5_000_000;

/// Runs `loadtest deploy` with clients that resume; fails if a message is lost or comes twice, if a
/// resume is not recovered, or if a client waits too long.
pub(super) fn run(a: &DeployArgs, stop: &Arc<AtomicBool>) -> Result<(), Fault> {
    let mut outcome = Outcome::new(a);
    for round in 0..a.repeat {
        Round::begin(a, round as u64, stop)?.run(&mut outcome)?;
    }
    println!("{}", outcome.text());
    report::write_json(a.json.as_deref(), &outcome)?;
    outcome.verdict()
}

/// A repetition with fresh processes.
struct Round<'a> {
    a: &'a DeployArgs,
    stage: Stage,
    topics: Arc<Topics>,
    visitors: Rc<RefCell<Visitors>>,
    fleet: Fleet,
}

impl<'a> Round<'a> {
    /// Starts the programs, connects the clients, and waits until all subscriptions are granted: each
    /// message from the first on is then expected.
    fn begin(a: &'a DeployArgs, seed: u64, stop: &Arc<AtomicBool>) -> Result<Self, Fault> {
        let stage = Stage::set(a)?;
        let topics = Arc::new(Topics::new(a.gateway));
        let visitors = Visitors::new(a.gateway, Arc::clone(&topics), a.clients);
        let visitors = Rc::new(RefCell::new(visitors));
        let mut fleet = Fleet::new(stage.target(a), Arc::clone(stop))?;
        fleet.talk(Rc::clone(&visitors) as _);
        fleet.open(Kind::Reader, a.clients)?;
        fleet.run(SETTLE_US, |_| visitors.borrow().settled() == a.clients)?;
        let granted = visitors.borrow().settled();
        if granted < a.clients {
            let evidence = visitors.borrow_mut().take().evidence;
            let missing = a.clients - granted;
            return Err(Fault::Server(format!(
                "{missing} subscriptions are not granted {evidence:?}"
            )));
        }
        fleet.let_come_back(seed);
        Ok(Self {
            a,
            stage,
            topics,
            visitors,
            fleet,
        })
    }

    /// Replaces the instances while messages are published.
    fn run(mut self, outcome: &mut Outcome) -> Result<(), Fault> {
        let enough = AtomicBool::new(false);
        let (topics, url) = (Arc::clone(&self.topics), self.stage.redis_url.clone());
        let rate = self.a.rate.unwrap_or(RATE);
        let stream = self.a.stream.as_deref();
        thread::scope(|scope| {
            let publishing = scope.spawn(|| topics.publish(&url, stream, rate, &enough));
            let replaced = self.replacements(outcome);
            enough.store(true, Ordering::Relaxed);
            let published = publishing.join();
            published.unwrap_or_else(|_| Err(Fault::Bus("the publisher panicked".into())))?;
            replaced
        })?;
        self.fleet
            .run(LATE_US, |_| self.visitors.borrow().are_up_to_date())?;
        self.visitors.borrow_mut().end();
        outcome.end_round(&self.visitors.borrow_mut().take());
        self.fleet.close();
        Ok(())
    }

    fn replacements(&mut self, outcome: &mut Outcome) -> Result<(), Fault> {
        let default_s = if self.a.kill {
            PAUSE_BEFORE_KILL_S
        } else {
            PAUSE_BEFORE_ROLL_S
        };
        let pause_us = clock::seconds_us(self.a.pause.unwrap_or(default_s));
        for number in 0..self.a.rolls {
            self.fleet.run(pause_us, |_| false)?;
            let command = self.a.command(number);
            let replacement = if self.a.kill {
                self.kill(command)?
            } else {
                self.roll(command)?
            };
            eprintln!("{}: {}", number + 1, replacement.text());
            outcome.push(replacement);
        }
        Ok(())
    }

    /// Kills the oldest instance, and starts the next one at its address once all clients are back: the
    /// clients then return to the instance that lived on.
    fn kill(&mut self, command: &str) -> Result<Replacement, Fault> {
        if self.a.all {
            return self.kill_all(command);
        }
        let old = self.stage.oldest()?;
        let mut rolled = while_watched(&mut self.fleet, || end_instance(old, true))?;
        let back = self.settle()?;
        let (started, addr) = (clock::now_us(), rolled.left);
        let start = self.stage.starter(command, addr);
        let next = while_watched(&mut self.fleet, start)?;
        rolled.ready_us = clock::now_us() - started;
        Ok(self.replaced(next, &rolled, back))
    }

    /// Kills all instances, and starts others at their addresses.
    fn kill_all(&mut self, command: &str) -> Result<Replacement, Fault> {
        let mut ended = Vec::new();
        while let Ok(old) = self.stage.oldest() {
            ended.push(while_watched(&mut self.fleet, || end_instance(old, true))?);
        }
        let started = clock::now_us();
        let mut next = None;
        for rolled in &ended {
            let start = self.stage.starter(command, rolled.left);
            let instance = while_watched(&mut self.fleet, start)?;
            self.stage.instances.extend(next.replace(instance));
        }
        let (Some(next), Some(mut rolled)) = (next, ended.pop()) else {
            return Err(Fault::Server("there is no instance to replace".into()));
        };
        rolled.ready_us = clock::now_us() - started;
        let back = self.settle()?;
        Ok(self.replaced(next, &rolled, back))
    }

    /// Starts an instance at the free address, and stops the oldest instance later.
    fn roll(&mut self, command: &str) -> Result<Replacement, Fault> {
        let old = self.stage.oldest()?;
        let up = Duration::from_secs_f64(self.a.up.unwrap_or(UP_S).max(0.0));
        let start = self.stage.starter(command, self.stage.free);
        let (next, rolled) = while_watched(&mut self.fleet, || {
            next_instance(start, up, Some(old), false)
        })?;
        self.stage.free = rolled.left;
        let back = self.settle()?;
        Ok(self.replaced(next, &rolled, back))
    }

    /// Waits until all clients are back; returns the number of clients that are.
    fn settle(&mut self) -> Result<usize, Fault> {
        let (visitors, clients) = (&self.visitors, self.a.clients);
        let fleet = &mut self.fleet;
        let back = |f: &Fleet| f.open_count(Kind::Reader).min(visitors.borrow().settled());
        fleet.run(SETTLE_US, |f| back(f) == clients)?;
        Ok(back(fleet))
    }

    fn replaced(&mut self, next: Program, rolled: &Rolled, back: usize) -> Replacement {
        self.stage.instances.push_back(next);
        let figures = self.visitors.borrow_mut().take();
        let returns = self.fleet.take_returns();
        let ends = std::mem::take(&mut self.fleet.readers.ends);
        Replacement::of(figures, rolled, back, returns, ends)
    }
}

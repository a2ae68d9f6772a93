//! `--processes`: a process that serves no client, and starts, watches and replaces those that do.
//!
//! | file | has |
//! | --- | --- |
//! | `core` | the states of the processes, and what is to be done at each event; pure |
//! | `children` | starting, signalling and waiting for processes; the ports |
//! | `program` | the file of the program that the processes run, and of the one that a roll tries |
//! | `channel` | signs of life of a process, and the connections to it |
//! | `ask` | requests to the processes |
//! | `listen` | the request to listen for clients |
//! | `refusals` | the list of those whom an operator has cut off, for the admin address and for processes that start later |
//! | `admin` | the pages of the one admin address |
//! | `ready` | whether all are ready, from their answers; pure |
//! | `joins` | the permits for pages that are joined from those of the processes, shared by address |
//! | `merge` | JSON answers of several processes as one |
//! | `level` | which processes have far more clients than others; pure |
//! | `exposition` | `/metrics` of several processes as one |
//!
//! One thread waits for signals, ends of processes and answers; the admin listener has another. The processes are this
//! program with a few more flags, and know of the supervisor only that they are one of several, and its pid.

mod admin;
mod ask;
mod channel;
mod children;
mod core;
mod exposition;
mod joins;
mod level;
mod listen;
mod merge;
mod program;
mod ready;
mod refusals;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::sync::Arc;
use std::time::Duration;

use hyper::Method;
use rustix::process::Signal;
use sd_notify::NotifyState;
use serde::Deserialize;
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM, SIGUSR2};
use signal_hook::flag;
use signal_hook::iterator::Signals;
use signal_hook::low_level::pipe;
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::runtime;
use tokio::sync::mpsc;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{Instant, sleep_until};

use self::admin::{Board, Living, LivingState, Shared, clients_in};
use self::ask::AdminRequest;
pub(crate) use self::channel::ToSupervisor;
use self::channel::{Channel, Heard};
use self::children::{Children, Ports};
pub(crate) use self::children::{listens_when_asked, supervisor_is_gone, take_name};
use self::core::{
    Action, Ended, Event, Listens, Number, Program, Readiness, SlotState, Supervisor,
};
use self::listen::ask_to_listen;
pub(crate) use self::listen::listen_route;
pub(crate) use self::refusals::take_refusals;
use crate::http::{Admin, HttpHandle, HttpPlane, Site};
use crate::reactor::ReactorSettings;
use crate::run::{
    CommonSettings, Cuts, RunError, alone, notify, start_reloads_of_supervisor,
    stop_signals_are_taken,
};
use crate::settings::Checked;
use weirgate_runtime::Clock;
use weirgate_wire::json::Json;

/// How often the processes are asked.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// How long an answer may take.
const ANSWER_MAX: Duration = Duration::from_millis(900);
/// How long the pages may take to end after the last process.
const HTTP_STOP: Duration = Duration::from_millis(200);
/// How often the clients of the processes are counted, and how long a count waits after clients were asked to leave.
const LEVEL_EVERY: Duration = Duration::from_secs(10);
/// The time of a process for its end besides the times of its stop; also for connections that it has got since its last
/// answer.
const STOP_MORE_US: u64 = 10_000_000;

const SIGNALS: [i32; 5] = [SIGTERM, SIGINT, SIGHUP, SIGUSR2, SIGCHLD];

/// Starts the processes, and keeps them running until a signal.
///
/// # Errors
/// A process could not start, or an address is in use.
pub(crate) fn run(gateway: &'static str, checked: &Checked, clock: Clock) -> Result<(), RunError> {
    // Before the processes start, the signal for a roll has no effect.
    flag::register(SIGUSR2, Arc::default()).map_err(RunError::Thread)?;
    let common = CommonSettings::new(checked);
    if let Some(text) = common.same_address_error() {
        return Err(RunError::Settings(text));
    }
    let count = checked.processes_to_start();
    let ports = Ports::hold(checked)?;
    let (revoked, file) = (&common.limits.revoked, &common.revoked_file);
    let Cuts { cutter, file, .. } = Cuts::new(revoked.clone(), file.clone(), clock)?;
    let children = Children::new(count, ports).map_err(RunError::Thread)?;
    let settings = common.operator();
    // The processes ask for no login: this is the only one. All secrets change together, as in each process.
    start_reloads_of_supervisor(&common, file).map_err(RunError::Thread)?;
    let http = common.http_with(&cutter);
    let shared = Shared::new(count, clock, cutter);
    let site = Site {
        routes: admin::routes(&shared, &settings),
        cors: common.cors(),
        ..Site::default()
    };
    let admin = common.admin_addr.as_ref().map(|addr| {
        let bound = Admin::bind(addr, &alone(&common.reactor.listen.options), site, clock);
        bound.map_err(|error| RunError::listen(addr, error))
    });
    let admin = admin.transpose()?;
    let addr = admin.as_ref().and_then(|admin| admin.local_addr().ok()?);
    let plane = HttpPlane::start(Site::default(), admin, http, clock);
    let plane = plane.map_err(RunError::Thread)?;
    let admin = addr.as_ref().map(tracing::field::display);
    let version = crate::build_info::BuildInfo::THIS.version;
    tracing::info!(
        gateway,
        version,
        processes = count,
        admin,
        "starting the processes"
    );
    // 0: there are no connections yet.
    let stop_us = stop_us(&common.reactor, 0);
    let (sender, reports) = mpsc::unbounded_channel();
    let shell = Shell {
        supervisor: Supervisor::new(count, stop_us, clock.mono_us()),
        children,
        shared,
        // The admin address serves no WebSockets, so no connection comes back.
        http: plane.handle(Arc::new(drop)),
        clock,
        reactor: common.reactor,
        level_at: Instant::now() + LEVEL_EVERY,
        sender,
    };
    let status = shell.run_blocking(reports).map_err(RunError::Loop)?;
    plane.stop(HTTP_STOP);
    match status {
        0 => {
            tracing::info!("stopped");
            Ok(())
        }
        status => Err(RunError::Processes { status }),
    }
}

/// The time after which a process with so many connections that was asked to stop is killed.
fn stop_us(reactor: &ReactorSettings, connections: u64) -> u64 {
    reactor.longest_stop_us(connections) + STOP_MORE_US
}

/// The processes, and what the pages know of them.
struct Shell {
    supervisor: Supervisor,
    children: Children,
    shared: Shared,
    http: HttpHandle,
    clock: Clock,
    /// The settings of the loop of each process.
    reactor: ReactorSettings,
    /// The time of the next count of clients.
    level_at: Instant,
    /// For reports of the processes.
    sender: mpsc::UnboundedSender<ProcessReport>,
}

/// What a process has said, or a request to it has led to.
enum ProcessReport {
    /// What the process with this pid says.
    Said(Number, u32, Heard),
    /// The answer of a process with this pid; `None` if it gives none in time.
    Stats(Number, u32, Option<ProcessStats>),
    /// The process with this pid listens for clients.
    Listens(Number, u32),
    /// The clients were counted. Some may leave over this time: the next count is only after it.
    Levelled(Duration),
}

/// The signals of the process, and a socket that can be read when there is one.
struct Arrivals {
    signals: Signals,
    wake: UnixStream,
}

impl Arrivals {
    /// Registers the handlers of the signals.
    fn take() -> io::Result<Self> {
        let signals = Signals::new(SIGNALS)?;
        let (wake, write) = StdUnixStream::pair()?;
        wake.set_nonblocking(true)?;
        write.set_nonblocking(true)?;
        for signal in SIGNALS {
            pipe::register(signal, write.try_clone()?)?;
        }
        stop_signals_are_taken();
        Ok(Self {
            signals,
            wake: UnixStream::from_std(wake)?,
        })
    }

    /// Waits for the next signals.
    async fn next(&mut self) -> io::Result<Vec<i32>> {
        self.wake.ready(Interest::READABLE).await?;
        let mut bytes = [0; 64];
        while self.wake.try_read(&mut bytes).is_ok_and(|read| read > 0) {}
        Ok(self.signals.pending().collect())
    }
}

impl Shell {
    /// [Runs](Self::run) on this thread.
    fn run_blocking(self, reports: mpsc::UnboundedReceiver<ProcessReport>) -> io::Result<u8> {
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        LocalSet::new().block_on(&runtime, self.run(reports))
    }

    /// Runs until all processes have ended. Returns the exit status.
    async fn run(mut self, mut reports: mpsc::UnboundedReceiver<ProcessReport>) -> io::Result<u8> {
        let mut arrivals = Arrivals::take()?;
        // The first time soon: a start takes some tenths of a second.
        let mut ask_at = Instant::now() + Duration::from_millis(50);
        loop {
            if let Some(status) = self.act() {
                return Ok(status);
            }
            self.publish();
            let due = self.due().map_or(ask_at, |due| due.min(ask_at));
            let woken = first_of(arrivals.next(), reports.recv(), sleep_until(due)).await;
            let now = self.clock.mono_us();
            match woken {
                Woken::Signals(signals) => self.take_signals(&signals?),
                Woken::Report(Some(report)) => self.take_report(report, now),
                // Not expected: `self.sender` keeps the channel open.
                Woken::Report(None) => {}
                Woken::Due => {
                    self.supervisor.tick(now);
                    if Instant::now() >= ask_at {
                        self.look_at_all(now);
                        self.ask_all();
                        self.level();
                        notify_watchdog();
                        // A start takes some tenths of a second.
                        let wait = match self.supervisor.is_unsettled() {
                            true => ASK_EVERY / 10,
                            false => ASK_EVERY,
                        };
                        ask_at = Instant::now() + wait;
                    }
                }
            }
        }
    }

    fn take_report(&mut self, report: ProcessReport, now: u64) {
        match report {
            ProcessReport::Said(number, pid, heard) if self.children.pid(number) == Some(pid) => {
                self.supervisor.lives(number, now);
                if let (Heard::Begins, Some(channel)) = (heard, self.children.channel(number)) {
                    self.shared.begin(number, &channel);
                }
            }
            ProcessReport::Stats(number, pid, stats) if self.children.pid(number) == Some(pid) => {
                self.take_answer(number, stats, now);
            }
            ProcessReport::Listens(number, pid) if self.children.pid(number) == Some(pid) => {
                self.supervisor.listens(number, now);
            }
            ProcessReport::Levelled(wait) => self.level_at = Instant::now() + LEVEL_EVERY + wait,
            // Of a process that has ended.
            ProcessReport::Said(..) | ProcessReport::Stats(..) | ProcessReport::Listens(..) => {}
        }
    }

    fn due(&self) -> Option<Instant> {
        let due = self.supervisor.deadline()?;
        let wait_us = due.saturating_sub(self.clock.mono_us());
        Some(Instant::now() + Duration::from_micros(wait_us))
    }

    fn take_signals(&mut self, signals: &[i32]) {
        let now = self.clock.mono_us();
        for (number, ended) in self.children.take_ended() {
            self.supervisor.ended(number, ended, now);
        }
        for signal in signals {
            match *signal {
                SIGTERM | SIGINT => {
                    if !self.supervisor.is_stopping() {
                        tracing::info!("stopping the processes");
                        let micros = self.supervisor.longest_stop_us();
                        let micros = u32::try_from(micros).unwrap_or(u32::MAX);
                        notify(&[
                            NotifyState::Stopping,
                            NotifyState::ExtendTimeoutUsec(micros),
                        ]);
                    }
                    self.supervisor.stop(now);
                }
                SIGHUP => self.supervisor.hang_up(),
                SIGUSR2 => self.supervisor.roll(now),
                // SIGCHLD: the processes that have ended were taken above.
                _ => {}
            }
        }
    }

    /// Does what the supervisor wants. Returns the exit status once all processes have ended.
    fn act(&mut self) -> Option<u8> {
        while let Some(action) = self.supervisor.next_action() {
            match action {
                Action::Spawn(number, listens, program) => self.spawn(number, listens, program),
                Action::AdoptNew => self.children.programs.adopt_new(),
                Action::DropNew => self.children.programs.drop_new(),
                Action::Listen(number) => self.ask_to_listen(number),
                Action::Terminate(number) => self.children.signal(number, Signal::TERM),
                Action::HangUp(number) => self.children.signal(number, Signal::HUP),
                Action::Kill(number) => self.children.signal(number, Signal::KILL),
                Action::Say(event) => say(&event),
                Action::End(status) => return Some(status),
            }
        }
        None
    }

    /// Asks a process to listen for clients. It is asked again after its next answer if it does not yet.
    fn ask_to_listen(&self, number: Number) {
        let (pid, channel) = (self.children.pid(number), self.children.channel(number));
        let (Some(pid), Some(channel)) = (pid, channel) else {
            return;
        };
        let sender = self.sender.clone();
        spawn_local(async move {
            if ask_to_listen(&channel).await.is_ok_and(|listens| listens) {
                // The supervisor may have ended.
                let _ = sender.send(ProcessReport::Listens(number, pid));
            }
        });
    }

    /// Starts a process, and listens to what it says.
    fn spawn(&mut self, number: Number, listens: Listens, program: Program) {
        match self.children.spawn(number, listens, program) {
            Ok((pid, channel)) => {
                spawn_local(hear(channel, number, pid, self.sender.clone()));
            }
            Err(error) => {
                tracing::error!(process = number, %error, "a process could not be started");
                let now = self.clock.mono_us();
                self.supervisor.ended(number, Ended::Status(1), now);
            }
        }
    }

    /// Shows the pages what there is.
    fn publish(&self) {
        let living = self.supervisor.states().filter_map(|(number, state)| {
            let state = match state {
                SlotState::Empty | SlotState::Waiting { .. } => return None,
                SlotState::Starting { .. } => LivingState::Starting,
                SlotState::Serving { is_ready: true, .. } => LivingState::Ready,
                SlotState::Serving { .. } => LivingState::Serving,
                SlotState::Stopping { .. } => LivingState::Stopping,
            };
            Some(Living {
                number,
                channel: self.children.channel(number)?,
                state,
            })
        });
        let living = living.collect();
        self.shared.with(|board: &mut Board| {
            board.living = living;
            board.restarts = self.supervisor.restarts;
            board.rolls = self.supervisor.rolls;
            board.is_stopping = self.supervisor.is_stopping();
            while let Some(reason) = self.http.next_end() {
                *board.closes.entry(reason.label()).or_default() += 1;
            }
        });
    }

    /// Looks for signs of life of all processes.
    fn look_at_all(&mut self, now: u64) {
        for number in 1..=2 * self.supervisor.count() {
            let is_stopped = || self.children.is_stopped(number);
            self.supervisor.look(number, is_stopped, now);
        }
    }

    /// Asks each process whether it is ready, and how many connections it has.
    fn ask_all(&self) {
        for (number, state) in self.supervisor.states() {
            let is_asked = matches!(
                state,
                SlotState::Starting { .. } | SlotState::Serving { .. }
            );
            let Some(pid) = self.children.pid(number).filter(|_| is_asked) else {
                continue;
            };
            let sender = self.sender.clone();
            let Some(channel) = self.children.channel(number) else {
                continue;
            };
            spawn_local(async move {
                let stats = ProcessStats::ask(&channel).await.ok();
                // The supervisor may have ended.
                let _ = sender.send(ProcessReport::Stats(number, pid, stats));
            });
        }
    }

    /// Counts the clients of the processes if it is time, and has some leave a process with far more than the others.
    fn level(&mut self) {
        if Instant::now() < self.level_at || !self.supervisor.is_settled() {
            return;
        }
        self.level_at = Instant::now() + LEVEL_EVERY;
        let alive = self
            .supervisor
            .states()
            .filter(|(_, state)| state.is_alive());
        let channels: Vec<_> = alive
            .filter_map(|(number, _)| Some((number, self.children.channel(number)?)))
            .collect();
        let sender = self.sender.clone();
        spawn_local(async move {
            match level(&channels).await {
                // The supervisor may have ended.
                Ok(wait) => drop(sender.send(ProcessReport::Levelled(wait))),
                Err(error) => {
                    tracing::debug!(%error, "the clients of the processes are not levelled")
                }
            }
        });
    }

    fn take_answer(&mut self, number: Number, stats: Option<ProcessStats>, now: u64) {
        if let Some(stats) = &stats {
            let stop_us = stop_us(&self.reactor, stats.connections());
            self.supervisor.set_stop_us(number, stop_us);
        }
        let answer = match stats.map(|stats| stats.ready) {
            Some(true) => Readiness::Ready,
            Some(false) => Readiness::NotReady,
            None => Readiness::Silent,
        };
        self.supervisor.answered(number, answer, now);
    }
}

/// Reports what a process says until it ends.
async fn hear(
    channel: Channel,
    number: Number,
    pid: u32,
    sender: mpsc::UnboundedSender<ProcessReport>,
) {
    while let Ok(heard) = channel.heard().await {
        // The supervisor may have ended.
        let _ = sender.send(ProcessReport::Said(number, pid, heard));
    }
}

/// Has clients leave the processes with far more than the others. Returns the time over which they do.
async fn level(channels: &[(Number, Channel)]) -> io::Result<Duration> {
    let mut counts = Vec::new();
    for (number, channel) in channels {
        let said = AdminRequest::get("/stats").ask(channel, ANSWER_MAX).await?;
        let clients = clients_in(&said).ok_or(io::ErrorKind::InvalidData)?;
        counts.push((*number, clients));
    }
    let mut longest_ms = 0;
    for (number, clients) in level::excess(&counts) {
        let Some((_, channel)) = channels.iter().find(|(one, _)| *one == number) else {
            continue;
        };
        let spread_ms = level::spread_ms(clients);
        longest_ms = longest_ms.max(spread_ms);
        tracing::info!(
            process = number,
            clients,
            spread_ms,
            "a process has far more clients than others; some leave it"
        );
        let mut admin_request = AdminRequest::get("/operator/move");
        admin_request.method = Method::POST;
        admin_request.body = format!(r#"{{"clients":{clients},"spread_ms":{spread_ms}}}"#).into();
        let said = admin_request.ask(channel, ANSWER_MAX).await?;
        if !said.status.is_success() {
            return Err(io::Error::other(said.status.as_str().to_owned()));
        }
    }
    Ok(Duration::from_millis(longest_ms))
}

/// What a process says in its `/stats`.
#[derive(Deserialize)]
struct ProcessStats {
    ready: bool,
    /// By phase.
    connections: BTreeMap<String, u64>,
}

impl ProcessStats {
    /// Asks the process of this channel.
    ///
    /// # Errors
    /// There is no whole answer in time, or another one.
    async fn ask(channel: &Channel) -> io::Result<Self> {
        let said = AdminRequest::get("/stats").ask(channel, ANSWER_MAX).await?;
        let stats = Json::read(&said.body).and_then(|stats| stats.parse());
        stats.map_err(io::Error::other)
    }

    fn connections(&self) -> u64 {
        self.connections.values().sum()
    }
}

/// What the supervisor waits for.
enum Woken {
    Signals(io::Result<Vec<i32>>),
    Report(Option<ProcessReport>),
    Due,
}

/// Waits for the first of the three.
async fn first_of(
    signals: impl Future<Output = io::Result<Vec<i32>>>,
    report: impl Future<Output = Option<ProcessReport>>,
    due: impl Future<Output = ()>,
) -> Woken {
    use std::pin::pin;
    use std::task::Poll;
    let (mut signals, mut report, mut due) = (pin!(signals), pin!(report), pin!(due));
    std::future::poll_fn(|cx| {
        if let Poll::Ready(signals) = signals.as_mut().poll(cx) {
            return Poll::Ready(Woken::Signals(signals));
        }
        if let Poll::Ready(report) = report.as_mut().poll(cx) {
            return Poll::Ready(Woken::Report(report));
        }
        due.as_mut().poll(cx).map(|()| Woken::Due)
    })
    .await
}

/// Tells the operator.
fn say(event: &Event) {
    match event {
        Event::Started => {
            tracing::info!("all processes listen");
            notify(&[NotifyState::Ready]);
        }
        Event::Died {
            number,
            ended,
            wait_ms,
        } => {
            let (status, signal) = status_and_signal(*ended);
            let what = match wait_ms {
                Some(_) => "a process has ended; it is started again",
                None => "a new process has ended before it was ready",
            };
            tracing::error!(process = number, status, signal, wait_ms, "{what}");
        }
        Event::CannotStart { number, ended } => {
            let (status, signal) = status_and_signal(*ended);
            tracing::error!(
                process = number,
                status,
                signal,
                "a process cannot start; stopping the others"
            );
        }
        Event::Hangs { number, is_stopped } => {
            tracing::error!(
                process = number,
                is_stopped,
                "a process does not answer; killing it"
            );
        }
        Event::Unanswered { number } => {
            tracing::warn!(
                process = number,
                "a process does not answer over HTTP, and is not ready; it serves its clients, and is asked again"
            );
        }
        Event::TooSlow { number } => {
            tracing::error!(
                process = number,
                "a process did not stop in time; killing it"
            );
        }
        Event::RollBegins => tracing::info!("SIGUSR2: starting new processes"),
        Event::RollEndsOld => tracing::info!("all new processes are ready; stopping the old ones"),
        Event::RollDone { ms } => tracing::info!(ms, "the old processes have ended"),
        Event::RollGivenUp { number } => tracing::error!(
            process = number,
            "a new process has ended or was not ready in time; the old ones stay"
        ),
        Event::RollRefused => {
            tracing::warn!("SIGUSR2 is ignored while the first processes start, and at a stop");
        }
    }
}

/// The two fields of a log line, of which one is empty.
fn status_and_signal(ended: Ended) -> (Option<u8>, Option<i32>) {
    match ended {
        Ended::Status(status) => (Some(status), None),
        Ended::Signal(signal) => (None, Some(signal)),
    }
}

fn notify_watchdog() {
    if sd_notify::watchdog_enabled().is_some() {
        notify(&[NotifyState::Watchdog]);
    }
}

//! The parts of a gateway, and what a start needs before it listens: the same for every gateway.
//!
//! | file | has |
//! | --- | --- |
//! | `gateway` | the parts, with their defaults; the checks that a start and `--check` have in common |
//! | `start` | the order of a start, until the loop runs |
//! | `http` | the plain HTTP of the process, with the operators' pages |
//! | `loop_parts` | binds the loop, and starts the threads that send to it |

mod http;
mod loop_parts;
mod start;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crossbeam_channel::{Receiver, never};

use self::loop_parts::LoopParts;
use super::common::CommonSettings;
use super::cpus::check_cpus;
use super::listening::Listening;
use super::prepared::{Prepared, StartQuestion};
use super::process::bound_connections;
use super::reload::Reload;
use super::revoked_file::Cuts;
use super::tls::TlsInForce;
use super::watches::StatsLine;
use super::{RunError, watchdog};
use crate::http::status_pages::StatsHead;
use crate::http::{FrontPage, Handler, Route, TakeOver};
use crate::telemetry::{GatewayMetric, Telemetry};
use weirgate_core::{BusEvent, Feed, FrameBytes, Gateway};
use weirgate_runtime::{BusStatus, Clock, LateWake, Source};
use weirgate_wire::admission::Quota;

/// Makes routes once there is telemetry to show.
type Routes = Box<dyn FnOnce(&Arc<Telemetry>) -> Vec<Route>>;

/// The parts of one gateway, assembled and run. The feed turns bus messages into publications, the gateway is
/// the client side of the contract. Everything else has a default: no bus, the pages of every gateway, no
/// other thread.
///
/// `examples/echo.rs` and `examples/ticker.rs` put a gateway together and run it.
pub struct Parts<G: Gateway, F> {
    name: &'static str,
    common: CommonSettings,
    loop_parts: LoopParts<G, F>,
    frame_bytes: FrameBytes,
    status: Option<Arc<BusStatus>>,
    routes: Routes,
    fallback: Option<Handler>,
    front: Option<FrontPage>,
    take_over: Option<TakeOver>,
    stats_head: Option<StatsHead>,
    stats_line: Option<StatsLine>,
    metrics: Vec<GatewayMetric>,
    holdings: Vec<Quota>,
    reloads: Vec<Box<dyn Reload>>,
    awaits_keys: Option<Arc<AtomicBool>>,
    threads: Vec<StartThreads>,
    turn_max: Duration,
    questions: Vec<StartQuestion>,
}

/// Starts the threads of the gateway.
type StartThreads = Box<dyn FnOnce() -> Result<(), RunError>>;

/// The inputs of the gateway from other threads.
pub struct Inputs<I> {
    /// The receiving end of the threads' channel.
    pub receiver: Receiver<I>,
    urgent: Receiver<I>,
    wake: LateWake,
}

impl<I> Inputs<I> {
    /// Inputs from the receiving end of the threads' channel. `wake` wakes the loop after a send; it is set once the loop
    /// exists.
    pub fn new(receiver: Receiver<I>, wake: LateWake) -> Self {
        Self {
            receiver,
            urgent: never(),
            wake,
        }
    }

    /// Adds a second channel, whose inputs the loop takes first in each turn. It takes one of the others too, so these only
    /// wait longer.
    #[must_use]
    pub fn urgent(mut self, urgent: Receiver<I>) -> Self {
        self.urgent = urgent;
        self
    }

    /// Inputs that are always empty.
    fn none() -> Self {
        Self::new(never(), LateWake::default())
    }
}

impl<G: Gateway, F: Feed<Event = BusEvent>> Parts<G, F> {
    /// A gateway without a bus, with the pages of every gateway. `name` is the label of the gateway in
    /// metrics.
    pub fn new(name: &'static str, common: CommonSettings, feed: F, gateway: G) -> Self {
        Self {
            name,
            common,
            loop_parts: LoopParts {
                gateway,
                feed,
                source: None,
                inputs: Inputs::none(),
                output: Box::new(|_| {}),
            },
            frame_bytes: FrameBytes::default(),
            status: None,
            routes: Box::new(|_| Vec::new()),
            fallback: None,
            front: None,
            take_over: None,
            stats_head: None,
            stats_line: None,
            metrics: Vec::new(),
            holdings: Vec::new(),
            reloads: Vec::new(),
            awaits_keys: None,
            threads: Vec::new(),
            turn_max: watchdog::TURN_MAX,
            questions: Vec::new(),
        }
    }

    /// Sets the counter of alive frames; the feed must use the same counter.
    #[must_use]
    pub fn frame_bytes(mut self, frame_bytes: FrameBytes) -> Self {
        self.frame_bytes = frame_bytes;
        self
    }

    /// Sets the bus, which gets its own thread, and the status of the bus. The settings must include
    /// [`TablePart::Bus`](crate::settings::TablePart::Bus): a queue without capacity would block each message until the loop
    /// turns.
    #[must_use]
    pub fn source(self, source: impl Source + 'static, status: Arc<BusStatus>) -> Self {
        self.boxed_source(Box::new(source), status)
    }

    /// Sets the bus, for a gateway whose settings choose between several buses.
    #[must_use]
    pub fn boxed_source(mut self, source: Box<dyn Source>, status: Arc<BusStatus>) -> Self {
        self.loop_parts.source = Some(source);
        self.status = Some(status);
        self
    }

    /// Adds pages to the pages of every gateway (`/ready`, `/stats`, `/metrics`).
    #[must_use]
    pub fn routes(mut self, routes: impl FnOnce(&Arc<Telemetry>) -> Vec<Route> + 'static) -> Self {
        self.routes = Box::new(routes);
        self
    }

    /// Sets the response for unknown paths, instead of 404.
    #[must_use]
    pub fn fallback(mut self, fallback: Handler) -> Self {
        self.fallback = Some(fallback);
        self
    }

    /// Sets the page for browsers that ask for an address without a page.
    #[must_use]
    pub fn front(mut self, front: FrontPage) -> Self {
        self.front = Some(front);
        self
    }

    /// Sets the function that takes over some connections before the routes.
    #[must_use]
    pub fn take_over(mut self, take_over: TakeOver) -> Self {
        self.take_over = Some(take_over);
        self
    }

    /// Sets the head of `/stats`.
    #[must_use]
    pub fn stats_head(mut self, head: StatsHead) -> Self {
        self.stats_head = Some(head);
        self
    }

    /// Sets what logs a line of numbers, and the milliseconds between two lines and before the first; `None` for no lines.
    #[must_use]
    pub fn stats_line(
        mut self,
        interval_ms: Option<u64>,
        log: impl Fn(&Telemetry) + Send + 'static,
    ) -> Self {
        self.stats_line = interval_ms.map(|interval_ms| StatsLine {
            interval_ms,
            log: Box::new(log),
        });
        self
    }

    /// Adds metrics of the gateway.
    #[must_use]
    pub fn metrics(mut self, metrics: impl IntoIterator<Item = GatewayMetric>) -> Self {
        self.metrics.extend(metrics);
        self
    }

    /// Adds the sums of what other threads of the gateway hold for clients.
    #[must_use]
    pub fn holdings(mut self, holdings: impl IntoIterator<Item = Quota>) -> Self {
        self.holdings.extend(holdings);
        self
    }

    /// Adds parts of the settings that SIGHUP reads again, besides the log filter.
    #[must_use]
    pub fn reloads(mut self, parts: impl IntoIterator<Item = Box<dyn Reload>>) -> Self {
        self.reloads.extend(parts);
        self
    }

    /// Sets the flag that is true until the gateway has a key for the tokens of its clients. Until then `/ready` is
    /// 503.
    #[must_use]
    pub fn awaits_keys(mut self, awaits_keys: Option<Arc<AtomicBool>>) -> Self {
        self.awaits_keys = awaits_keys;
        self
    }

    /// Sets the inputs of the gateway from other threads.
    #[must_use]
    pub fn inputs(mut self, inputs: Inputs<G::In>) -> Self {
        self.loop_parts.inputs = inputs;
        self
    }

    /// Sets the function that hands the gateway's outputs to other threads; must not block.
    #[must_use]
    pub fn output(mut self, output: impl FnMut(G::Out) + 'static) -> Self {
        self.loop_parts.output = Box::new(output);
        self
    }

    /// Adds a function that starts threads of the gateway's own. Called after everything is assembled and before the
    /// gateway listens.
    #[must_use]
    pub fn threads(mut self, start: impl FnOnce() -> Result<(), RunError> + 'static) -> Self {
        self.threads.push(Box::new(start));
        self
    }

    /// Sets the time after which a turn of the loop ends the process, instead of 30 s.
    #[must_use]
    pub fn turn_max(mut self, turn_max: Duration) -> Self {
        self.turn_max = turn_max;
        self
    }

    /// Adds checks of brokers and services for `--check --connect`.
    #[must_use]
    pub fn asks(mut self, questions: impl IntoIterator<Item = StartQuestion>) -> Self {
        self.questions.extend(questions);
        self
    }

    /// Assembles the gateway up to listening, but binds and connects nothing. Calls `announce` once the gateway
    /// listens.
    ///
    /// # Errors
    /// The listen settings are not valid.
    pub fn prepare(
        mut self,
        clock: Clock,
        announce: impl FnOnce(&Listening) + 'static,
    ) -> Result<Prepared, RunError>
    where
        G: 'static,
        F: 'static,
    {
        let (tls, cuts) = self.before_listening(clock)?;
        let mut questions: Vec<_> = tls.iter().map(TlsInForce::question).collect();
        questions.append(&mut self.questions);
        Ok(Prepared {
            listen: self.common.reactor.listen.clone(),
            admin_addr: self.common.admin_addr.clone(),
            questions,
            run: Box::new(move || self.listen_and_run(tls, cuts, clock, announce)),
        })
    }

    /// Runs the gateway until a signal. Calls `announce` once the gateway listens.
    ///
    /// # Errors
    /// The gateway could not start, the loop failed, or the bus was away for longer than allowed.
    pub fn run(mut self, clock: Clock, announce: impl FnOnce(&Listening)) -> Result<(), RunError> {
        let (tls, cuts) = self.before_listening(clock)?;
        self.listen_and_run(tls, cuts, clock, announce)
    }

    /// Checks what a start needs. Returns what was read from files.
    fn before_listening(&mut self, clock: Clock) -> Result<(Option<TlsInForce>, Cuts), RunError> {
        if let Some(text) = self.common.same_address_error() {
            return Err(RunError::Settings(text));
        }
        let files = self.common.tls.as_ref().map(|tls| tls.files.clone());
        let tls = files
            .map(|files| TlsInForce::read(files, clock))
            .transpose()?;
        let listen = &self.common.reactor.listen;
        let addrs = listen.addrs.iter().chain(&listen.tls_addrs);
        for addr in addrs.chain(&self.common.admin_addr) {
            let checked = addr.check(&listen.options);
            checked.map_err(|error| RunError::listen(addr, error))?;
        }
        check_cpus(&self.common.cpus)?;
        bound_connections(&mut self.common);
        let (revoked, file) = (&self.common.limits.revoked, &self.common.revoked_file);
        let cuts = Cuts::new(revoked.clone(), file.clone(), clock)?;
        Ok((tls, cuts))
    }
}

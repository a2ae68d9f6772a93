//! From feed, gateway and source to a running loop: the same for every gateway.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded, never};

use super::common::CommonSettings;
use super::prepared::{Prepared, Question, alone};
use super::process::{
    Listening, bound_connections, build, check_cpus, held_metrics, log_start, pin, seed,
};
use super::reload::{Reload, Reloads};
use super::secret_files::SecretFiles;
use super::sighup_files::{Cuts, LogFilterFile};
use super::tls::{TlsInForce, handshake_metrics};
use super::watches::StatsLine;
use super::{RunError, watchdog, watches};
use crate::http::pages;
use crate::http::pages::StatsHead;
use crate::http::{
    Admin, ClientAccess, FrontPage, Handler, HttpPlane, HttpSettings, Route, Site, TakeOver,
    operator,
};
use crate::listening::{ListenAddr, ListenOptions};
use crate::reactor::{HandshakeCounts, Handshakes, Reactor, Seams, way_back};
use crate::telemetry::{GatewayMetric, Telemetry};
use weirgate_bus::runtime::{Clock, LateWake, QueueBytes, Wake, detached};
use weirgate_bus::status::BusStatus;
use weirgate_bus::{Source, SourceLink};
use weirgate_core::BusEvent;
use weirgate_core::{Core, Feed, FrameBytes, Gateway, Hub};
use weirgate_wire::admission::Quota;

/// The longest time that the HTTP side gets to end after the last turn of the loop.
const HTTP_STOP: Duration = Duration::from_millis(200);
/// The longest time that the source then gets to finish its work for the bus.
const SOURCE_STOP: Duration = Duration::from_millis(100);

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
    feed: F,
    gateway: G,
    frame_bytes: FrameBytes,
    source: Option<Box<dyn Source>>,
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
    inputs: Inputs<G::In>,
    output: Box<dyn FnMut(G::Out)>,
    threads: Vec<StartThreads>,
    turn_max: Duration,
    questions: Vec<Question>,
}

/// Starts the threads of the gateway.
type StartThreads = Box<dyn FnOnce() -> Result<(), RunError>>;

/// The inputs of the gateway from other threads.
pub struct Inputs<I> {
    /// The receiving end of the threads' channel.
    pub receiver: Receiver<I>,
    /// Wakes the loop after a send; set once the loop exists.
    pub wake: LateWake,
}

impl<I> Inputs<I> {
    /// Inputs that are always empty.
    fn none() -> Self {
        Self {
            receiver: never(),
            wake: LateWake::default(),
        }
    }
}

impl<G: Gateway, F: Feed<Event = BusEvent>> Parts<G, F> {
    /// A gateway without a bus, with the pages of every gateway. `name` is the label of the gateway in
    /// metrics.
    pub fn new(name: &'static str, common: CommonSettings, feed: F, gateway: G) -> Self {
        Self {
            name,
            common,
            feed,
            gateway,
            frame_bytes: FrameBytes::default(),
            source: None,
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
            inputs: Inputs::none(),
            output: Box::new(|_| {}),
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
    /// [`Part::Bus`](crate::settings::Part::Bus): a queue without capacity would block each message until the loop
    /// turns.
    #[must_use]
    pub fn source(self, source: impl Source + 'static, status: Arc<BusStatus>) -> Self {
        self.boxed_source(Box::new(source), status)
    }

    /// Sets the bus, for a gateway whose settings choose between several buses.
    #[must_use]
    pub fn boxed_source(mut self, source: Box<dyn Source>, status: Arc<BusStatus>) -> Self {
        self.source = Some(source);
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

    /// Sets a line of numbers to log, if any.
    #[must_use]
    pub fn stats_line(mut self, line: Option<StatsLine>) -> Self {
        self.stats_line = line;
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
        self.inputs = inputs;
        self
    }

    /// Sets the function that hands the gateway's outputs to other threads; must not block.
    #[must_use]
    pub fn output(mut self, output: impl FnMut(G::Out) + 'static) -> Self {
        self.output = Box::new(output);
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
    pub fn asks(mut self, questions: impl IntoIterator<Item = Question>) -> Self {
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
        if let Some(text) = self.common.twice() {
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

    fn listen_and_run(
        self,
        tls_files: Option<TlsInForce>,
        cuts: Cuts,
        clock: Clock,
        announce: impl FnOnce(&Listening),
    ) -> Result<(), RunError> {
        let Self { common, feed, .. } = self;
        for start in self.threads {
            start()?;
        }
        let counted = feed.stats().clone();
        let telemetry = Telemetry::new(build(self.name), counted, self.status, clock.now());
        let (mut parts, mut metrics) = (self.reloads, self.metrics);
        let cutter = cuts.cutter;
        parts.extend(cuts.file);
        let handshakes = Arc::new(HandshakeCounts::default());
        let tls = tls_files.as_ref().map(TlsInForce::in_force);
        if let Some(in_force) = tls_files {
            metrics.extend(handshake_metrics(&handshakes));
            metrics.push(in_force.expiry());
            parts.push(Box::new(in_force));
        }
        let reloads = reloads(parts, &common);
        let core = Core::new(common.limits.clone(), self.frame_bytes, seed(clock));
        let mut holdings = self.holdings;
        holdings.extend(self.gateway.holdings());
        holdings.extend(core.holdings().cloned());
        holdings.extend(common.holdings());
        metrics.extend(held_metrics(&holdings));
        metrics.extend(reloads.metrics());
        telemetry.add_gateway(metrics);
        if let Some(awaits_keys) = self.awaits_keys {
            telemetry.set_awaits_keys(awaits_keys);
        }

        let mut routes = pages::status_routes(&telemetry, clock, common.ready, self.stats_head);
        routes.extend((self.routes)(&telemetry));
        let operator = operator::routes(&telemetry, clock, common.operator(), cutter.clone());
        let site = Site {
            routes,
            fallback: self.fallback,
            front: self.front,
            take_over: self.take_over,
            cors: common.cors(),
            is_admin: false,
        };
        let access = ClientAccess {
            trusted_proxies: common.limits.trusted_proxies.clone(),
            revoked: common.limits.revoked.clone(),
            cuts: cutter.cuts.subscribe(),
            clock,
        };
        let (http, admin_addr) = start_http(&common, site, operator, access)?;

        let hub = Hub::new(core, self.gateway);
        let (events, bus) = bounded(common.bus_queue_messages_max);
        let (bytes, bus_bytes) = QueueBytes::new(common.bus_queue_bytes_max);
        let mut stopping = None;
        let seams = |wake: &Wake| {
            self.inputs.wake.set(wake);
            cutter.wake.set(wake);
            if let Some(source) = self.source {
                let loop_wake = wake.clone();
                let waking = Box::new(move || loop_wake.wake());
                let link = SourceLink::new(events, waking, clock)
                    .bounded(bytes)
                    .spinning(common.reactor.spin_us);
                stopping = Some(link.stopping());
                // The thread is not joined, because a source may block on its broker without limit.
                let cpu = common.cpus.get(1).copied();
                detached("source", move || {
                    pin(cpu);
                    source.run(link);
                })?;
            }
            let (back, returned) = way_back(wake);
            let has_headers = common.reactor.listen.has_headers();
            let handshakes = (tls.is_some() || has_headers).then(|| {
                let places = common.tls.as_ref().map(|tls| tls.handshakes.clone());
                // Without TLS there are only proxy headers to read.
                let places = places.unwrap_or_else(|| Quota::new("tls_handshakes", 0));
                let held = &common.tls_held;
                Handshakes::start(tls, places, held, clock, wake, &handshakes)
            });
            Ok(Seams {
                bus,
                bus_bytes,
                event_bytes: BusEvent::payload_bytes,
                inputs: self.inputs.receiver,
                cuts: cuts.requests,
                output: self.output,
                http: http.handle(back),
                returned,
                handshakes: handshakes.transpose()?,
                telemetry: Arc::clone(&telemetry),
            })
        };
        let mut reactor = Reactor::bind(common.reactor.clone(), hub, feed, clock, seams)?;
        let listening = Listening {
            addrs: reactor.local_addrs().to_vec(),
            tls_addrs: reactor.local_tls_addrs().to_vec(),
            admin_addr,
            telemetry,
        };
        reloads.start().map_err(RunError::Thread)?;
        let connections_max = common.limits.connections_max;
        log_start(self.name, &listening, connections_max);
        announce(&listening);
        let bus_away = watches::start(
            &common,
            &listening.telemetry,
            clock,
            self.stats_line,
            self.turn_max,
        )?;
        pin(common.cpus.first().copied());
        watchdog::stop_signals_are_taken();
        reactor.run().map_err(RunError::Loop)?;
        http.stop(HTTP_STOP);
        if let Some(source) = stopping {
            source.settle(SOURCE_STOP);
        }
        tracing::info!("stopped");
        match common.bus_away_exit_s {
            Some(limit_s) if bus_away.stops() => Err(RunError::BusAway { limit_s }),
            _ => Ok(()),
        }
    }
}

/// The parts that are read again at SIGHUP. The log filter is last, so that the old filter applies to the log lines
/// about the other parts.
fn reloads(mut parts: Vec<Box<dyn Reload>>, common: &CommonSettings) -> Reloads {
    if let Some(secrets) = SecretFiles::new(common.secret_files.clone()) {
        parts.push(Box::new(secrets));
    }
    if let Some(path) = &common.log_filter_file {
        parts.push(Box::new(LogFilterFile(path.clone())));
    }
    Reloads::new(parts)
}

/// Starts the HTTP side, with the operator's page on the admin address if there is one. Returns the address of the
/// admin listener.
fn start_http(
    common: &CommonSettings,
    site: Site,
    operator: Vec<Route>,
    access: ClientAccess,
) -> Result<(HttpPlane, Option<ListenAddr>), RunError> {
    let clock = access.clock;
    let (site, admin, addr) = match &common.admin_addr {
        Some(addr) => {
            let (site, admin) = site.split_admin(operator);
            let options = &common.reactor.listen.options;
            let (admin, addr) = bind_admin(addr, options, admin, clock)?;
            (site, Some(admin), Some(addr))
        }
        None => (site, None, None),
    };
    let settings = HttpSettings {
        held: common.limits.http_held.clone(),
        access: Arc::new(access),
        ..common.http.clone()
    };
    let plane = HttpPlane::start(site, admin, settings, clock);
    Ok((plane.map_err(RunError::Thread)?, addr))
}

fn bind_admin(
    addr: &ListenAddr,
    options: &ListenOptions,
    site: Site,
    clock: Clock,
) -> Result<(Admin, ListenAddr), RunError> {
    let failed = |error| RunError::listen(addr, error);
    let admin = Admin::bind(addr, &alone(options), site, clock).map_err(failed)?;
    let addr = admin.local_addr().map_err(failed)?;
    Ok((admin, addr))
}

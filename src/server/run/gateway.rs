//! From feed, gateway and source to a running loop: the same for every gateway.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded, never};

use super::common::CommonSettings;
use super::cpus::{check_cpus, pin};
use super::early_signals::stop_signals_are_taken;
use super::listening::{Listening, log_start};
use super::prepared::{Prepared, StartQuestion, alone};
use super::process::bound_connections;
use super::reload::{Reload, Reloads, ReloadsOf, common_parts};
use super::revoked_file::Cuts;
use super::tls::{TlsInForce, handshake_metrics};
use super::watches::StatsLine;
use super::{RunError, watchdog, watches};
use crate::build_info::BuildInfo;
use crate::http::operator::Cutter;
use crate::http::status_pages::StatsHead;
use crate::http::{
    Admin, FrontPage, Handler, HttpPlane, Route, Site, TakeOver, operator, status_pages,
};
use crate::listening::tls::ServerTlsInForce;
use crate::listening::{ListenAddr, ListenOptions};
use crate::reactor::{HandshakeCounts, Handshakes, Reactor, Seams, return_to_reactor};
use crate::supervisor::{ToSupervisor, listen_route, take_refusals};
use crate::telemetry::{GatewayMetric, MetricName, Telemetry};
use weirgate_core::{BusEvent, Core, Feed, FrameBytes, Gateway, Hub};
use weirgate_runtime::{
    BusStatus, Clock, LateWake, QueueBytes, Source, SourceLink, Stopping, Wake, detached,
};
use weirgate_wire::admission::{Held, Quota};

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
    /// [`TablePart::Bus`](crate::settings::TablePart::Bus): a queue without capacity would block each message until the loop
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

    /// Starts the threads, binds the listeners, and runs the loop until a stop is complete. Fails also if the bus was
    /// away for longer than allowed.
    fn listen_and_run(
        mut self,
        tls_files: Option<TlsInForce>,
        cuts: Cuts,
        clock: Clock,
        announce: impl FnOnce(&Listening),
    ) -> Result<(), RunError> {
        for start in std::mem::take(&mut self.threads) {
            start()?;
        }
        let feed_stats = self.feed.stats().clone();
        let bus_status = self.status.take();
        let telemetry = Telemetry::new(
            BuildInfo::THIS,
            self.name,
            feed_stats,
            bus_status,
            clock.now(),
        );
        let limits = self.common.limits.clone();
        let connections_max = limits.connections_max;
        let core = Core::new(limits, self.frame_bytes.clone(), seed(clock));
        let handshakes = self.handshake_counts(tls_files.as_ref());
        let tls = tls_files.as_ref().map(TlsInForce::in_force);
        let reloads = self.take_reloads(cuts.file, tls_files);
        self.publish_metrics(&telemetry, &core, &reloads);
        let supervisor = self.common.supervisor();
        if let Some(supervisor) = &supervisor {
            let taken = take_refusals(supervisor, &cuts.cutter.revoked, clock.now().unix_ms());
            taken.map_err(RunError::Settings)?;
        }
        let (http, admin_addr) = self.start_http(&telemetry, &cuts.cutter, supervisor, clock)?;

        let common = self.common;
        let hub = Hub::new(core, self.gateway);
        let (events, bus) = bounded(common.bus_queue_messages_max);
        let (bytes, bus_bytes) = QueueBytes::new(common.bus_queue_bytes_max);
        let mut source_stopping = None;
        let reader = self.feed.reader();
        let seams = |wake: &Wake| {
            self.inputs.wake.set(wake);
            cuts.cutter.wake.set(wake);
            if let Some(source) = self.source {
                let loop_wake = wake.clone();
                let link = SourceLink::new(events, Box::new(move || loop_wake.wake()), clock);
                let link = link.bounded(bytes).spinning(common.reactor.spin_us);
                let link = link.reading(reader);
                source_stopping = Some(start_source(source, link, common.cpus.get(1).copied())?);
            }
            let (back, returned) = return_to_reactor(wake);
            Ok(Seams {
                bus,
                bus_bytes,
                event_bytes: BusEvent::message_bytes,
                urgent: self.inputs.urgent,
                inputs: self.inputs.receiver,
                cuts: cuts.requests,
                output: self.output,
                http: http.handle(back),
                returned,
                handshakes: start_handshakes(&common, tls, &handshakes, clock, wake)?,
                telemetry: Arc::clone(&telemetry),
            })
        };
        let reactor = Reactor::bind(common.reactor.clone(), hub, self.feed, clock, seams)?;
        let listening = Listening {
            addrs: reactor.local_addrs().to_vec(),
            tls_addrs: reactor.local_tls_addrs().to_vec(),
            admin_addr,
            telemetry,
        };
        reloads
            .start(match common.has_supervisor {
                true => ReloadsOf::Process,
                false => ReloadsOf::Gateway,
            })
            .map_err(RunError::Thread)?;
        let listens = common.reactor.listen.gate.is_open();
        let memory_max = common.memory_max;
        log_start(self.name, &listening, connections_max, memory_max, listens);
        announce(&listening);
        let telemetry = &listening.telemetry;
        let bus_away = watches::start(&common, telemetry, clock, self.stats_line, self.turn_max)?;
        pin(common.cpus.first().copied());
        run_until_stopped(reactor, http, source_stopping)?;
        match common.bus_away_exit_s {
            Some(limit_s) if bus_away.stops() => Err(RunError::BusAway { limit_s }),
            _ => Ok(()),
        }
    }

    /// Makes the counts of handshakes. With TLS, adds their metrics and that of the certificates' expiry.
    fn handshake_counts(&mut self, tls: Option<&TlsInForce>) -> Arc<HandshakeCounts> {
        let counts = Arc::new(HandshakeCounts::default());
        if let Some(in_force) = tls {
            self.metrics.extend(handshake_metrics(&counts));
            self.metrics.push(in_force.expiry());
        }
        counts
    }

    /// Takes the parts that are read again at SIGHUP.
    fn take_reloads(
        &mut self,
        revoked: Option<Box<dyn Reload>>,
        tls: Option<TlsInForce>,
    ) -> Reloads {
        let mut parts = std::mem::take(&mut self.reloads);
        parts.extend(revoked);
        if let Some(tls) = tls {
            parts.push(Box::new(tls));
        }
        parts.extend(common_parts(&self.common));
        Reloads::new(parts)
    }

    /// Adds the metrics that not every gateway has to `telemetry`.
    fn publish_metrics(&mut self, telemetry: &Telemetry, core: &Core, reloads: &Reloads) {
        let mut holdings = std::mem::take(&mut self.holdings);
        holdings.extend(self.gateway.holdings());
        holdings.extend(core.holdings().cloned());
        holdings.extend(self.common.holdings());
        let mut metrics = std::mem::take(&mut self.metrics);
        metrics.extend(held_metrics(&holdings));
        metrics.extend(reloads.metrics());
        telemetry.add_gateway(metrics);
        if let Some(awaits_keys) = self.awaits_keys.take() {
            telemetry.set_awaits_keys(awaits_keys);
        }
    }

    /// Starts the HTTP threads, with the operator's page on the admin address if there is one, or for the supervisor alone.
    /// Returns the address of the admin listener.
    fn start_http(
        &mut self,
        telemetry: &Arc<Telemetry>,
        cutter: &Cutter,
        supervisor: Option<ToSupervisor>,
        clock: Clock,
    ) -> Result<(HttpPlane, Option<ListenAddr>), RunError> {
        let common = &self.common;
        let stats_head = self.stats_head.take();
        let mut routes = status_pages::status_routes(telemetry, clock, common.ready, stats_head);
        let of_gateway = std::mem::replace(&mut self.routes, Box::new(|_| Vec::new()));
        routes.extend(of_gateway(telemetry));
        let mut settings = common.operator();
        if supervisor.is_some() {
            // The supervisor has judged the login, and only the supervisor can ask here.
            settings.token = None;
        }
        let mut operator = operator::routes(telemetry, clock, settings, cutter.clone());
        if supervisor.is_some() {
            operator.push(listen_route(&common.reactor.listen.gate));
            operator.push(operator::members_route(telemetry, cutter));
        }
        let site = Site {
            routes,
            fallback: self.fallback.take(),
            front: self.front,
            take_over: self.take_over.take(),
            cors: common.cors(),
            is_admin: false,
        };
        let (site, admin, admin_addr) = match (supervisor, &common.admin_addr) {
            (Some(supervisor), _) => {
                let (site, admin) = site.split_admin(operator);
                let admin = Admin::handed(supervisor.into_stream(), admin, clock);
                (site, Some(admin), None)
            }
            (None, Some(addr)) => {
                let (site, admin) = site.split_admin(operator);
                let options = &common.reactor.listen.options;
                let (admin, addr) = bind_admin(addr, options, admin, clock)?;
                (site, Some(admin), addr)
            }
            (None, None) => (site, None, None),
        };
        let plane = HttpPlane::start(site, admin, common.http_with(cutter), clock);
        Ok((plane.map_err(RunError::Thread)?, admin_addr))
    }
}

/// Runs the loop until a stop is complete, and then stops the other threads.
fn run_until_stopped<G: Gateway, F: Feed>(
    mut reactor: Reactor<G, F>,
    http: HttpPlane,
    source: Option<Stopping>,
) -> Result<(), RunError> {
    stop_signals_are_taken();
    reactor.run().map_err(RunError::Loop)?;
    http.stop(HTTP_STOP);
    if let Some(source) = source {
        source.stop_and_wait(SOURCE_STOP);
    }
    tracing::info!("stopped");
    Ok(())
}

/// Starts the thread of a source, on a CPU if one is given. Returns what stops it. The thread is not joined, because a
/// source may block on its broker without limit.
fn start_source(
    source: Box<dyn Source>,
    link: SourceLink,
    cpu: Option<usize>,
) -> io::Result<Stopping> {
    let stopping = link.stopping();
    detached("source", move || {
        pin(cpu);
        source.run(link);
    })?;
    Ok(stopping)
}

/// Starts the thread of handshakes, if there is TLS, or a listener whose proxies send headers.
fn start_handshakes(
    common: &CommonSettings,
    tls: Option<ServerTlsInForce>,
    counts: &Arc<HandshakeCounts>,
    clock: Clock,
    wake: &Wake,
) -> io::Result<Option<Handshakes>> {
    if tls.is_none() && !common.reactor.listen.has_headers() {
        return Ok(None);
    }
    let permits = match &common.tls {
        Some(tls) => tls.handshakes.clone(),
        // Without TLS there are only headers to read.
        None => Quota::new("tls_handshakes", 0),
    };
    Handshakes::start(tls, permits, &common.tls_held, clock, wake, counts).map(Some)
}

/// Binds the admin address, and returns it with the port that the system has chosen if it was 0.
fn bind_admin(
    addr: &ListenAddr,
    options: &ListenOptions,
    site: Site,
    clock: Clock,
) -> Result<(Admin, Option<ListenAddr>), RunError> {
    let failed = |error| RunError::listen(addr, error);
    let admin = Admin::bind(addr, &alone(options), site, clock).map_err(failed)?;
    let addr = admin.local_addr().map_err(failed)?;
    Ok((admin, addr))
}

/// The seed for jitter and for the ids of connections and traces. It differs between processes, whereas containers that
/// start together may have the same clock and process id.
fn seed(clock: Clock) -> u64 {
    RandomState::new().hash_one(clock.now().mono_us)
}

/// The metrics of the quotas of what is held for clients.
fn held_metrics(holdings: &[Quota]) -> [GatewayMetric; 4] {
    let metric = |name, count: fn(Held) -> u64| {
        let holdings = holdings.to_vec();
        let read = move || {
            // The sums of several services have one name.
            let mut sums = BTreeMap::new();
            for held in holdings.iter().map(Quota::counts) {
                *sums.entry(held.name).or_default() += count(held);
            }
            sums.into_iter().collect()
        };
        GatewayMetric::ByLabel(name, Box::new(read))
    };
    [
        metric(&MetricName::HELD, |held| held.held),
        metric(&MetricName::HELD_MAX, |held| held.max),
        metric(&MetricName::HELD_REFUSED, |held| held.refused),
        metric(&MetricName::HELD_EVICTED, |held| held.evicted),
    ]
}

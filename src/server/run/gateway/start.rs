//! The order of a start, from the parts of a gateway to a loop that runs until a stop is complete.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use super::Parts;
use super::loop_parts::{HandshakeParts, LoopConnections};
use crate::build_info::BuildInfo;
use crate::http::HttpPlane;
use crate::reactor::Reactor;
use crate::run::cpus::pin;
use crate::run::early_signals::stop_signals_are_taken;
use crate::run::listening::{Listening, log_start};
use crate::run::reload::{Reload, Reloads, ReloadsOf, common_parts};
use crate::run::revoked_file::Cuts;
use crate::run::tls::{TlsInForce, handshake_metrics};
use crate::run::{RunError, watches};
use crate::telemetry::{GatewayMetric, MetricName, Telemetry};
use weirgate_core::{BusEvent, Core, Feed, Gateway};
use weirgate_runtime::{Clock, Stopping};
use weirgate_wire::admission::{Held, Quota};

/// The longest time that the HTTP side gets to end after the last turn of the loop.
const HTTP_STOP: Duration = Duration::from_millis(200);
/// The longest time that the source then gets to finish its work for the bus.
const SOURCE_STOP: Duration = Duration::from_millis(100);

impl<G: Gateway, F: Feed<Event = BusEvent>> Parts<G, F> {
    /// Starts the threads, binds the listeners, and runs the loop until a stop is complete. Fails also if the bus was
    /// away for longer than allowed.
    pub(super) fn listen_and_run(
        mut self,
        tls: Option<TlsInForce>,
        cuts: Cuts,
        clock: Clock,
        announce: impl FnOnce(&Listening),
    ) -> Result<(), RunError> {
        // If a thread of the gateway cannot start, the process ends before it has bound an address.
        for start in std::mem::take(&mut self.threads) {
            start()?;
        }
        // The telemetry is complete before the first page shows it.
        let telemetry = self.new_telemetry(clock);
        let core = self.new_core(clock);
        let handshakes = self.handshake_parts(tls.as_ref());
        let reloads = self.take_reloads(cuts.file, tls);
        self.publish_metrics(&telemetry, &core, &reloads);
        // HTTP comes before the loop, which hands connections over to it.
        let (http, admin_addr) = self.start_http(&telemetry, &cuts.cutter, clock)?;
        let others = LoopConnections {
            cuts: cuts.requests,
            cuts_wake: cuts.cutter.wake.clone(),
            http: &http,
            handshakes,
            telemetry: Arc::clone(&telemetry),
        };
        let (reactor, source) = self.loop_parts.bind(core, others, &self.common, clock)?;
        // Every address is bound: from now on files are read again, and the log, `announce` and systemd report the start.
        let listening = Listening::of(&reactor, admin_addr, telemetry);
        let (common, telemetry) = (&self.common, &listening.telemetry);
        reloads
            .start(ReloadsOf::gateway(common))
            .map_err(RunError::Thread)?;
        log_start(self.name, &listening, common);
        announce(&listening);
        let bus_away = watches::start(common, telemetry, clock, self.stats_line, self.turn_max)?;
        // Last: threads that this one starts from now on run on the CPU of the loop.
        pin(common.cpus.first().copied());
        run_until_stopped(reactor, http, source)?;
        bus_away.outcome(common.bus_away_exit_s)
    }

    fn new_telemetry(&mut self, clock: Clock) -> Arc<Telemetry> {
        let feed_stats = self.loop_parts.feed.stats().clone();
        let (bus_status, now) = (self.status.take(), clock.now());
        Telemetry::new(BuildInfo::THIS, self.name, feed_stats, bus_status, now)
    }

    fn new_core(&self, clock: Clock) -> Core {
        let limits = self.common.limits.clone();
        Core::new(limits, self.frame_bytes.clone(), seed(clock))
    }

    /// Makes what handshakes share with metrics and reloads. With TLS, adds the metrics of handshakes and of the
    /// certificates' expiry.
    fn handshake_parts(&mut self, tls: Option<&TlsInForce>) -> HandshakeParts {
        let parts = HandshakeParts::new(tls);
        if let Some(in_force) = tls {
            self.metrics.extend(handshake_metrics(&parts.counts));
            self.metrics.push(in_force.expiry());
        }
        parts
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
        holdings.extend(self.loop_parts.gateway.holdings());
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

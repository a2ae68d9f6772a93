//! The handle of the bus between instances: the limits of waiting pushes, and the bus in `/health`, `/stats` and the
//! metrics.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the shell of a gateway: its start, its pages, its threads"
)]

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use crossbeam_channel::{Sender, bounded, unbounded};
use tokio::sync::oneshot;

use crate::gateways::events::bus::connect::connect;
use crate::gateways::events::bus::reading::PushLine;
use crate::gateways::events::bus::thread::{BusThread, Command, Threads};
use crate::gateways::events::bus::{BusStats, Exchange, ExchangeSettings, InstanceId, PushOutcome};
use crate::gateways::events::metrics;
use crate::gateways::events::settings::{BUS, EventsBusSettings, EventsSettings};
use crate::gateways::events::to_loop::ToLoop;
use crate::gateways::shared::bus;
use hyper::body::Bytes;
use weirgate_server::run::{RunError, StartQuestion};
use weirgate_server::settings::Checked;
use weirgate_server::telemetry::{GatewayMetric, MetricName};
use weirgate_wire::json::ObjectWriter;

/// The most pushes that wait for the counts of other instances.
const WAITING_MAX: usize = 1_000;

/// The most bytes in the bodies of pushes that wait for other instances. If no push waits, one of any size is accepted.
const WAITING_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The longest that a stop waits for the bus to carry the last message.
const LEAVE_TIMEOUT: Duration = Duration::from_millis(200);

/// Shares pushes with other instances. Clones use the same connection.
#[derive(Clone)]
pub(in crate::gateways::events) struct PushBus {
    to_thread: Sender<Command>,
    waiting: Arc<WaitingPushes>,
    stats: Arc<BusStats>,
    /// Shown without secrets.
    pub(in crate::gateways::events) address: String,
    kind: &'static str,
    instance: InstanceId,
}

/// Pushes that wait for other instances.
struct WaitingPushes {
    pushes: AtomicUsize,
    bytes: AtomicUsize,
    pushes_max: usize,
}

/// The permit of a push that waits for other instances; given back on drop.
pub(in crate::gateways::events) struct PushPermit {
    waiting: Arc<WaitingPushes>,
    bytes: usize,
}

#[cfg(test)]
impl PushPermit {
    /// A permit of no bus.
    pub(in crate::gateways::events) fn of_tests() -> Self {
        let waiting = WaitingPushes {
            pushes: AtomicUsize::new(1),
            bytes: AtomicUsize::new(0),
            pushes_max: 1,
        };
        Self {
            waiting: Arc::new(waiting),
            bytes: 0,
        }
    }
}

impl Drop for PushPermit {
    fn drop(&mut self) {
        self.waiting.pushes.fetch_sub(1, Relaxed);
        self.waiting.bytes.fetch_sub(self.bytes, Relaxed);
    }
}

/// The threads to start, and the check before.
#[derive(Default)]
pub(in crate::gateways::events) struct ToStart {
    pub(in crate::gateways::events) threads: Threads,
    pub(in crate::gateways::events) question: Option<StartQuestion>,
}

impl PushBus {
    /// Makes the handle of the bus between instances, and what the caller starts: the threads, and the question of a check.
    /// Returns `None` if the settings name no bus.
    ///
    /// # Errors
    /// The settings are not valid.
    pub(in crate::gateways::events) fn prepare(
        checked: &Checked,
        to_loop: ToLoop,
    ) -> Result<Option<(Self, ToStart)>, RunError> {
        let own: EventsBusSettings = checked.get();
        if own.urls.expose().is_empty() {
            return Ok(None);
        }
        let settings = ExchangeSettings {
            push_bytes_max: checked.get::<EventsSettings>().broadcast_bytes_max,
            ..checked.get()
        };
        // The first row is `--events-bus`.
        let bus = bus::Bus::at(checked, BUS[0].flag, &own.urls)?;
        let name = own.name;
        let (to_thread, received) = unbounded();
        let handle = Self::new(to_thread.clone(), WAITING_MAX, &bus);
        let (me, clock) = (handle.instance.clone(), to_loop.clock);
        let mut threads = Threads::default();
        let (connection, question) = connect(bus, &name, &me, &settings, clock, &mut threads)?;
        let bytes_max = settings.push_bytes_max;
        let (line, read) = PushLine::new(to_loop.clone(), to_thread.clone(), bytes_max);
        threads.add("events-bus-read", read);
        let exchange = Exchange::new(me, settings, Arc::clone(&handle.stats));
        let stats = Arc::clone(&handle.stats);
        let thread = BusThread::new(exchange, name, connection, received, (to_loop, line), stats);
        threads.add("events-bus", move || thread.run());
        let question = Some(question);
        Ok(Some((handle, ToStart { threads, question })))
    }

    fn new(to_thread: Sender<Command>, pushes_max: usize, bus: &bus::Bus) -> Self {
        let waiting = WaitingPushes {
            pushes: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            pushes_max,
        };
        Self {
            to_thread,
            waiting: Arc::new(waiting),
            stats: Arc::default(),
            address: bus.address(),
            kind: bus.name(),
            instance: new_id(),
        }
    }

    /// Writes the member `events_bus` of `/health` and `/stats`.
    pub(in crate::gateways::events) fn write(&self, object: &mut ObjectWriter) {
        let mut bus = ObjectWriter::new();
        bus.string("kind", self.kind);
        bus.boolean("up", self.stats.is_up());
        bus.string("instance", self.instance.as_str());
        bus.number("instances", self.stats.instances());
        object.object("events_bus", bus);
    }

    /// The metrics of the bus.
    pub(in crate::gateways::events) fn metrics(&self) -> Vec<GatewayMetric> {
        let number = |name, read| GatewayMetric::number(name, &self.stats, read);
        vec![
            number(&MetricName::EVENTS_BUS_UP, |s| s.is_up().into()),
            number(&MetricName::EVENTS_BUS_INSTANCES, BusStats::instances),
            number(&metrics::EVENTS_BUS_PUSHES_WAITING, |s| s.waiting.get()),
            number(&metrics::EVENTS_BUS_PUSHES_SENT, |s| s.sent.get()),
            number(&metrics::EVENTS_BUS_PUSHES_RECEIVED, |s| s.received.get()),
            number(&metrics::EVENTS_BUS_PUSHES_INCOMPLETE, |s| {
                s.incomplete.get()
            }),
            number(&metrics::EVENTS_BUS_PUSHES_REFUSED, |s| s.refused.get()),
            number(&metrics::EVENTS_BUS_LOST, |s| s.lost.get()),
            GatewayMetric::by_label(&metrics::EVENTS_BUS_IGNORED, &self.stats, |s| {
                s.ignored().collect()
            }),
        ]
    }

    /// Permits a push with a body of `bytes` to wait. If too many pushes wait, counts a refusal and returns `None`.
    pub(in crate::gateways::events) fn permit(&self, bytes: usize) -> Option<PushPermit> {
        let pushes = self.waiting.pushes.fetch_add(1, Relaxed);
        let held = self.waiting.bytes.fetch_add(bytes, Relaxed);
        // Gives both back on drop.
        let permit = PushPermit {
            waiting: Arc::clone(&self.waiting),
            bytes,
        };
        let is_full = held > 0 && held.saturating_add(bytes) > WAITING_BYTES_MAX;
        if is_full || pushes >= self.waiting.pushes_max {
            self.stats.count_refused();
            return None;
        }
        Some(permit)
    }

    /// Publishes a push that this instance's loop has got already. The receiver gets the outcome at the other
    /// instances.
    pub(in crate::gateways::events) fn push(
        &self,
        body: Bytes,
        permit: PushPermit,
    ) -> oneshot::Receiver<PushOutcome> {
        let (tell, outcome) = oneshot::channel();
        // After the end of the bus thread, the receiver gets an error.
        let _ = self.to_thread.send(Command::Push { body, permit, tell });
        outcome
    }

    /// If the bus is up, tells the other instances that this one ends.
    pub(in crate::gateways::events) fn announce_stop(&self) {
        let (done, left) = bounded(1);
        if self.stats.is_up() && self.to_thread.send(Command::Leave(done)).is_ok() {
            // Without the announcement, the stop goes on all the same.
            let _ = left.recv_timeout(LEAVE_TIMEOUT);
        }
    }
}

/// 16 hexadecimal digits, new at each start.
fn new_id() -> InstanceId {
    // Any value: the keys of the hasher are random.
    let random = RandomState::new().hash_one(0);
    InstanceId::from(format!("{random:016x}").as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use weirgate_bus::redis::{RedisEndpoint, RedisSettings};

    #[test]
    fn pushes_that_wait_are_bounded_in_number_and_bytes() {
        let (to_thread, _received) = unbounded();
        let redis = RedisSettings::new(RedisEndpoint::new("localhost", 1));
        let bus = PushBus::new(to_thread, 3, &bus::Bus::Redis(redis));
        let large = bus
            .permit(WAITING_BYTES_MAX + 1)
            .expect("room for one of any size");
        assert!(bus.permit(1).is_none());
        drop(large);
        let permits: Vec<_> = (0..3).filter_map(|_| bus.permit(1)).collect();
        assert!(permits.len() == 3 && bus.permit(1).is_none());
        assert_eq!(bus.stats.refused.get(), 2);
        drop(permits);
        assert!(bus.permit(WAITING_BYTES_MAX).is_some());
    }
}

//! Several instances of the events gateway on a bus that carries everything at once.

use std::collections::VecDeque;

use weirgate::gateways::events::bus::{
    BusStats, Exchange, ExchangeAction, ExchangeSettings, InstanceId, PushOutcome, To,
};
use weirgate_wire::base::Now;

use super::*;

pub(super) const WAIT_US: u64 = 250_000;

pub(super) fn exchange_settings() -> ExchangeSettings {
    ExchangeSettings {
        wait_us: WAIT_US,
        message_bytes_max: 1_000,
        push_bytes_max: 10_000,
        instances_max: 4,
    }
}

/// One instance: its devices, and its part in the exchange.
pub(super) struct Instance {
    pub(super) world: Events,
    pub(super) exchange: Exchange,
    pub(super) stats: Arc<BusStats>,
    /// The bus carries what it publishes, and brings it what others publish.
    pub(super) is_connected: bool,
    /// What it was told of its own pushes.
    pub(super) told: Vec<(u64, PushOutcome)>,
    /// Pushes of others are delivered, and the answer never leaves.
    pub(super) is_hung: bool,
    /// Too much waits to be published for another push.
    pub(super) is_full: bool,
    /// Everything that it has published.
    pub(super) published: Vec<(To, Vec<u8>)>,
}

/// What arrives of a message at an instance other than its sender.
pub(super) type Arrives = dyn FnMut(&[u8]) -> Vec<Vec<u8>>;

/// A bus that carries everything at once, in order, to all that are connected.
pub(super) struct Bus {
    pub(super) instances: Vec<Instance>,
    pub(super) now: Now,
    pub(super) arrives: Box<Arrives>,
}

impl Bus {
    /// Instances that know each other.
    pub(super) fn new(instances: usize) -> Self {
        Self::with(vec![exchange_settings(); instances])
    }

    /// The same, each with settings of its own.
    pub(super) fn with(settings: Vec<ExchangeSettings>) -> Self {
        let mut bus = Self {
            instances: Vec::new(),
            now: Now::default(),
            arrives: Box::new(|bytes| vec![bytes.to_vec()]),
        };
        for one in settings {
            bus.add(one);
        }
        bus.advance(1_000);
        bus
    }

    pub(super) fn add(&mut self, settings: ExchangeSettings) -> usize {
        let number = self.instances.len();
        let stats = Arc::<BusStats>::default();
        let id = InstanceId::from(format!("i{number}").as_str());
        self.instances.push(Instance {
            world: world(super::settings()),
            exchange: Exchange::new(id, settings, Arc::clone(&stats)),
            stats,
            is_connected: false,
            told: Vec::new(),
            is_hung: false,
            is_full: false,
            published: Vec::new(),
        });
        self.connect(number, true);
        number
    }

    pub(super) fn connect(&mut self, instance: usize, is_connected: bool) {
        let now = self.now;
        let instance = &mut self.instances[instance];
        instance.is_connected = is_connected;
        match is_connected {
            true => instance.exchange.connected(now),
            false => instance.exchange.disconnected(),
        }
        self.carry();
    }

    /// Pushes on one instance. Returns what that delivered to its own devices, and the number.
    pub(super) fn push(&mut self, instance: usize, devices: &[&str], data: &str) -> (u64, u64) {
        let now = self.now;
        let one = &mut self.instances[instance];
        let here = push(&mut one.world, devices, data);
        let number = one.exchange.push(now, body(devices, data).as_bytes());
        self.carry();
        (here, number)
    }

    /// What a service is told: deliveries everywhere, and whether the bus was up, with those missing.
    pub(super) fn answer(
        &self,
        instance: usize,
        (here, number): (u64, u64),
    ) -> (u64, bool, Vec<&str>) {
        let told = &self.instances[instance].told;
        let told: Vec<_> = told.iter().filter(|(n, _)| *n == number).collect();
        let [(_, outcome)] = told.as_slice() else {
            panic!("told {told:?}");
        };
        let missing = outcome.missing.iter().map(InstanceId::as_str);
        (here + outcome.sent, outcome.is_up, missing.collect())
    }

    /// A message of a program that is no instance, or of one that says what it likes.
    pub(super) fn inject(&mut self, bytes: &[u8]) {
        let now = self.now;
        for one in self.instances.iter_mut().filter(|one| one.is_connected) {
            one.exchange.handle_message(now, bytes);
        }
        self.carry();
    }

    pub(super) fn advance(&mut self, ms: u64) {
        for _ in 0..ms.div_ceil(10) {
            self.now = self.now.plus_us(10_000);
            for one in &mut self.instances {
                let due = one.exchange.deadline_us();
                if due.is_some_and(|at| at <= self.now.mono_us) {
                    one.exchange.handle_timeout(self.now, self.now.mono_us);
                }
            }
            self.carry();
        }
    }

    /// Carries out what the instances decide, until nothing is left.
    pub(super) fn carry(&mut self) {
        let mut carried = VecDeque::new();
        loop {
            for (number, one) in self.instances.iter_mut().enumerate() {
                while let Some(action) = one.exchange.poll_action() {
                    one.act(number, action, &mut carried);
                }
            }
            let Some((from, to, bytes)) = carried.pop_front() else {
                return;
            };
            for (number, one) in self.instances.iter_mut().enumerate() {
                let is_read = to == To::All || to == To::Instance(one.exchange.id().clone());
                if !one.is_connected || !is_read {
                    continue;
                }
                let arrived = match number == from {
                    true => vec![bytes.clone()],
                    false => (self.arrives)(&bytes),
                };
                for bytes in arrived {
                    one.exchange.handle_message(self.now, &bytes);
                }
            }
            self.instances[from].published.push((to, bytes));
        }
    }

    pub(super) fn others(&self) -> Vec<u64> {
        self.instances
            .iter()
            .map(|one| one.stats.instances())
            .collect()
    }
}

impl Instance {
    fn act(
        &mut self,
        number: usize,
        action: ExchangeAction,
        carried: &mut VecDeque<(usize, To, Vec<u8>)>,
    ) {
        match action {
            ExchangeAction::Publish {
                number: Some(push), ..
            } if self.is_full => self.exchange.note_published(push, false),
            ExchangeAction::Publish {
                to,
                messages,
                number: push,
            } if self.is_connected => {
                if let Some(push) = push {
                    self.exchange.note_published(push, true);
                }
                let messages = messages.into_iter();
                carried.extend(messages.map(|bytes| (number, to.clone(), bytes)));
            }
            ExchangeAction::Publish { .. } => {}
            ExchangeAction::Deliver {
                origin,
                number,
                body,
            } => {
                let broadcast = Broadcast::parse(&body).expect("a broadcast");
                let devices: Vec<_> = broadcast.device_ids.iter().map(|id| &**id).collect();
                let sent = push(&mut self.world, &devices, &broadcast.data);
                if !self.is_hung {
                    self.exchange.delivered(origin, number, sent);
                }
            }
            ExchangeAction::Tell { number, outcome } => self.told.push((number, outcome)),
        }
    }

    pub(super) fn connect(&mut self, device: &str) -> SessionKey {
        let target = format!("/ws?device_id={device}");
        self.world.connect(&target, None)
    }

    pub(super) fn ignored(&self, reason: &str) -> u64 {
        let mut counts = self.stats.ignored();
        counts
            .find(|(word, _)| *word == reason)
            .expect("a reason")
            .1
    }
}

pub(super) fn body(devices: &[&str], data: &str) -> String {
    let ids: Vec<_> = devices.iter().map(|id| format!("\"{id}\"")).collect();
    let ids = ids.join(",");
    format!(r#"{{"event":"lobby.updated","data":{data},"targets":{{"device_ids":[{ids}]}}}}"#)
}

pub(super) fn event(data: &str) -> String {
    format!(
        r#"{{"type":"event","event":"lobby.updated","request_id":null,"data":{data},"error":null}}"#
    )
}

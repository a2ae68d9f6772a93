//! The thread between HTTP, the loop and the bus. It carries out what the [`Exchange`] decides.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "the shell of a gateway: its start, its pages, its threads"
)]

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, never, select};
use tokio::sync::oneshot;

use crate::gateways::events::Input;
use crate::gateways::events::bus::connect::BusConnection;
use crate::gateways::events::bus::open::PushPermit;
use crate::gateways::events::bus::{
    BusStats, Exchange, ExchangeAction, InstanceId, PushOutcome, To,
};
use crate::gateways::events::to_loop::ToLoop;
use hyper::body::Bytes;
use weirgate_core::BusEvent;
use weirgate_runtime::detached;
use weirgate_server::run::RunError;

/// The most pushes of other instances that wait in the loop for delivery. At this number, the thread stops reading the
/// bus.
const DELIVERING_MAX: usize = 64;

/// The wait while nothing is due.
const IDLE: Duration = Duration::from_secs(60);

/// A command from another thread.
pub(in crate::gateways::events) enum Command {
    /// The loop of this instance has got a push, and the other instances should deliver it too.
    Push {
        body: Bytes,
        permit: PushPermit,
        tell: oneshot::Sender<PushOutcome>,
    },
    /// The loop has delivered a push of another instance.
    Delivered {
        origin: InstanceId,
        number: u64,
        sent: u64,
    },
    /// The loop has ended. The sender is used when the bus has carried the announcement of the end.
    Leave(Sender<()>),
}

/// A push with a waiting service.
struct AwaitedPush {
    tell: oneshot::Sender<PushOutcome>,
    /// Held until the response.
    _permit: PushPermit,
}

/// The exchange of one instance, at work.
pub(in crate::gateways::events) struct BusThread {
    exchange: Exchange,
    /// The subject of all instances.
    all: Arc<str>,
    connection: BusConnection,
    is_subscribed: bool,
    can_publish: bool,
    /// Both ends: the loop answers with a command.
    commands: (Sender<Command>, Receiver<Command>),
    to_loop: ToLoop,
    stats: Arc<BusStats>,
    /// The last report to the loop: whether the bus was up, and the number of losses.
    reported_loss: (bool, u64),
    awaited: HashMap<u64, AwaitedPush>,
    /// Pushes of other instances that are in the loop.
    delivering: usize,
    leaving: Option<Sender<()>>,
}

impl BusThread {
    pub(in crate::gateways::events) fn new(
        exchange: Exchange,
        name: String,
        connection: BusConnection,
        commands: (Sender<Command>, Receiver<Command>),
        to_loop: ToLoop,
        stats: Arc<BusStats>,
    ) -> Self {
        Self {
            exchange,
            all: name.into(),
            is_subscribed: false,
            can_publish: connection.publishing.is_none(),
            connection,
            commands,
            to_loop,
            stats,
            reported_loss: (false, 0),
            awaited: HashMap::new(),
            delivering: 0,
            leaving: None,
        }
    }

    /// Works until the process ends.
    pub(in crate::gateways::events) fn run(mut self) {
        let nothing = never();
        loop {
            self.carry_out_actions();
            self.report_losses();
            // While the loop has many pushes to deliver, further messages wait in the channel of the bus.
            let events = match self.delivering < DELIVERING_MAX {
                true => &self.connection.events,
                false => &nothing,
            };
            let publishing = self.connection.publishing.as_ref().unwrap_or(&nothing);
            select! {
                recv(self.commands.1) -> command => match command {
                    Ok(command) => self.handle_command(command),
                    Err(_) => return,
                },
                recv(events) -> event => match event {
                    Ok(event) => self.handle_event(event),
                    Err(_) => return,
                },
                recv(publishing) -> event => match event {
                    Ok(event) => {
                        self.can_publish = matches!(event, BusEvent::Up);
                        self.update_connected();
                    }
                    Err(_) => return,
                },
                default(self.longest_wait()) => {}
            }
            let now = self.to_loop.clock.now();
            if self
                .exchange
                .deadline_us()
                .is_some_and(|at| at <= now.mono_us)
            {
                self.exchange.handle_timeout(now);
            }
        }
    }

    /// Until the next deadline of the exchange.
    fn longest_wait(&self) -> Duration {
        let now_us = self.to_loop.clock.now().mono_us;
        let due_us = self.exchange.deadline_us();
        due_us.map_or(IDLE, |at| Duration::from_micros(at.saturating_sub(now_us)))
    }

    fn handle_command(&mut self, command: Command) {
        match command {
            Command::Push { body, permit, tell } => {
                let number = self.exchange.push(self.to_loop.clock.now(), &body);
                let awaited = AwaitedPush {
                    tell,
                    _permit: permit,
                };
                self.awaited.insert(number, awaited);
            }
            Command::Delivered {
                origin,
                number,
                sent,
            } => {
                self.delivering -= 1;
                self.exchange.delivered(origin, number, sent);
            }
            Command::Leave(done) => {
                self.leaving = Some(done);
                self.exchange.announce_stop();
            }
        }
    }

    fn handle_event(&mut self, event: BusEvent) {
        self.connection.taken.give_back(event.message_bytes());
        let now = self.to_loop.clock.now();
        match event {
            BusEvent::Message(message) => {
                self.exchange.handle_message(now, &message.payload);
                if self.exchange.has_left()
                    && let Some(done) = self.leaving.take()
                {
                    let _ = done.send(());
                }
            }
            BusEvent::Up | BusEvent::Down(_) => {
                self.is_subscribed = matches!(event, BusEvent::Up);
                self.update_connected();
            }
            BusEvent::Gap { lost } => self.stats.count_lost(lost),
            _ => {}
        }
    }

    /// Tells the exchange whether it is subscribed and can publish.
    fn update_connected(&mut self) {
        match self.is_subscribed && self.can_publish {
            true => self.exchange.connected(self.to_loop.clock.now()),
            false => self.exchange.disconnected(),
        }
    }

    /// Tells the loop of losses. The loop's inputs keep their order, so it learns of a loss after the pushes before the
    /// loss, and before the pushes that follow.
    fn report_losses(&mut self) {
        let (is_up, losses) = (self.stats.is_up(), self.stats.losses());
        if self.reported_loss != (is_up, losses) {
            self.reported_loss = (is_up, losses);
            self.to_loop.send([Input::Others(is_up)]);
        }
    }

    /// Hands a push of another instance to the loop.
    fn deliver(&mut self, origin: &InstanceId, number: u64, body: &[u8]) {
        let (commands, from) = (self.commands.0.clone(), origin.clone());
        let tell = move |sent| {
            let delivered = Command::Delivered {
                origin: from,
                number,
                sent,
            };
            // Fails only after the end of the bus thread.
            let _ = commands.send(delivered);
        };
        match self.to_loop.read(body, tell) {
            Ok(parts) => {
                self.to_loop.send(parts.into_iter().map(Input::Push));
                self.delivering += 1;
            }
            Err(_) => self.exchange.unreadable(self.to_loop.clock.now(), origin),
        }
    }

    fn carry_out_actions(&mut self) {
        while let Some(action) = self.exchange.poll_action() {
            match action {
                ExchangeAction::Publish { to, bytes, number } => {
                    let subject = match to {
                        To::All => Arc::clone(&self.all),
                        To::Instance(id) => subject_of(&self.all, &id),
                    };
                    let is_published = self.connection.publisher.publish(&subject, bytes);
                    if let Some(number) = number.filter(|_| !is_published) {
                        self.exchange.unsent(number);
                    }
                }
                ExchangeAction::Deliver {
                    origin,
                    number,
                    body,
                } => self.deliver(&origin, number, &body),
                ExchangeAction::Tell { number, outcome } => {
                    if let Some(awaited) = self.awaited.remove(&number) {
                        // The service may have disconnected.
                        let _ = awaited.tell.send(outcome);
                    }
                }
            }
        }
    }
}

/// The subject of one instance.
pub(in crate::gateways::events) fn subject_of(name: &str, id: &InstanceId) -> Arc<str> {
    format!("{name}.{}", id.as_str()).into()
}

/// Threads to start; each ends with the process.
#[derive(Default)]
pub(in crate::gateways::events) struct Threads(Vec<(&'static str, Work)>);

type Work = Box<dyn FnOnce() + Send>;

impl Threads {
    pub(in crate::gateways::events) fn add(
        &mut self,
        name: &'static str,
        work: impl FnOnce() + Send + 'static,
    ) {
        self.0.push((name, Box::new(work)));
    }

    /// Starts all threads.
    ///
    /// # Errors
    /// The system has no thread left.
    pub(in crate::gateways::events) fn start(self) -> Result<(), RunError> {
        for (name, work) in self.0 {
            detached(name, work).map_err(RunError::Thread)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::{bounded, unbounded};

    use super::*;
    use crate::gateways::events::bus::ExchangeSettings;
    use weirgate_bus::redis::{RedisEndpoint, RedisPublisher, RedisSettings};
    use weirgate_core::{BusMessage, FrameBytes};
    use weirgate_runtime::{BusStatus, Clock, LateWake, QueueBytes};

    #[test]
    fn a_loop_that_delivers_nothing_stops_the_bus() {
        let (events, received) = bounded(1_024);
        let (bytes, taken) = QueueBytes::new(1_024 * 1_024);
        let redis = RedisSettings::new(RedisEndpoint::new("localhost", 1));
        let status = Arc::new(BusStatus::new(&[], 0));
        let (_publishing, publisher) = RedisPublisher::new(redis, status).expect("a publisher");
        let connection = BusConnection {
            publisher,
            events: received,
            taken,
            publishing: None,
        };
        let settings = ExchangeSettings {
            wait_us: 1_000,
            message_bytes_max: 1_000,
            push_bytes_max: 1_000,
            instances_max: 4,
        };
        let clock = Clock::start();
        let (commands, commanded) = unbounded();
        let (input, inputs) = unbounded();
        let to_loop = ToLoop {
            input,
            replies: unbounded().0,
            wake: LateWake::default(),
            frame_bytes: FrameBytes::default(),
            clock,
        };
        let stats = Arc::<BusStats>::default();
        let exchange = Exchange::new(InstanceId::from("me"), settings, Arc::clone(&stats));
        let thread = BusThread::new(
            exchange,
            "name".to_owned(),
            connection,
            (commands.clone(), commanded),
            to_loop,
            stats,
        );
        std::thread::spawn(move || thread.run());
        let pushes = DELIVERING_MAX + 30;
        for number in 1..=pushes {
            let body = r#"{"event":"e","targets":{"device_ids":["a"]}}"#;
            let payload = format!(
                "weirgate-events/1 other push {number} 0 1 {}\n{body}",
                body.len()
            );
            let payload = payload.into_bytes();
            let event = BusEvent::Message(BusMessage::new("name", payload, clock.now()));
            assert!(bytes.take(event.message_bytes()));
            events.send(event).expect("room");
        }
        let soon = Duration::from_secs(10);
        let mut held = Vec::new();
        for _ in 0..DELIVERING_MAX {
            held.push(inputs.recv_timeout(soon).expect("a push"));
        }
        let none = inputs.recv_timeout(Duration::from_millis(100));
        assert!(none.is_err(), "no more until the loop has delivered some");
        for number in 1..=30 {
            let delivered = Command::Delivered {
                origin: InstanceId::from("other"),
                number,
                sent: 0,
            };
            commands.send(delivered).expect("the thread");
        }
        for _ in 0..30 {
            held.push(inputs.recv_timeout(soon).expect("a push"));
        }
        assert_eq!(held.len(), pushes);
    }
}

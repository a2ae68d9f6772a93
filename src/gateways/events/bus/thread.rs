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
use crate::gateways::events::bus::reading::{PushLine, ReceivedPush};
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

/// The channel of the bus counts as read to its end only if it is empty, and no message has come for this long: between
/// the parts of a large push it may be empty for a moment, and behind them may come the answer that is waited for.
const QUIET_US: u64 = 25_000;

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
    /// The thread for large pushes has read a push of another instance, and handed it to the loop if it is good.
    Read {
        origin: InstanceId,
        bytes: usize,
        is_good: bool,
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
    commands: Receiver<Command>,
    to_loop: ToLoop,
    /// The pushes of other instances, before the loop.
    line: PushLine,
    stats: Arc<BusStats>,
    /// The last report to the loop: whether the bus was up, and the number of losses.
    reported_loss: (bool, u64),
    awaited: HashMap<u64, AwaitedPush>,
    /// Pushes of other instances that are in the line or in the loop.
    delivering: usize,
    /// All messages that the connection has received before this time were handled, on the monotonic clock: who has not
    /// answered by then is late, and not merely unread.
    read_us: u64,
    /// When the connection received the last message that was handled.
    received_us: u64,
    leaving: Option<Sender<()>>,
}

impl BusThread {
    pub(in crate::gateways::events) fn new(
        exchange: Exchange,
        name: String,
        connection: BusConnection,
        commands: Receiver<Command>,
        (to_loop, line): (ToLoop, PushLine),
        stats: Arc<BusStats>,
    ) -> Self {
        Self {
            exchange,
            all: name.into(),
            is_subscribed: false,
            // Without a connection of its own for publishing, it can publish whenever it is subscribed.
            can_publish: connection.publishing.is_none(),
            connection,
            commands,
            to_loop,
            line,
            stats,
            reported_loss: (false, 0),
            awaited: HashMap::new(),
            delivering: 0,
            read_us: 0,
            received_us: 0,
            leaving: None,
        }
    }

    /// Works until the process ends.
    pub(in crate::gateways::events) fn run(mut self) {
        let nothing = never();
        loop {
            // The loop learns of a loss before the pushes that arrived after it; the second report is of pushes that
            // could not be read.
            self.report_losses();
            self.carry_out_actions();
            self.report_losses();
            // While there are many pushes to deliver, further messages wait in the channel of the bus.
            let is_full = self.delivering >= DELIVERING_MAX || self.line.is_full();
            let events = match is_full {
                false => &self.connection.events,
                true => &nothing,
            };
            let publishing = self.connection.publishing.as_ref().unwrap_or(&nothing);
            select! {
                recv(self.commands) -> command => match command {
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
                default(self.longest_wait(is_full)) => {}
            }
            self.handle_due();
        }
    }

    /// Handles the deadlines of the exchange. A wait does not end while a message that came before its end is unread: it
    /// may be the answer.
    fn handle_due(&mut self) {
        let now = self.to_loop.clock.now();
        if self.connection.events.is_empty() && now.mono_us >= self.received_us + QUIET_US {
            self.read_us = now.mono_us;
        }
        let due_us = self.exchange.deadline_us();
        if due_us.is_some_and(|at| at <= now.mono_us) {
            self.exchange.handle_timeout(now, self.read_us);
        }
    }

    /// The time until the next deadline of the exchange. While the bus is not read, no wait for others ends.
    fn longest_wait(&self, is_full: bool) -> Duration {
        let now_us = self.to_loop.clock.now().mono_us;
        let others_us = match is_full && !self.connection.events.is_empty() {
            true => None,
            false => self.exchange.deadline_us(),
        };
        let others_us = others_us.map(|at| at.max(self.received_us + QUIET_US));
        let due_us = self
            .exchange
            .announcement_us()
            .into_iter()
            .chain(others_us)
            .min();
        due_us.map_or(IDLE, |at| Duration::from_micros(at.saturating_sub(now_us)))
    }

    /// Passes a command to the exchange. A push is answered later, when the exchange knows its outcome.
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
            Command::Read {
                origin,
                bytes,
                is_good,
            } => {
                self.line.note_read(&origin, bytes);
                if !is_good {
                    self.note_unreadable(&origin);
                }
            }
            Command::Leave(done) => {
                self.leaving = Some(done);
                self.exchange.announce_stop();
            }
        }
    }

    /// Handles an event from the thread that reads the bus, and gives its bytes back to the limit of that connection.
    fn handle_event(&mut self, event: BusEvent) {
        self.connection.taken.give_back(event.message_bytes());
        let now = self.to_loop.clock.now();
        match event {
            BusEvent::Message(message) => {
                self.received_us = message.received.mono_us;
                self.read_us = self.read_us.max(self.received_us);
                self.exchange.handle_message(now, &message.payload);
                if self.exchange.has_left()
                    && let Some(done) = self.leaving.take()
                {
                    // The stop may have gone on without it.
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

    /// Tells the loop of losses. The loop may learn of a loss before it gets large pushes from before the loss. Then their
    /// positions are later than the loss, and still no position from before the loss is good.
    fn report_losses(&mut self) {
        let (is_up, losses) = (self.stats.is_up(), self.stats.losses());
        if self.reported_loss != (is_up, losses) {
            self.reported_loss = (is_up, losses);
            self.to_loop.send([Input::Others(is_up)]);
        }
    }

    fn note_unreadable(&mut self, origin: &InstanceId) {
        self.delivering -= 1;
        let now = self.to_loop.clock.now();
        self.exchange.unreadable(now, origin);
    }

    /// Carries out what the exchange has queued. If a push cannot be published, no part of it is; the exchange learns of
    /// either. If one cannot be read, it counts as unreadable.
    fn carry_out_actions(&mut self) {
        while let Some(action) = self.exchange.poll_action() {
            match action {
                ExchangeAction::Publish {
                    to,
                    messages,
                    number,
                } => {
                    let subject = match to {
                        To::All => Arc::clone(&self.all),
                        To::Instance(id) => subject_of(&self.all, &id),
                    };
                    let is_published = self.connection.publisher.publish(&subject, messages);
                    if let Some(number) = number {
                        self.exchange.note_published(number, is_published);
                    }
                }
                ExchangeAction::Deliver {
                    origin,
                    number,
                    body,
                } => {
                    self.delivering += 1;
                    let push = ReceivedPush {
                        origin: origin.clone(),
                        number,
                        body,
                    };
                    if !self.line.push(push) {
                        self.note_unreadable(&origin);
                    }
                }
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
    use weirgate_wire::base::Now;

    /// A thread of the bus at work, and the ends of its channels.
    struct Rig {
        clock: Clock,
        events: Sender<BusEvent>,
        bytes: Arc<QueueBytes>,
        commands: Sender<Command>,
        inputs: Receiver<Input>,
        stats: Arc<BusStats>,
        /// Takes what is published.
        _publishing: RedisPublisher,
    }

    fn rig(settings: ExchangeSettings) -> Rig {
        let (events, received) = bounded(1_024);
        let (bytes, taken) = QueueBytes::new(64 * 1_024 * 1_024);
        let redis = RedisSettings::new(RedisEndpoint::new("localhost", 1));
        let status = Arc::new(BusStatus::new(&[], 0));
        let (publishing, publisher) = RedisPublisher::new(redis, status).expect("a publisher");
        let connection = BusConnection {
            publisher,
            events: received,
            taken,
            publishing: None,
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
        let bytes_max = settings.push_bytes_max;
        let exchange = Exchange::new(InstanceId::from("me"), settings, Arc::clone(&stats));
        let (line, read) = PushLine::new(to_loop.clone(), commands.clone(), bytes_max);
        let name = "name".to_owned();
        let to_loop = (to_loop, line);
        let shared = Arc::clone(&stats);
        let thread = BusThread::new(exchange, name, connection, commanded, to_loop, shared);
        std::thread::spawn(read);
        std::thread::spawn(move || thread.run());
        Rig {
            clock,
            events,
            bytes,
            commands,
            inputs,
            stats,
            _publishing: publishing,
        }
    }

    impl Rig {
        fn message(&self, text: String, received: Now) {
            let payload = format!("weirgate-events/1 {text}").into_bytes();
            let event = BusEvent::Message(BusMessage::new("name", payload, received));
            assert!(self.bytes.take(event.message_bytes()));
            self.events.send(event).expect("room");
        }

        /// A push of another instance, received at this time.
        fn push(&self, from: &str, number: usize, body: &str, received: Now) {
            let bytes = body.len();
            self.message(
                format!("{from} push {number} 0 1 {bytes}\n{body}"),
                received,
            );
        }

        fn next_push(&self) -> Input {
            let is_push = |input: &Input| matches!(input, Input::Push(_));
            let next = || self.inputs.recv_timeout(SOON).expect("a push");
            std::iter::repeat_with(next).find(is_push).expect("endless")
        }
    }

    const SOON: Duration = Duration::from_secs(120);

    /// The body of a push to devices with ids of 10 bytes.
    fn body_to(devices: usize) -> String {
        let ids: Vec<_> = (0..devices).map(|n| format!("\"{n:010}\"")).collect();
        format!(
            r#"{{"event":"e","targets":{{"device_ids":[{}]}}}}"#,
            ids.join(",")
        )
    }

    #[test]
    fn an_answer_that_waits_behind_pushes_is_not_late() {
        let bodies = (body_to(200_000), body_to(19_000));
        // On a busy machine the answers may be sent when the push waits no longer: then nothing is known of the rule.
        let outcome = std::iter::repeat_with(|| push_with_answers_behind_others(&bodies))
            .find_map(|(outcome, is_in_time)| is_in_time.then_some(outcome))
            .expect("endless");
        assert_eq!(outcome.missing, []);
        assert_eq!((outcome.sent, outcome.answered), (14, 2));
    }

    /// The outcome of a push whose answers are in the queue behind pushes of others, and whether they were there while the
    /// push waited.
    fn push_with_answers_behind_others(
        (large, middling): &(String, String),
    ) -> (PushOutcome, bool) {
        const WAIT_US: u64 = 100_000;
        let rig = rig(ExchangeSettings {
            wait_us: WAIT_US,
            ..ExchangeSettings::default()
        });
        let received = rig.clock.now();
        rig.events.send(BusEvent::Up).expect("room");
        for text in ["me here", "other here", "third here"] {
            rig.message(format!("{text}\n"), received);
        }
        while !rig.stats.is_up() || rig.stats.instances() < 3 {
            std::thread::yield_now();
        }
        // A push now waits for whoever may be there; later ones only for those that are known.
        std::thread::sleep(Duration::from_millis(110));
        let received = rig.clock.now();
        let (tell, mut outcome) = oneshot::channel();
        let permit = PushPermit::of_tests();
        let body = Bytes::from_static(b"{}");
        let push = Command::Push { body, permit, tell };
        rig.commands.send(push).expect("the thread");
        while rig.stats.sent.get() == 0 {
            std::thread::yield_now();
        }
        // The large body is read elsewhere; the others take longer here than the push waits.
        rig.push("other", 1, large, received);
        for number in 1..=30 {
            rig.push("third", number, middling, received);
        }
        for from in ["other", "third"] {
            rig.message(format!("{from} answer 1 7\n"), received);
        }
        let is_in_time = rig.clock.now().mono_us - received.mono_us < WAIT_US;
        let began = std::time::Instant::now();
        let outcome = loop {
            match outcome.try_recv() {
                Ok(outcome) => break outcome,
                Err(_) => assert!(began.elapsed() < SOON, "no outcome"),
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        (outcome, is_in_time)
    }

    #[test]
    fn pushes_of_one_instance_keep_their_order_however_large_they_are() {
        let rig = rig(ExchangeSettings::default());
        let received = rig.clock.now();
        let (large, small) = (body_to(60_000), body_to(1));
        for number in 1..=6 {
            let body = if number % 3 == 1 { &large } else { &small };
            rig.push("other", number, body, received);
        }
        rig.push("third", 1, "no push", received);
        rig.push(
            "third",
            2,
            &format!("no push{}", " ".repeat(300_000)),
            received,
        );
        let large = vec![200; 60_000 / 200];
        let want: Vec<usize> = [&large[..], &[1, 1], &large, &[1, 1]].concat();
        let devices = |input| match input {
            Input::Push(push) => push.devices(),
            _ => unreachable!("it was looked for"),
        };
        let got: Vec<_> = want.iter().map(|_| devices(rig.next_push())).collect();
        assert_eq!(got, want);
        while !rig.stats.ignored().any(|one| one == ("bad", 2)) {
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_loop_that_delivers_nothing_stops_the_bus() {
        let rig = rig(ExchangeSettings {
            wait_us: 1_000,
            message_bytes_max: 1_000,
            push_bytes_max: 1_000,
            instances_max: 4,
        });
        let pushes = DELIVERING_MAX + 30;
        for number in 1..=pushes {
            rig.push("other", number, &body_to(1), rig.clock.now());
        }
        let mut held = Vec::new();
        for _ in 0..DELIVERING_MAX {
            held.push(rig.next_push());
        }
        let none = rig.inputs.recv_timeout(Duration::from_millis(100));
        assert!(none.is_err(), "no more until the loop has delivered some");
        for number in 1..=30 {
            let delivered = Command::Delivered {
                origin: InstanceId::from("other"),
                number,
                sent: 0,
            };
            rig.commands.send(delivered).expect("the thread");
        }
        for _ in 0..30 {
            held.push(rig.next_push());
        }
        assert_eq!(held.len(), pushes);
    }
}

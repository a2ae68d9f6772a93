//! Publishing, delivering and answering pushes, and the deadlines of each.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::instances::{Instances, Missed, SILENCE_US};
use super::message::{InstanceMessage, LINE_BYTES_MAX, PART_BYTES_MAX, PushPart};
use super::{BusStats, ExchangeAction, ExchangeSettings, Ignored, InstanceId, PushOutcome, To};
use weirgate_wire::base::{LogBudget, Now};

/// How often an instance announces itself.
const HERE_US: u64 = 1_000_000;

/// How often an instance announces itself until its announcement first comes back from the bus.
const FIRST_HERE_US: u64 = 100_000;

/// A push waits for a late instance for its whole waiting time, divided by this number. That is long enough for an
/// instance that answers again, and short enough that an instance without answers does not hold up every push.
const LATE_SHARE: u64 = 10;

/// Log lines about messages from the bus, a second.
const LINES_PER_SECOND: u32 = 5;

/// Whether the bus carries published messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    /// There is no connection.
    Away,
    /// There is a connection, but no published message has come back yet, or none has lately.
    Unproven,
    /// The messages of this instance come back: since `since_us`, and the newest at `echo_us`.
    Up { since_us: u64, echo_us: u64 },
}

/// Whether instances are to blame for the end of a push's wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blame {
    Nobody,
    /// The expected instances that have not answered: from now on they are late.
    Late,
}

/// A push of this instance that waits for other instances.
#[derive(Debug)]
struct PendingPush {
    /// The end of the wait for late instances.
    late_until_us: u64,
    /// The end of the whole wait.
    until_us: u64,
    /// Deliveries in the instances that have answered.
    sent: u64,
    answered: BTreeSet<InstanceId>,
    /// The other instances at the time of the publication; of those beyond the limit of instances, one.
    expected: BTreeSet<InstanceId>,
    /// The expected instances that the push still waits for; none beyond the limit, whose answer would be ignored.
    awaited: BTreeSet<InstanceId>,
    /// The push waits until `until_us` in any case, because other instances may not be known yet.
    waits_for_all: bool,
}

/// One instance's part in the exchange of pushes.
#[derive(Debug)]
pub struct Exchange {
    me: InstanceId,
    settings: ExchangeSettings,
    stats: Arc<BusStats>,
    link: Link,
    instances: Instances,
    /// By number; the pushes also end in this order.
    waiting: BTreeMap<u64, PendingPush>,
    /// Pushes before this number no longer wait for late instances.
    waits_for_late: u64,
    next_number: u64,
    next_here_us: u64,
    /// The newest push when this instance last announced it.
    announced: u64,
    actions: VecDeque<ExchangeAction>,
    /// This instance has announced its stop. After another message, the other instances would count this instance
    /// again.
    is_leaving: bool,
    /// The bus has delivered the announcement to this instance too, so the other instances have it.
    has_left: bool,
    lines: LogBudget,
}

impl Exchange {
    /// The longest message that an instance reads, whatever part size is set for it.
    pub const MESSAGE_BYTES_MAX: usize = PART_BYTES_MAX + LINE_BYTES_MAX;

    /// An instance without a connection to the bus.
    pub fn new(me: InstanceId, settings: ExchangeSettings, stats: Arc<BusStats>) -> Self {
        let others_max = settings.instances_max.saturating_sub(1);
        Self {
            instances: Instances::new(others_max, settings.push_bytes_max),
            me,
            settings,
            stats,
            link: Link::Away,
            waiting: BTreeMap::new(),
            waits_for_late: 1,
            // No push has the number 0 (`message.rs`).
            next_number: 1,
            next_here_us: 0,
            announced: 0,
            actions: VecDeque::new(),
            is_leaving: false,
            has_left: false,
            lines: LogBudget::new(LINES_PER_SECOND),
        }
    }

    /// The id of this instance.
    pub fn id(&self) -> &InstanceId {
        &self.me
    }

    /// The next action for the caller.
    pub fn poll_action(&mut self) -> Option<ExchangeAction> {
        self.actions.pop_front()
    }

    /// The time at which [`Self::handle_timeout`] is due, on the monotonic clock, if any.
    pub fn deadline_us(&self) -> Option<u64> {
        let here = self.announcement_us();
        let first = self.waiting.values().next().map(|one| one.until_us);
        let late = self.first_for_late().map(|(_, one)| one.late_until_us);
        here.into_iter().chain(first).chain(late).min()
    }

    /// The part of [`Self::deadline_us`] that does not depend on what others say: when this instance announces itself.
    pub fn announcement_us(&self) -> Option<u64> {
        (self.link != Link::Away).then_some(self.next_here_us)
    }

    /// Notes that there is a connection to the bus on which this instance is subscribed and may publish.
    pub fn connected(&mut self, now: Now) {
        if self.link == Link::Away {
            self.link = Link::Unproven;
            self.announce(now.mono_us);
        }
    }

    /// Notes that there is no such connection any more.
    pub fn disconnected(&mut self) {
        self.lose(Link::Away);
    }

    /// Publishes a push from a service to this instance. The caller delivers it to the devices of this instance.
    /// Returns the number of the push; [`ExchangeAction::Tell`] follows, at once if the bus is away.
    pub fn push(&mut self, now: Now, body: &[u8]) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        let since_us = match self.link {
            Link::Up { since_us, .. } if !self.is_leaving => since_us,
            // Only this instance can deliver the push.
            _ => {
                let missing = self.expected(now.mono_us).into_iter().collect();
                let outcome = PushOutcome {
                    missing,
                    ..PushOutcome::default()
                };
                self.report(number, outcome);
                return number;
            }
        };
        let waiting = PendingPush {
            late_until_us: now.mono_us + self.settings.wait_us / LATE_SHARE,
            until_us: now.mono_us + self.settings.wait_us,
            sent: 0,
            answered: BTreeSet::new(),
            awaited: self.instances.there().cloned().collect(),
            expected: self.expected(now.mono_us),
            waits_for_all: now.mono_us < since_us + self.settings.wait_us,
        };
        self.waiting.insert(number, waiting);
        self.publish_parts(number, body);
        self.end_if_answered(number);
        number
    }

    /// The instances that should get a push: all that are present, and one of those beyond the limit.
    fn expected(&self, now_us: u64) -> BTreeSet<InstanceId> {
        let beyond = self.instances.beyond(now_us);
        self.instances.there().chain(beyond).cloned().collect()
    }

    /// Notes whether the push `number` was published. If it was not, nothing of it was, and its wait ends.
    pub fn note_published(&mut self, number: u64, is_published: bool) {
        match is_published {
            true => self.stats.sent.add(1),
            false => self.end(number, Blame::Nobody),
        }
    }

    /// Reports that the push `number` of `origin` was delivered to the devices of this instance.
    pub fn delivered(&mut self, origin: InstanceId, number: u64, sent: u64) {
        if self.link != Link::Away {
            self.publish(
                To::Instance(origin),
                InstanceMessage::Answer { number, sent },
            );
        }
    }

    /// Reports that a push of `origin` could not be read.
    pub fn unreadable(&mut self, now: Now, origin: &InstanceId) {
        self.ignore(now, Ignored::Bad, Some(origin));
    }

    /// Handles a message from the bus.
    pub fn handle_message(&mut self, now: Now, bytes: &[u8]) {
        let Some((from, message)) = InstanceMessage::parse(bytes) else {
            return self.ignore(now, Ignored::Bad, None);
        };
        // Of a longer message, the reader of Redis returns only the beginning.
        if bytes.len() > Self::MESSAGE_BYTES_MAX {
            return self.ignore(now, Ignored::TooLarge, Some(&from));
        }
        if from == self.me {
            self.has_left |= message == InstanceMessage::Gone;
            return self.handle_echo(now);
        }
        if message == InstanceMessage::Gone {
            return self.handle_gone(now, &from);
        }
        match self.instances.note_alive(now.mono_us, &from) {
            // It was not known before; `None`: it is over the limit.
            Some(true) => self.count_others(now, &from, "another instance is on the bus"),
            Some(false) => {}
            None => return self.ignore(now, Ignored::Instances, Some(&from)),
        }
        match message {
            InstanceMessage::Here { is_new: true } => self.handle_new(from),
            InstanceMessage::Here { is_new: false } | InstanceMessage::Gone => {}
            InstanceMessage::Newest { number } => self.handle_newest(now, &from, number),
            InstanceMessage::Push(part) => self.handle_push(now, from, &part),
            InstanceMessage::Answer { number, sent } => self.handle_answer(from, number, sent),
        }
    }

    /// Announces this instance, and ends the waits that are over. `read_us`: every message that came before this time was
    /// handled, on the monotonic clock. Who has not answered by then is late; later answers may still be unread.
    pub fn handle_timeout(&mut self, now: Now, read_us: u64) {
        let now_us = now.mono_us;
        while let Some((number, first)) = self.first_for_late()
            && first.late_until_us <= read_us
        {
            self.end_for_late(number);
        }
        while let Some((&number, first)) = self.waiting.first_key_value()
            && first.until_us <= read_us
        {
            self.end(number, Blame::Late);
        }
        if let Link::Up { echo_us, .. } = self.link {
            if read_us >= echo_us + SILENCE_US {
                tracing::warn!("the bus between instances does not bring back what is published");
                self.lose(Link::Unproven);
            } else {
                for id in self.instances.silent(read_us) {
                    self.count_others(now, &id, "another instance is silent");
                    // Its incomplete push, whatever the number.
                    self.abandon(now, &id, u64::MAX);
                    // Cut off from the bus, it may take pushes of which nothing is known here.
                    self.stats.doubts.add(1);
                }
            }
        }
        if self.link != Link::Away && self.next_here_us <= now_us {
            self.announce(now_us);
        }
    }

    /// Announces the stop of this instance, so that the other instances do not wait for it any more.
    pub fn announce_stop(&mut self) {
        if self.link != Link::Away {
            self.announce_newest();
            self.publish(To::All, InstanceMessage::Gone);
            self.is_leaving = true;
        }
    }

    /// Returns true if the bus has carried the announcement of [`Self::announce_stop`].
    pub fn has_left(&self) -> bool {
        self.has_left
    }

    /// Handles a message of this instance that came back: the bus carries messages.
    fn handle_echo(&mut self, now: Now) {
        let echo_us = now.mono_us;
        // To others this instance is up from here on, so they must know which pushes it could not publish.
        // The newest push has the number before the next one.
        if self.link == Link::Unproven && self.announced < self.next_number - 1 {
            self.announce(echo_us);
        }
        match &mut self.link {
            // A message from a connection that is lost by now.
            Link::Away => {}
            Link::Up { echo_us: last, .. } => *last = echo_us,
            Link::Unproven => {
                let since_us = echo_us;
                self.link = Link::Up { since_us, echo_us };
                self.instances.begin_anew(echo_us);
                self.stats.is_up.store(true, Relaxed);
                tracing::info!(
                    instance = self.me.as_str(),
                    "pushes are shared with other instances"
                );
            }
        }
    }

    /// Ends the waits for an instance that has announced its stop, because it has no devices any more.
    fn handle_gone(&mut self, now: Now, from: &InstanceId) {
        // Its incomplete push, whatever the number.
        self.abandon(now, from, u64::MAX);
        if self.instances.note_stopped(from) {
            self.count_others(now, from, "another instance has stopped");
        }
        for waiting in self.waiting.values_mut() {
            waiting.expected.remove(from);
            waiting.awaited.remove(from);
        }
        let numbers: Vec<u64> = self.waiting.keys().copied().collect();
        numbers.into_iter().for_each(|n| self.end_if_answered(n));
    }

    /// Answers an instance that has connected to the bus.
    fn handle_new(&mut self, from: InstanceId) {
        if self.instances.note_new(&from) {
            self.stats.doubts.add(1);
        }
        self.publish(To::Instance(from), InstanceMessage::Here { is_new: false });
    }

    /// Handles the announcement of an instance's newest push. On the bus it follows all parts of this push.
    fn handle_newest(&mut self, now: Now, from: &InstanceId, number: u64) {
        self.abandon(now, from, number);
        let knows_all = self.knows_all(now);
        let missed = self.instances.note_announced(from, number, knows_all);
        self.count_missed(now, from, missed);
    }

    /// Whether the bus has carried messages for so long that every instance on it is known.
    fn knows_all(&self, now: Now) -> bool {
        matches!(self.link, Link::Up { since_us, .. } if now.mono_us >= since_us + SILENCE_US)
    }

    /// Drops an incomplete push of the instance up to the number `number`: the other parts are lost.
    fn abandon(&mut self, now: Now, from: &InstanceId, number: u64) {
        if self.instances.abandon_to(from, number) {
            self.ignore(now, Ignored::Incomplete, Some(from));
        }
    }

    /// Counts pushes of another instance that did not arrive.
    fn count_missed(&mut self, now: Now, from: &InstanceId, missed: Missed) {
        match missed {
            Missed::Nothing => {}
            Missed::Perhaps => self.stats.doubts.add(1),
            Missed::Pushes(pushes) => {
                self.stats.count_lost(Some(pushes));
                if let Some(lines_left_out) = self.lines.line(now) {
                    let instance = from.as_str();
                    tracing::warn!(
                        instance,
                        pushes,
                        lines_left_out,
                        "pushes of another instance did not arrive"
                    );
                }
            }
        }
    }

    /// Takes a part of a push of another instance, and delivers the push if it is whole now. An earlier push that is
    /// incomplete is dropped, and numbers that were skipped count as missed.
    fn handle_push(&mut self, now: Now, origin: InstanceId, part: &PushPart<'_>) {
        let number = part.number;
        let before = number.saturating_sub(1);
        self.abandon(now, &origin, before);
        let knows_all = self.knows_all(now);
        let missed = (self.instances).note_newest(&origin, (before, number), knows_all);
        self.count_missed(now, &origin, missed);
        match self.instances.take_part(&origin, part) {
            Ok(Some(body)) => {
                self.stats.received.add(1);
                self.actions.push_back(ExchangeAction::Deliver {
                    origin,
                    number,
                    body,
                });
            }
            Ok(None) => {}
            Err(why) => self.ignore(now, why, Some(&origin)),
        }
    }

    /// Adds to how many devices the instance `from` has delivered the push, and ends the push if no instance is
    /// awaited. Further answers of the instance to the push are ignored.
    fn handle_answer(&mut self, from: InstanceId, number: u64, sent: u64) {
        self.instances.note_answer(&from);
        let Some(waiting) = self.waiting.get_mut(&number) else {
            return;
        };
        waiting.awaited.remove(&from);
        if !waiting.answered.insert(from) {
            return;
        }
        waiting.sent = waiting.sent.saturating_add(sent);
        self.end_if_answered(number);
    }

    /// Counts the instances after a change, and logs the change.
    fn count_others(&mut self, now: Now, id: &InstanceId, what: &str) {
        self.stats.others.set(self.instances.count());
        if let Some(lines_left_out) = self.lines.line(now) {
            let instance = id.as_str();
            tracing::info!(instance, lines_left_out, "{what}");
        }
    }

    /// Ends all waits, because published messages do not come back from the bus.
    fn lose(&mut self, link: Link) {
        self.link = link;
        self.stats.is_up.store(false, Relaxed);
        for number in self.waiting.keys().copied().collect::<Vec<_>>() {
            self.end(number, Blame::Nobody);
        }
    }

    /// Tells the other instances that this one is there, and sets the time of the next such message.
    fn announce(&mut self, now_us: u64) {
        let again_us = match self.link {
            Link::Up { .. } => HERE_US,
            Link::Unproven | Link::Away => FIRST_HERE_US,
        };
        self.next_here_us = now_us + again_us;
        let is_new = self.link == Link::Unproven;
        // First, so that `new` is of an instance that has said which pushes it has taken.
        self.announce_newest();
        self.publish(To::All, InstanceMessage::Here { is_new });
    }

    /// Tells the other instances which pushes of this one should have arrived, those included that could not be published.
    fn announce_newest(&mut self) {
        let number = self.next_number - 1;
        self.announced = number;
        self.publish(To::All, InstanceMessage::Newest { number });
    }

    /// Queues a message, unless this instance has announced its stop.
    fn publish(&mut self, to: To, message: InstanceMessage<'_>) {
        if self.is_leaving {
            return;
        }
        let messages = vec![message.bytes(&self.me)];
        self.actions.push_back(ExchangeAction::Publish {
            to,
            messages,
            number: None,
        });
    }

    /// Queues the push as parts with at most `message_bytes_max` bytes of the body. They are published together or not at
    /// all, because one without the others is of no use; then [`Self::note_published`] ends the push.
    fn publish_parts(&mut self, number: u64, body: &[u8]) {
        let chunks = body.chunks(self.settings.message_bytes_max.max(1));
        let parts = u32::try_from(chunks.len()).unwrap_or(u32::MAX);
        let message = |(part, bytes)| {
            let part = PushPart {
                number,
                part,
                parts,
                body_bytes: body.len(),
                bytes,
            };
            InstanceMessage::Push(part).bytes(&self.me)
        };
        let messages = (0..).zip(chunks).map(message).collect();
        self.actions.push_back(ExchangeAction::Publish {
            to: To::All,
            messages,
            number: Some(number),
        });
    }

    /// The oldest push that still waits for late instances.
    fn first_for_late(&self) -> Option<(u64, &PendingPush)> {
        let mut waiting = self.waiting.range(self.waits_for_late..);
        waiting.next().map(|(&number, one)| (number, one))
    }

    /// Ends the wait of a push for late instances.
    fn end_for_late(&mut self, number: u64) {
        self.waits_for_late = number + 1;
        if let Some(waiting) = self.waiting.get_mut(&number) {
            waiting.awaited.retain(|id| !self.instances.is_late(id));
        }
        self.end_if_answered(number);
    }

    /// Ends the push if no instance is awaited. While other instances may not be known yet, the push goes on until its
    /// time is over.
    fn end_if_answered(&mut self, number: u64) {
        let waiting = self.waiting.get(&number);
        if waiting.is_some_and(|one| one.awaited.is_empty() && !one.waits_for_all) {
            self.end(number, Blame::Nobody);
        } else {
            self.stats.waiting.set(self.waiting.len());
        }
    }

    /// Ends the wait of a push. Expected instances that have not answered are reported as missing.
    fn end(&mut self, number: u64, blame: Blame) {
        let Some(waiting) = self.waiting.remove(&number) else {
            return;
        };
        self.stats.waiting.set(self.waiting.len());
        if blame == Blame::Late {
            let late = waiting.awaited.iter();
            late.for_each(|id| self.instances.note_late(id));
        }
        let missing = waiting.expected.difference(&waiting.answered);
        let missing = missing.cloned().collect();
        self.report(
            number,
            PushOutcome {
                is_up: matches!(self.link, Link::Up { .. }),
                sent: waiting.sent,
                answered: waiting.answered.len(),
                missing,
            },
        );
    }

    fn report(&mut self, number: u64, outcome: PushOutcome) {
        if !outcome.is_up || !outcome.missing.is_empty() {
            self.stats.incomplete.add(1);
        }
        self.actions
            .push_back(ExchangeAction::Tell { number, outcome });
    }

    /// Counts and logs a message that has no effect.
    fn ignore(&mut self, now: Now, why: Ignored, from: Option<&InstanceId>) {
        self.stats.ignored[why as usize].add(1);
        if let Some(lines_left_out) = self.lines.line(now) {
            tracing::warn!(
                reason = why.word(),
                instance = from.map(InstanceId::as_str),
                lines_left_out,
                "a message on the bus between instances is ignored"
            );
        }
    }
}

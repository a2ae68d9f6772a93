//! The outputs of a turn of the loop: the effects requested by the hub, the data of the operator's page (a survey of
//! clients and topics on request, the connections that ended last), and the numbers of the turn.

use super::Reactor;
use crate::http::Handover;
use crate::reactor::handshakes::HandshakeJob;
use crate::telemetry::{
    Budget, EndedAt, HitLimit, PendingSearch, SEARCHES_MAX, ShellStats, Surveyed,
};
use std::collections::VecDeque;
use std::sync::Arc;
use tracing::Level;
use weirgate_core::{CloseReason, Effect, Ended, Feed, Gateway, SessionKey, SlowReason};
use weirgate_wire::admission::{ConnectionPermit, HeldBytes};
use weirgate_wire::base::{LogBudget, Now};

/// The most ends by clients that are kept, and the most other ends, without drops ([`DROPS_MAX`]). In a shared list,
/// clients that come and go would displace all other ends.
const ENDS_MAX: usize = 25;

/// The most drops that are kept. Refusals, which a single page without a token causes every second, do not displace
/// drops.
const DROPS_MAX: usize = 128;

/// The shortest time from the beginning of a survey to the beginning of the next.
const SURVEY_EVERY_US: u64 = 1_000_000;

/// The connections that ended last.
#[derive(Debug, Default)]
pub(super) struct EndedConnections {
    by_clients: VecDeque<EndedAt>,
    drops: VecDeque<EndedAt>,
    others: VecDeque<EndedAt>,
    /// The beginning of the last survey, microseconds of the monotonic clock.
    surveyed_us: Option<u64>,
}

impl EndedConnections {
    /// Adds a connection that has ended. The oldest of its kind is forgotten if the list is full.
    pub(super) fn push(&mut self, now: Now, limit: Option<HitLimit>, ended: Ended) {
        let (list, max) = match ended.reason {
            _ if ended.dropped.is_some() => (&mut self.drops, DROPS_MAX),
            CloseReason::PeerClosed | CloseReason::PeerGone => (&mut self.by_clients, ENDS_MAX),
            _ => (&mut self.others, ENDS_MAX),
        };
        if list.len() == max {
            list.pop_front();
        }
        list.push_back(EndedAt {
            at_us: now.mono_us,
            limit,
            ended,
        });
    }

    /// Returns the lists as one, the newest end first.
    fn newest_first(&self) -> Vec<EndedAt> {
        let all = self.by_clients.iter().chain(&self.others);
        let mut ends: Vec<EndedAt> = all.chain(&self.drops).cloned().collect();
        ends.sort_by_key(|end| std::cmp::Reverse(end.at_us));
        ends
    }

    /// When the next survey may begin, microseconds of the monotonic clock.
    fn next_survey_us(&self) -> u64 {
        self.surveyed_us.map_or(0, |last| last + SURVEY_EVERY_US)
    }

    /// Begins a survey if one may begin now. Returns whether it has begun.
    fn try_begin(&mut self, now_us: u64) -> bool {
        let begins = now_us >= self.next_survey_us();
        if begins {
            self.surveyed_us = Some(now_us);
        }
        begins
    }
}

/// The line of an ended connection. A macro, because the level of a line is a constant; a field without a value is not
/// shown.
macro_rules! log_ended {
    ($level:expr, $ended:ident, $limit:ident, $line:ident) => {{
        let dropped = $ended.dropped.as_ref();
        tracing::event!(
            $level,
            client = %$ended.client,
            peer = %$ended.peer,
            user = $ended.user_in_log(),
            tls = $ended.tls,
            path = Some(&*$ended.path).filter(|path| !path.is_empty()),
            reason = $ended.reason.label(),
            refusal = $ended.refusal,
            why = dropped.and_then(|dropped| dropped.why).map(SlowReason::label),
            say = dropped.map(|dropped| &*dropped.say).filter(|say| !say.is_empty()),
            limit = $limit.map(tracing::field::display),
            waited_bytes = dropped.map(|dropped| dropped.bytes),
            waited_messages = dropped.map(|dropped| dropped.messages),
            untaken_ms = dropped.map(|dropped| dropped.untaken_us / 1000),
            code = $ended.code,
            age_ms = $ended.age_us / 1000,
            bytes_in = $ended.traffic.bytes_in,
            bytes_out = $ended.traffic.bytes_out,
            messages_in = $ended.traffic.messages_in,
            messages_out = $ended.traffic.messages_out,
            conflated = $ended.traffic.messages_conflated,
            lines_left_out = $line,
            "connection ended"
        );
    }};
}

/// The most log lines a second of each kind of [`EndLines`] but drops; the next line has the number of suppressed
/// lines.
const END_LINES_PER_SECOND: u32 = 10;

/// The most log lines a second about clients that weirgate has dropped: refusals do not use these up.
const DROP_LINES_PER_SECOND: u32 = 128;

/// The log lines about ended connections.
pub(super) struct EndLines {
    /// Of clients that weirgate has dropped.
    drops: LogBudget,
    /// Of limits that were hit.
    limits: LogBudget,
    /// Of connections whose end has its cause between client and weirgate, such as a proxy.
    on_path: LogBudget,
    /// Of all other ends.
    others: LogBudget,
}

/// Logs a request for a WebSocket whose upgrade a proxy has taken off.
fn log_lost_upgrade(ended: &Ended, lines_left_out: u64) {
    tracing::warn!(
        client = %ended.client,
        peer = %ended.peer,
        path = &*ended.path,
        header = ended.refusal,
        lines_left_out,
        "a request for a WebSocket came without this header or version: a proxy on the way took it off; deploy/ has \
         settings for nginx, HAProxy, Caddy, Apache and Varnish"
    );
}

/// Logs a refusal with its remedy.
fn log_remedy(ended: &Ended, remedy: &'static str, lines_left_out: u64) {
    tracing::warn!(
        client = %ended.client,
        peer = %ended.peer,
        path = &*ended.path,
        reason = ended.reason.label(),
        refusal = ended.refusal,
        lines_left_out,
        "{remedy}"
    );
}

/// The cause and the remedy of a refusal whose cause is between client and weirgate: a proxy, or the wrong port.
fn remedy_of(refusal: &str) -> Option<&'static str> {
    Some(match refusal {
        "http2" => {
            "HTTP/2 in clear text came to a port that speaks HTTP/1.1: set the proxy's protocol towards weirgate to HTTP/1.1"
        }
        "tls" => {
            "TLS came to a port without TLS: take the port of --tls-port, or let the proxy speak plain HTTP to weirgate"
        }
        "plain_http" => {
            "plain HTTP came to a port with TLS: use wss:// or https://, or the port without TLS"
        }
        "no_key" => {
            "a handshake came without Sec-WebSocket-Key: a proxy has made it of a WebSocket over HTTP/2; deploy/envoy has settings"
        }
        "subprotocol" => {
            "a client offered subprotocols that weirgate does not confirm, and left within a second, as browsers do: take the \
             subprotocol out of the client"
        }
        _ => return None,
    })
}

impl Default for EndLines {
    fn default() -> Self {
        Self {
            drops: LogBudget::new(DROP_LINES_PER_SECOND),
            limits: LogBudget::new(END_LINES_PER_SECOND),
            on_path: LogBudget::new(END_LINES_PER_SECOND),
            others: LogBudget::new(END_LINES_PER_SECOND),
        }
    }
}

impl EndLines {
    /// Logs the numbers of lines that were left out, if no further line says so.
    pub(super) fn log_left_out(&mut self, left_out: impl Fn(&mut LogBudget) -> Option<u64>) {
        if let Some(lines_left_out) = left_out(&mut self.others) {
            tracing::info!(lines_left_out, "more connections ended");
        }
        if let Some(lines_left_out) = left_out(&mut self.limits) {
            tracing::warn!(lines_left_out, "more connections ended at limits");
        }
        if let Some(lines_left_out) = left_out(&mut self.on_path) {
            tracing::warn!(
                lines_left_out,
                "more requests came changed by a proxy, or in another protocol"
            );
        }
        if let Some(lines_left_out) = left_out(&mut self.drops) {
            tracing::warn!(lines_left_out, "more clients were dropped");
        }
    }
}

impl<G: Gateway, F: Feed> Reactor<G, F> {
    /// Carries out the hub's effects, as many as there is time for; the rest follows in the next turns.
    pub(super) fn effects(&mut self) {
        if self.hub.has_effects() {
            self.hub.begin_later_part(self.settings.budgets.effects_us);
        }
        while let Some(effect) = self.hub.poll_effect() {
            self.carry_out(effect);
            if self.hub.has_effects() && !self.hub.has_time() {
                self.report.count_spent(Budget::Closes);
                break;
            }
        }
        while let Some(output) = self.hub.poll_output() {
            (self.seams.output)(output);
        }
    }

    /// Carries out what the hub wants of the sockets.
    pub(super) fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::HalfClose(key) => self.sockets.half_close(key),
            Effect::Release {
                key,
                socket_end,
                ended,
            } => {
                // Load balancers check whether the port is open: such ends are neither logged nor shown.
                if !ended.said_nothing() {
                    let limit = self.settings.limit_of(ended.reason);
                    self.log_end(&ended, limit);
                    self.ends.push(self.clock.now(), limit, ended);
                }
                if !self.sockets.end(key, socket_end)
                    && let Some(handshakes) = &self.seams.handshakes
                {
                    handshakes.send(HandshakeJob::Drop(key));
                }
                self.hub.handle_released(key);
            }
            Effect::ToHttp { key, read, permit } => self.hand_over(key, read, permit),
            Effect::ReadOn(key) => self.read_on(key),
            Effect::ReadLast(key) => self.read_last(key),
        }
    }

    /// Logs an ended connection, within the limit of lines for its kind of end: clients that just leave do not use up the
    /// lines of the others. A client that weirgate has dropped is logged as a warning with its losses, and so is a limit
    /// that was hit.
    fn log_end(&mut self, ended: &Ended, limit: Option<HitLimit>) {
        let now = self.clock.now();
        let remedy = ended.refusal.and_then(remedy_of);
        let is_upgrade_lost = ended.reason == CloseReason::UpgradeLost;
        let lines = match (&ended.dropped, limit) {
            (None, None) if remedy.is_some() || is_upgrade_lost => &mut self.end_lines.on_path,
            (Some(_), _) => &mut self.end_lines.drops,
            (None, Some(_)) => &mut self.end_lines.limits,
            (None, None) => &mut self.end_lines.others,
        };
        let Some(lines_left_out) = lines.line(now) else {
            return;
        };
        if is_upgrade_lost {
            return log_lost_upgrade(ended, lines_left_out);
        }
        if let Some(remedy) = remedy {
            return log_remedy(ended, remedy, lines_left_out);
        }
        match ended.dropped.is_some() || limit.is_some() {
            true => log_ended!(Level::WARN, ended, limit, lines_left_out),
            false => log_ended!(Level::INFO, ended, limit, lines_left_out),
        }
    }

    /// Logs names that clients did not get, and the number of lines left out, if no further line says so. The hub limits
    /// the lines.
    pub(super) fn log_refused_names(&mut self, left_out: impl Fn(&mut LogBudget) -> Option<u64>) {
        while let Some((refused, lines_left_out)) = self.hub.poll_refused_name() {
            tracing::info!(
                name = refused.name.as_str(),
                reason = refused.reason.label(),
                role = refused.role.as_deref(),
                client = %refused.client,
                user = refused.user.as_deref(),
                lines_left_out,
                "a name was refused"
            );
        }
        if let Some(lines_left_out) = left_out(self.hub.refused_name_lines()) {
            tracing::info!(lines_left_out, "more names were refused");
        }
    }

    /// Gives a connection to the HTTP thread, with the bytes that were read of it.
    fn hand_over(&mut self, key: SessionKey, read: HeldBytes, permit: ConnectionPermit) {
        let peer = self.hub.core().peer(key);
        let stream = self.sockets.hand_over(key);
        self.hub.handle_released(key);
        if let (Some((stream, tls)), Some(peer)) = (stream, peer) {
            self.seams.http.serve(Handover {
                stream: std::net::TcpStream::from(std::os::fd::OwnedFd::from(stream)),
                tls,
                read,
                peer,
                permit,
            });
        }
    }

    /// When a requested survey may begin, microseconds of the monotonic clock.
    pub(super) fn survey_due_us(&self) -> Option<u64> {
        let is_requested = self.seams.telemetry.surveys.is_requested();
        is_requested.then(|| self.ends.next_survey_us())
    }

    /// Surveys some clients, if a survey is under way or requested.
    pub(super) fn survey(&mut self) {
        let surveys = &self.seams.telemetry.surveys;
        let is_surveying = self.hub.is_surveying();
        if !is_surveying && !surveys.is_requested() {
            return;
        }
        let now = self.clock.now();
        if !is_surveying {
            if !self.ends.try_begin(now.mono_us) {
                return;
            }
            surveys.note_begun();
            while let Some(PendingSearch { search, answer }) = surveys.next_search() {
                self.hub.search(search);
                self.searching.push(answer);
                if self.searching.len() == SEARCHES_MAX {
                    break;
                }
            }
        }
        if let Some(mut survey) = self.hub.survey(now) {
            let found = std::mem::take(&mut survey.found);
            let ends = self.ends.newest_first();
            let surveyed = Arc::new(Surveyed { survey, ends });
            for (answer, found) in self.searching.drain(..).zip(found) {
                // Fails if the operator has left.
                let _ = answer.send((found, Arc::clone(&surveyed)));
            }
            surveys.put(surveyed);
        }
    }

    /// Ends a turn that began at `began`: publishes the numbers of the loop.
    pub(super) fn publish_numbers(&mut self, began: Now) {
        if !self.hub.is_flushing() {
            // Forgets the messages of this turn that no client took.
            self.report.note_flush_end(None, began.mono_us);
        }
        let ended = self.since(began);
        self.now_us = ended.mono_us;
        self.end_lines.log_left_out(|lines| lines.left_out(began));
        self.log_refused_names(|lines| lines.left_out(began));
        while let Some(reason) = self.seams.http.next_end() {
            self.hub.count_close(reason);
        }
        let shell = self.shell_stats();
        let event_loop = &self.seams.telemetry.event_loop;
        let feed = self.feed.stats();
        self.report.set_spin(self.spin.counts());
        self.report
            .end_turn(event_loop, [began, ended], &mut self.hub, feed, shell);
    }

    /// The numbers of the loop that the hub does not know.
    fn shell_stats(&self) -> ShellStats {
        let (core, stats) = (self.hub.core(), self.hub.stats());
        let (limits, seams) = (core.limits(), &self.seams);
        let windows = core.inflate_windows();
        let sessions = stats.heads + stats.open + stats.closing;
        ShellStats {
            // The connections that are no sessions of the loop are with the HTTP thread.
            http_connections: core.connections() as u64 - sessions,
            connections_max: (limits.connections_max < usize::MAX)
                .then_some(limits.connections_max as u64),
            accept_errors: self.listeners.errors(),
            addresses: core.known_addresses() as u64,
            bus_queue_messages: seams.bus.len() as u64,
            // The channel is bounded, so it has a capacity.
            bus_queue_messages_max: seams.bus.capacity().unwrap_or(0) as u64,
            bus_queue_bytes: seams.bus_bytes.held() as u64,
            bus_queue_bytes_max: seams.bus_bytes.max() as u64,
            frame_bytes_alive: core.frame_bytes().alive(),
            frame_bytes_max: limits.frame_bytes_max,
            inflate_window_bytes: windows.kept_bytes(),
            inflate_window_bytes_granted: windows.granted_bytes(),
            inflate_windows_refused: windows.refused(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use weirgate_core::{Dropped, Traffic};
    use weirgate_wire::admission::{ClientAddr, Peer};

    fn ended(reason: CloseReason) -> Ended {
        Ended {
            peer: Peer::Unix(None),
            client: ClientAddr::Unix,
            user: None,
            tls: None,
            path: "/ws".into(),
            reason,
            refusal: None,
            code: None,
            age_us: 1,
            traffic: Traffic::default(),
            dropped: None,
        }
    }

    #[test]
    fn refusals_push_no_dropped_client_out() {
        let mut ends = EndedConnections::default();
        let now = Now::default();
        for _ in 0..DROPS_MAX + 1 {
            let dropped = Some(Dropped::default());
            let reason = CloseReason::SendQueueHard;
            ends.push(
                now,
                None,
                Ended {
                    dropped,
                    ..ended(reason)
                },
            );
        }
        (0..1_000).for_each(|_| ends.push(now, None, ended(CloseReason::Policy)));
        let kept = ends.newest_first();
        let drops = kept.iter().filter(|end| end.ended.dropped.is_some());
        assert_eq!(
            (drops.count(), kept.len()),
            (DROPS_MAX, DROPS_MAX + ENDS_MAX)
        );
    }

    #[test]
    fn ends_are_bounded_and_clients_that_leave_do_not_push_others_out() {
        let mut ends = EndedConnections::default();
        let at = |mono_us| Now {
            mono_us,
            unix_us: 0,
        };
        ends.push(at(0), None, ended(CloseReason::ConnectionLimit));
        for us in 1..=1_000 {
            ends.push(at(us), None, ended(CloseReason::PeerClosed));
        }
        let kept = ends.newest_first();
        assert_eq!(kept.len(), ENDS_MAX + 1);
        assert_eq!(kept[0].at_us, 1_000);
        assert_eq!(kept[ENDS_MAX].ended.reason, CloseReason::ConnectionLimit);
    }

    #[test]
    fn a_survey_begins_once_a_second_at_the_most() {
        let mut ends = EndedConnections::default();
        let begins = [0, 1, 999_999, 1_000_000, 1_500_000, 2_000_000];
        let begun = begins.map(|now_us| ends.try_begin(now_us));
        assert_eq!(begun, [true, false, false, true, false, true]);
    }
}

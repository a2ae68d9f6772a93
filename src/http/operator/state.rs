//! `/operator/state`: a survey, the bus and the limits as JSON.

use std::borrow::Cow;
use std::sync::Arc;

use serde::Serialize;

use super::OperatorSettings;
use crate::base::{Clock, Now, escaped};
use crate::http::readiness::{NotReady, not_ready};
use crate::hub::{ClientLook, SlowLook, Survey, Why};
use crate::telemetry::operator_state::{
    Numbers, OperatorState, ShownBus, ShownClient, ShownConsumer, ShownEnd, ShownEventsBus,
    ShownKernel, ShownLatency, ShownLimit, ShownService, ShownSurvey, ShownTls,
};
use crate::telemetry::{BusStatus, EndedAt, HitLimit, Reading, RecentLatency, Telemetry, names};

/// Reads a number of the process; `None` if the process lacks the number.
pub type ReadNumber = fn(&Reading<'_>) -> Option<u64>;

/// A limit, and where its present value is.
#[derive(Clone, Debug)]
pub struct NearLimit {
    /// The flag on the command line.
    pub name: String,
    /// The limited quantity.
    pub about: &'static str,
    /// Whether the numbers are bytes.
    pub is_bytes: bool,
    /// The limit of the settings; `None` for no limit.
    pub max: Option<u64>,
    /// Reads the limit in force, if the limit may differ from the setting.
    pub max_in_force: Option<ReadNumber>,
    /// Reads the present value.
    pub now: ReadNumber,
}

/// Returns the whole JSON document. Asks the loop for the next survey.
pub(super) fn state(
    telemetry: &Arc<Telemetry>,
    clock: Clock,
    settings: &OperatorSettings,
) -> String {
    telemetry.surveys.ask();
    let now = clock.now();
    let at = Reading::now(telemetry);
    let build = telemetry.build();
    let (revoked, revoked_newest) = settings.revoked.newest(now.unix_ms());
    let reasons = not_ready(telemetry, now, &settings.ready);
    let bus = telemetry.bus().map(|status| bus(status, now));
    let surveyed = at.surveyed.as_deref();
    let closes = at.turn.closes().filter(|(_, count)| *count > 0);
    let service = |(name, away): (&str, u64)| ShownService {
        name: name.to_owned(),
        away: away > 0,
    };
    json(&OperatorState {
        gateway: build.gateway.to_owned(),
        version: build.version.to_owned(),
        now_unix_ms: now.unix_ms(),
        uptime_seconds: telemetry.uptime_seconds(now),
        ready: reasons.is_empty(),
        reasons: reasons.iter().map(|r| r.as_str().to_owned()).collect(),
        status: status(&reasons, bus.as_ref(), at.turn.hub.behind.is_behind),
        behind: at.turn.hub.behind.is_behind,
        last_turn_age_ms: telemetry.event_loop.last_turn_age_ms(now),
        numbers: numbers(&at),
        closes: closes.map(|(reason, n)| (reason.to_owned(), n)).collect(),
        bus,
        services: at.values(&names::SERVICE_AWAY).map(service).collect(),
        events_bus: at.sum(&names::EVENTS_BUS_UP).map(|up| ShownEventsBus {
            up: up > 0,
            instances: at.sum(&names::EVENTS_BUS_INSTANCES).unwrap_or(0),
        }),
        tls: tls(&at),
        survey: surveyed.map(|surveyed| {
            let survey = &surveyed.survey;
            shown_survey(survey, now.mono_us.saturating_sub(survey.ended.mono_us))
        }),
        slow: {
            let by_cause = at.turn.hub.slow.by_cause();
            by_cause.map(|(why, n)| (why.to_owned(), n)).collect()
        },
        late_ms: at.turn.times.late_last_second_us / 1_000,
        late_all_ms: at.turn.times.late_us / 1_000,
        latency: latency(&at.turn.times.last_minute),
        ends: surveyed.map_or_else(Vec::new, |s| {
            s.ends.iter().map(|one| end(one, now)).collect()
        }),
        limits: settings
            .limits
            .iter()
            .filter_map(|l| limit(l, &at))
            .collect(),
        revoked: revoked as u64,
        revoked_newest,
    })
}

/// People read the text in a terminal too: of strangers' texts, all that steers one is escaped.
fn json(value: &impl Serialize) -> String {
    // Plain values always serialise.
    let text = sonic_rs::to_string(value).unwrap_or_default();
    match escaped(&text, &[]) {
        Cow::Borrowed(_) => text,
        Cow::Owned(shown) => shown,
    }
}

fn status(reasons: &[NotReady], bus: Option<&ShownBus>, is_behind: bool) -> String {
    if !reasons.is_empty() {
        let reasons: Vec<_> = reasons.iter().map(|reason| reason.words()).collect();
        return format!("Not ready: {}", reasons.join(", "));
    }
    let is_away = bus.is_some_and(|bus| bus.away_ms.is_some());
    let status = match (is_away, is_behind) {
        (true, _) => "Bus away",
        (false, true) => "Behind",
        (false, false) => "Ready",
    };
    status.to_owned()
}

fn numbers(at: &Reading<'_>) -> Numbers {
    let (hub, feed, shell) = (&at.turn.hub, &at.turn.feed, &at.turn.shell);
    let subjects = || feed.subjects.iter();
    Numbers {
        clients: Some(hub.open),
        connections: Some(at.turn.all_connections()),
        connections_max: shell.connections_max,
        connections_accepted: Some(hub.accepted),
        connections_ended: Some(hub.closes.iter().sum()),
        bus_messages: Some(subjects().map(|subject| subject.messages).sum()),
        bus_messages_bad: Some(subjects().map(|subject| subject.messages_bad).sum()),
        bus_gaps: Some(feed.gaps),
        bus_queue_messages: Some(shell.bus_queue_messages),
        bus_last_message_unix_ms: feed.last_message_unix_ms,
        messages_queued: Some(hub.messages_queued),
        messages_sent: Some(hub.messages_sent),
        messages_conflated: Some(hub.messages_conflated),
        messages_shed: Some(hub.messages_shed),
        messages_dropped: Some(hub.messages_dropped),
        messages_waiting: Some(hub.messages_waiting),
        send_queue_bytes: Some(hub.send_queue_bytes),
        send_queue_peak_bytes: Some(hub.send_queue_peak_bytes),
        frame_bytes: Some(shell.frame_bytes_alive),
        sent_bytes: Some(hub.bytes_sent),
        received_messages: Some(hub.received_messages),
        received_bytes: Some(hub.received_bytes),
        cpu_seconds: at.process.cpu_seconds,
        loop_busy_seconds: Some(at.durations().turns.counts().sum_us() as f64 / 1e6),
    }
}

fn latency(recent: &RecentLatency) -> Option<ShownLatency> {
    let ms = |us: u64| us as f64 / 1e3;
    (recent.messages > 0).then(|| ShownLatency {
        messages: recent.messages,
        p50_ms: ms(recent.p50_us),
        p99_ms: ms(recent.p99_us),
        p999_ms: ms(recent.p999_us),
    })
}

fn tls(at: &Reading<'_>) -> Option<ShownTls> {
    let ends_unix_s = at.sum(&names::TLS_CERTIFICATE_EXPIRY)?;
    let counts: Vec<_> = at.values(&names::TLS_HANDSHAKES).collect();
    let handshakes = |outcome| {
        let of_outcome = counts.iter().find(|(label, _)| *label == outcome);
        of_outcome.map_or(0, |(_, count)| *count)
    };
    Some(ShownTls {
        certificate_ends_unix_ms: i64::try_from(ends_unix_s.saturating_mul(1_000))
            .unwrap_or(i64::MAX),
        handshakes_full: handshakes("full"),
        handshakes_resumed: handshakes("resumed"),
        handshakes_failed: handshakes("failed"),
        handshakes_open: at.sum(&names::TLS_HANDSHAKES_OPEN).unwrap_or(0),
    })
}

fn bus(status: &BusStatus, now: Now) -> ShownBus {
    let consumers = status.consumers_used().map(|consumer| ShownConsumer {
        name: consumer.name().to_owned(),
        subject: consumer.subject().to_owned(),
        lag: consumer.lag(),
        away_ms: consumer.away_ms(now),
        stalled: consumer.stall().is_some(),
    });
    let behind = status.stream_behind();
    ShownBus {
        connected: status.connected(),
        subscribed: status.subscribed(),
        away_ms: status.away_ms(now),
        reconnects: status.reconnects(),
        refused: status.refused(),
        stream_behind: behind.and_then(|(messages, _)| messages),
        stream_behind_ms: behind.map(|(_, ms)| ms),
        consumers: consumers.collect(),
    }
}

fn shown_survey(survey: &Survey, age_us: u64) -> ShownSurvey {
    ShownSurvey {
        age_ms: age_us / 1_000,
        took_us: survey.ended.mono_us.saturating_sub(survey.began.mono_us),
        slices: survey.slices,
        interval_ms: survey.interval_us.map(|us| us / 1_000),
        clients: survey.clients,
        clients_waiting: survey.clients_waiting,
        clients_blocked: survey.clients_blocked,
        clients_conflating: survey.clients_conflating,
        slowest: survey.slowest.iter().map(shown_client).collect(),
        busiest: survey.busiest.iter().map(shown_client).collect(),
        topics: survey.topics,
        busiest_topics: survey.busiest_topics.clone(),
    }
}

/// Returns a client as in `/operator/state`, in JSON.
pub fn client(look: &ClientLook) -> String {
    json(&shown_client(look))
}

fn shown_client(look: &ClientLook) -> ShownClient {
    ShownClient {
        session: look.session.to_string(),
        client: look.client.to_string(),
        user: look.user.as_deref().map(str::to_owned),
        tls: look.tls.map(str::to_owned),
        path: look.path.to_string(),
        state: look.state.label().to_owned(),
        age_ms: look.age_us / 1_000,
        queue_messages: look.queue_messages,
        queue_bytes: look.queue_bytes,
        oldest_ms: look.oldest_us.map(|us| us / 1_000),
        stuck_ms: look.stuck_us.map(|us| us / 1_000),
        traffic: look.traffic,
        topics: look.topics,
        topic: look.topic.as_ref().map(|topic| topic.as_str().to_owned()),
        recent_messages: look.recent_messages,
        why: look.slow.as_ref().and_then(|slow| shown_why(slow.why)),
        say: look.slow.as_ref().and_then(|slow| shown_say(&slow.say)),
        slow_ms: look.slow.as_ref().map_or(0, |slow| slow.slow_us / 1_000),
        kernel: look.slow.as_ref().and_then(shown_kernel),
    }
}

fn shown_why(why: Option<Why>) -> Option<String> {
    why.map(|why| why.label().to_owned())
}

fn shown_say(say: &str) -> Option<String> {
    (!say.is_empty()).then(|| say.to_owned())
}

fn shown_kernel(slow: &SlowLook) -> Option<ShownKernel> {
    slow.kernel.map(|kernel| ShownKernel {
        unsent: kernel.unsent_bytes.into(),
        in_flight: kernel.in_flight_bytes(),
        window: kernel.window_bytes.into(),
        rtt_ms: u64::from(kernel.rtt_us) / 1_000,
        lost_pct: f64::from(slow.lost_permille) / 10.0,
    })
}

fn end(end: &EndedAt, now: Now) -> ShownEnd {
    let ended = &end.ended;
    let dropped = ended.dropped.as_ref();
    ShownEnd {
        at_unix_ms: now.unix_ms_at(end.at_us),
        client: ended.client.to_string(),
        peer: ended.peer.to_string(),
        user: ended.user.as_deref().map(str::to_owned),
        tls: ended.tls.map(str::to_owned),
        path: ended.path.to_string(),
        reason: ended.reason.label().to_owned(),
        refusal: ended.refusal.map(str::to_owned),
        code: ended.code,
        age_ms: ended.age_us / 1_000,
        traffic: ended.traffic,
        limit: end.limit.as_ref().map(HitLimit::to_string),
        why: dropped.and_then(|dropped| shown_why(dropped.why)),
        say: dropped.and_then(|dropped| shown_say(&dropped.say)),
        waited_messages: dropped.map(|dropped| dropped.messages),
        waited_bytes: dropped.map(|dropped| dropped.bytes),
        untaken_ms: dropped.map(|dropped| dropped.untaken_us / 1_000),
    }
}

fn limit(limit: &NearLimit, at: &Reading<'_>) -> Option<ShownLimit> {
    Some(ShownLimit {
        name: limit.name.clone(),
        about: limit.about.to_owned(),
        is_bytes: limit.is_bytes,
        now: (limit.now)(at)?,
        max: limit.max_in_force.and_then(|read| read(at)).or(limit.max),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::pages::tests::{telemetry, turn};
    use crate::hub::{CloseReason, Survey};
    use crate::telemetry::{GatewayMetric, Surveyed};

    fn read(telemetry: &Arc<Telemetry>, clock: Clock) -> OperatorState {
        let limit = NearLimit {
            name: "--a-max".to_owned(),
            about: "Clients at once",
            is_bytes: false,
            max: Some(9),
            max_in_force: Some(|at| at.turn.shell.connections_max),
            now: |at| Some(at.turn.hub.open),
        };
        let of_another_gateway = NearLimit {
            now: |at| at.sum(&names::PUSHES),
            ..limit.clone()
        };
        let settings = OperatorSettings {
            limits: vec![limit, of_another_gateway],
            ..OperatorSettings::default()
        };
        sonic_rs::from_str(&state(telemetry, clock, &settings)).expect("the state")
    }

    #[test]
    fn numbers_closes_and_limits_have_their_values() {
        let clock = Clock::start();
        let telemetry = telemetry(clock);
        turn(&telemetry, |numbers| {
            numbers.hub.open = 3;
            numbers.hub.messages_sent = 42;
            numbers.hub.closes[CloseReason::SendStalled as usize] = 2;
            numbers.feed.subjects[0].messages = 7;
        });
        let state = read(&telemetry, clock);
        let numbers = state.numbers;
        assert_eq!((numbers.clients, numbers.connections), (Some(3), Some(3)));
        assert_eq!(
            (numbers.messages_sent, numbers.bus_messages),
            (Some(42), Some(7))
        );
        assert_eq!(numbers.connections_ended, Some(2));
        let closes: Vec<_> = state.closes.into_iter().collect();
        assert_eq!(closes, [("send_stalled".to_owned(), 2)]);
        let limits: Vec<_> = state.limits.iter().map(|l| (l.now, l.max)).collect();
        assert_eq!(
            limits,
            [(3, Some(9))],
            "a limit without a value is left out"
        );
        turn(&telemetry, |numbers| {
            numbers.shell.connections_max = Some(4)
        });
        assert_eq!(read(&telemetry, clock).limits[0].max, Some(4), "in force");
    }

    #[test]
    fn nothing_of_a_stranger_steers_the_terminal_of_who_asks() {
        let text = "/a\u{2029}\u{202e}\u{1b}[2J\u{9b}";
        let shown = json(&text);
        assert_eq!(shown, r#""/a\u2029\u202e\u001b[2J\u009b""#);
        assert_eq!(
            serde_json::from_str::<String>(&shown).ok().as_deref(),
            Some(text)
        );
    }

    #[test]
    fn the_page_reads_numbers_that_the_state_has() {
        let script = include_str!("main.js");
        let numbers = json(&Numbers::default());
        let calls = ["count(\"", "size(\"", "perSecond(\""];
        let rests = calls.iter().flat_map(|call| script.split(call).skip(1));
        let names: Vec<_> = rests.filter_map(|rest| rest.split('"').next()).collect();
        assert!(names.len() > 10, "{names:?}");
        for name in names {
            assert!(numbers.contains(&format!("\"{name}\":")), "{name}");
        }
    }

    #[test]
    fn services_and_the_bus_of_instances_are_those_of_the_gateway() {
        let clock = Clock::start();
        let telemetry = telemetry(clock);
        let state = read(&telemetry, clock);
        assert_eq!((state.services.len(), state.events_bus), (0, None));
        let away = || vec![("lobby", 0), ("game", 1)];
        telemetry.add_gateway(vec![
            GatewayMetric::ByLabel(&names::SERVICE_AWAY, Box::new(away)),
            GatewayMetric::fixed(&names::EVENTS_BUS_UP, 1),
            GatewayMetric::fixed(&names::EVENTS_BUS_INSTANCES, 5),
        ]);
        let state = read(&telemetry, clock);
        let services = state.services.iter().map(|s| (s.name.as_str(), s.away));
        assert_eq!(
            services.collect::<Vec<_>>(),
            [("lobby", false), ("game", true)]
        );
        let (up, instances) = (true, 5);
        assert_eq!(state.events_bus, Some(ShownEventsBus { up, instances }));
    }

    #[test]
    fn a_gateway_with_tls_shows_its_handshakes_and_the_end_of_its_certificate() {
        let clock = Clock::start();
        let telemetry = telemetry(clock);
        assert_eq!(read(&telemetry, clock).tls, None);
        let outcomes = || vec![("full", 3), ("resumed", 2), ("failed", 1)];
        let open = || vec![("under_way", 4), ("waiting", 5)];
        telemetry.add_gateway(vec![
            GatewayMetric::ByLabel(&names::TLS_HANDSHAKES, Box::new(outcomes)),
            GatewayMetric::ByLabel(&names::TLS_HANDSHAKES_OPEN, Box::new(open)),
            GatewayMetric::fixed(&names::TLS_CERTIFICATE_EXPIRY, 1_800_000_000),
        ]);
        let shown = ShownTls {
            certificate_ends_unix_ms: 1_800_000_000_000,
            handshakes_full: 3,
            handshakes_resumed: 2,
            handshakes_failed: 1,
            handshakes_open: 9,
        };
        assert_eq!(read(&telemetry, clock).tls, Some(shown));
    }

    #[test]
    fn the_status_is_in_words() {
        let clock = Clock::start();
        let telemetry = telemetry(clock);
        let state = read(&telemetry, clock);
        assert_eq!(
            (state.ready, state.status.as_str()),
            (false, "Not ready: starting")
        );
        assert_eq!(state.reasons, ["starting"]);
        telemetry.event_loop.set_caught_up();
        let state = read(&telemetry, clock);
        assert_eq!((state.ready, state.status.as_str()), (true, "Bus away"));
    }

    #[test]
    fn a_state_asks_for_a_survey_and_has_the_newest() {
        let clock = Clock::start();
        let telemetry = telemetry(clock);
        assert_eq!(read(&telemetry, clock).survey, None);
        assert!(telemetry.surveys.is_asked());
        telemetry.surveys.put(Surveyed {
            survey: Survey {
                clients: 4,
                ..Survey::default()
            },
            ends: Vec::new(),
        });
        let survey = read(&telemetry, clock).survey.expect("a survey");
        assert_eq!((survey.clients, survey.interval_ms), (4, None));
    }
}

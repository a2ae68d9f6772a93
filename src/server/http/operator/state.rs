//! `/operator/state`: a survey of the clients, the bus and the limits, as JSON. `docs/reference/http.md` explains the
//! members.

// Type parameters of `object!` have the names of members.
#![allow(non_camel_case_types)]

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use super::OperatorSettings;
use crate::http::readiness::{NotReady, not_ready};
use crate::http::{Answer, StatusCode};
use crate::telemetry::{EndedAt, HitLimit, MetricName, MetricsReading, RecentLatency, Telemetry};
use weirgate_core::{
    ClientSnapshot, HistoryStats, RefusedName, ShortHistory, SlowReason, SlowSnapshot, Survey,
    TopicSnapshot,
};
use weirgate_runtime::{BusStatus, Clock};
use weirgate_wire::base::{Now, escaped};

/// Reads a number of the process; `None` if this gateway has no such number.
pub(crate) type ReadNumber = fn(&MetricsReading<'_>) -> Option<u64>;

/// A limit, and where its present value is.
#[derive(Clone, Debug)]
pub struct NearLimit {
    /// The flag on the command line.
    pub name: String,
    /// The limited quantity.
    pub about: &'static str,
    /// Whether the numbers are bytes.
    pub is_bytes: bool,
    /// Whether the limit is for a client, an address or a service, and not for all together.
    pub is_of_one: bool,
    /// The limit of the settings; `None` for no limit.
    pub max: Option<u64>,
    /// Reads the limit in force, where it may differ from the setting.
    pub(crate) max_in_force: Option<ReadNumber>,
    /// Reads the present value.
    pub(crate) now: ReadNumber,
}

/// `object!(Name { member: value, … })` makes a value whose JSON is an object with these members.
macro_rules! object {
    ($name:ident { $($member:ident $(: $value:expr)?),* $(,)? }) => {{
        #[derive(Serialize)]
        struct $name<$($member),*> {
            $($member: $member),*
        }
        $name { $($member $(: $value)?),* }
    }};
}
pub(super) use object;

/// Returns the whole JSON document. Asks the loop for the next survey.
pub(super) fn state(
    telemetry: &Arc<Telemetry>,
    clock: Clock,
    settings: &OperatorSettings,
) -> String {
    telemetry.surveys.request();
    let now = clock.now();
    let at = MetricsReading::read(telemetry);
    let (revoked, revoked_newest) = settings.revoked.newest(now.unix_ms());
    let reasons = not_ready(telemetry, now, &settings.ready);
    let surveyed = at.surveyed.as_deref();
    let is_behind = at.turn.hub.overload.is_behind;
    let by_cause = at.turn.hub.slow.by_cause();
    let closes = at.turn.closes().filter(|(_, count)| *count > 0);
    let names_refused = at.turn.hub.names_refused().filter(|(_, count)| *count > 0);
    let services = at.values(&MetricName::SERVICE_AWAY).map(|(name, away)| {
        object!(Service {
            name,
            away: away > 0,
        })
    });
    let limits = settings.limits.iter();
    json(&object!(State {
        gateway: telemetry.gateway_name(),
        version: telemetry.version(),
        now_unix_ms: now.unix_ms(),
        uptime_seconds: telemetry.uptime_seconds(now),
        ready: reasons.is_empty(),
        reasons: reasons.iter().map(|r| r.as_str()).collect::<Vec<_>>(),
        status: status(&reasons, telemetry.bus(), now, is_behind),
        last_turn_age_ms: telemetry.event_loop.last_turn_age_ms(now),
        behind: is_behind,
        numbers: numbers(&at),
        closes: closes.collect::<BTreeMap<_, _>>(),
        bus: telemetry.bus().map(|status| bus(status, &at, now)),
        history: at.turn.hub.history.map(|stats| history(&stats, now)),
        services: services.collect::<Vec<_>>(),
        events_bus: at.sum(&MetricName::EVENTS_BUS_UP).map(|up| {
            object!(EventsBus {
                up: up > 0,
                instances: at.sum(&MetricName::EVENTS_BUS_INSTANCES).unwrap_or(0),
            })
        }),
        tls: tls(&at),
        survey: surveyed.map(|surveyed| survey(&surveyed.survey, now)),
        slow: by_cause.collect::<BTreeMap<_, _>>(),
        late_ms: at.turn.times.late_last_second_us / 1_000,
        late_all_ms: at.turn.times.late_us / 1_000,
        latency: latency(&at.turn.times.last_minute),
        ends: surveyed.map_or_else(Vec::new, |surveyed| {
            surveyed.ends.iter().map(|one| end(one, now)).collect()
        }),
        names_refused: names_refused.collect::<BTreeMap<_, _>>(),
        refused_names: surveyed.map_or_else(Vec::new, |surveyed| {
            let newest = surveyed.survey.refused_names.iter().take(Survey::NAMED_MAX);
            newest.map(|one| refused_name(one, now)).collect()
        }),
        limits: limits.filter_map(|l| limit(l, &at)).collect::<Vec<_>>(),
        revoked,
        revoked_newest,
    }))
}

/// Returns the value as JSON. People also print it in a terminal, so characters that control a terminal are escaped:
/// the document has texts from clients.
pub(super) fn json(value: &impl Serialize) -> String {
    // Plain values always serialise.
    let text = sonic_rs::to_string(value).unwrap_or_default();
    match escaped(&text, &[]) {
        Cow::Borrowed(_) => text,
        Cow::Owned(shown) => shown,
    }
}

/// The status of the gateway in a few words, for the head of the page.
fn status(reasons: &[NotReady], bus: Option<&BusStatus>, now: Now, is_behind: bool) -> String {
    if !reasons.is_empty() {
        let reasons: Vec<_> = reasons.iter().map(|reason| reason.words()).collect();
        return format!("Not ready: {}", reasons.join(", "));
    }
    let is_away = bus.is_some_and(|bus| bus.away_ms(now).is_some());
    let status = match (is_away, is_behind) {
        (true, _) => "Bus away",
        (false, true) => "Behind",
        (false, false) => "Ready",
    };
    status.to_owned()
}

/// The numbers of the whole process.
fn numbers(at: &MetricsReading<'_>) -> impl Serialize {
    let (hub, feed, shell) = (&at.turn.hub, &at.turn.feed, &at.turn.shell);
    let subjects = || feed.subjects.iter();
    object!(Numbers {
        clients: hub.open,
        connections: at.turn.all_connections(),
        connections_max: shell.connections_max,
        connections_accepted: hub.accepted,
        connections_ended: hub.closes.iter().sum::<u64>(),
        bus_messages: subjects().map(|subject| subject.messages).sum::<u64>(),
        bus_messages_bad: subjects().map(|subject| subject.messages_bad).sum::<u64>(),
        bus_gaps: feed.gaps,
        bus_queue_messages: shell.bus_queue_messages,
        bus_last_message_unix_ms: feed.last_message_unix_ms,
        messages_queued: hub.messages_queued,
        messages_sent: hub.messages_sent,
        messages_conflated: hub.messages_conflated,
        messages_shed: hub.messages_shed,
        messages_dropped: hub.messages_dropped,
        messages_waiting: hub.messages_waiting,
        send_queue_bytes: hub.send_queue_bytes,
        send_queue_peak_bytes: hub.send_queue_peak_bytes,
        frame_bytes: shell.frame_bytes_alive,
        sent_bytes: hub.bytes_sent,
        received_messages: hub.received_messages,
        received_bytes: hub.received_bytes,
        cpu_seconds: at.process.cpu_seconds,
        loop_busy_seconds: at.durations().turns.counts().sum_us() as f64 / 1e6,
    })
}

/// The latency of recent messages; `None` if there were none.
fn latency(recent: &RecentLatency) -> Option<impl Serialize> {
    let ms = |us: u64| us as f64 / 1e3;
    (recent.messages > 0).then(|| {
        object!(Latency {
            messages: recent.messages,
            p50_ms: ms(recent.p50_us),
            p99_ms: ms(recent.p99_us),
            p999_ms: ms(recent.p999_us),
        })
    })
}

/// The certificate and the handshakes; `None` without TLS.
fn tls(at: &MetricsReading<'_>) -> Option<impl Serialize> {
    let ends_unix_s = at.sum(&MetricName::TLS_CERTIFICATE_EXPIRY)?;
    let counts: Vec<_> = at.values(&MetricName::TLS_HANDSHAKES).collect();
    let handshakes = |outcome| {
        let of_outcome = counts.iter().find(|(label, _)| *label == outcome);
        of_outcome.map_or(0, |(_, count)| *count)
    };
    Some(object!(Tls {
        certificate_ends_unix_ms: ends_unix_s.saturating_mul(1_000),
        handshakes_full: handshakes("full"),
        handshakes_resumed: handshakes("resumed"),
        handshakes_failed: handshakes("failed"),
        handshakes_open: at.sum(&MetricName::TLS_HANDSHAKES_OPEN).unwrap_or(0),
    }))
}

/// How far back the history reaches, and how far it should.
fn history(stats: &HistoryStats, now: Now) -> impl Serialize + use<> {
    let reach = stats.reach(now.unix_us);
    object!(History {
        messages: stats.messages,
        reach_ms: reach.map(|reach| reach.us / 1_000),
        wanted_ms: stats.keep_us / 1_000,
        why: reach.and_then(|reach| reach.short).map(ShortHistory::label),
    })
}

/// The state of the bus, with its quiet subjects and its consumers.
fn bus(status: &BusStatus, at: &MetricsReading<'_>, now: Now) -> impl Serialize {
    let quiet = at.turn.feed.subjects.iter().filter_map(|subject| {
        let quiet_us = subject.quiet_us(now)?;
        Some(object!(Quiet {
            subject: subject.subject.clone(),
            quiet_ms: quiet_us / 1_000,
            usual_gap_ms: subject.usual_gap_us() / 1_000,
        }))
    });
    let consumers = status.consumers_used().map(|consumer| {
        object!(Consumer {
            name: consumer.name(),
            subject: consumer.subject(),
            lag: consumer.lag(),
            away_ms: consumer.away_ms(now),
            stalled: consumer.stall().is_some(),
        })
    });
    let streams = status.streams().into_iter().map(|(name, state)| {
        object!(Stream {
            sentence: format!("{name} {}", state.text),
            name,
            state: state.label,
            stopped: state.is_stopped,
        })
    });
    let behind = status.stream_behind();
    object!(Bus {
        connected: status.connected(),
        subscribed: status.subscribed(),
        away_ms: status.away_ms(now),
        reconnects: status.reconnects(),
        refused: status.refused(),
        stream_behind: behind.and_then(|(messages, _)| messages),
        stream_behind_ms: behind.map(|(_, ms)| ms),
        quiet: quiet.collect::<Vec<_>>(),
        streams: streams.collect::<Vec<_>>(),
        consumers: consumers.collect::<Vec<_>>(),
    })
}

/// The slowest and busiest clients, and the busiest and quiet topics.
fn survey(survey: &Survey, now: Now) -> impl Serialize {
    object!(Shown {
        age_ms: now.mono_us.saturating_sub(survey.ended.mono_us) / 1_000,
        took_us: survey.ended.mono_us.saturating_sub(survey.began.mono_us),
        slices: survey.slices,
        interval_ms: survey.interval_us.map(|us| us / 1_000),
        clients: survey.clients,
        clients_waiting: survey.clients_waiting,
        clients_blocked: survey.clients_blocked,
        clients_conflating: survey.clients_conflating,
        slowest: survey.slowest.iter().map(shown_client).collect::<Vec<_>>(),
        busiest: survey.busiest.iter().map(shown_client).collect::<Vec<_>>(),
        topics: survey.topics,
        busiest_topics: &survey.busiest_topics,
        topics_quiet: survey.topics_quiet,
        quiet_topics: survey
            .quiet_topics
            .iter()
            .map(quiet_topic)
            .collect::<Vec<_>>(),
    })
}

/// A topic that is silent for longer than usual.
fn quiet_topic(topic: &TopicSnapshot) -> impl Serialize + use<> {
    object!(QuietTopic {
        name: topic.name.clone(),
        members: topic.members,
        quiet_ms: topic.quiet_ms,
        usual_gap_ms: topic.usual_gap_ms,
    })
}

impl Answer {
    /// A client as in `/operator/state`, in JSON.
    pub fn client(snapshot: &ClientSnapshot) -> Self {
        Self::json(StatusCode::OK, json(&shown_client(snapshot)))
    }
}

/// A client, as rows of tables and as a single client.
pub(super) fn shown_client(snapshot: &ClientSnapshot) -> impl Serialize + use<'_> {
    let slow = snapshot.slow.as_ref();
    object!(Client {
        session: snapshot.session.to_string(),
        client: snapshot.client.to_string(),
        user: snapshot.user.as_deref(),
        tls: snapshot.tls,
        path: &*snapshot.path,
        state: snapshot.state.label(),
        age_ms: snapshot.age_us / 1_000,
        queue_messages: snapshot.queue_messages,
        queue_bytes: snapshot.queue_bytes,
        oldest_ms: snapshot.oldest_us.map(|us| us / 1_000),
        stuck_ms: snapshot.stuck_us.map(|us| us / 1_000),
        bytes_in: snapshot.traffic.bytes_in,
        bytes_out: snapshot.traffic.bytes_out,
        messages_in: snapshot.traffic.messages_in,
        messages_out: snapshot.traffic.messages_out,
        conflated: snapshot.traffic.messages_conflated,
        topics: snapshot.topics,
        topic: snapshot.topic.as_ref().map(|topic| topic.as_str()),
        recent_messages: snapshot.recent_messages,
        why: slow.and_then(|slow| slow.why).map(SlowReason::label),
        say: slow.and_then(|slow| some_text(&slow.say)),
        slow_ms: slow.map_or(0, |slow| slow.slow_us / 1_000),
        kernel: slow.and_then(kernel),
    })
}

pub(super) fn some_text(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

/// What the kernel says of the connection of a slow client, if it was asked.
fn kernel(slow: &SlowSnapshot) -> Option<impl Serialize> {
    slow.kernel.map(|kernel| {
        object!(Kernel {
            unsent: kernel.unsent_bytes,
            in_flight: kernel.in_flight_bytes(),
            window: kernel.window_bytes,
            rtt_ms: kernel.rtt_us / 1_000,
            lost_pct: f64::from(slow.lost_permille) / 10.0,
        })
    })
}

/// A connection that has ended.
pub(super) fn end(end: &EndedAt, now: Now) -> impl Serialize + use<'_> {
    let ended = &end.ended;
    let dropped = ended.dropped.as_ref();
    object!(End {
        at_unix_ms: now.unix_ms_at(end.at_us),
        client: ended.client.to_string(),
        peer: ended.peer.to_string(),
        user: ended.user.as_deref(),
        tls: ended.tls,
        path: &*ended.path,
        reason: ended.reason.label(),
        refusal: ended.refusal,
        code: ended.code,
        age_ms: ended.age_us / 1_000,
        bytes_in: ended.traffic.bytes_in,
        bytes_out: ended.traffic.bytes_out,
        messages_in: ended.traffic.messages_in,
        messages_out: ended.traffic.messages_out,
        conflated: ended.traffic.messages_conflated,
        limit: end.limit.as_ref().map(HitLimit::to_string),
        why: dropped
            .and_then(|dropped| dropped.why)
            .map(SlowReason::label),
        say: dropped.and_then(|dropped| some_text(&dropped.say)),
        waited_messages: dropped.map(|dropped| dropped.messages),
        waited_bytes: dropped.map(|dropped| dropped.bytes),
        untaken_ms: dropped.map(|dropped| dropped.untaken_us / 1_000),
    })
}

/// A name that a client did not get.
pub(super) fn refused_name(refused: &RefusedName, now: Now) -> impl Serialize + use<'_> {
    object!(Refused {
        at_unix_ms: now.unix_ms_at(refused.at_us),
        session: refused.session.to_string(),
        client: refused.client.to_string(),
        user: refused.user.as_deref(),
        role: refused.role.as_deref(),
        name: refused.name.as_str(),
        reason: refused.reason.label(),
        times: refused.times,
    })
}

/// A limit with its present value; `None` if the gateway does not measure it.
fn limit(limit: &NearLimit, at: &MetricsReading<'_>) -> Option<impl Serialize> {
    Some(object!(Limit {
        name: &limit.name,
        about: limit.about,
        is_bytes: limit.is_bytes,
        is_of_one: limit.is_of_one,
        now: (limit.now)(at)?,
        max: limit.max_in_force.and_then(|read| read(at)).or(limit.max),
    }))
}

#[cfg(test)]
mod tests {
    use sonic_rs::{JsonContainerTrait, JsonValueTrait, Value, json};

    use super::*;
    use crate::http::status_pages::tests::{telemetry, turn};
    use crate::telemetry::{GatewayMetric, Surveyed};
    use weirgate_core::{CloseReason, Survey};

    fn read(telemetry: &Arc<Telemetry>, clock: Clock) -> Value {
        let limit = NearLimit {
            name: "--a-max".to_owned(),
            about: "Clients at once",
            is_bytes: false,
            is_of_one: false,
            max: Some(9),
            max_in_force: Some(|at| at.turn.shell.connections_max),
            now: |at| Some(at.turn.hub.open),
        };
        let of_another_gateway = NearLimit {
            now: |at| at.sum(&MetricName::PUSHES),
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
        let numbers = &state["numbers"];
        for (name, value) in [
            ("clients", 3),
            ("connections", 3),
            ("messages_sent", 42),
            ("bus_messages", 7),
            ("connections_ended", 2),
        ] {
            assert_eq!(numbers[name].as_u64(), Some(value), "{name}");
        }
        assert_eq!(state["closes"], json!({"send_stalled": 2}));
        let limits = state["limits"].as_array().expect("a list");
        assert_eq!(limits.len(), 1, "a limit without a value is left out");
        assert_eq!(limits[0]["now"].as_u64(), Some(3));
        assert_eq!(limits[0]["max"].as_u64(), Some(9));
        turn(&telemetry, |numbers| {
            numbers.shell.connections_max = Some(4)
        });
        let in_force = &read(&telemetry, clock)["limits"][0]["max"];
        assert_eq!(in_force.as_u64(), Some(4));
    }

    #[test]
    fn nothing_of_a_stranger_steers_the_terminal_of_who_asks() {
        let text = "/a\u{2029}\u{202e}\u{1b}[2J\u{9b}";
        let shown = super::json(&text);
        assert_eq!(shown, r#""/a\u2029\u202e\u001b[2J\u009b""#);
        assert_eq!(
            serde_json::from_str::<String>(&shown).ok().as_deref(),
            Some(text)
        );
    }

    #[test]
    fn the_page_reads_numbers_that_the_state_has() {
        let script = include_str!("main.js");
        let clock = Clock::start();
        let numbers = read(&telemetry(clock), clock)["numbers"].to_string();
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
        assert_eq!(state["services"], json!([]));
        assert!(state["events_bus"].is_null());
        let away = || vec![("lobby", 0), ("game", 1)];
        telemetry.add_gateway(vec![
            GatewayMetric::ByLabel(&MetricName::SERVICE_AWAY, Box::new(away)),
            GatewayMetric::fixed(&MetricName::EVENTS_BUS_UP, 1),
            GatewayMetric::fixed(&MetricName::EVENTS_BUS_INSTANCES, 5),
        ]);
        let state = read(&telemetry, clock);
        let services = json!([{"name": "lobby", "away": false}, {"name": "game", "away": true}]);
        assert_eq!(state["services"], services);
        assert_eq!(state["events_bus"], json!({"up": true, "instances": 5}));
    }

    #[test]
    fn a_gateway_with_tls_shows_its_handshakes_and_the_end_of_its_certificate() {
        let clock = Clock::start();
        let telemetry = telemetry(clock);
        assert!(read(&telemetry, clock)["tls"].is_null());
        let outcomes = || vec![("full", 3), ("resumed", 2), ("failed", 1)];
        let open = || vec![("under_way", 4), ("waiting", 5)];
        telemetry.add_gateway(vec![
            GatewayMetric::ByLabel(&MetricName::TLS_HANDSHAKES, Box::new(outcomes)),
            GatewayMetric::ByLabel(&MetricName::TLS_HANDSHAKES_OPEN, Box::new(open)),
            GatewayMetric::fixed(&MetricName::TLS_CERTIFICATE_EXPIRY, 1_800_000_000),
        ]);
        let shown = json!({
            "certificate_ends_unix_ms": 1_800_000_000_000_u64,
            "handshakes_full": 3,
            "handshakes_resumed": 2,
            "handshakes_failed": 1,
            "handshakes_open": 9,
        });
        assert_eq!(read(&telemetry, clock)["tls"], shown);
    }

    #[test]
    fn the_status_is_in_words() {
        let clock = Clock::start();
        let telemetry = telemetry(clock);
        let state = read(&telemetry, clock);
        assert_eq!(state["ready"], json!(false));
        assert_eq!(state["status"], json!("Not ready: starting"));
        assert_eq!(state["reasons"], json!(["starting"]));
        telemetry.event_loop.set_caught_up();
        let state = read(&telemetry, clock);
        assert_eq!(state["ready"], json!(true));
        assert_eq!(state["status"], json!("Bus away"));
    }

    #[test]
    fn a_state_asks_for_a_survey_and_has_the_newest() {
        let clock = Clock::start();
        let telemetry = telemetry(clock);
        assert!(read(&telemetry, clock)["survey"].is_null());
        assert!(telemetry.surveys.is_requested());
        let surveyed = Surveyed {
            survey: Survey {
                clients: 4,
                ..Survey::default()
            },
            ends: Vec::new(),
        };
        telemetry.surveys.put(surveyed.into());
        let survey = &read(&telemetry, clock)["survey"];
        assert_eq!(survey["clients"].as_u64(), Some(4));
        assert!(survey["interval_ms"].is_null());
    }
}

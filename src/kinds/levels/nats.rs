//! `weirgate levels` on NATS JetStream.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::LEVELS;
use super::relay::{self, RelaySettings};
use super::rows::{self, Market};
use super::start::LevelsPlan;
use crate::base::{Clock, detached};
use crate::gateways::LevelsGateway;
use crate::kinds::bus::NATS;
use crate::run::{Prepared, Question, RunError, say};
use crate::settings::{Checked, SecretUrl};
use crate::sources::nats::{
    self, LookBack, NatsSettings, NatsSource, StreamSpec, SubscriptionSpec,
};
use crate::telemetry::BusStatus;

/// Frames the banner.
const RULE: &str = "============================================================";

/// The last line of the banner, once both subscriptions are confirmed.
const SUBSCRIBED: &str = "✅ Gateway subscribed to NATS subjects";

/// Assembles the levels gateway on NATS.
pub(super) fn start(checked: &Checked, clock: Clock) -> Result<Prepared, RunError> {
    let url = checked.url(NATS.url);
    let access = NATS.nats(checked)?;
    let is_ephemeral = checked.switch("ephemeral");
    let look_back_messages_max = checked.number("look-back-messages-max");
    let market = rows::market(checked);
    let plan = LevelsPlan::new(
        LEVELS.name,
        checked,
        relay::of(checked),
        market != Market::Off,
    );
    let status = plan.bus_status(clock);
    let judge = plan.judge();
    let look_back = LookBack {
        messages_max: look_back_messages_max,
        is_good: Arc::new(move |subject, payload| judge.is_good(subject, payload)),
    };
    let settings = NatsSettings {
        streams_optional: market == Market::IfThere,
        ephemeral: is_ephemeral,
        look_back,
        ..stream_settings(access, &plan)
    };
    let asked = format!("NATS at {url}");
    let for_question = settings.clone();
    let question = Question::new(asked, move || nats::ask(&for_question));
    let source = NatsSource::new(settings, Arc::clone(&status));
    let subscribing = Arc::clone(&status);
    plan.parts(
        |levels| levels,
        source,
        status,
        url.to_string(),
        clock,
        Vec::new(),
    )
    .asks([question])
    .prepare(clock, move |listening| {
        let websocket = listening.url("ws", LevelsGateway::PATH);
        let as_json = || tracing::info!(nats_url = %url, websocket, "GATEWAY SERVICE");
        say(&banner(&url, &websocket), as_json);
        announce_subscribed(subscribing);
    })
}

fn stream_settings(access: NatsSettings, plan: &LevelsPlan) -> NatsSettings {
    const DAY_S: u64 = 24 * 60 * 60;
    let stream = |name: &str, subjects: &[&str]| StreamSpec {
        name: name.to_owned(),
        subjects: subjects.iter().map(|&s| s.to_owned()).collect(),
        max_age_s: DAY_S,
    };
    let streams = match plan.has_market {
        true => vec![
            stream("LEVEL_SIGNALS", &["levels.*"]),
            stream("MARKET_DATA", &["market.*", "market.*.*"]),
        ],
        false => Vec::new(),
    };
    NatsSettings {
        subscriptions: subscriptions(&streams, plan),
        streams,
        ..access
    }
}

fn subscriptions(streams: &[StreamSpec], plan: &LevelsPlan) -> Vec<SubscriptionSpec> {
    // The publishers of relayed subjects create the streams.
    let named = |relay: &RelaySettings| relay.stream.clone();
    let ours = streams.iter().map(|stream| Some(stream.name.clone()));
    let streams = ours.chain(plan.relays.iter().map(named));
    let targets = streams.zip(plan.consumers());
    let subscription = |(stream, (durable, subject)): (_, (&str, &str))| SubscriptionSpec {
        stream,
        subject: subject.to_owned(),
        durable: durable.to_owned(),
    };
    targets.map(subscription).collect()
}

/// Prints the last line of the banner once the subscriptions are confirmed.
fn announce_subscribed(status: Arc<BusStatus>) {
    let wait = move || {
        while !status.subscribed() {
            thread::sleep(Duration::from_millis(20));
        }
        say(SUBSCRIBED, || tracing::info!("{SUBSCRIBED}"));
    };
    // Without the thread only the line is missing.
    if let Err(error) = detached("banner", wait) {
        tracing::warn!(%error, "cannot wait for the subscriptions");
    }
}

/// The block at the start of `weirgate levels`.
fn banner(nats_url: &SecretUrl, websocket: &str) -> String {
    format!(
        "{RULE}\nGATEWAY SERVICE\n{RULE}\n  NATS URL: {nats_url}\n  \
         WebSocket: {websocket}\n{RULE}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_levels_block_is_the_documents() {
        let url = SecretUrl::new("nats://nats:4222");
        let expected = "\
============================================================
GATEWAY SERVICE
============================================================
  NATS URL: nats://nats:4222
  WebSocket: ws://localhost:8000/ws/stream
============================================================
✅ Gateway subscribed to NATS subjects
";
        let start = banner(&url, "ws://localhost:8000/ws/stream");
        assert_eq!(format!("{start}\n{}\n", SUBSCRIBED), expected);
    }

    #[test]
    fn the_banner_hides_the_password() {
        let url = SecretUrl::new("nats://ann:s3cret@nats:4222");
        let start = banner(&url, "ws://localhost:9000/ws/stream");
        assert!(start.contains("  NATS URL: nats://ann:***@nats:4222\n"));
        assert!(!start.contains("s3cret"));
    }
}

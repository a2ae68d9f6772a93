//! The metrics of channels alone, and where the values of all its metrics come from.

use std::sync::Arc;

use super::ChannelsStats;
use crate::gateways::shared::metrics as shared_metrics;
use weirgate_bus::BusInterest;
use weirgate_server::telemetry::GatewayMetric;

metric_names! {
    SUBSCRIBED_NAME_BYTES = Gauge "weirgate_subscribed_name_bytes" []
        "Bytes of the different names and patterns that clients are subscribed to.";
    GAPS_NOTIFIED = Counter "weirgate_gaps_told_total" []
        "Notices to clients that messages were lost between the bus and weirgate, counted once per client.";
    RENEWALS = Counter "weirgate_token_renewals_total" ["outcome"]
        "New tokens that clients sent on open connections; outcome limited: too many from one client, one address or \
         all.";
    TOKENS_WITHOUT_ROLE = Counter "weirgate_tokens_without_role_total" []
        "Clients with the default role, because their token lacks the claim of --jwt-role-claim.";
    SUBSCRIPTION_CHANGES = Gauge "weirgate_subscription_changes" ["stage"]
        "Names that weirgate is subscribing to on the bus or unsubscribing from, by stage: waiting for the thread of \
         the bus, queued there, asked (not yet confirmed), settling (--bus-settle-ms).";
    RETAINED_WAITING = Gauge "weirgate_retained_waiting" []
        "Names for which clients wait for last values (--retained) or all kept messages, counted once per client.";
    RETAINED_QUESTIONS = Gauge "weirgate_retained_questions" ["stage"]
        "Names whose last values weirgate requests, by stage: waiting for the thread of the bus, asked of JetStream, \
         paused while clients take a page.";
    RETAINED_BYTES_MAX = Gauge "weirgate_retained_bytes_max" []
        "Limit of weirgate_retained_bytes (the share retained-bytes).";
    RETAINED_GIVEN_UP = Counter "weirgate_retained_given_up_total" []
        "Patterns whose last values a client did not get, because too many subjects changed meanwhile; names whose kept \
         messages a client did not get, because clients hold too many names.";
}

/// The metrics of the gateway.
pub(super) fn gateway_metrics(
    stats: &Arc<ChannelsStats>,
    retained_bytes_max: usize,
    interest: Option<&BusInterest>,
) -> Vec<GatewayMetric> {
    let number = |name, read| GatewayMetric::number(name, stats, read);
    let by_label = |name, read| GatewayMetric::by_label(name, stats, read);
    let (changes, questions) = (interest.cloned(), interest.cloned());
    let own = [
        number(&shared_metrics::SUBSCRIPTIONS, |s| s.subscriptions.get()),
        by_label(&MetricName::SUBSCRIBED_NAMES, |s| {
            vec![("channel", s.channels.get()), ("pattern", s.patterns.get())]
        }),
        number(&SUBSCRIBED_NAME_BYTES, |s| s.name_bytes.get()),
        by_label(&shared_metrics::SUBSCRIPTIONS_LIMITED, |s| {
            s.limited().collect()
        }),
        number(&TOKENS_WITHOUT_ROLE, |s| s.access.without_role.get()),
        number(&GAPS_NOTIFIED, |s| s.gaps_notified.get()),
        by_label(&RENEWALS, |s| s.renewals().collect()),
        GatewayMetric::ByLabel(
            &SUBSCRIPTION_CHANGES,
            Box::new(move || {
                let changes = changes.as_ref().map(BusInterest::unanswered);
                let changes = changes.unwrap_or_default();
                vec![
                    ("waiting", changes.waiting),
                    ("queued", changes.queued),
                    ("asked", changes.asked),
                    ("settling", changes.settling),
                ]
            }),
        ),
        number(&RETAINED_WAITING, |s| s.retained_waiting.get()),
        GatewayMetric::ByLabel(
            &RETAINED_QUESTIONS,
            Box::new(move || {
                let questions = questions.as_ref().map(BusInterest::unanswered_questions);
                let questions = questions.unwrap_or_default();
                vec![
                    ("waiting", questions.waiting),
                    ("asked", questions.asked),
                    ("paused", questions.paused),
                ]
            }),
        ),
        number(&MetricName::RETAINED_BYTES, |s| s.retained_bytes.get()),
        GatewayMetric::fixed(&RETAINED_BYTES_MAX, retained_bytes_max),
        number(&RETAINED_GIVEN_UP, |s| s.retained_given_up.get()),
    ];
    own.into_iter()
        .chain(shared_metrics::access(&stats.access))
        .collect()
}

//! The metrics that several gateways have. The values come from the counts of the gateway, in `start`.

use std::sync::Arc;

use crate::gateways::shared::access::AccessStats;
use weirgate_server::telemetry::GatewayMetric;

metric_names! {
    SUBSCRIPTIONS = Gauge "weirgate_subscriptions" []
        "Names and patterns that clients are subscribed to, counted once per client.";
    SUBSCRIPTIONS_LIMITED = Counter "weirgate_subscriptions_limited_total" ["limit"]
        "Names that clients were refused because of a limit over all clients.";
    AUTH_REFUSALS = Counter "weirgate_auth_refusals_total" ["reason"]
        "Clients refused because of a token.";
    KEY_FETCHES = Counter "weirgate_key_fetches_total" ["outcome"]
        "Fetches of the key set at --jwt-jwks-url.";
    KEY_SET_AGE = Gauge "weirgate_key_set_age_seconds" []
        "Time since the key set at --jwt-jwks-url was last fetched, or since the start if it never was.";
    REQUESTS_LIMITED = Counter "weirgate_requests_limited_total" []
        "Messages of clients dropped because of a rate limit.";
}

/// The metrics of tokens and rates.
pub(in crate::gateways) fn access(stats: &Arc<AccessStats>) -> [GatewayMetric; 2] {
    [
        GatewayMetric::by_label(&AUTH_REFUSALS, stats, |s| s.refusals().collect()),
        GatewayMetric::number(&REQUESTS_LIMITED, stats, |s| s.requests_limited.get()),
    ]
}

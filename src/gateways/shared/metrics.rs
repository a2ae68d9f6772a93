//! The metrics that several gateways have. The values come from the counts of the gateway, in `start`.

metric_names! {
    SUBSCRIPTIONS = Gauge "weirgate_subscriptions" []
        "Names and patterns held by clients, counted once per client.";
    SUBSCRIPTIONS_LIMITED = Counter "weirgate_subscriptions_limited_total" ["limit"]
        "Entries of subscribe requests refused because of a limit over all clients, by limit.";
    AUTH_REFUSALS = Counter "weirgate_auth_refusals_total" ["reason"]
        "Clients refused because of a token, by reason.";
    KEY_FETCHES = Counter "weirgate_key_fetches_total" ["outcome"]
        "Fetches of the key set at --jwt-jwks-url, by outcome.";
    KEY_SET_AGE = Gauge "weirgate_key_set_age_seconds" []
        "Time since the key set at --jwt-jwks-url was fetched; before the first time, since the start.";
    REQUESTS_LIMITED = Counter "weirgate_requests_limited_total" []
        "Messages of clients dropped because of a rate limit.";
}

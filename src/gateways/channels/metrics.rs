//! The metrics of channels alone. The values come from the counts of the gateway, in `start`.

metric_names! {
    SUBSCRIBED_NAME_BYTES = Gauge "weirgate_subscribed_name_bytes" []
        "Bytes of the different names and patterns held by clients.";
    GAPS_TOLD = Counter "weirgate_gaps_told_total" []
        "Losses between the bus and weirgate of which clients were notified, once per client.";
    RENEWALS = Counter "weirgate_token_renewals_total" ["outcome"]
        "New tokens on open connections; limited: too many of one client, one address or all.";
    TOKENS_WITHOUT_ROLE = Counter "weirgate_tokens_without_role_total" []
        "Clients with the default role, because their token lacks the claim of --jwt-role-claim.";
    SUBSCRIPTION_CHANGES = Gauge "weirgate_subscription_changes" ["stage"]
        "Names to subscribe or unsubscribe on the bus: waiting for its thread, queued there, asked, settling \
         (--bus-settle-ms).";
    RETAINED_WAITING = Gauge "weirgate_retained_waiting" []
        "Names times clients that wait for last values (--retained) or all kept messages.";
    RETAINED_QUESTIONS = Gauge "weirgate_retained_questions" ["stage"]
        "Names whose last values are asked for: waiting for the thread of the bus, asked of JetStream, paused while \
         clients take a page.";
    RETAINED_BYTES_MAX = Gauge "weirgate_retained_bytes_max" []
        "Limit of weirgate_retained_bytes (the share retained-bytes).";
    RETAINED_GIVEN_UP = Counter "weirgate_retained_given_up_total" []
        "Patterns whose last values a client did not get: too many subjects changed meanwhile.";
}

//! The metrics of channels alone. The values come from the counts of the gateway, in `start`.

metric_names! {
    SUBSCRIBED_NAME_BYTES = Gauge "weirgate_subscribed_name_bytes" []
        "Bytes of the different names and patterns that clients are subscribed to.";
    GAPS_TOLD = Counter "weirgate_gaps_told_total" []
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
         messages it did not get, because clients hold too many names.";
}

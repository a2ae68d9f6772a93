//! The metrics of channels alone. The values come from the counts of the gateway, in `start`.

metric_names! {
    SUBSCRIBED_NAME_BYTES = Gauge "weirgate_subscribed_name_bytes" []
        "Bytes of the different names and patterns held by clients.";
    GAPS_TOLD = Counter "weirgate_gaps_told_total" []
        "Losses of messages between the bus and weirgate of which clients were notified, counted once per client.";
    RENEWALS = Counter "weirgate_token_renewals_total" ["outcome"]
        "New tokens of clients on open connections, by outcome; limited: too many of one client, one address or all.";
    TOKENS_WITHOUT_ROLE = Counter "weirgate_tokens_without_role_total" []
        "Clients admitted with the default role because their token lacks the claim of --jwt-role-claim.";
    SUBSCRIPTION_CHANGES = Gauge "weirgate_subscription_changes" ["stage"]
        "Names to subscribe or unsubscribe on the bus: waiting for its thread, queued there, asked and \
            not answered, settling (--bus-settle-ms).";
    RETAINED_WAITING = Gauge "weirgate_retained_waiting" []
        "Last values (--retained) and all kept messages that clients wait for: clients times names.";
    RETAINED_QUESTIONS = Gauge "weirgate_retained_questions" ["stage"]
        "Names whose last values are asked for: waiting for the thread of the bus, asked of JetStream and \
            not answered, paused while clients take a page.";
    RETAINED_BYTES_MAX = Gauge "weirgate_retained_bytes_max" []
        "Bytes of last values that may wait in send queues (the share retained-bytes of --memory-max).";
    RETAINED_GIVEN_UP = Counter "weirgate_retained_given_up_total" []
        "Patterns whose last values a client did not get because too many subjects changed meanwhile.";
}

//! Samples of a gateway's responses, for the tests.

use super::fetch::Reading;
use super::metrics::Metrics;
use super::state::State;

pub(super) const STATE: &str = r#"{"gateway":"levels","version":"0.1.0","now_unix_ms":1700000010000,"uptime_seconds":3723,
"ready":true,"reasons":[],"last_turn_age_ms":2,
"bus":{"connected":true,"subscribed":true,"away_ms":null,"reconnects":2,"refused":0,
 "consumers":[{"name":"gateway_flow","subject":"market.flow","lag":40,"away_ms":null,"stalled":false}]},
"survey":{"age_ms":900,"took_us":12,"slices":1,"interval_ms":1000,"clients":3,"clients_waiting":2,"clients_blocked":1,
 "clients_conflating":1,"slowest":[
  {"client":"10.0.0.1","user":"ann","path":"/ws/stream","state":"conflating","age_ms":5000,"queue_messages":3,"queue_bytes":65536,"oldest_ms":1200,"stuck_ms":1100,"conflated":17,"messages_in":1,"messages_out":400,"bytes_in":10,"bytes_out":9000,"topics":1,"topic":"levels","recent_messages":0},
  {"client":"10.0.0.2","user":null,"path":"/ws/stream","state":"waiting","age_ms":3700000,"queue_messages":1,"queue_bytes":900,"oldest_ms":4,"stuck_ms":4,"conflated":0,"messages_in":1,"messages_out":51000,"bytes_in":10,"bytes_out":9000,"topics":3,"topic":null,"recent_messages":0}],
 "busiest":[{"client":"2001:db8::17","user":null,"path":"/ws/stream","state":"idle","age_ms":61000,"queue_messages":0,"queue_bytes":0,"oldest_ms":null,"stuck_ms":null,"conflated":0,"messages_in":5,"messages_out":1234,"bytes_in":10,"bytes_out":9000,"topics":1,"topic":"levels","recent_messages":14}],
 "topics":1,"busiest_topics":[{"name":"levels","members":3,"recent_messages":14,"recent_bytes":233470}]},
"ends":[{"at_unix_ms":1700000004000,"client":"10.0.0.9","peer":"10.0.0.9:4711","user":null,"path":"/ws/stream","reason":"send_stalled","code":1013,"age_ms":31000,"bytes_in":1,"bytes_out":2,"messages_in":3,"messages_out":400,"conflated":80},
 {"at_unix_ms":1700000001000,"client":"10.0.0.8","peer":"10.0.0.8:4712","user":"bob","path":"/ws/stream","reason":"peer_closed","code":null,"age_ms":900,"bytes_in":1,"bytes_out":2,"messages_in":3,"messages_out":4,"conflated":0}],
"limits":[
 {"name":"--connections-max","about":"Connections at once","is_bytes":false,"max":null,"metric":"weirgate_connections","largest":false,"max_metric":"weirgate_connections_max"},
 {"name":"--frame-bytes-max","about":"Memory of frames","is_bytes":true,"max":536870912,"metric":"weirgate_frame_bytes_alive","largest":false,"max_metric":null},
 {"name":"--all-wildcards-max","about":"Patterns","is_bytes":false,"max":null,"metric":"weirgate_subscribed_names","label":{"kind":"pattern"},"largest":false,"max_metric":null},
 {"name":"--calls-max","about":"Not on this gateway","is_bytes":false,"max":7,"metric":"weirgate_upstream_calls_in_flight","largest":false,"max_metric":null}]}"#;

pub(super) const METRICS: &str = "\
# TYPE weirgate_clients gauge
weirgate_clients 3
weirgate_connections{phase=\"open\"} 90
weirgate_connections{phase=\"http\"} 5
weirgate_connections_max 100
weirgate_bus_messages_total{subject=\"a\"} 100
weirgate_bus_messages_total{subject=\"b\"} 20
weirgate_frames_sent_total 5000
weirgate_bytes_sent_total 9000000
weirgate_received_messages_total 3
weirgate_connections_accepted_total 40
weirgate_messages_waiting 4
weirgate_send_queue_bytes 66436
weirgate_send_queue_peak_bytes 65536
weirgate_frame_bytes_alive 268435456
weirgate_bus_queue_messages 0
weirgate_subscribed_names{kind=\"name\"} 8
weirgate_subscribed_names{kind=\"pattern\"} 2
weirgate_bus_last_message_timestamp_seconds 1700000009.4
weirgate_messages_conflated_total 97
weirgate_messages_shed_total 0
weirgate_messages_dropped_total 12
weirgate_bus_messages_bad_total{subject=\"a\"} 0
weirgate_bus_gaps_total 0
weirgate_client_closes_total{reason=\"peer_closed\"} 36
weirgate_client_closes_total{reason=\"send_stalled\"} 1
weirgate_client_closes_total{reason=\"policy\"} 0
# EOF
";

/// A reading of these samples.
pub(super) fn reading() -> Reading {
    reading_with(&[])
}

/// A reading with other values: each change is the sample up to its value, and the value.
pub(super) fn reading_with(changes: &[(&str, &str)]) -> Reading {
    let mut lines: Vec<String> = METRICS.lines().map(str::to_owned).collect();
    for (sample, value) in changes {
        let changed = lines
            .iter_mut()
            .find(|line| line.starts_with(&format!("{sample} ")));
        *changed.expect(sample) = format!("{sample} {value}");
    }
    Reading {
        state: State::parse(STATE.as_bytes()).expect("the state of a gateway"),
        metrics: Metrics::parse(&lines.join("\n")),
    }
}

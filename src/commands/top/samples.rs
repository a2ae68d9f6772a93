//! Samples of a gateway's responses, for the tests.

use crate::telemetry::operator_state::{Numbers, OperatorState};

pub(super) const STATE: &str = r#"{"gateway":"levels","version":"0.1.0","now_unix_ms":1700000010000,"uptime_seconds":3723,
"ready":true,"reasons":[],"status":"Ready","last_turn_age_ms":2,
"numbers":{"clients":3,"connections":95,"connections_max":100,"connections_accepted":40,"connections_ended":37,
 "bus_messages":120,"bus_messages_bad":0,"bus_gaps":0,"bus_queue_messages":0,"bus_last_message_unix_ms":1700000009400,
 "messages_sent":5000,"messages_conflated":97,"messages_shed":0,"messages_dropped":12,"messages_waiting":4,
 "send_queue_bytes":66436,"send_queue_peak_bytes":65536,"frame_bytes":268435456,"sent_bytes":9000000,"received_messages":3},
"closes":{"peer_closed":36,"send_stalled":1},
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
 {"name":"--connections-max","about":"Connections at once","is_bytes":false,"now":95,"max":100},
 {"name":"--frame-bytes-max","about":"Memory of frames","is_bytes":true,"now":268435456,"max":536870912},
 {"name":"--all-wildcards-max","about":"Patterns","is_bytes":false,"now":2,"max":null}]}"#;

/// The state of these samples.
pub(super) fn state() -> OperatorState {
    state_with(|_| {})
}

/// The state of these samples with other numbers.
pub(super) fn state_with(change: impl FnOnce(&mut Numbers)) -> OperatorState {
    let mut state: OperatorState = sonic_rs::from_str(STATE).expect("the state of a gateway");
    change(&mut state.numbers);
    state
}

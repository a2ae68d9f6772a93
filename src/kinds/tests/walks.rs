//! Checks of the whole table with each subcommand: every row has an effect and a tight range.

use super::*;

/// The counterparts of `flag`: one flag is an error without the others.
pub(super) fn partner(flag: &str) -> Option<&'static str> {
    Some(match flag {
        "tls-port" => "--tls-cert=x --tls-key=x",
        "tls-cert" => "--tls-key=x --tls-port=0",
        "tls-key" => "--tls-cert=x --tls-port=0",
        "nats-user" => "--nats-password=x",
        "nats-password" => "--nats-user=x",
        "nats-cert" => "--nats-key=x",
        "nats-key" => "--nats-cert=x",
        "redis-sentinels" => "--redis-sentinel-master=x",
        "redis-sentinel-master" => "--redis-sentinels=x",
        "events-bus-sentinels" => "--events-bus-sentinel-master=x",
        "events-bus-sentinel-master" => "--events-bus-sentinels=x",
        "events-bus-tls-name" => "--events-bus=rediss://x",
        "events-bus-cert" => "--events-bus-key=x",
        "events-bus-key" => "--events-bus-cert=x",
        _ => return None,
    })
}

/// A valid value for a row with its own form.
pub(super) fn form_value(flag: &str) -> &'static str {
    match flag {
        "relay" => "news.flash=news",
        "endpoint" => "/ws/flow=flow",
        "events-bus-name" => "other.events",
        "redis-tls-name" | "events-bus-tls-name" => "redis.example",
        "admin-addr" => "127.0.0.1:9100",
        "unix-socket-owner" => ":0",
        _ => "https://other:1/base",
    }
}

#[test]
fn rows_of_one_heading_stand_together() {
    for (_, rows) in commands() {
        let mut seen = Vec::new();
        for row in rows {
            if seen.last() != Some(&row.heading) {
                assert!(!seen.contains(&row.heading), "--{}", row.flag);
                seen.push(row.heading);
            }
        }
    }
}

#[test]
fn what_a_gateway_changes_is_there_and_becomes_another() {
    for gateway in GATEWAYS {
        let nothing = gateway.rows.changes_of_nothing();
        assert!(nothing.is_empty(), "{}: {nothing:?}", gateway.name);
    }
}

#[test]
fn defaults_are_allowed() {
    for setting in settings() {
        let value = setting.kind.parse(setting.default);
        assert!(value.is_some(), "--{}: {:?}", setting.flag, setting.default);
        if let Kind::Number { min, max, .. } = setting.kind {
            assert!(min <= max, "--{}", setting.flag);
        }
    }
}

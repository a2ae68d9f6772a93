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
        "redis-cert" => "--redis-key=x",
        "redis-key" => "--redis-cert=x",
        "redis-sentinels" => "--redis-sentinel-master=x",
        "redis-sentinel-master" => "--redis-sentinels=x",
        _ => return None,
    })
}

/// A valid value for a row with its own form.
pub(super) fn form_value(flag: &str) -> &'static str {
    match flag {
        "relay" => "news.flash=news",
        "endpoint" => "/ws/flow=flow",
        "events-bus-name" => "other.events",
        "redis-tls-name" => "redis.example",
        "admin-addr" => "127.0.0.1:9100",
        "unix-socket-owner" => ":0",
        "cpus" => "0",
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
        let default = setting.default();
        let value = setting.kind.parse(&default);
        assert!(value.is_some(), "--{}: {default:?}", setting.flag);
        if let Kind::Number { min, max, .. } = setting.kind {
            assert!(min <= max, "--{}", setting.flag);
        }
    }
}

/// Another value than the default of a row; `None` for a kind of any text.
fn another(row: &Setting) -> Option<String> {
    let default = row.default();
    let values = match row.kind {
        Kind::Number { min, max, .. } => vec![min.to_string(), max.to_string()],
        Kind::Decimal { min_milli, .. } => vec![(min_milli / 1_000).max(1).to_string()],
        Kind::Port | Kind::PortOrOff => vec!["4711".to_owned()],
        Kind::Switch => vec!["true".to_owned(), "false".to_owned()],
        Kind::Choice(words) => words.iter().map(|word| (*word).to_owned()).collect(),
        Kind::Urls(schemes) | Kind::OptionalUrl(schemes) | Kind::OptionalUrls(schemes) => {
            vec![format!("{}://other:1", schemes[0])]
        }
        Kind::Networks => vec!["10.0.0.0/8".to_owned()],
        Kind::Origins => vec!["https://other.example".to_owned()],
        Kind::Text | Kind::Path | Kind::Paths | Kind::LogFilter => vec!["warn".to_owned()],
        Kind::Form(_) | Kind::Secret => return None,
    };
    values.into_iter().find(|value| *value != default)
}

#[test]
fn a_row_writes_its_own_field_and_no_other() {
    for (_, rows) in commands() {
        for row in &rows {
            let Some(text) = another(row) else {
                continue;
            };
            let value = row.kind.parse(&text);
            let value = value.unwrap_or_else(|| panic!("--{} {text}", row.flag));
            let mut groups = row.groups();
            row.field.write(&mut groups, &value);
            for other in &rows {
                let written = other.field.text(&mut groups);
                let expected = match other.flag == row.flag {
                    true => text.clone(),
                    false => other.default(),
                };
                assert_eq!(written, expected, "--{} and --{}", row.flag, other.flag);
            }
        }
    }
}

#[test]
fn help_is_there_and_fits_a_line() {
    for setting in settings() {
        let (flag, help) = (setting.flag, setting.help);
        assert!(
            !help.is_empty() && help.chars().count() <= 80,
            "{flag}: {help}"
        );
        assert!(
            !help.ends_with('.'),
            "{flag}: the line is no sentence, and `more` may follow"
        );
        assert!(
            setting.more.is_empty() || setting.more.ends_with('.'),
            "{flag}"
        );
    }
}

//! The whole table with each subcommand: nothing in it is without effect, or too wide.

use super::*;

/// What has to stand beside a flag that is half of something.
pub(super) fn partner(flag: &str) -> Option<&'static str> {
    Some(match flag {
        "nats-user" => "--nats-password=x",
        "nats-password" => "--nats-user=x",
        "nats-cert" => "--nats-key=x",
        "nats-key" => "--nats-cert=x",
        "redis-sentinels" => "--redis-sentinel-master=x",
        "redis-sentinel-master" => "--redis-sentinels=x",
        _ => return None,
    })
}

#[test]
fn rows_stand_in_the_order_of_their_headings() {
    for (row, next) in settings().zip(settings().skip(1)) {
        assert!(row.heading <= next.heading, "--{}", next.flag);
    }
}

#[test]
fn defaults_are_allowed_and_ranges_are_no_wider_than_their_types() {
    for setting in settings() {
        let value = setting.kind.parse(setting.default);
        assert!(value.is_some(), "--{}: {:?}", setting.flag, setting.default);
    }
    // The conversions to the resolved types are reached with both ends of every range at once.
    for subcommand in ALL {
        for end in [0, 1] {
            let flags: Vec<_> = rows(subcommand)
                .filter_map(|s| match s.kind {
                    Kind::Number { min, max, .. } => {
                        assert!(min <= max, "--{}", s.flag);
                        Some(format!("--{}={}", s.flag, [min, max][end]))
                    }
                    Kind::Decimal {
                        min_milli,
                        max_milli,
                        ..
                    } => {
                        let milli = [min_milli, max_milli][end] as f64;
                        Some(format!("--{}={}", s.flag, milli / 1000.0))
                    }
                    _ => None,
                })
                .collect();
            let mut args = words(subcommand);
            args.extend(flags.iter().map(String::as_str));
            assert!(run(&args, &[]).is_ok(), "{:?}", run(&args, &[]));
        }
    }
}

#[test]
fn every_setting_reaches_the_resolved_ones() {
    for subcommand in ALL {
        let words = words(subcommand);
        let default = format!("{:?}", run(&words, &[]).unwrap());
        for setting in rows(subcommand) {
            let other: Vec<String> = match setting.kind {
                Kind::Number { min, max, .. } => {
                    let default: u64 = setting.default.parse().unwrap();
                    [min, max, default + 1].map(|n| n.to_string()).into()
                }
                Kind::Decimal { .. } => vec!["7.5".into()],
                Kind::Service => vec!["https://other:1/base".into()],
                Kind::Port => vec!["9000".into()],
                Kind::Addr => vec!["10.1.2.3".into()],
                Kind::SocketAddr => vec!["10.1.2.3:9100".into()],
                Kind::Urls(_) => vec!["nats://other:1".into()],
                Kind::OptionalUrl(_) => vec!["redis://other:1/2".into()],
                Kind::OptionalUrls(_) => vec!["other:1".into(), "redis://a:1,rediss://b".into()],
                Kind::Switch => vec!["true".into()],
                Kind::Choice(words) => words.iter().map(|&w| w.to_owned()).collect(),
                Kind::Origins => vec!["https://a.example".into()],
                Kind::Relays => vec!["news.flash=news".into()],
                Kind::Endpoints => vec!["/ws/flow=flow".into()],
                Kind::Networks => vec!["10.0.0.0/8".into()],
                Kind::LogFilter => vec!["debug".into()],
                Kind::Text | Kind::Path | Kind::Secret => vec!["other".into()],
            };
            let changes = |value: &String| {
                let flag = format!("--{}={value}", setting.flag);
                let mut args = [&words, [flag.as_str()].as_slice()].concat();
                args.extend(partner(setting.flag));
                run(&args, &[]).is_ok_and(|invocation| format!("{invocation:?}") != default)
            };
            assert!(
                other.iter().any(changes),
                "--{} changes nothing",
                setting.flag
            );
        }
    }
}

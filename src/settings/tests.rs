//! Walks of the table, and the rules of precedence, all without a process.

use std::collections::HashSet;

mod walks;

use super::typed::{Env, rows};
use super::*;
use crate::hub;

const ALL: [Subcommand; 7] = [
    Subcommand::Levels,
    Subcommand::Trades,
    Subcommand::Channels,
    Subcommand::Events,
    Subcommand::Demo,
    Subcommand::Health,
    Subcommand::Token,
];

/// What is typed to reach a subcommand's settings.
fn words(subcommand: Subcommand) -> Vec<&'static str> {
    match subcommand {
        Subcommand::Token => vec!["token", "inspect"],
        Subcommand::Trades => vec!["trades", "--redis-url=redis://r"],
        other => vec![other.name()],
    }
}

fn run(args: &[&str], env: &[(&str, &str)]) -> Result<Invocation, Exit> {
    parse(["weirgate"].iter().chain(args), env.iter().copied())
}

fn levels(args: &[&str], env: &[(&str, &str)]) -> LevelsSettings {
    match run(&[&["levels"], args].concat(), env) {
        Ok(Invocation::Levels(settings)) => *settings,
        other => panic!("no levels settings: {other:?}"),
    }
}

fn refused(args: &[&str], env: &[(&str, &str)]) -> Exit {
    match run(args, env) {
        Err(exit) => exit,
        Ok(invocation) => panic!("{args:?} {env:?} was let through: {invocation:?}"),
    }
}

fn warnings(env: &[(&str, &str)]) -> Vec<String> {
    let settings = levels(&[], env);
    settings
        .common
        .warnings
        .iter()
        .map(Warning::to_string)
        .collect()
}

#[test]
fn names_are_unique_on_each_subcommand() {
    for subcommand in ALL {
        let (mut flags, mut env) = (HashSet::new(), HashSet::new());
        for setting in rows(subcommand) {
            assert!(flags.insert(setting.flag), "--{} twice", setting.flag);
            for name in setting.env_names() {
                assert!(env.insert(name.clone()), "{name} twice");
            }
        }
        assert!(!flags.is_empty());
        for own in ["check", "help", "version"] {
            assert!(!flags.contains(own), "--{own} is no setting");
        }
    }
}

#[test]
fn flags_are_kebab_case_and_end_with_their_unit() {
    for setting in settings() {
        let flag = setting.flag;
        assert!(
            flag.chars().all(|c| c.is_ascii_lowercase() || c == '-'),
            "{flag}"
        );
        assert!(flag.split('-').all(|word| !word.is_empty()), "{flag}");
        let Kind::Number { unit, .. } = setting.kind else {
            continue;
        };
        let good = match unit {
            Unit::Milliseconds => flag.ends_with("-ms"),
            Unit::Seconds => flag.ends_with("-s"),
            Unit::Minutes => flag.ends_with("-min"),
            Unit::Hertz => flag.ends_with("-hz"),
            // `-max` and what it is counted over may follow the unit.
            Unit::Bytes => flag
                .split_once("-bytes")
                .is_some_and(|(_, rest)| ["", "-max", "-per-turn-max"].contains(&rest)),
            Unit::Count => !flag.contains("bytes") && !flag.ends_with("-ms"),
        };
        assert!(good, "--{flag} does not end with its unit {unit:?}");
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
        assert!(!setting.on.is_empty(), "{flag} is on no subcommand");
    }
}

#[test]
fn the_defaults_are_the_cores() {
    let core = levels(&[], &[]).common.core();
    assert_eq!(format!("{core:?}"), format!("{:?}", hub::Limits::default()));
}

#[test]
fn every_source_of_every_setting_goes_over_the_next() {
    for subcommand in [Subcommand::Levels, Subcommand::Demo] {
        for setting in rows(subcommand) {
            let names = setting.env_names();
            // All env names at once; then without the first; and so on. Values do not matter to
            // the order, so each is the default.
            let default = match (setting.default, setting.kind) {
                ("", Kind::Relays) => "news.flash=news",
                ("", Kind::Endpoints) => "/ws/flow=flow",
                ("", Kind::SocketAddr) => "127.0.0.1:9100",
                ("", _) => "*",
                (default, _) => default,
            };
            let source = |args: &[&str], env: &[(&str, &str)]| {
                let given = !args.is_empty() || !env.is_empty();
                let beside = walks::partner(setting.flag).filter(|_| given);
                let args = [&[subcommand.name(), "--check"], args, beside.as_slice()].concat();
                let Ok(Invocation::Check(text)) = run(&args, env) else {
                    panic!("{:?}", run(&args, env));
                };
                let flag = format!("--{} ", setting.flag);
                let line = text.lines().find(|l| l.trim_start().starts_with(&flag));
                line.unwrap().rsplit("  ").next().unwrap().to_owned()
            };
            let env: Vec<_> = names.iter().map(|n| (n.as_str(), default)).collect();
            let flag = format!("--{}={default}", setting.flag);
            let empty = format!("--{}=", setting.flag);
            assert_eq!(source(&[&flag], &env), "flag");
            for (i, name) in names.iter().enumerate() {
                assert_eq!(source(&[], &env[i..]), format!("env {name}"));
                assert_eq!(source(&[&empty], &env[i..]), format!("env {name}"));
                let mut unset = env.clone();
                unset[..i].iter_mut().for_each(|pair| pair.1 = " ");
                assert_eq!(source(&[], &unset), format!("env {name}"), "empty is unset");
            }
            assert_eq!(source(&[], &[]), "default");
        }
    }
}

#[test]
fn values_follow_the_sources() {
    let port = |args: &[&str], env: &[(&str, &str)]| levels(args, env).common.listen.port();
    let env = [("GATEWAY_PORT", "1"), ("PORT", "2"), ("WEIRGATE_PORT", "3")];
    assert_eq!(port(&["--port", "4"], &env), 4);
    assert_eq!(
        port(&["--port", "5", "--port", "4"], &env),
        4,
        "the last flag counts"
    );
    assert_eq!(port(&[], &env), 1);
    assert_eq!(port(&[], &env[1..]), 2);
    assert_eq!(port(&[], &env[2..]), 3);
    assert_eq!(port(&[], &[]), 8000);
    // What is not looked at cannot be wrong.
    assert_eq!(port(&["--port", "4"], &[("GATEWAY_PORT", "x")]), 4);
    assert!(levels(&["--ephemeral"], &[]).ephemeral);
    assert!(!levels(&["--ephemeral=false"], &[("WEIRGATE_EPHEMERAL", "1")]).ephemeral);
    assert_eq!(
        levels(&[], &[("NATS_URL", " nats://a ")]).nats.url.expose(),
        "nats://a"
    );
}

#[test]
fn flags_that_may_be_repeated_add_up_and_go_over_env_together() {
    let keys = |args: &[&str], env: &[(&str, &str)]| {
        let relays = levels(args, env).relays.into_iter();
        relays.map(|relay| relay.key).collect::<Vec<_>>()
    };
    let env = [("WEIRGATE_RELAY", "e.f=e\n g.h=g")];
    assert_eq!(
        keys(&["--relay", "a=x c=z", "--relay=b=y"], &env),
        ["x", "z", "y"]
    );
    assert_eq!(keys(&[], &env), ["e", "g"]);
    assert_eq!(keys(&["--relay", "", "--relay="], &env), ["e", "g"]);
    assert_eq!(keys(&[], &[]), Vec::<String>::new());
    let endpoints = levels(&["--endpoint=/a=e,flow"], &env).endpoints;
    assert_eq!(endpoints[0].keys, ["e", "flow"]);
}

#[test]
fn a_kubernetes_service_address_is_no_port() {
    for value in [
        "tcp://10.0.0.1:80",
        "udp://10.0.0.1:80",
        "tcp://[fd00::1]:80",
    ] {
        let settings = levels(&[], &[("GATEWAY_PORT", value), ("PORT", "9000")]);
        assert_eq!(settings.common.listen.port(), 9000);
        assert_eq!(settings.common.warnings.len(), 1);
        let warning = settings.common.warnings[0].to_string();
        assert!(
            warning.starts_with(&format!("GATEWAY_PORT={value} is ignored")),
            "{warning}"
        );
    }
    assert_eq!(
        levels(&[], &[("WEIRGATE_PORT", "tcp://10.0.0.1:80")])
            .common
            .listen
            .port(),
        8000
    );
    // Not of that form, or typed by a person: wrong.
    for value in [
        "tcp://10.0.0.1",
        "http://10.0.0.1:80",
        "tcp://u@h:80",
        "tcp://:80",
    ] {
        assert_eq!(
            refused(&["levels"], &[("GATEWAY_PORT", value)]).status,
            2,
            "{value}"
        );
    }
    assert_eq!(
        refused(&["levels", "--port", "tcp://10.0.0.1:80"], &[]).status,
        2
    );
}

#[test]
fn near_misses_are_pointed_out() {
    for (typed, meant) in [
        ("WEIRGATE_PROT", "WEIRGATE_PORT"),
        ("WEIRGATE_PING_INTERVAL", "WEIRGATE_PING_INTERVAL_MS"),
        ("WEIRGATE_DRAIN", "WEIRGATE_DRAIN_DELAY_MS"),
        ("WEIRGATE_LOGFORMAT", "WEIRGATE_LOG_FORMAT"),
        ("WEIRGATE_GATWAY", "WEIRGATE_GATEWAY"),
        ("WEIRGATE_GATEWAY_PORT", "GATEWAY_PORT"),
    ] {
        let expected = format!("{typed} is no setting and is ignored; did you mean {meant}?");
        assert_eq!(warnings(&[(typed, "s3cret")]), [expected]);
    }
    assert_eq!(
        warnings(&[("WEIRGATE_MOON_PHASE", "full")]),
        ["WEIRGATE_MOON_PHASE is no setting and is ignored"]
    );
}

#[test]
fn names_that_others_set_are_no_warning() {
    let quiet = [
        ("WEIRGATE_GATEWAY", "demo"),
        ("WEIRGATE_SEED", "3"),
        ("WEIRGATE_SERVICE_HOST", "10.0.0.1"),
        ("WEIRGATE_SERVICE_PORT", "80"),
        ("WEIRGATE_SERVICE_PORT_HTTP", "80"),
        ("WEIRGATE_PORT_80_TCP", "tcp://10.0.0.1:80"),
        ("WEIRGATE_PORT_80_TCP_ADDR", "10.0.0.1"),
        ("WEIRGATE_LEVELS_PORT", "tcp://10.0.0.1:80"),
        ("GATEWAY_PRT", "1"),
        ("PATH", "/bin"),
    ];
    assert_eq!(warnings(&quiet), Vec::<String>::new());
}

#[test]
fn values_have_to_fit_together() {
    for (args, low, high) in [
        (
            "--send-queue-soft-bytes=2000000",
            "soft-bytes is 2000000 (flag)",
            "hard-bytes, 1048576 (default)",
        ),
        (
            "--send-queue-hard-bytes=1000000000",
            "hard-bytes is 1000000000",
            "frame-bytes-max",
        ),
        (
            "--frame-bytes-max=2000000",
            "bus-message-bytes-max is 16777216 (default)",
            "frame-bytes-max, 2000000 (flag)",
        ),
        (
            "--send-queue-stall-ms=100",
            "conflate-after-ms is 1000",
            "stall-ms, 100",
        ),
    ] {
        let exit = refused(&["levels", args], &[]);
        assert_eq!(exit.status, 2);
        assert!(
            exit.text.contains(low) && exit.text.contains(high),
            "{exit}"
        );
    }
    let limits = levels(&["--send-queue-soft-bytes=100000"], &[])
        .common
        .limits;
    assert_eq!(limits.turn_publication_bytes_max, 50_000);
}

#[test]
fn all_wrong_values_are_told_at_once() {
    let exit = refused(
        &["levels", "--drain-ms", "-1", "--port=x"],
        &[("WEIRGATE_LOG_FORMAT", "xml")],
    );
    assert_eq!(exit.status, 2);
    assert_eq!(exit.text.lines().count(), 3, "{exit}");
}

#[cfg(unix)]
#[test]
fn env_that_is_no_text_is_told_by_name() {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;
    let bad = OsString::from_vec(vec![0xff]);
    let exit = parse(["weirgate", "levels"], [("NATS_URL", bad.clone())]).unwrap_err();
    assert_eq!(
        (exit.status, exit.text.as_str()),
        (2, "error: NATS_URL is not UTF-8 text\n")
    );
    assert!(Env::new([(bad, "x")]).unknown_names().is_empty());
}

#[test]
fn the_environment_may_name_the_gateway() {
    let demo = [("WEIRGATE_GATEWAY", "demo")];
    assert!(matches!(run(&[], &demo), Ok(Invocation::Demo(_))));
    match run(&["--seed", "7"], &demo) {
        Ok(Invocation::Demo(settings)) => assert_eq!(settings.seed, 7),
        other => panic!("{other:?}"),
    }
    assert!(matches!(run(&["levels"], &demo), Ok(Invocation::Levels(_))));
    assert!(matches!(
        run(&["version"], &demo),
        Ok(Invocation::Version(_))
    ));
    assert!(refused(&["--help"], &demo).text.contains("Commands:"));
    let exit = refused(&[], &[("WEIRGATE_GATEWAY", "lvels")]);
    assert_eq!(exit.status, 2);
    assert_eq!(
        exit.text,
        "error: WEIRGATE_GATEWAY is \"lvels\"; allowed: levels or trades or channels or events or demo\n"
    );
}

#[test]
fn health_asks_where_the_gateway_listens() {
    let asked = |args: &[&str], env: &[(&str, &str)]| match run(args, env) {
        Ok(Invocation::Health(check)) => check,
        other => panic!("{other:?}"),
    };
    let check =
        |listen: &str, ms| crate::health_check::HealthCheck::new(listen.parse().unwrap(), ms);
    assert_eq!(asked(&["health"], &[]), check("127.0.0.1:8000", 2000));
    let env = [("WEIRGATE_LISTEN", "10.0.0.1"), ("PORT", "9000")];
    assert_eq!(
        asked(&["health", "levels"], &env),
        check("10.0.0.1:9000", 2000)
    );
    let args = ["health", "demo", "--port=1", "--health-timeout-ms=5"];
    assert_eq!(
        asked(&args, &[("WEIRGATE_GATEWAY", "x")]),
        check("127.0.0.1:1", 5)
    );
    assert_eq!(refused(&["health"], &[("PORT", "x")]).status, 1);
    assert_eq!(refused(&["health", "nobody"], &[]).status, 1);
}

#[test]
fn secrets_are_in_no_text() {
    let url = "nats://ann:s3cret@h:1";
    let bad = "http://ann:s3cret@h";
    let shown = [
        format!("{:?}", run(&["levels"], &[("NATS_URL", url)])),
        format!("{:?}", run(&["levels", "--check"], &[("NATS_URL", url)])),
        refused(&["levels"], &[("NATS_URL", bad)]).text,
        refused(&["levels", "--nats-url", bad], &[]).text,
        format!(
            "{:?}",
            run(&["events", "--check"], &[("INTERNAL_AUTH_TOKEN", "s3cret")])
        ),
        refused(&["levels", url], &[]).text,
        refused(&["levels", &format!("--nats-ur={url}")], &[]).text,
        refused(&["levels", "--check", "--ephemeral", url], &[]).text,
        refused(&[url], &[]).text,
    ];
    for text in shown {
        assert!(text.contains("***") || text.contains("nats-ur"), "{text}");
        assert!(!text.contains("s3cret"), "{text}");
    }
    assert_eq!(levels(&[], &[("NATS_URL", url)]).nats.url.expose(), url);
}

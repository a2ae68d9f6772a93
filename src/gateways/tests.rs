//! All rows of all gateways: their names, ranges, sources and effects. Also command lines of this program. No test
//! starts a process.

use std::collections::{BTreeSet, HashSet};

use crate::commands::health::{HealthCheck, of_first_process};
use crate::commands::{Exit, GatewayKind, Invocation};
use crate::gateways::WEIRGATE;
use crate::gateways::events::EventsGatewaySettings;
use weirgate_server::listening::ListenAddr;
use weirgate_server::run::StartQuestion;
use weirgate_server::settings::{
    Checked, CheckedValue, Counts, Env, Kind, ListenSettings, NatsAccess, Rows, Setting, Unit,
    Value,
};

/// Every row of every command.
fn settings() -> Vec<Setting> {
    let gateways = WEIRGATE.gateways.iter().map(|gateway| gateway.rows);
    let all: Vec<_> = gateways
        .chain([Rows::TOKEN, Rows::TAIL, Rows::TOP])
        .collect();
    Rows::table(&all)
}

/// Each command with settings: its arguments and its rows.
fn commands() -> Vec<(Vec<&'static str>, Vec<Setting>)> {
    let words = |name| match name {
        // `trades` has no default for the address of Redis.
        "trades" => vec!["trades", "--redis-url=redis://r"],
        other => vec![other],
    };
    let gateways = WEIRGATE
        .gateways
        .iter()
        .map(|g| (words(g.name), g.rows.settings()));
    let token = (vec!["token", "inspect"], Rows::TOKEN.settings());
    let tail = (vec!["tail", "levels"], Rows::TAIL.settings());
    let top = (vec!["top", "127.0.0.1:9100"], Rows::TOP.settings());
    gateways.chain([token, tail, top]).collect()
}

fn run(args: &[&str], env: &[(&str, &str)]) -> Result<Invocation, Exit> {
    let env = Env::new(env.iter().copied());
    WEIRGATE.parse(["weirgate"].iter().chain(args), env)
}

fn started(args: &[&str], env: &[(&str, &str)]) -> (&'static str, Checked) {
    match run(args, env) {
        Ok(Invocation::Run(gateway, checked)) => (gateway.name, *checked),
        other => panic!("nothing to run: {other:?}"),
    }
}

fn levels(args: &[&str], env: &[(&str, &str)]) -> Checked {
    started(&[&["levels"], args].concat(), env).1
}

fn refused(args: &[&str], env: &[(&str, &str)]) -> Exit {
    match run(args, env) {
        Err(exit) => exit,
        Ok(invocation) => panic!("{args:?} {env:?} was let through: {invocation:?}"),
    }
}

fn port_of(checked: &Checked) -> Option<u16> {
    checked.get::<ListenSettings>().port
}

/// The value of a flag for people.
fn shown(checked: &Checked, flag: &str) -> String {
    let value = checked.values().iter().find(|v| v.setting.flag == flag);
    value.expect(flag).value.to_string()
}

fn warnings(env: &[(&str, &str)]) -> Vec<String> {
    let checked = levels(&[], env);
    checked.warnings().to_vec()
}

/// The settings without which `flag` is refused.
fn partner(flag: &str) -> Option<&'static str> {
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

/// A value that the form of this row accepts.
fn form_value(flag: &str) -> &'static str {
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
fn names_are_unique_on_each_subcommand() {
    for (_, rows) in commands() {
        let (mut flags, mut env) = (HashSet::new(), HashSet::new());
        for setting in rows {
            assert!(flags.insert(setting.flag), "--{} twice", setting.flag);
            for name in setting.env_names() {
                assert!(env.insert(name.clone()), "{name} twice");
            }
        }
        assert!(!flags.is_empty());
        let prints = WEIRGATE.gateways.iter().flat_map(|gateway| gateway.prints);
        let of_check = [
            "check",
            "all",
            "format",
            "connect",
            StartQuestion::TIMEOUT_FLAG,
        ];
        for own in of_check
            .into_iter()
            .chain(["help", "version", "gateway"])
            .chain(prints.map(|p| p.flag))
        {
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
            Unit::Microseconds => flag.ends_with("-us"),
            Unit::Milliseconds => flag.ends_with("-ms"),
            Unit::Seconds => flag.ends_with("-s"),
            Unit::Minutes => flag.ends_with("-min"),
            Unit::Hertz => flag.ends_with("-hz"),
            Unit::Bytes if flag == "memory-max" => true,
            Unit::Bytes => flag
                .split_once("-bytes")
                .is_some_and(|(_, rest)| ["", "-max"].contains(&rest)),
            Unit::Count => !flag.contains("bytes") && !flag.ends_with("-ms"),
        };
        assert!(good, "--{flag} does not end with its unit {unit:?}");
    }
}

#[test]
fn every_source_of_every_setting_goes_over_the_next() {
    for gateway in WEIRGATE
        .gateways
        .iter()
        .filter(|g| ["levels", "demo"].contains(&g.name))
    {
        for setting in gateway.rows.settings().into_iter().filter(Setting::is_flag) {
            let names = setting.env_names();
            // First all names in the environment are set, then all but the first, and so on. Only the source counts
            // here, so each value is the default.
            let default = setting.default();
            let default = match (default.as_str(), setting.kind) {
                ("", Kind::Form(_)) => form_value(setting.flag),
                ("", _) => "*",
                (default, _) => default,
            };
            let source = |args: &[&str], env: &[(&str, &str)]| {
                let given = !args.is_empty() || !env.is_empty();
                let beside = partner(setting.flag).filter(|_| given);
                let beside: Vec<&str> =
                    beside.into_iter().flat_map(str::split_whitespace).collect();
                let args = [&[gateway.name], args, &beside].concat();
                let (_, checked) = started(&args, env);
                let mut values = checked.values().iter();
                let value = values.find(|value| value.setting.flag == setting.flag);
                value.expect("a value").source.to_string()
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
fn flags_that_may_be_repeated_add_up_and_go_over_env_together() {
    let last = levels(&["--port", "5", "--port", "4", "--ephemeral"], &[]);
    assert_eq!(port_of(&last), Some(4), "of other flags the last counts");
    assert!(last.get::<NatsAccess>().ephemeral, "a switch alone is on");
    let keys = |args: &[&str], env: &[(&str, &str)]| {
        let relays = shown(&levels(args, env), "relay");
        let keys = relays.split_whitespace().filter_map(|one| {
            let (_, key) = one.split(',').next()?.split_once('=')?;
            Some(key.to_owned())
        });
        keys.collect::<Vec<_>>()
    };
    let env = [("WEIRGATE_RELAY", "e.f=e\n g.h=g")];
    assert_eq!(
        keys(&["--relay", "a=x c=z", "--relay=b=y"], &env),
        ["x", "z", "y"]
    );
    assert_eq!(keys(&[], &env), ["e", "g"]);
    assert_eq!(keys(&["--relay", "", "--relay="], &env), ["e", "g"]);
    assert_eq!(keys(&[], &[]), Vec::<String>::new());
    let endpoints = shown(&levels(&["--endpoint=/a=e,flow"], &env), "endpoint");
    assert_eq!(endpoints, "/a=e,flow");
}

#[test]
fn a_list_has_the_entries_of_all_its_flags() {
    let mut lists = BTreeSet::new();
    for (command, rows) in commands() {
        let is_list = |row: &Setting| row.is_flag() && row.kind.separator() == Some(",");
        for row in rows.into_iter().filter(is_list) {
            let entries = match row.kind {
                Kind::Urls(schemes) | Kind::OptionalUrls(schemes) => {
                    let nats = schemes.iter().find(|scheme| **scheme == "nats");
                    let scheme = nats.unwrap_or(&schemes[0]);
                    [1, 2].map(|n| format!("{scheme}://h{n}:1"))
                }
                Kind::Origins => [1, 2].map(|n| format!("https://h{n}.example")),
                Kind::Networks => [1, 2].map(|n| format!("10.0.{n}.0/24")),
                _ => [1, 2].map(|n| n.to_string()),
            };
            let [one, two] = entries
                .each_ref()
                .map(|one| format!("--{}={one}", row.flag));
            let empty = format!("--{}=", row.flag);
            let beside: &[&str] = match row.flag {
                "tls-cert" => &["--tls-key=1,2", "--tls-port=0"],
                "tls-key" => &["--tls-cert=1,2", "--tls-port=0"],
                "redis-sentinels" => &["--redis-sentinel-master=m"],
                _ => &[],
            };
            let args = [&command[..], &[&one, &empty, &two], beside].concat();
            if let Ok(Invocation::Run(_, checked)) = run(&args, &[]) {
                assert_eq!(shown(&checked, row.flag), entries.join(","), "{args:?}");
                lists.insert(row.flag);
            }
        }
    }
    let wanted = [
        "allowed-origins",
        "events-bus",
        "jwt-audience",
        "nats-url",
        "tls-cert",
    ];
    assert!(wanted.iter().all(|flag| lists.contains(flag)), "{lists:?}");
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
        ("GATEWAY_PRT", "GATEWAY_PORT"),
        ("RUST_LGO", "RUST_LOG"),
    ] {
        let expected = format!(
            "{typed} is not a setting of this gateway and was ignored; did you mean {meant}?"
        );
        assert_eq!(warnings(&[(typed, "s3cret")]), [expected]);
    }
    assert_eq!(
        warnings(&[("WEIRGATE_MOON_PHASE", "full")]),
        ["WEIRGATE_MOON_PHASE is not a setting of this gateway and was ignored"]
    );
    let gone = refused(&["levels"], &[("WEIRGATE_LISTEN_BACKLOG", "5")]);
    let told = "error: WEIRGATE_LISTEN_BACKLOG is gone: the backlog is 4096";
    assert!(gone.status == 2 && gone.text.starts_with(told), "{gone}");
}

#[test]
fn the_url_of_another_gateway_is_pointed_out_where_nothing_was_chosen() {
    let warnings = |args: &[&str], env: &[(&str, &str)]| -> Vec<String> {
        let (_, checked) = started(&[&["channels"], args].concat(), env);
        checked.warnings().to_vec()
    };
    let url = ("NATS_URL", "nats://nats:4222");
    let ours = warnings(&[], &[url]).concat();
    assert!(ours.ends_with("did you mean WEIRGATE_BUS?"), "{ours}");
    for chosen in ["--bus=nats://a:1", "--redis-url=redis://a:1"] {
        assert_eq!(warnings(&[chosen], &[url]), [""; 0], "{chosen}");
    }
    assert_eq!(warnings(&[], &[url, ("REDIS_HOST", "a")]), [""; 0]);
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
        ("GATEWAY_HOST", "1"),
        // In turn: two letters differ; too short; a name of another gateway; the correct name is set too.
        ("GATEWAY_PORTAL", "1"),
        ("PORTS", "1"),
        ("LOBBY_URLS", "x"),
        ("GATEWAY_PORT_80_TCP", "tcp://10.0.0.1:80"),
        ("RUST_LOG", "info"),
        ("RUST_LOGS", "x"),
        ("PATH", "/bin"),
    ];
    assert_eq!(warnings(&quiet), Vec::<String>::new());
}

#[test]
fn the_environment_may_name_the_gateway() {
    let demo = [("WEIRGATE_GATEWAY", "demo")];
    assert_eq!(started(&[], &demo).0, "demo");
    assert_eq!(shown(&started(&["--seed", "7"], &demo).1, "seed"), "7");
    assert_eq!(started(&["levels"], &demo).0, "levels");
    assert!(matches!(run(&["version"], &demo), Ok(Invocation::Show(_))));
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
    let check = |listen: &str, ms| {
        let addr = listen.parse::<std::net::SocketAddr>().unwrap();
        HealthCheck::new(&[addr.into()], ms)
    };
    assert_eq!(asked(&["health"], &[]), check("127.0.0.1:8000", 2000));
    let env = [("WEIRGATE_LISTEN", "10.0.0.1"), ("PORT", "9000")];
    assert_eq!(
        asked(&["health", "levels"], &env),
        check("10.0.0.1:9000", 2000)
    );
    let unix = [("WEIRGATE_LISTEN", "unix:/run/a.sock")];
    let socket = ListenAddr::Unix("/run/a.sock".into());
    assert_eq!(
        asked(&["health", "levels"], &unix),
        HealthCheck::new(&[socket], 2000)
    );
    let args = ["health", "demo", "--port=1"];
    assert_eq!(
        asked(&args, &[("WEIRGATE_GATEWAY", "x")]),
        check("127.0.0.1:1", 2000)
    );
    assert_eq!(refused(&["health"], &[("PORT", "x")]).status, 1);
    assert_eq!(refused(&["health", "nobody"], &[]).status, 1);
    let env = |pairs: &[(&str, &str)]| Env::new(pairs.iter().copied());
    let first = |arguments: &str, pairs: &[(&str, &str)]| {
        let arguments = arguments.replace(' ', "\0") + "\0";
        of_first_process(&WEIRGATE, arguments.as_bytes(), &env(pairs))
    };
    let channels = [("WEIRGATE_GATEWAY", "channels")];
    for (arguments, pairs, listen) in [
        ("weirgate demo", &channels[..], "127.0.0.1:8000"),
        (
            "weirgate channels --port=9 --bus nats://n",
            &[],
            "127.0.0.1:9",
        ),
        ("/usr/local/bin/weirgate --port 9", &channels, "127.0.0.1:9"),
        ("weirgate", &channels, "127.0.0.1:8889"),
        (
            "/sbin/docker-init -- weirgate channels",
            &[],
            "127.0.0.1:8889",
        ),
        ("weirgate levels", &[("PORT", "9")], "127.0.0.1:9"),
    ] {
        assert_eq!(
            first(arguments, pairs),
            Some(check(listen, 2000)),
            "{arguments}"
        );
    }
    for other in [
        "/sbin/init",
        "sh -c weirgate",
        "weirgate top",
        "weirgate levels --nonsense",
        "",
    ] {
        assert_eq!(first(other, &[]), None, "{other}");
    }
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
    let env = [
        ("WEIRGATE_EVENTS_BUS", url),
        ("INTERNAL_AUTH_TOKEN", "s3cret"),
        ("WEIRGATE_LISTEN", "127.0.0.1"),
        ("WEIRGATE_PORT", "0"),
    ];
    let checked = ["text", "json", "env"].map(|format| {
        match run(&["events", "--check", "--all", "--format", format], &env) {
            Ok(Invocation::Check(command)) => command.run(),
            other => panic!("{other:?}"),
        }
    });
    let checked = checked.map(|outcome| outcome.shown + &outcome.complaints);
    for text in shown.into_iter().chain(checked) {
        assert!(text.contains("***") || text.contains("nats-ur"), "{text}");
        assert!(!text.contains("s3cret"), "{text}");
    }
    let access: NatsAccess = levels(&[], &[("NATS_URL", url)]).get();
    assert_eq!(&*access.urls.expose(), url);
}

#[test]
fn a_check_tells_the_numbers_of_each_process_from_those_of_all() {
    let checked = |more: &[&str]| {
        let flags = [
            "channels",
            "--check",
            "--listen=127.0.0.1",
            "--port=0",
            "--admin-addr=127.0.0.1:0",
        ];
        match run(&[&flags, more].concat(), &[]) {
            Ok(Invocation::Check(command)) => command.run().shown,
            other => panic!("{other:?}"),
        }
    };
    let shown = checked(&["--all", "--processes=4"]);
    let row = |flag: &str| {
        let row = shown
            .lines()
            .find(|line| line.trim_start().starts_with(flag));
        let words = row
            .unwrap_or_else(|| panic!("{flag}: {shown}"))
            .split_whitespace();
        words.collect::<Vec<_>>().join(" ")
    };
    let frames = "--frame-bytes-max 536870912 default; in each of 4 processes 134217728";
    assert_eq!(row("--frame-bytes-max "), frames);
    assert_eq!(
        row("--message-bytes-max "),
        "--message-bytes-max 2097152 default"
    );
    assert_eq!(row("--processes "), "--processes 4 flag");
    let json = checked(&["--format=json", "--processes=4", "--memory-max=1073741824"]);
    assert!(json.contains(r#""processes":4,"settings":["#), "{json}");
    let memory =
        r#"{"flag":"memory-max","value":1073741824,"each_process":268435456,"source":"flag","#;
    assert!(json.contains(memory), "{json}");
    assert!(
        !checked(&["--all", "--format=json"]).contains("process\":"),
        "one process"
    );
}

#[test]
fn a_program_of_one_gateway_needs_no_subcommand() {
    static ONE: crate::commands::Program = crate::commands::Program {
        name: "one",
        about: "One gateway",
        start_with: "",
        most_used: "events",
        gateways: &[crate::gateways::events::start::EVENTS],
    };
    let none = || Env::new::<&str, &str>([]);
    for args in [&["one", "--port=9"][..], &["one", "events", "--port=9"]] {
        match ONE.parse(args, none()) {
            Ok(Invocation::Run(gateway, checked)) => {
                assert_eq!((gateway.name, port_of(&checked)), ("events", Some(9)));
            }
            other => panic!("{other:?}"),
        }
    }
    let help = ONE.parse(["one", "--help"], none()).unwrap_err();
    assert!(help.text.contains("--lobby-url"), "{help}");
    match ONE.parse(["one", "--check"], none()) {
        Ok(Invocation::Check(command)) => assert_eq!(command.words, "one"),
        other => panic!("{other:?}"),
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
    for gateway in WEIRGATE.gateways {
        let nothing = gateway.rows.unknown_changes();
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

/// Returns a value that is not the row's default; `None` for kinds that take a form or a secret.
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
        Kind::Text | Kind::Texts | Kind::Path | Kind::Paths | Kind::LogFilter => {
            vec!["warn".to_owned()]
        }
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

/// The settings of a supervisor of so many processes of each gateway, with these more flags and this memory limit.
fn supervisors(count: u32, more: &[(&str, String)], limit: Option<u64>) -> Vec<Checked> {
    let count = count.to_string();
    let common = [
        ("processes", &*count),
        ("admin-addr", "unix:/a"),
        ("redis-url", "redis://r"),
        ("events-bus", "redis://r"),
    ];
    let more = more.iter().map(|(flag, value)| (*flag, &**value));
    let flags: Vec<_> = common.into_iter().chain(more).collect();
    let typed = |name: &str| {
        let found = flags.iter().filter(|(flag, _)| *flag == name);
        found.map(|(_, value)| (*value).to_owned()).collect()
    };
    let env = Env::default().with_memory_limit(limit);
    let of = |gateway: &GatewayKind| {
        let rows = gateway.rows.settings();
        let checked = Checked::read(rows, typed, &env, Vec::new(), gateway.check);
        checked.unwrap_or_else(|errors| {
            panic!(
                "{}, {flags:?}, memory limit {limit:?}: {errors:?}",
                gateway.name
            )
        })
    };
    WEIRGATE.gateways.iter().map(of).collect()
}

#[test]
fn every_gateway_starts_with_any_number_of_processes_and_memory() {
    const MIB: u64 = 1024 * 1024;
    for count in 2..=64 {
        let least = 64 * MIB * u64::from(count);
        let limits = [None, Some(64 * MIB), Some(2 * least), Some(64 * least)];
        for limit in limits {
            supervisors(count, &[], limit);
        }
        for memory in [least, 32 * least] {
            supervisors(count, &[("memory-max", memory.to_string())], None);
        }
    }
}

/// The numbers of a supervisor's settings, and the same numbers in each of its processes.
fn numbers(supervisor: &Checked) -> Vec<(Setting, u64, u64)> {
    let (_, each) = supervisor.each_process().expect("a supervisor");
    let pairs = supervisor.values().iter().zip(each.values());
    let pair = |(whole, each): (&CheckedValue, &CheckedValue)| match (&whole.value, &each.value) {
        (&Value::Number(of_all), &Value::Number(of_each)) => Some((whole.setting, of_all, of_each)),
        _ => None,
    };
    pairs.filter_map(pair).collect()
}

/// The limits that processes divide. All others count one thing, or what each process needs whole.
const DIVIDED: &[&str] = &[
    "connections-max",
    "tls-handshakes-max",
    "tls-held-bytes-max",
    "connection-bytes",
    "unfinished-bytes",
    "inflate-window-bytes",
    "http-bytes",
    "resumed-bytes",
    "bus-queue-bytes",
    "stream-answer-bytes",
    "frame-bytes-max",
    "history-bytes-max",
    "retained-bytes",
    "all-channel-name-bytes",
    "renewals-per-second",
    "calls",
    "proxy-connections-max",
    "proxy-bytes",
    "all-broadcast-bytes",
    "answer-bytes",
    "call-bytes",
    "orphans",
    "waiting-bytes",
];

#[test]
fn processes_divide_what_all_clients_hold_and_no_limit_of_one_thing() {
    const MIB: u64 = 1024 * 1024;
    for count in [2, 16, 64] {
        let rows = supervisors(count, &[], None);
        for (setting, of_all, of_each) in rows.iter().flat_map(numbers) {
            let flag = setting.flag;
            let said = format!("--{flag} {of_all}, each of {count} processes {of_each}");
            let is_divided = setting.counts() == Counts::All;
            assert_eq!(is_divided, DIVIDED.contains(&flag), "{said}");
            let part = of_all / u64::from(count);
            match flag {
                // A push or a response of 64 MiB fits.
                "all-broadcast-bytes" | "answer-bytes" => {
                    assert_eq!(of_each, part.max(64 * MIB), "{said}");
                }
                _ if is_divided => assert!((part..=of_all).contains(&of_each), "{said}"),
                _ => assert_eq!(of_each, of_all, "{said}"),
            }
        }
    }
}

#[test]
fn what_must_fit_into_a_limit_is_no_part_of_one() {
    for gateway in WEIRGATE.gateways {
        let rows = gateway.rows.settings();
        for row in &rows {
            for sum in row.fits_into() {
                let found = rows.iter().find(|row| row.flag == *sum);
                let counts = found.map(Setting::counts);
                assert_eq!(
                    (row.counts(), counts),
                    (Counts::Each, Some(Counts::All)),
                    "{}",
                    row.flag
                );
            }
        }
    }
}

#[test]
fn the_calls_to_services_are_divided_among_processes() {
    let calls = |more: &[&str]| {
        let admin = ["events", "--events-bus=redis://r", "--admin-addr=unix:/a"];
        let (_, checked) = started(&[&admin, more].concat(), &[]);
        checked.get::<EventsGatewaySettings>().calls_max
    };
    assert_eq!(calls(&[]), 100);
    assert_eq!(calls(&["--processes=2/4"]), 25);
}

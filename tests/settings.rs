//! The command line from outside: the real binary, its output and its exit status.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::thread;

mod settings {
    mod errors;
    mod pages;
    mod tokens;
}

use weirgate::gateways::WEIRGATE;
use weirgate_server::settings::{Kind, Rows, Setting};

/// What a run of the binary gave.
struct Run {
    status: i32,
    stdout: String,
    stderr: String,
}

/// Runs the binary with these arguments and nothing else in its environment. It has no terminal,
/// so help is wrapped at 80 columns.
fn weirgate(args: &[&str], env: &[(&str, &str)]) -> Run {
    let output = Command::new(env!("CARGO_BIN_EXE_weirgate"))
        .args(args)
        .env_clear()
        .envs(env.iter().copied())
        .stdin(Stdio::null())
        .output()
        .expect("the binary runs");
    let text = |bytes| String::from_utf8(bytes).expect("output is UTF-8");
    Run {
        status: output.status.code().expect("it ended by itself"),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

/// Standard output of a run that must succeed and complain of nothing.
fn shown(args: &[&str], env: &[(&str, &str)]) -> String {
    let run = weirgate(args, env);
    assert_eq!((run.status, run.stderr.as_str()), (0, ""), "{args:?}");
    run.stdout
}

/// Standard error of a run that must end with status 2 and show nothing else.
fn refused(args: &[&str], env: &[(&str, &str)]) -> String {
    let run = weirgate(args, env);
    assert_eq!((run.status, run.stdout.as_str()), (2, ""), "{args:?}");
    run.stderr
}

/// Arguments and environment.
type Case<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)]);

/// The text with `N` in place of a number that every new row of the table changes.
fn without_number_before(text: &str, words: &str) -> String {
    let (before, after) = text.split_once(words).expect("the words");
    let head = before.trim_end_matches(|c: char| c.is_ascii_digit());
    assert_ne!(head, before, "no number before {words:?}");
    format!("{head}N{words}{after}")
}

#[test]
fn help() {
    insta::assert_snapshot!("help_root", shown(&["-h"], &[]));
    let gateways = || WEIRGATE.gateways.iter().map(|gateway| gateway.name);
    for name in gateways().chain(["health", "tail", "top", "publish", "token"]) {
        let mut help = shown(&[name, "-h"], &[]);
        if gateways().any(|gateway| gateway == name) {
            help = without_number_before(&help, " settings. weirgate");
        }
        insta::assert_snapshot!(format!("help_{name}"), help);
        let all = shown(&[name, "--help"], &[]);
        assert_eq!(shown(&["help", name], &[]), all);
    }
    let help = shown(&["token", "inspect", "-h"], &[]);
    insta::assert_snapshot!("help_token_inspect", help);
}

#[test]
fn help_in_a_pipe_fits_80_columns_and_a_wider_one_where_the_environment_says_so() {
    let lines = |args: &[&str], env: &[(&str, &str)]| -> Vec<usize> {
        let help = shown(args, env);
        help.lines().map(|line| line.chars().count()).collect()
    };
    let commands = ["tail", "top", "publish", "disconnect", "health", "token"];
    for name in WEIRGATE
        .gateways
        .iter()
        .map(|gateway| gateway.name)
        .chain(commands)
    {
        for flag in ["-h", "--help"] {
            let widest = lines(&[name, flag], &[]).into_iter().max();
            assert!(widest <= Some(80), "{name} {flag}: {widest:?}");
        }
        let wide = lines(&[name, "--help"], &[("COLUMNS", "200")]);
        assert!((81..=100).contains(wide.iter().max().unwrap()), "{name}");
    }
}

#[test]
fn without_a_command_the_help_is_an_error() {
    assert_eq!(refused(&[], &[]), shown(&["-h"], &[]));
}

#[test]
fn check() {
    for name in WEIRGATE.gateways.iter().map(|gateway| gateway.name) {
        // Where Redis is has no default on the trades gateway, and is not looked at by the others.
        let redis = ("REDIS_URL", "redis://ann:s3cret@redis:6379");
        let env: &[_] = if name == "trades" { &[redis] } else { &[] };
        let checked = shown(&[name, "--check", "--all"], env);
        let named = [env, &[("WEIRGATE_GATEWAY", name)]].concat();
        assert_eq!(shown(&["--check", "--all"], &named), checked);
    }
    let env = [
        ("GATEWAY_PORT", "tcp://10.0.0.1:80"),
        ("PORT", "9000"),
        ("WEIRGATE_LISTEN", "[::]"),
        ("NATS_URL", "nats://ann:s3cret@a:4222,nats://s3cret@b"),
        ("WEIRGATE_LOG_FORMAT", ""),
        ("WEIRGATE_EPHEMERAL", "yes"),
        ("WEIRGATE_PING_INTERVAL", "5000"),
        ("RUST_LOG", "info,weirgate_server::http=debug"),
        ("FORWARDED_ALLOW_IPS", "10.1.2.3/8,::1"),
    ];
    let args = [
        "levels",
        "--check",
        "--send-queue-soft-bytes=65536",
        "--allowed-origins=https://Example.com,http://a:8080",
    ];
    let sources = shown(&args, &env);
    let sources = without_number_before(&sources, " settings have their defaults");
    insta::assert_snapshot!("check_levels_sources", sources);
    let as_env = shown(&[&args[..], &["--format=env"]].concat(), &env);
    insta::assert_snapshot!("check_levels_env", as_env);
    let as_json = shown(&[&args[..], &["--format=json"]].concat(), &env);
    insta::assert_snapshot!("check_levels_json", as_json);
    let env = [("WEIRGATE_ENDPOINT", "/ws/flow=flow /ws/more=news,levels")];
    let args = [
        "levels",
        "--check",
        "--relay=news.flash=news",
        "--relay",
        "depth.ES=depth,durable=d,stream=DEPTH",
    ];
    let all = shown(&args, &env);
    let more: Vec<_> = all
        .lines()
        .filter(|line| line.contains("--relay") || line.contains("--endpoint"))
        .collect();
    insta::assert_snapshot!("check_levels_relays", more.join("\n"));
}

#[test]
fn wrong_values() {
    let cases: &[Case] = &[
        (&["levels", "--ping-interval-ms", "20s"], &[]),
        (&["levels", "--drain-ms", "-1"], &[]),
        (&["levels", "--deflate-level", "10"], &[]),
        (&["levels"], &[("WEIRGATE_MESSAGE_BYTES_MAX", "1MiB")]),
        (&["levels"], &[("WEIRGATE_SESSION_LENGTH_MIN", "6.5")]),
        (&["demo", "--rate-hz", "0"], &[]),
        (&["demo", "--seed", "18446744073709551616"], &[]),
        (&["levels"], &[("GATEWAY_PORT", "80000")]),
        (&["levels"], &[("PORT", "http")]),
        (&["levels", "--listen", "0.0.0.0:9000"], &[]),
        (&["levels", "--listen=::1", "--listen=unix:a.sock"], &[]),
        (&["levels"], &[("WEIRGATE_LISTEN", "::1,unix:/run/a,::1")]),
        (&["levels", "--unix-socket-mode", "rw"], &[]),
        (&["levels", "--processes", "0"], &[]),
        (&["levels", "--processes", "4"], &[]),
        (
            &["events", "--processes=4", "--admin-addr=127.0.0.1:9100"],
            &[],
        ),
        (&["levels", "--unix-socket-owner", "www data"], &[]),
        (&["levels", "--reuse-port=both"], &[]),
        (&["levels"], &[("NATS_URL", "http//nats:4222")]),
        (&["levels"], &[("NATS_URL", "http://ann:s3cret@nats")]),
        (&["levels", "--listen", "nats://ann:s3cret@nats"], &[]),
        (&["levels"], &[("WEIRGATE_EPHEMERAL", "maybe")]),
        (&["levels", "--log-format", "xml"], &[]),
        (&["levels", "--allowed-origins", "example.com"], &[]),
        (&["levels", "--relay", "a=b", "--relay", "news.*=news"], &[]),
        (&["levels", "--relay", "news..flash=news"], &[]),
        (&["levels", "--relay", "market.flow=again"], &[]),
        (&["levels", "--relay", "news.flash=viewport"], &[]),
        (&["levels", "--relay", "news.flash"], &[]),
        (&["levels", "--relay", "news.flash=news,strm=NEWS"], &[]),
        (&["levels"], &[("WEIRGATE_RELAY", "a=k b=k")]),
        (&["levels"], &[("WEIRGATE_RELAY", "a=k,durable=x.y")]),
        (
            &["levels"],
            &[("WEIRGATE_RELAY", "a=k,durable=gateway_flow")],
        ),
        (&["levels", "--endpoint", "/ws/flow"], &[]),
        (&["levels", "--endpoint", "ws/flow=flow"], &[]),
        (&["levels", "--endpoint", "/ws/stream=flow"], &[]),
        (&["levels", "--endpoint", "/health=flow"], &[]),
        (
            &["levels", "--endpoint=/a=flow", "--endpoint=/a=levels"],
            &[],
        ),
        (&["levels", "--endpoint", "/ws/flow=flow,"], &[]),
        (
            &["levels", "--relay=a=news"],
            &[("WEIRGATE_ENDPOINT", "/a=news /b=flow,nws")],
        ),
        (&["demo", "--endpoint", "/ws/flow=flows"], &[]),
        (&["levels"], &[("RUST_LOG", "weirgate=loud")]),
        (&["levels", "--log-filter", "debgu"], &[]),
        (&["levels"], &[("FORWARDED_ALLOW_IPS", "nginx")]),
        (&["levels", "--admin-addr", "9100"], &[]),
        (&["levels", "--trusted-proxies", "10.0.0.0/33"], &[]),
        (&["levels", "--send-queue-soft-bytes", "2000000"], &[]),
        (&["levels", "--check", "--port=x", "--drain-ms=y"], &[]),
        (&["trades"], &[]),
        (&["trades"], &[("REDIS_URL", "redis:6379")]),
        (&["trades"], &[("REDIS_SENTINELS", "http://ann:s3cret@a")]),
        (&["trades"], &[("REDIS_SENTINELS", "a:26379,b:26379")]),
        (&["trades", "--redis-tls-name=a b"], &[]),
        (&["channels"], &[("REDIS_URL", "redis:6379")]),
        (&["channels"], &[("REDIS_URL", "http://ann:s3cret@redis")]),
        (&["channels"], &[("MAX_CHANNELS_PER_CLIENT", "many")]),
        (&["channels"], &[("REQUIRE_AUTH", "perhaps")]),
        (&["channels", "--bus=http://ann:s3cret@h"], &[]),
        (&["channels", "--bus=nats://a,redis://u:s3cret@b"], &[]),
        (
            &["channels", "--bus=redis://u:s3cret@b"],
            &[("REDIS_URL", "redis://a")],
        ),
        (&["channels", "--bus=nats://a", "--conflate=a.*,b..c"], &[]),
        (&["channels", "--retained"], &[]),
        (
            &["trades", "--history-ms=5000", "--frame-bytes-max=100000000"],
            &[("REDIS_URL", "redis://127.0.0.1:1")],
        ),
        (&["channels", "--history-ms=60000"], &[]),
        (&["channels", "--history-names=a:*"], &[]),
        (&["channels", "--stream=s", "--history-names=a:*"], &[]),
        (
            &[
                "channels",
                "--bus=nats://a",
                "--history-ms=60000",
                "--stream=a.b",
                "--retained",
            ],
            &[],
        ),
        (&["events"], &[("RATE_LIMIT_RPS", "ten")]),
        (&["events"], &[("RATE_LIMIT_BURST", "many")]),
        (&["events"], &[("HTTP_TIMEOUT_SECONDS", "0")]),
        (&["events"], &[("MAX_MESSAGE_BYTES", "64k")]),
        (&["events"], &[("LOBBY_URL", "lobby:8000")]),
        (&["events"], &[("LOBBY_URL", "http://ann:s3cret@lobby")]),
        (&["events", "--route=orders.*=http://ann:s3cret@h"], &[]),
        (&["events"], &[("WEIRGATE_ROUTE", "a.*=http://b s3cret")]),
        (&["events", "--route=lobby.*=http://b"], &[]),
        (&["events", "--events-bus=http://ann:s3cret@h"], &[]),
        (&["events", "--events-bus=redis://a,redis://b"], &[]),
        (&["events", "--events-bus-name=a.*"], &[]),
        (&["events", "--nats-cert=c"], &[]),
        (&["events", "--redis-sentinels=redis://ann:s3cret@a"], &[]),
        (
            &["events", "--redis-sentinels=a", "--redis-sentinel-master=m"],
            &[],
        ),
        (&["levels", "--market=yes"], &[]),
        (&["levels", "--market=off"], &[]),
        (&["channels", "--stop-code=1000"], &[]),
        (&["channels"], &[("REDIS_PORT", "off")]),
        (&["channels", "--redis-port=off"], &[]),
        (&["channels"], &[("WEIRGATE_REDIS_PORT", "1")]),
        (&["demo", "--json-depth-max", "9"], &[]),
        (&["events"], &[("WEIRGATE_EVENTS_BUS_NKEY", "n")]),
        (
            &[
                "demo",
                "--message-bytes-max=60000000",
                "--memory-max=67108864",
            ],
            &[],
        ),
        (&["channels", "--tls-min=1.1"], &[]),
        (&["channels", "--tls-port=on"], &[]),
        (&["channels", "--tls-port=8443", "--tls-cert=a,b"], &[]),
        (
            &["channels", "--tls-port=0", "--tls-cert=a,b", "--tls-key=a"],
            &[],
        ),
        (&["levels", "--port=off"], &[]),
        (&["levels", "--cpus=2,x"], &[]),
        (&["channels", "--token-cookie=feed"], &[]),
        (&["channels", "--jwt-jwks-url=http://idp/keys"], &[]),
        (
            &["trades"],
            &[("JWT_JWKS_URL", "https://ann:s3cret@idp/keys")],
        ),
        (&[], &[("WEIRGATE_GATEWAY", "level")]),
    ];
    let tell = |&(args, env): &Case| {
        let env_shown: String = env.iter().map(|(k, v)| format!("{k}={v} ")).collect();
        let typed = format!("$ {env_shown}weirgate {}", args.join(" "));
        let typed = typed.replace("s3cret", "PASSWORD");
        format!("{typed}\n{}\n", refused(args, env))
    };
    let told: String = cases.iter().map(tell).collect();
    assert!(!told.contains("s3cret"), "{told}");
    let gateways = WEIRGATE.gateways.iter().map(|gateway| gateway.rows);
    for setting in gateways.flat_map(|rows| rows.settings()) {
        let allowed = match setting.kind {
            // Each unit once is enough: what is allowed is the row's range.
            Kind::Number { .. } => "a whole number from".to_owned(),
            Kind::Decimal { .. } => "a number from".to_owned(),
            // Any text is one.
            Kind::Text | Kind::Texts | Kind::Path | Kind::Paths | Kind::Secret => continue,
            kind => kind.allowed(),
        };
        let flag = setting.flag;
        assert!(told.contains(&allowed), "no wrong value for --{flag}");
    }
    insta::assert_snapshot!("wrong_values", told);
}

#[test]
fn what_cannot_start_ends_with_1() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = taken.local_addr().expect("bound").to_string();
    let port = addr.rsplit(':').next().expect("a port");
    let run = weirgate(&["demo", "--port", port], &[]);
    assert_eq!(run.status, 1, "{}", run.stderr);
    let told = run.stderr.replace(&addr, "ADDR");
    assert_eq!(
        told,
        "error: cannot listen on ADDR: Address already in use (os error 98); another process listens \
         there; see --listen (default) and --port (flag)\n"
    );
}

/// A flag for each number of these rows, at one end of its range.
fn at_end(rows: Rows, is_max: bool) -> Vec<String> {
    let end = |row: &Setting| {
        Some(match row.kind {
            Kind::Number { min, max, .. } => (if is_max { max } else { min }).to_string(),
            Kind::Decimal {
                min_milli,
                max_milli,
                ..
            } => {
                let milli = if is_max { max_milli } else { min_milli };
                (milli as f64 / 1000.0).to_string()
            }
            _ => return None,
        })
    };
    let rows = rows.settings().into_iter().filter(Setting::is_flag);
    rows.filter_map(|row| Some(format!("--{}={}", row.flag, end(&row)?)))
        .collect()
}

/// A number that does not fit the type of its field is a panic. So each gateway is put together with all defaults,
/// and with both ends of all ranges, up to the address that is taken.
#[test]
fn no_range_is_wider_than_its_field() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("bound").port().to_string();
    for gateway in WEIRGATE.gateways {
        let env = [("REDIS_URL", "redis://127.0.0.1:1")];
        let ends = [false, true].map(|is_max| at_end(gateway.rows, is_max));
        for numbers in [Vec::new()].into_iter().chain(ends) {
            let listen = [gateway.name, "--listen=127.0.0.1", "--port", &port];
            let numbers = numbers.iter().map(String::as_str);
            let mut args: Vec<_> = listen.into_iter().chain(numbers).collect();
            if gateway.name == "channels" && args.contains(&"--history-ms=86400000") {
                args.push("--history-names=a:*");
            }
            let run = weirgate(&args, &env);
            assert_eq!(run.status, 1, "{args:?}: {}", run.stderr);
            assert!(
                run.stderr.starts_with("error: cannot listen"),
                "{}",
                run.stderr
            );
        }
    }
}

#[test]
fn wrong_use() {
    let cases: &[&[&str]] = &[
        &["levles"],
        &["levels", "--prot", "1"],
        &["levels", "--seed", "1"],
        &["levels", "--port"],
        &["levels", "nats://nats:4222"],
        &["levels", "redis://redis:6379"],
        &["demo", "--nats-url", "nats://nats:4222"],
        &["trades", "--stop-code", "1001"],
    ];
    let told: String = cases
        .iter()
        .map(|args| format!("$ weirgate {}\n{}\n", args.join(" "), refused(args, &[])))
        .collect();
    insta::assert_snapshot!("wrong_use", told);
}

#[test]
fn version_and_features() {
    let version = shown(&["version"], &[]);
    assert!(version.starts_with(concat!(
        "weirgate ",
        env!("CARGO_PKG_VERSION"),
        " (features: "
    )));
    let features = version.lines().next().expect("a line");
    assert!(features.ends_with("(features: nats, redis)"));
    assert_eq!(shown(&["--version"], &[]).trim_end(), features);
    let json = shown(&["version", "--json"], &[]);
    let json: serde_json::Value = serde_json::from_str(&json).expect("one object");
    assert_eq!(json["version"], env!("CARGO_PKG_VERSION"));
    for name in ["commit", "target", "rustc"] {
        let value = json[name].as_str().expect(name);
        assert!(version.contains(value), "{name}: {version}");
    }
    assert_eq!(json["features"], serde_json::json!(["nats", "redis"]));
}

#[test]
fn the_table_is_shown_and_replaced() {
    let built_in = shown(&["channels", "--print-acl"], &[]);
    insta::assert_snapshot!("print_acl", built_in);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("acl.json");
    let path = file.to_str().expect("text");
    std::fs::write(&file, r#"{"guest":["a","b:*"]}"#).expect("written");
    let replaced = shown(&["channels", "--acl", path, "--print-acl"], &[]);
    assert_eq!(replaced, "{\n  \"guest\": [\"a\", \"b:*\"]\n}\n");
    std::fs::write(&file, r#"{"guest":"a"}"#).expect("written");
    for args in [
        &["channels", "--acl", path][..],
        &["channels", "--acl", path, "--print-acl"],
    ] {
        assert!(refused(args, &[]).ends_with("role \"guest\": not a list of texts\n"));
    }
    let keys = refused(&["channels"], &[("JWT_JWKS_FILE", "/none")]);
    assert_eq!(
        keys,
        "error: --jwt-jwks-file /none: No such file or directory (os error 2)\n"
    );
}

#[test]
fn a_check_shows_no_part_of_a_secret() {
    let env = [
        ("JWT_JWKS_URL", "https://idp/keys?code=s3cret"),
        ("REDIS_URL", "redis://ann:s3cret,s3cret@127.0.0.1:1/0"),
        ("REQUIRE_AUTH", "true"),
    ];
    for format in ["text", "json", "env"] {
        let check = ["channels", "--check", "--format", format];
        let told = weirgate(&check, &env);
        assert_eq!(told.status, 0, "{}", told.stderr);
        assert!(told.stdout.contains("ann:***@127.0.0.1:1/0"));
        assert!(told.stdout.contains("https://idp/keys?***"));
        assert!(!told.stdout.contains("s3cret"), "{}", told.stdout);
    }
}

#[test]
fn a_reader_that_goes_away_is_no_panic() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_weirgate"))
        .args(["levels", "--help"])
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert!(output.status.success(), "{}", output.status);
}

#[test]
fn health_exits_with_what_was_answered() {
    for (status_line, status) in [("HTTP/1.1 200 OK", 0), ("HTTP/1.1 503 Unavailable", 1)] {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("bound").port().to_string();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a connection");
            let mut request = Vec::new();
            let mut byte = [0];
            while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|n| n == 1) {
                request.extend(byte);
            }
            let answer = format!("{status_line}\r\nContent-Length: 2\r\n\r\n{{}}");
            stream.write_all(answer.as_bytes()).expect("sent");
        });
        let run = weirgate(&["health"], &[("GATEWAY_PORT", &port)]);
        server.join().expect("the server ends");
        assert_eq!(run.status, status, "{}", run.stderr);
        assert_eq!(run.stderr.is_empty(), status == 0);
    }
    // A container's health check knows 0 and 1 only.
    assert_eq!(weirgate(&["health"], &[("GATEWAY_PORT", "x")]).status, 1);
}

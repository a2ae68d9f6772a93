//! `loadtest limit` on every bus, with one and two threads, and `loadtest compare` on every gateway.

use std::process::ChildStdin;

use super::*;

/// A limit that ends with its standard input.
struct Limit {
    child: Ended,
    port: String,
    _stdin: ChildStdin,
}

fn limit(args: &[&str]) -> Limit {
    let mut child = Command::new(LOADTEST)
        .args(["limit", "--exit-with-stdin"])
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map(Ended)
        .unwrap();
    let mut ready = String::new();
    let mut out = BufReader::new(child.0.stdout.take().unwrap());
    out.read_line(&mut ready).unwrap();
    let mut words = ready.split_whitespace();
    let port = words.find_map(|word| word.strip_prefix("port=")).unwrap();
    let port = port.to_owned();
    Limit {
        _stdin: child.0.stdin.take().unwrap(),
        child,
        port,
    }
}

/// Ten clients of a limit; 500 messages by `publish`, half of them at once: each client gets each message once, in order.
fn everything_arrives_once(bus: &[&str], publish: &[&str], threads: &str) {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("clients.json");
    let limit = limit(&[bus, &["--threads", threads]].concat());
    let url = format!("ws://127.0.0.1:{}/ws/stream", limit.port);
    let clients = ["clients", &url, "-n", "10", "--seconds", "20"];
    let expect = ["--expect", "500", "--json", file.to_str().unwrap()];
    let mut clients = Command::new(LOADTEST)
        .args(clients)
        .args(expect)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map(Ended)
        .unwrap();
    let mut line = String::new();
    let mut stderr = BufReader::new(clients.0.stderr.take().unwrap());
    stderr.read_line(&mut line).unwrap();
    assert_eq!(line, "10 clients open\n");
    for more in [&["--rate", "1000"][..], &["--burst", "--from", "251"]] {
        let count = ["--count", "250", "--bytes", "300"];
        let published = loadtest(&[publish, &count, more].concat());
        assert!(published.status.success(), "{published:?}");
    }
    let is_good = clients.0.wait().unwrap().success();
    let seen = json(&file);
    assert!(is_good, "{bus:?}, {threads} threads: {seen}");
    let readers = &seen["readers"];
    assert_eq!(
        (&readers["deliveries"], &readers["not_rising"]),
        (&5_000.into(), &0.into()),
        "{bus:?}, {threads} threads"
    );
}

#[test]
fn a_limit_on_nats_delivers_every_message_once() {
    let nats = NatsServer::start();
    let url = nats.url();
    for threads in ["1", "2"] {
        let publish = ["publish", "nats", "--nats", &url];
        everything_arrives_once(&["--nats", &url], &publish, threads);
        // A login that the server does not ask for.
        let login = url.replace("//", "//user:password@");
        everything_arrives_once(&["--nats", &login, "--batched"], &publish, threads);
    }
}

#[test]
fn a_limit_on_a_stream_delivers_every_message_once_and_acknowledges_all() {
    let nats = NatsServer::start();
    let url = nats.url();
    let bus = ["--bus", "jetstream", "--nats", &url];
    for threads in ["1", "2"] {
        let publish = ["publish", "nats", "--nats", &url];
        // More messages than may be unacknowledged.
        everything_arrives_once(&bus, &publish, threads);
        everything_arrives_once(&[&bus[..], &["--batched"]].concat(), &publish, threads);
    }
    let settled = limit(&[&bus[..], &["--threads", "1"]].concat());
    let count = ["--count", "1500", "--rate", "20000", "--bytes", "300"];
    let published = loadtest(&[&["publish", "nats", "--nats", &url][..], &count].concat());
    assert!(published.status.success(), "{published:?}");
    let start = Instant::now();
    while unacknowledged(&url) != Some(0) {
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "{:?}",
            unacknowledged(&url)
        );
        std::thread::sleep(Duration::from_millis(100));
    }
    drop(settled);
}

/// Messages of the newest consumer without an acknowledgement, once all messages are delivered.
#[allow(
    deprecated,
    reason = "every entry point of the nats crate is marked so in favour of async-nats"
)]
fn unacknowledged(url: &str) -> Option<usize> {
    let jetstream = nats::jetstream::new(nats::connect(url).unwrap());
    let consumers = jetstream.list_consumers("MARKET_DATA").unwrap();
    let consumers: Vec<_> = consumers.map(Result::unwrap).collect();
    let newest = consumers
        .into_iter()
        .max_by_key(|consumer| consumer.created)?;
    (newest.num_pending == 0 && newest.delivered.consumer_seq >= 1_500)
        .then_some(newest.num_ack_pending)
}

#[test]
fn a_limit_on_redis_delivers_every_message_once() {
    let redis = RedisServer::start();
    let url = redis.url();
    for threads in ["1", "2"] {
        for batched in [&[][..], &["--batched"]] {
            let bus = ["--bus", "redis", "--redis", &url, "--subject", "a:*"];
            let publish = ["publish", "redis", "--redis", &url, "--subject", "a:b"];
            everything_arrives_once(&[&bus[..], batched].concat(), &publish, threads);
        }
    }
}

#[test]
fn a_limit_without_its_bus_ends() {
    let redis = RedisServer::start();
    let url = redis.url();
    for threads in ["1", "2"] {
        let refused = loadtest(&["limit", "--bus", "redis", "--redis", "redis://127.0.0.1:1"]);
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
        let wrong = loadtest(&["limit", "--bus", "redis", "--redis", "nats://127.0.0.1"]);
        assert_eq!(wrong.status.code(), Some(2), "{wrong:?} {threads}");
    }
    let mut limits =
        ["1", "2"].map(|threads| limit(&["--bus", "redis", "--redis", &url, "--threads", threads]));
    drop(redis);
    for limit in &mut limits {
        assert!(limit.child.0.wait().is_ok());
    }
}

#[test]
fn levels_have_a_row_beside_the_raw_limit_and_the_floor() {
    has_a_row("levels", "nats", "--nats {nats}");
    has_a_row("levels", "jetstream", "--nats {nats}");
}

#[test]
fn channels_have_a_row_beside_the_raw_limit_and_the_floor() {
    has_a_row("channels", "nats", "--nats {nats} --subject market.tick.S0");
    has_a_row(
        "channels",
        "redis",
        "--redis {redis} --subject market:tick:S0",
    );
}

#[test]
fn trades_have_a_row_beside_the_raw_limit_and_the_floor() {
    has_a_row(
        "trades",
        "redis",
        "--redis {redis} --subject channel:trade:S0",
    );
}

/// Compares a limit in the place of a server of this gateway, with the arguments `address`.
fn has_a_row(gateway: &str, bus: &str, address: &str) {
    let dir = TempDir::new().unwrap();
    let report = dir.path().to_str().unwrap();
    let server = format!(
        "weirgate={LOADTEST} limit --port {{port}} --bus {bus} --gateway {gateway} {address}"
    );
    let what = [
        "compare",
        "--gateway",
        gateway,
        "--bus",
        bus,
        "--server",
        &server,
    ];
    let limits = ["--limits", "threads", "--solo", "--ahead"];
    let late = ["--repeat-late", "1", "--wake-up-us", "100"];
    let row = ["--clients", "3", "--bytes", "300", "--rounds", "1"];
    let load = [
        "--messages",
        "200",
        "--rate",
        "1000",
        "--settle",
        "0.1",
        "--report",
        report,
    ];
    let output = loadtest(&[&what[..], &limits, &late, &row, &load].concat());
    assert!(output.status.success(), "{gateway}, {bus}: {output:?}");
    let seen = json(&dir.path().join("result.json"));
    let servers = &seen["cases"][0]["servers"];
    assert_eq!(compare::names(servers), ["raw limit", "floor", "weirgate"]);
    for server in servers.as_array().unwrap() {
        assert_eq!(server["lost"], 0);
        assert!(server["cpu_us_per_message"]["median"].as_f64() > Some(0.1));
        let bytes = |server: &Value| server["bytes_per_delivery"]["median"].as_f64();
        assert_eq!(bytes(server), bytes(&servers[0]));
    }
    let against = &servers[2]["against"];
    assert_eq!(compare::names(against), ["raw limit", "floor"]);
    assert!(against[0]["cpu"]["median"].as_f64() > Some(0.01));
    let table = std::fs::read_to_string(dir.path().join("table.md")).unwrap();
    let begin = format!("| {gateway} on {bus}, 3 clients, 300 B, 1000/s | raw limit |");
    assert!(table.lines().nth(2).unwrap().starts_with(&begin), "{table}");
    assert_eq!(table.lines().count(), 2 + 3, "{table}");
}

#[test]
fn a_saturated_row_has_a_bound_on_messages_under_way() {
    let server = limit_command();
    let args = [
        "--server",
        &server,
        "--limits",
        "threads",
        "--bus",
        "jetstream",
    ];
    let load = ["--in-flight", "64", "--rounds", "1", "--messages", "2000"];
    let dir = TempDir::new().unwrap();
    let few = ["compare", "--clients", "5", "--bytes", "300", "--report"];
    let report = [dir.path().to_str().unwrap()];
    let seen = result(&[&few[..], &report, &args, &load].concat());
    for server in seen["cases"][0]["servers"].as_array().unwrap() {
        assert_eq!(server["lost"], 0, "{server}");
        assert!(server["deliveries_per_s"]["median"].as_f64() > Some(1_000.0));
    }
    let table = std::fs::read_to_string(dir.path().join("table.md")).unwrap();
    let row = table.lines().last().unwrap();
    assert!(
        row.starts_with(
            "| levels on jetstream, 5 clients, 300 B, saturated, 64 in flight | loadtest |"
        ),
        "{row}"
    );
    assert!(
        row.contains("of the floor, ") && row.matches('|').count() == 14,
        "{row}"
    );
}

#[test]
fn a_gateway_on_a_bus_that_it_does_not_read_is_refused() {
    for (gateway, bus) in [
        ("levels", "redis"),
        ("channels", "jetstream"),
        ("trades", "nats"),
    ] {
        let output = loadtest(&["compare", "--aa", "--gateway", gateway, "--bus", bus]);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
    }
}

//! Every way in which an error of settings is shown: the setting, the source of its value, and what
//! would be right.

use std::ffi::OsStr;
use std::fs;
use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt;
use std::process::{Command, Stdio};

use crate::{shown, weirgate};

/// Arguments, environment, the exit status, and the texts that name setting, source and remedy.
type Case<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)], i32, &'a [&'a str]);

fn check(cases: &[Case]) {
    for &(args, env, status, says) in cases {
        let run = weirgate(args, env);
        assert_eq!((run.status, run.stdout.as_str()), (status, ""), "{args:?}");
        for text in says {
            assert!(
                run.stderr.contains(text),
                "{args:?} {env:?}: {}",
                run.stderr
            );
        }
        assert!(run.stderr.starts_with("error: "), "{}", run.stderr);
        assert!(!run.stderr.contains("s3cret"), "{}", run.stderr);
    }
}

#[test]
fn of_values() {
    check(&[
        // A flag, each kind of environment name, and a default beside a flag.
        (
            &["demo", "--port", "x"],
            &[],
            2,
            &["--port is \"x\"", "a port from 1 to 65535"],
        ),
        (
            &["demo"],
            &[("PORT", "x")],
            2,
            &["--port (env PORT) is \"x\"", "a port from 1"],
        ),
        (
            &["demo"],
            &[("WEIRGATE_PORT", "x")],
            2,
            &["--port (env WEIRGATE_PORT) is \"x\""],
        ),
        (
            &[
                "demo",
                "--port=4711",
                "--tls-port=4711",
                "--tls-cert=a",
                "--tls-key=a",
                "--reuse-port",
            ],
            &[],
            2,
            &["--tls-port: 127.0.0.1:4711 is in use by --listen"],
        ),
        (
            &[
                "demo",
                "--listen=127.0.0.1",
                "--port=4711",
                "--tls-port=4712",
                "--tls-cert=a",
                "--tls-key=a",
                "--admin-addr=[::]:4712",
            ],
            &[],
            2,
            &["--admin-addr: [::]:4712 is in use by --tls-port (127.0.0.1:4712)"],
        ),
        (
            &["channels"],
            &[("REDIS_PORT", "0"), ("REDIS_HOST", "h")],
            2,
            &["error: REDIS_PORT is \"0\"", "a port from 1"],
        ),
        (
            &["demo", "--send-queue-soft-bytes=2000000"],
            &[],
            2,
            &[
                "--send-queue-soft-bytes is 2000000 (flag)",
                "at most --send-queue-hard-bytes",
                "(default)",
            ],
        ),
        (
            &["demo"],
            &[("WEIRGATE_SEND_QUEUE_SOFT_BYTES", "2000000")],
            2,
            &["is 2000000 (env WEIRGATE_SEND_QUEUE_SOFT_BYTES)"],
        ),
        // Several at once.
        (
            &["demo", "--port=x", "--rate-hz=y"],
            &[("RUST_LOG", "loud")],
            2,
            &[
                "--port is",
                "--rate-hz is",
                "--log-filter (env RUST_LOG) is",
            ],
        ),
        // Missing, half, twice.
        (
            &["trades"],
            &[],
            2,
            &["--redis-url (env REDIS_URL) is needed", "redis://HOST:PORT"],
        ),
        (
            &["levels"],
            &[("NATS_CERT", "c")],
            2,
            &[
                "--nats-cert (env NATS_CERT)",
                "without --nats-key",
                "both or none",
            ],
        ),
        (
            &["levels", "--nats-creds=c"],
            &[("NATS_TOKEN", "s3cret")],
            2,
            &[
                "--nats-token (env NATS_TOKEN) and --nats-creds (flag)",
                "one of them",
            ],
        ),
        // A gateway's own rules.
        (
            &["levels"],
            &[("WEIRGATE_ENDPOINT", "/a=news")],
            2,
            &[
                "--endpoint (env WEIRGATE_ENDPOINT) is \"/a=news\"",
                "keys among flow",
            ],
        ),
        (
            &["channels", "--all-wildcards-max=10000"],
            &[("WEIRGATE_MEMORY_MAX", "67108864")],
            2,
            &[
                "--all-wildcards-max is \"10000\"",
                "at most 1576, the patterns that fit into all-channel-name-bytes",
            ],
        ),
        // Secrets and what may hold one.
        (
            &["levels"],
            &[("NATS_URL", "http://a:s3cret@h")],
            2,
            &["(env NATS_URL) is \"http://***\"", "nats://HOST"],
        ),
        // The command itself.
        (
            &[],
            &[("WEIRGATE_GATEWAY", "level")],
            2,
            &["WEIRGATE_GATEWAY is \"level\"", "levels or trades"],
        ),
        (
            &["health", "level"],
            &[],
            1,
            &["GATEWAY is \"level\"", "levels or trades"],
        ),
        (
            &["health"],
            &[("GATEWAY_PORT", "x")],
            1,
            &["--port (env GATEWAY_PORT) is \"x\""],
        ),
        (
            &["token", "inspect", "x"],
            &[("WEIRGATE_JWT_LEEWAY_MS", "x")],
            2,
            &[
                "--jwt-leeway-ms (env WEIRGATE_JWT_LEEWAY_MS) is \"x\"",
                "a whole number",
            ],
        ),
        // A variable of the shell that is not set.
        (
            &["token", "inspect", ""],
            &[],
            2,
            &["the token is empty", "standard input"],
        ),
        // Flags: a near miss, another gateway's, none at all.
        (
            &["levels", "--prot=1"],
            &[],
            2,
            &["'--prot'", "similar argument exists: '--port'"],
        ),
        (
            &["levels", "--seed=1"],
            &[],
            2,
            &["'--seed'", "--seed is a setting of demo"],
        ),
        (
            &["events", "--proxy-connections-per-ip-max=0"],
            &[],
            2,
            &[
                "error: --proxy-connections-per-ip-max is gone: an address gets a connection only while",
            ],
        ),
        (
            &["demo", "--redis-url=x"],
            &[],
            2,
            &["--redis-url is a setting of trades and channels"],
        ),
        (
            &["channels", "--wildcards-per-ip-max=5"],
            &[],
            2,
            &["error: --wildcards-per-ip-max is gone: an address gets a pattern only while"],
        ),
        (
            &["demo", "--port"],
            &[],
            2,
            &["--port <PORT>", "value is required"],
        ),
    ]);
}

/// Of whichever gateway the setting was: a start says in one line what took its place.
#[test]
fn of_settings_that_went() {
    for (args, env) in [
        (&["demo", "--orphans-max=5"][..], &[][..]),
        (&["channels", "--orphans-max", "5", "--check"], &[]),
        (&["demo"], &[("WEIRGATE_ORPHANS_MAX", "5")]),
        (&["events", "--check"], &[("WEIRGATE_ORPHANS_MAX", "5")]),
    ] {
        let run = weirgate(args, env);
        assert_eq!((run.status, run.stdout.as_str()), (2, ""), "{args:?}");
        let instead = " is gone: 10000 messages of devices that have gone may wait\n";
        assert!(run.stderr.ends_with(instead), "{}", run.stderr);
        assert_eq!(run.stderr.lines().count(), 1, "{}", run.stderr);
    }
    // Only a name of the replaced gateway is left: the environment of that gateway goes on to work.
    let run = weirgate(&["events", "--rate-limit-rps=5"], &[]);
    let instead = " is gone: use RATE_LIMIT_RPS in the environment\n";
    assert!(
        run.status == 2 && run.stderr.ends_with(instead),
        "{}",
        run.stderr
    );
    shown(&["events", "--check"], &[("RATE_LIMIT_RPS", "5")]);
}

#[test]
fn of_text_that_is_none() {
    let output = Command::new(env!("CARGO_BIN_EXE_weirgate"))
        .arg("demo")
        .env_clear()
        .env("GATEWAY_PORT", OsStr::from_bytes(&[0xFF]))
        .stdin(Stdio::null())
        .output()
        .expect("the binary runs");
    let told = String::from_utf8(output.stderr).expect("text");
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(told, "error: --port (env GATEWAY_PORT) is not UTF-8 text\n");
}

/// A full disk: half a file must not pass for a whole one.
#[test]
fn of_output_that_cannot_be_written() {
    for args in [
        &["channels", "--check", "--format", "env"][..],
        &["completions", "bash"],
        &["man"],
        &["version", "--json"],
    ] {
        let full = fs::File::options().write(true).open("/dev/full");
        let output = Command::new(env!("CARGO_BIN_EXE_weirgate"))
            .args(args)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(full.expect("the device of Linux"))
            .output()
            .expect("the binary runs");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{args:?} {told}");
        assert!(
            told.ends_with(
                "error: cannot write to standard output: No space left on device (os error 28)\n"
            ),
            "{told}"
        );
    }
}

#[test]
fn of_files() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).expect("written");
        path.to_str().expect("text").to_owned()
    };
    let (empty, words) = (file("empty", ""), file("words", "loud\n"));
    let redis = ("REDIS_URL", "rediss://127.0.0.1:1");
    check(&[
        (
            &["demo", "--log-filter-file", "/none"],
            &[],
            2,
            &["--log-filter-file (flag) /none: No such file"],
        ),
        (
            &["demo"],
            &[("WEIRGATE_LOG_FILTER_FILE", &words)],
            2,
            &[
                "--log-filter-file (env WEIRGATE_LOG_FILTER_FILE) ",
                &words,
                "not error, warn, info",
            ],
        ),
        (
            &[
                "events",
                "--lobby-url=https://h",
                "--upstream-ca-file",
                &empty,
            ],
            &[("INTERNAL_AUTH_TOKEN", "0123456789abcdef0123456789abcdef")],
            2,
            &["--upstream-ca-file: ", &empty],
        ),
    ]);
    check(&[
        (&["channels", "--acl", &empty], &[], 2, &["--acl ", &empty]),
        (
            &["channels"],
            &[("JWT_JWKS_FILE", &words)],
            2,
            &["--jwt-jwks-file ", &words],
        ),
        (
            &["channels"],
            &[("JWT_PUBLIC_KEY_FILES", "/none")],
            2,
            &["--jwt-public-key-files /none: No such file"],
        ),
        (
            &["trades", "--redis-ca-file", &empty],
            &[redis],
            2,
            &["--redis-ca-file: ", &empty],
        ),
        (
            &["token", "inspect", "x", "--jwt-jwks-file", "/none"],
            &[],
            1,
            &["--jwt-jwks-file /none: No such file"],
        ),
    ]);
}

#[test]
fn of_addresses() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = taken.local_addr().expect("bound").to_string();
    let port = addr.rsplit(':').next().expect("a port");
    check(&[
        (
            &["demo"],
            &[("PORT", port)],
            1,
            &[
                "cannot listen on 127.0.0.1:",
                "another process listens there",
                "--port (env PORT)",
            ],
        ),
        (
            &["demo", "--port=0", "--admin-addr", &addr],
            &[],
            1,
            &["cannot listen on 127.0.0.1:", "see --admin-addr (flag)"],
        ),
        (
            &["demo", "--port=0", "--listen=192.0.2.1"],
            &[],
            1,
            &[
                "cannot listen on 192.0.2.1:0",
                "no address of this machine",
                "--listen (flag)",
            ],
        ),
        (
            &["demo", "--listen=unix:/none/a"],
            &[],
            1,
            &["cannot listen on unix:/none/a", "see --listen (flag)\n"],
        ),
        (
            &[
                "demo",
                "--listen=unix:/tmp/weirgate-no-such-owner",
                "--unix-socket-owner=no-such-user",
            ],
            &[],
            2,
            &["cannot listen on unix:/tmp/", "see --unix-socket-owner"],
        ),
    ]);
}

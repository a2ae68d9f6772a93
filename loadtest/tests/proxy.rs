//! `loadtest proxy` with a second nginx as the server, small bodies and bounds wide open.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

const BYTES: u64 = 3_000_000;

/// Passes everything on.
const PASSES: &str = "proxy_pass http://$2; proxy_request_buffering off; proxy_buffering off;";
/// Answers itself, whatever is sent.
const SWALLOWS: &str = "return 200 short;";
/// The same where something is asked for.
const SHORTENS: &str = "if (\\$request_method = GET) { return 200 short; } proxy_pass http://$2;";

/// Runs `loadtest proxy` on an nginx that does `location` with every path; its output, and its
/// result where there is one.
fn proxy(location: &str, more: &[&str]) -> (Output, Option<Value>) {
    let dir = TempDir::new().unwrap();
    let server = server(dir.path(), location);
    let result = dir.path().join("result.json");
    let output = Command::new(env!("CARGO_BIN_EXE_loadtest"))
        .env("PATH", path())
        .args(["proxy", "--server", &server, "--json"])
        .arg(&result)
        .args(["--bytes", &BYTES.to_string(), "--rounds", "3"])
        .args(more)
        .output()
        .unwrap();
    let result = fs::read_to_string(result).ok();
    let result = result.map(|text| serde_json::from_str(&text).unwrap());
    (output, result)
}

/// Debian puts nginx where not every PATH looks.
fn path() -> String {
    format!("{}:/usr/sbin", std::env::var("PATH").unwrap())
}

/// The command of an nginx that does `location`.
fn server(dir: &Path, location: &str) -> String {
    let places = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let places = places.map(|place| format!("{place}_temp_path {}/{place};", dir.display()));
    let script = format!(
        "cat > {dir}/nginx.conf <<END\n\
         daemon off; master_process off; pid {dir}/pid; error_log {dir}/errors; events {{}}\n\
         http {{\n\
         access_log off; client_max_body_size 0; {places}\n\
         server {{ listen 127.0.0.1:$1; location / {{ {location} }} }}\n\
         }}\n\
         END\n\
         exec nginx -p {dir} -c {dir}/nginx.conf\n",
        dir = dir.display(),
        places = places.concat(),
    );
    let file = dir.join("server.sh");
    fs::write(&file, script).unwrap();
    format!("sh {} {{port}} {{upstream}}", file.display())
}

fn said(output: &Output) -> String {
    let bytes = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn bodies_pass_both_ways_through_both_proxies() {
    let wide_open = ["--ratio-max", "1000", "--growth-max", "1000"];
    let (output, result) = proxy(PASSES, &wide_open);
    assert!(output.status.success(), "{}", said(&output));
    let result = result.unwrap();
    assert_eq!(result["bytes"], BYTES);
    let number = |name: &str| result[name].as_u64().unwrap();
    assert!(number("rss_peak_bytes") >= number("rss_start_bytes"));
    assert!(number("rss_start_bytes") > 0);
    let directions = result["directions"].as_array().unwrap();
    for (direction, name) in directions.iter().zip(["upload", "download"]) {
        assert_eq!(direction["direction"], name);
        for seconds in ["server_seconds", "nginx_seconds"] {
            let seconds = direction[seconds].as_array().unwrap();
            assert_eq!(seconds.len(), 3);
            assert!(seconds.iter().all(|s| s.as_f64().unwrap() > 0.0));
        }
        assert!(direction["ratio"]["median"].as_f64().unwrap() > 0.0);
    }
    assert_eq!(directions.len(), 2);
}

#[test]
fn a_bound_that_is_passed_fails() {
    for (bounds, words) in [
        (
            ["--ratio-max=0.0001", "--growth-max=1000"],
            "times nginx's time",
        ),
        (
            ["--ratio-max=1000", "--growth-max=-1"],
            "resident memory grew",
        ),
    ] {
        let (output, result) = proxy(PASSES, &bounds);
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        assert!(said(&output).contains(words), "{}", said(&output));
        assert!(result.is_some(), "the figures are written all the same");
    }
}

#[test]
fn a_body_that_is_not_whole_fails() {
    for (location, words) in [(SWALLOWS, "upload: 0 of"), (SHORTENS, "download: 5 of")] {
        let (output, _) = proxy(location, &[]);
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        assert!(said(&output).contains(words), "{}", said(&output));
    }
}

#[test]
fn a_server_that_does_not_start_is_told() {
    let missing = ["proxy", "--server", "exit 3"];
    let output = Command::new(env!("CARGO_BIN_EXE_loadtest"))
        .env("PATH", path())
        .args(missing)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
}

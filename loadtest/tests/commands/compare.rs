//! `loadtest compare`.

use super::*;

/// A comparison small enough for a test.
pub(crate) const SMALL: [&str; 9] = [
    "compare",
    "--clients",
    "20",
    "--messages",
    "20",
    "--bytes",
    "2048",
    "--settle",
    "0.2",
];

pub(crate) fn names(servers: &Value) -> Vec<&str> {
    let servers = servers.as_array().unwrap();
    servers
        .iter()
        .map(|s| s["name"].as_str().unwrap())
        .collect()
}

#[test]
fn compare_puts_a_server_beside_both_limits() {
    let server = limit_command();
    for pace in [["--rate", "100"], ["--in-flight", "4"]] {
        let args = ["--aa", "--server", &server, "--rounds", "2"];
        let seen = result(&[&SMALL[..], &args, &pace].concat());
        let servers = &seen["cases"][0]["servers"];
        let expected = ["limit", "coalescing limit", "limit again", "loadtest"];
        assert_eq!(names(servers), expected);
        for s in servers.as_array().unwrap() {
            assert_eq!(
                (&s["lost"], &s["deliveries"]),
                (&0.into(), &(2 * 20 * 20).into())
            );
            assert_eq!(s["bytes_per_delivery"]["median"], 2057.0);
            assert!(s["cpu_us_per_handshake"]["median"].as_f64() > Some(1.0));
            for round in s["rounds"].as_array().unwrap() {
                let counts = round["histogram_us"].as_array().unwrap().iter();
                let count: u64 = counts.map(|bar| bar[1].as_u64().unwrap()).sum();
                assert_eq!(count, 20 * 20, "every sample is there");
                assert_eq!(round["messages_us"].as_array().unwrap().len(), 20);
                // Counted in ticks of 10 ms, which so few messages may not fill.
                assert!(round["machine_us_per_delivery"].as_f64() >= Some(0.0));
                assert!(!round["machine"]["cpus"].as_array().unwrap().is_empty());
            }
        }
        assert_eq!(servers[0]["against"][0]["name"], "coalescing limit");
        for figure in ["cpu", "handshake"] {
            assert!(servers[3]["against"][0][figure]["median"].as_f64() > Some(0.1));
        }
        assert_eq!(
            (&seen["base"], &seen["first"]),
            (&"limit".into(), &Value::Null)
        );
    }
}

#[test]
fn compare_leaves_out_a_peer_that_fails() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("result.json");
    let first = format!("first={}", limit_command());
    let silent = format!("silent={} --subject of.nobody", limit_command());
    let peer = format!("peer={}", limit_command());
    let servers = ["--server", &first, "--server", &silent, "--server", &peer];
    let rest = [
        "--rounds", "1", "--limits", "raw", "--rate", "200", "--json",
    ];
    let output = loadtest(&[&SMALL[..], &servers, &rest, &[file.to_str().unwrap()]].concat());
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    let why = "silent is left out: server: silent: no message arrived";
    assert!(said.contains(why), "{said}");
    let seen = json(&file);
    assert_eq!(seen["rounds"], 1);
    assert_eq!(
        names(&seen["cases"][0]["servers"]),
        ["limit", "first", "peer"]
    );
    // Without the first there is nothing to compare with.
    let servers = ["--server", &silent, "--server", &peer, "--rate", "200"];
    let output = loadtest(&[&SMALL[..], &servers].concat());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("no message arrived") && output.status.code() == Some(1));
    assert!(!said.contains("left out"), "{said}");
}

#[test]
fn compare_takes_several_servers_and_cases_and_turns_their_order() {
    let new = format!("new={}", limit_command());
    let plain = limit_command();
    let seen = result(&[
        "compare",
        "--server",
        &new,
        "--server",
        &plain,
        "--server",
        &plain,
        "--limits",
        "raw",
        "--rounds",
        "2",
        "--clients",
        "5,10",
        "--bytes",
        "200,2048",
        "--messages",
        "4",
        "--settle",
        "0.1",
        "--warm-up",
        "1",
    ]);
    let cases = seen["cases"].as_array().unwrap();
    let of = |case: &Value| {
        (
            case["clients"].as_u64().unwrap(),
            case["bytes"].as_u64().unwrap(),
        )
    };
    let expected = [(5, 200), (10, 200), (5, 2048), (10, 2048)];
    assert_eq!(cases.iter().map(of).collect::<Vec<_>>(), expected);
    for case in cases {
        let servers = &case["servers"];
        assert_eq!(names(servers), ["limit", "new", "loadtest", "loadtest 2"]);
        let places = |round: usize| {
            let servers = servers.as_array().unwrap().iter();
            let place = |s: &Value| s["rounds"][round]["position"].as_u64().unwrap();
            servers.map(place).collect::<Vec<_>>()
        };
        assert_eq!((places(0), places(1)), (vec![0, 1, 2, 3], vec![3, 0, 1, 2]));
        let against: Vec<&str> = names(&servers[2]["against"]);
        assert_eq!(against, ["limit", "new"]);
        assert_eq!(servers[2]["against"][1]["cpu"]["n"], 2);
    }
    assert_eq!(seen["first"], "new");
}

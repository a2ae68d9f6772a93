//! Subjects without JetStream on a cluster, and what its servers announce.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;

use weirgate_test_support::NatsCluster;

use super::subjects::*;
use super::*;

#[test]
fn a_server_that_stands_still_is_left_for_another_one_that_does_not() {
    let cluster = NatsCluster::start();
    // The URL names one: the others are learned from it.
    let source = run_with(&cluster[0].url(), &["a"]);
    cluster[0].freeze();
    let seen = source.until("CaughtUp");
    assert_eq!(seen, ["Down", "Gap", "+a", "Up", "CaughtUp"]);
    say(&client(&cluster[1].url()), "a", "1");
    assert_eq!(source.next(), "a: 1");
    cluster[0].thaw();
}

/// A server announces to its clients who joins the cluster after them.
#[test]
fn a_server_that_joins_later_takes_over() {
    for is_killed in [false, true] {
        let mut cluster = NatsCluster::start_first();
        let source = run_with(&cluster[0].url(), &["a"]);
        cluster.join(1);
        // The announcement comes before what the server relays from here on.
        say(&client(&cluster[0].url()), "a", "0");
        assert_eq!(source.next(), "a: 0");
        let lost = match is_killed {
            false => {
                cluster[0].freeze();
                ["Down", "Gap"]
            }
            true => {
                cluster[0].kill();
                ["Gap", "Down"]
            }
        };
        let seen = source.until("CaughtUp");
        assert_eq!(seen[..2], lost);
        assert_eq!(seen[2..], ["+a", "Up", "CaughtUp"]);
        say(&client(&cluster[1].url()), "a", "1");
        assert_eq!(source.next(), "a: 1");
        if !is_killed {
            cluster[0].thaw();
        }
    }
}

/// A server of a cluster sends another INFO behind its first PONG, in one piece with it or in two.
#[test]
fn a_line_behind_the_first_pong_is_read() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("nats://{}", listener.local_addr().expect("an address"));
    thread::spawn(move || {
        let (mut server, _) = listener.accept().expect("a connection");
        let mut say = server.try_clone().expect("another handle");
        say.write_all(b"INFO {}\r\n").expect("written");
        let mut has_begun = false;
        let mut lines = BufReader::new(&mut server).lines();
        while let Some(Ok(line)) = lines.next() {
            if line == "PING" && !has_begun {
                has_begun = true;
                say.write_all(b"PONG\r\nINFO {\"server_id\":")
                    .expect("written");
                thread::sleep(Duration::from_millis(100));
                say.write_all(b"\"x\"}\r\n").expect("written");
            } else if line == "PING" {
                say.write_all(b"PONG\r\n").expect("written");
            }
        }
    });
    let source = run_with(&url, &["a"]);
    source.nothing_comes_for(Duration::from_millis(500));
}

//! The first line of a server, and what the crate gets of it.

use std::net::TcpListener;

use super::*;
use crate::sources::nats::settings::{Credentials, Tls};

#[test]
fn the_servers_words_are_taken_out() {
    let error =
        io::Error::other("unexpected line while connecting: Err(\"Authorization Violation\")");
    assert_eq!(reason(&error), "Authorization Violation");
    assert_eq!(
        reason(&io::Error::other("no certificate")),
        "no certificate"
    );
}

#[test]
fn a_silent_server_and_another_protocol_are_told_apart() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("127.0.0.1:{}", listener.local_addr().unwrap().port());
    let endpoint = Endpoint::parse(&url).map_err(|e| e.to_string()).unwrap();
    // Nobody accepts: the kernel does.
    let settings = NatsSettings {
        urls_from: "--bus".to_owned(),
        ..NatsSettings::plain(&url, Credentials::None, Tls::default())
    };
    let servers = endpoint.servers(&settings);
    let endpoint = servers.map_err(|e| e.to_string()).unwrap().remove(0);
    let failed = || {
        let (mut waiter, _) = waiter("a test").unwrap();
        let patience = Patience::USUAL;
        let greeted = Greeted::connect(&mut waiter, &endpoint, patience, FIRST_LINE_TIMEOUT);
        let error = greeted.map(drop).unwrap_err();
        endpoint.unreachable(&settings, error).to_string()
    };
    let silent = failed();
    assert!(silent.contains("says nothing"), "{silent}");
    assert!(silent.contains("check --bus, "), "{silent}");
    let other = std::thread::spawn(move || {
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.write_all(b"220 mail.example ESMTP\r\n");
        }
    });
    let wrong = failed();
    assert!(wrong.contains("is not a NATS server"), "{wrong}");
    other.join().unwrap();
}

#[test]
fn the_crate_hears_nothing_of_tls() {
    let line = "INFO {\"server_id\":\"X\",\"tls_required\":true,\"nonce\":\"n\",\"connect_urls\":[\"a:1\"]} \r\n";
    let read = |line: &str| Info::read(line).expect("a line");
    let is_wanted = |line: &str| read(line).tls_required;
    assert!(is_wanted(line));
    assert_eq!(read(line).connect_urls, ["a:1"]);
    assert!(read("INFO {}").connect_urls.is_empty());
    for odd in ["null", "7", "\"x\"", "[1]", "{}"] {
        let line = format!(
            "INFO {{\"cluster\":{odd},\"max_payload\":{odd},\"connect_urls\":{odd},\"tls_required\":true}}\r\n"
        );
        assert!(is_wanted(&line), "{line}");
    }
    let plain = plain_info(line).expect("a line");
    assert_eq!(read(line).nonce, "n");
    let plain = String::from_utf8(plain).expect("text");
    assert!(!is_wanted(&plain));
    let json = plain.strip_prefix("INFO ").expect("the verb").trim_end();
    let info: serde_json::Value = serde_json::from_str(json).expect("JSON");
    assert_eq!(info, serde_json::json!({"server_id": "X", "nonce": "n"}));
    assert!(!is_wanted("INFO {}\r\n"));
    for wrong in [
        "nonsense".to_owned(),
        format!(r#"{{"x":{}"#, "[".repeat(100_000)),
    ] {
        let wrong = format!("INFO {wrong}\r\n");
        assert!(plain_info(&wrong).is_err() && Info::read(&wrong).is_err());
    }
}

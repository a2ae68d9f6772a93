//! The words on standard output at the start: the block that the levels gateway's document shows.

use std::net::SocketAddr;

use super::secret::SecretUrl;

const RULE: &str = "============================================================";

/// The block at the start of `weirgate levels`. `port` is the one that is listened on.
pub fn levels_start(nats_url: &SecretUrl, port: u16) -> String {
    format!(
        "{RULE}\nGATEWAY SERVICE\n{RULE}\n  NATS URL: {nats_url}\n  \
         WebSocket: ws://localhost:{port}/ws/stream\n{RULE}"
    )
}

/// The last line of the levels banner, once both subscriptions stand.
pub fn levels_subscribed() -> String {
    "✅ Gateway subscribed to NATS subjects".to_owned()
}

/// The start of `weirgate demo`: what to open. An address that stands for all is shown as
/// `localhost`.
pub fn demo_start(listen: SocketAddr) -> String {
    let host = match listen.ip() {
        ip if ip.is_unspecified() || ip.is_loopback() => "localhost".to_owned(),
        ip if ip.is_ipv6() => format!("[{ip}]"),
        ip => ip.to_string(),
    };
    let port = listen.port();
    format!(
        "weirgate demo: a simulated market\n  Page:      http://{host}:{port}/\n  \
         WebSocket: ws://{host}:{port}/ws/stream"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_levels_block_is_the_documents() {
        let url = SecretUrl::new("nats://nats:4222");
        let expected = "\
============================================================
GATEWAY SERVICE
============================================================
  NATS URL: nats://nats:4222
  WebSocket: ws://localhost:8000/ws/stream
============================================================
✅ Gateway subscribed to NATS subjects
";
        let start = levels_start(&url, 8000);
        assert_eq!(format!("{start}\n{}\n", levels_subscribed()), expected);
    }

    #[test]
    fn the_banner_hides_the_password() {
        let url = SecretUrl::new("nats://ann:s3cret@nats:4222");
        let start = levels_start(&url, 9000);
        assert!(start.contains("  NATS URL: nats://ann:***@nats:4222\n"));
        assert!(!start.contains("s3cret"));
    }

    #[test]
    fn the_demo_says_what_to_open() {
        for (listen, page) in [
            ("127.0.0.1:8000", "http://localhost:8000/\n"),
            ("[::]:80", "http://localhost:80/\n"),
            ("10.0.0.1:80", "http://10.0.0.1:80/\n"),
            ("[fd00::1]:80", "http://[fd00::1]:80/\n"),
        ] {
            let shown = listen.parse().map(demo_start);
            assert!(shown.is_ok_and(|text| text.contains(page)), "{listen}");
        }
    }
}

//! The words on standard output at the start: the block that the levels gateway's document shows.

use crate::settings::SecretUrl;

const RULE: &str = "============================================================";

/// The block at the start of `weirgate levels`. `port` is the one that is listened on.
pub(super) fn levels_start(nats_url: &SecretUrl, port: u16) -> String {
    format!(
        "{RULE}\nGATEWAY SERVICE\n{RULE}\n  NATS URL: {nats_url}\n  \
         WebSocket: ws://localhost:{port}/ws/stream\n{RULE}"
    )
}

/// The last line of the levels banner, once both subscriptions stand.
pub(super) fn levels_subscribed() -> String {
    "✅ Gateway subscribed to NATS subjects".to_owned()
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
}

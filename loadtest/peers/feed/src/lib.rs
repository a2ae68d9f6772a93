//! What all peers in Rust have in common: the port, and the messages of a NATS subject.

use std::io::{BufRead, BufReader, Read, Result, Write};
use std::net::{SocketAddr, TcpStream};

/// The address to listen on: 127.0.0.1, port `GATEWAY_PORT`.
pub fn address() -> SocketAddr {
    let port = std::env::var("GATEWAY_PORT").unwrap_or_default();
    SocketAddr::from(([127, 0, 0, 1], port.parse().unwrap_or(8000)))
}

/// Calls `on` with `{"flow":PAYLOAD}` for each message of `market.flow` at `NATS_URL`; returns when
/// the connection ends. Speaks the protocol of core NATS, without a library.
pub fn run(mut on: impl FnMut(String)) -> Result<()> {
    let url = std::env::var("NATS_URL").unwrap_or_else(|_| "nats://127.0.0.1:4222".into());
    let mut to = TcpStream::connect(url.trim_start_matches("nats://"))?;
    to.set_nodelay(true)?;
    let mut from = BufReader::with_capacity(256 * 1024, to.try_clone()?);
    to.write_all(b"CONNECT {\"verbose\":false}\r\nSUB market.flow 1\r\n")?;
    let mut line = String::new();
    loop {
        line.clear();
        if from.read_line(&mut line)? == 0 {
            return Ok(());
        }
        if line.starts_with("PING") {
            to.write_all(b"PONG\r\n")?;
        } else if line.starts_with("MSG ") {
            // MSG subject sid [reply] bytes
            let bytes = line
                .split_whitespace()
                .last()
                .and_then(|n| n.parse().ok())
                .unwrap_or(0);
            let mut text = String::with_capacity(bytes + 9);
            text.push_str(r#"{"flow":"#);
            from.by_ref().take(bytes as u64).read_to_string(&mut text)?;
            text.push('}');
            from.read_exact(&mut [0; 2])?;
            on(text);
        }
    }
}

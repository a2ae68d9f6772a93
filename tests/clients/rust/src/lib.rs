//! The line protocol of the client programs (see ../README.md): what all clients in Rust share.
use hyper::HeaderMap;
use std::io::{BufRead, Write};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// What the driver wants of the client.
pub enum Command {
    Send(String),
    Close(u16),
}

/// The URL, and the subprotocols as one header value.
pub fn arguments() -> (String, Option<String>) {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().expect("a URL");
    let protocols = arguments.collect::<Vec<_>>().join(", ");
    (url, (!protocols.is_empty()).then_some(protocols))
}

/// A line for the driver: `open PROTOCOL`, `text TEXT`, `closed CODE`, `failed WHY`.
pub fn show(word: &str, value: impl std::fmt::Display) {
    writeln!(std::io::stdout().lock(), "{word} {value}").expect("the driver reads");
}

/// The subprotocol in the answer to the handshake.
pub fn subprotocol(answer: &HeaderMap) -> &str {
    answer
        .get("Sec-WebSocket-Protocol")
        .map_or("", |value| value.to_str().unwrap_or("?"))
}

/// The lines of the driver; their end ends the program.
pub fn commands() -> UnboundedReceiver<Command> {
    let (sender, receiver) = unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            let (word, rest) = line.split_once(' ').expect("a word and its value");
            let command = match word {
                "close" => Command::Close(rest.parse().expect("a code")),
                _ => Command::Send(rest.to_owned()),
            };
            let _ = sender.send(command);
        }
        std::process::exit(0);
    });
    receiver
}

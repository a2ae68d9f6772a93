//! axum's WebSocket: one task per client, each with a receiver of one broadcast channel.
//!
//! `peer-axum` leaves the buffers as they come, `peer-axum 4096` sets the read buffer of each client. Over TLS with
//! `TLS_CERT` and `TLS_KEY`.

mod tls;

use axum::Router;
use axum::extract::ws::{Message, Utf8Bytes, WebSocket, WebSocketUpgrade};
use axum::routing::get;
use tokio::sync::broadcast::{self, Receiver, error::RecvError};

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let read_buffer_bytes = std::env::args().nth(1).and_then(|bytes| bytes.parse().ok());
    let (sender, _) = broadcast::channel::<Utf8Bytes>(256);
    let messages = sender.clone();
    std::thread::spawn(move || {
        let _ = feed::run(|text| {
            let _ = messages.send(text.into());
        });
        std::process::exit(0);
    });
    let upgrade = move |upgrade: WebSocketUpgrade| async move {
        let upgrade = match read_buffer_bytes {
            Some(bytes) => upgrade.read_buffer_size(bytes),
            None => upgrade,
        };
        upgrade.on_upgrade(move |socket| client(socket, sender.subscribe()))
    };
    let app = Router::new().route("/ws/stream", get(upgrade));
    let listener = tokio::net::TcpListener::bind(feed::address()).await?;
    match tls::acceptor()? {
        Some(acceptor) => axum::serve(tls::Clients::accepted(listener, acceptor)?, app).await,
        None => axum::serve(listener, app).await,
    }
}

async fn client(mut socket: WebSocket, mut messages: Receiver<Utf8Bytes>) {
    loop {
        tokio::select! {
            message = messages.recv() => match message {
                Ok(text) => if socket.send(Message::Text(text)).await.is_err() { return },
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            },
            received = socket.recv() => if !matches!(received, Some(Ok(_))) { return },
        }
    }
}

//! tokio-websockets.
use futures_util::{SinkExt, StreamExt};
use real_clients::{Command, arguments, commands, show, subprotocol};
use tokio_websockets::{ClientBuilder, CloseCode, Limits, Message};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (url, protocols) = arguments();
    let mut builder = ClientBuilder::from_uri(url.parse()?).limits(Limits::unlimited());
    if let Some(protocols) = protocols {
        builder = builder.add_header("Sec-WebSocket-Protocol".parse()?, protocols.parse()?)?;
    }
    let (mut link, response) = builder.connect().await?;
    show("open", subprotocol(response.headers()));
    let mut commands = commands();
    loop {
        tokio::select! {
            message = link.next() => match message {
                Some(Ok(message)) if message.is_close() => {
                    show("closed", message.as_close().map_or(1005, |(code, _)| u16::from(code)));
                }
                Some(Ok(message)) => if let Some(text) = message.as_text() { show("text", text) },
                Some(Err(error)) => show("failed", error),
                None => return Ok(()),
            },
            Some(command) = commands.recv() => link.send(match command {
                Command::Send(text) => Message::text(text),
                Command::Close(code) => Message::close(CloseCode::try_from(code).ok(), ""),
            }).await?,
        }
    }
}

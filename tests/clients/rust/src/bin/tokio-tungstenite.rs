//! tokio-tungstenite.
use futures_util::{SinkExt, StreamExt};
use real_clients::{Command, arguments, commands, show, subprotocol};
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message, client::IntoClientRequest};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (url, protocols) = arguments();
    let mut request = url.into_client_request()?;
    if let Some(protocols) = protocols {
        request
            .headers_mut()
            .insert("Sec-WebSocket-Protocol", protocols.parse()?);
    }
    let limits = WebSocketConfig::default()
        .max_message_size(None)
        .max_frame_size(None);
    let (mut link, response) =
        tokio_tungstenite::connect_async_with_config(request, Some(limits), false).await?;
    show("open", subprotocol(response.headers()));
    let mut commands = commands();
    loop {
        tokio::select! {
            message = link.next() => match message {
                Some(Ok(Message::Text(text))) => show("text", text),
                Some(Ok(Message::Close(frame))) => show("closed", frame.map_or(1005, |frame| frame.code.into())),
                Some(Err(Error::ConnectionClosed)) | None => return Ok(()),
                Some(Err(error)) => show("failed", error),
                Some(Ok(_)) => {}
            },
            Some(command) = commands.recv() => match command {
                Command::Send(text) => link.send(Message::text(text)).await?,
                Command::Close(code) => link.close(Some(CloseFrame { code: code.into(), reason: "".into() })).await?,
            },
        }
    }
}

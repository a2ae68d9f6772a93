//! yawc, with compression.
use futures_util::{SinkExt, StreamExt};
use real_clients::{Command, arguments, commands, show};
use yawc::{Frame, OpCode, Options, WebSocket};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (url, _) = arguments();
    let options = Options::default()
        .with_balanced_compression()
        .with_limits(1 << 24, 1 << 25);
    let mut link = WebSocket::connect(url.parse()?)
        .with_options(options)
        .await?;
    show("open", "");
    let mut commands = commands();
    loop {
        tokio::select! {
            frame = link.next() => match frame {
                Some(frame) if frame.opcode() == OpCode::Text => show("text", frame.as_str()),
                Some(frame) if frame.opcode() == OpCode::Close => show("closed", frame.close_code().map_or(1005, u16::from)),
                Some(_) => {}
                None => return Ok(()),
            },
            Some(command) = commands.recv() => link.send(match command {
                Command::Send(text) => Frame::text(text),
                Command::Close(code) => Frame::close(code.into(), ""),
            }).await?,
        }
    }
}

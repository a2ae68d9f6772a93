//! fastwebsockets on hyper.
use bytes::Bytes;
use fastwebsockets::{FragmentCollectorRead, Frame, OpCode, WebSocketError, handshake};
use http_body_util::Empty;
use hyper::{Request, Uri, rt::Executor};
use real_clients::{Command, arguments, commands, show, subprotocol};
use std::{future::Future, sync::Arc};
use tokio::{net::TcpStream, sync::Mutex};

struct Spawn;

impl<F: Future<Output: Send> + Send + 'static> Executor<F> for Spawn {
    fn execute(&self, future: F) {
        tokio::spawn(future);
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (url, protocols) = arguments();
    let uri: Uri = url.parse()?;
    let host = uri.authority().expect("a host").as_str();
    let mut request = Request::get(uri.path_and_query().expect("a path").as_str())
        .header("Host", host)
        .header("Upgrade", "websocket")
        .header("Connection", "Upgrade")
        .header("Sec-WebSocket-Key", handshake::generate_key())
        .header("Sec-WebSocket-Version", "13");
    if let Some(protocols) = protocols {
        request = request.header("Sec-WebSocket-Protocol", protocols);
    }
    let stream = TcpStream::connect(host).await?;
    let (link, response) =
        handshake::client(&Spawn, request.body(Empty::<Bytes>::new())?, stream).await?;
    show("open", subprotocol(response.headers()));

    let (read, write) = link.split(tokio::io::split);
    let (mut read, write) = (
        FragmentCollectorRead::new(read),
        Arc::new(Mutex::new(write)),
    );
    let (writer, mut commands) = (Arc::clone(&write), commands());
    tokio::spawn(async move {
        while let Some(command) = commands.recv().await {
            let frame = match command {
                Command::Send(text) => Frame::text(text.into_bytes().into()),
                Command::Close(code) => Frame::close(code, b""),
            };
            writer
                .lock()
                .await
                .write_frame(frame)
                .await
                .expect("a frame is written");
        }
    });
    loop {
        let mut answer = |frame| async { write.lock().await.write_frame(frame).await };
        let frame = read.read_frame::<_, WebSocketError>(&mut answer).await?;
        match frame.opcode {
            OpCode::Text => show("text", std::str::from_utf8(&frame.payload)?),
            OpCode::Close => {
                return Ok(show(
                    "closed",
                    u16::from_be_bytes(frame.payload[..2].try_into()?),
                ));
            }
            _ => {}
        }
    }
}

//! The service behind both proxies: accepts uploads and sends downloads of a requested size.

use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;

use super::transfer::{self, header};
use crate::fault::{Fault, Tried};

/// A service for the life of the process.
pub(super) struct Service {
    pub(super) addr: SocketAddr,
}

impl Service {
    pub(super) fn start() -> Result<Self, Fault> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).tried("listen")?;
        let addr = listener.local_addr().tried("own address")?;
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // Each thread ends with the connection; errors show at the client.
                thread::spawn(move || serve(stream));
            }
        });
        Ok(Self { addr })
    }
}

/// Responds to `POST` after the body, with the number of body bytes in `X-Bytes`, and to `GET` with
/// as many bytes as `X-Bytes` requests.
fn serve(mut stream: TcpStream) -> io::Result<()> {
    loop {
        let Some((head, early)) = transfer::head(&mut stream)? else {
            return Ok(());
        };
        let number = |name| header(&head, name).and_then(|value| value.parse::<u64>().ok());
        if head.starts_with("POST ") {
            let bytes = number("content-length").unwrap_or(0);
            transfer::discard(&mut stream, bytes.saturating_sub(early.len() as u64))?;
            let got = format!("X-Bytes: {bytes}\r\nContent-Length: 0");
            write!(stream, "HTTP/1.1 200 OK\r\n{got}\r\n\r\n")?;
        } else {
            let bytes = number("x-bytes").unwrap_or(0);
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {bytes}\r\n\r\n")?;
            transfer::send(&mut stream, bytes)?;
        }
    }
}

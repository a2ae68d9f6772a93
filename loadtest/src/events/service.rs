//! A service behind the gateway: echoes the body of each request a fixed time after the end of the
//! request, or never responds.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;

use crate::clock;
use crate::fault::{Fault, Tried};
use crate::http;

/// A service for the life of the process.
pub(super) struct Service {
    pub(super) addr: SocketAddr,
}

impl Service {
    /// Starts a service with this response time; `None`: no responses.
    pub(super) fn start(answer_after_us: Option<u64>) -> Result<Self, Fault> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).tried("listen")?;
        let addr = listener.local_addr().tried("own address")?;
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A thread each, so no response waits for another. The thread ends with the connection;
                // errors show at the client.
                thread::spawn(move || match answer_after_us {
                    Some(after_us) => answer(stream, after_us),
                    None => swallow(stream),
                });
            }
        });
        Ok(Self { addr })
    }
}

fn answer(mut stream: TcpStream, after_us: u64) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut read, mut block) = (Vec::new(), [0; 16 * 1024]);
    let mut out = Vec::new();
    loop {
        while let Some(body) = http::body(&read) {
            let at_us = clock::now_us() + after_us;
            out.clear();
            write!(
                out,
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
                body.len()
            )?;
            out.extend_from_slice(&read[body.clone()]);
            read.drain(..body.end);
            clock::sleep_until(at_us);
            stream.write_all(&out)?;
        }
        match stream.read(&mut block)? {
            0 => return Ok(()),
            n => read.extend_from_slice(&block[..n]),
        }
    }
}

fn swallow(mut stream: TcpStream) -> io::Result<()> {
    io::copy(&mut stream, &mut io::sink()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_the_body_and_takes_its_time() {
        let service = Service::start(Some(20_000)).unwrap();
        let mut stream = TcpStream::connect(service.addr).unwrap();
        for text in ["{}", r#"{"a":1}"#] {
            let begun = clock::now_us();
            let length = text.len();
            write!(
                stream,
                "POST / HTTP/1.1\r\nContent-Length: {length}\r\n\r\n{text}"
            )
            .unwrap();
            let mut answer = Vec::new();
            let body = loop {
                let mut block = [0; 512];
                let n = stream.read(&mut block).unwrap();
                assert!(n > 0);
                answer.extend_from_slice(&block[..n]);
                if let Some(body) = http::body(&answer) {
                    break body;
                }
            };
            assert!(clock::now_us() >= begun + 20_000);
            assert_eq!(&answer[body], text.as_bytes());
        }
    }
}

//! A body through a proxy, on a separate connection.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::fault::{Fault, Tried};

/// Bytes of a write or read on both sides.
const BLOCK_BYTES: usize = 64 * 1024;

/// Longest wait without progress.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug)]
pub(super) enum Direction {
    Upload,
    Download,
}

impl Direction {
    pub(super) const ALL: [Self; 2] = [Self::Upload, Self::Download];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Upload => "upload",
            Self::Download => "download",
        }
    }
}

/// Sends or gets a body of `bytes` bytes; fails if the body is incomplete.
pub(super) fn run(
    direction: Direction,
    addr: SocketAddr,
    path: &str,
    bytes: u64,
) -> Result<(), Fault> {
    let mut stream = TcpStream::connect(addr).tried("connect")?;
    for timeout in [TcpStream::set_read_timeout, TcpStream::set_write_timeout] {
        timeout(&stream, Some(PATIENCE)).tried("timeout")?;
    }
    let (line, length) = match direction {
        Direction::Upload => ("POST", format!("Content-Length: {bytes}")),
        Direction::Download => ("GET", format!("X-Bytes: {bytes}")),
    };
    write!(
        stream,
        "{line} {path} HTTP/1.1\r\nHost: localhost\r\n{length}\r\n\r\n"
    )
    .tried("request")?;
    if matches!(direction, Direction::Upload) {
        send(&mut stream, bytes).tried("upload")?;
    }
    let answer = head(&mut stream).tried("answer")?;
    let (head, early) = answer.ok_or_else(|| Fault::Failed("no answer".into()))?;
    if !head.starts_with("HTTP/1.1 200 ") {
        return Err(Fault::Failed(head));
    }
    let number = |name| header(&head, name).and_then(|value| value.parse::<u64>().ok());
    let length = number("content-length").unwrap_or(0);
    discard(&mut stream, length.saturating_sub(early.len() as u64)).tried("download")?;
    let whole = match direction {
        Direction::Upload => number("x-bytes").unwrap_or(0),
        Direction::Download => length,
    };
    if whole != bytes {
        let name = direction.name();
        return Err(Fault::Failed(format!("{name}: {whole} of {bytes} bytes")));
    }
    Ok(())
}

/// Writes `bytes` bytes.
pub(super) fn send(stream: &mut TcpStream, bytes: u64) -> io::Result<()> {
    let block = vec![b'x'; BLOCK_BYTES];
    let mut left = bytes;
    while left > 0 {
        let part = left.min(BLOCK_BYTES as u64) as usize;
        stream.write_all(&block[..part])?;
        left -= part as u64;
    }
    Ok(())
}

/// Reads a head; returns the head and the bytes read beyond, or `None` at the end of the connection.
pub(super) fn head(stream: &mut TcpStream) -> io::Result<Option<(String, Vec<u8>)>> {
    let mut read = Vec::new();
    let mut block = [0; 4096];
    loop {
        if let Some(at) = read.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            let early = read.split_off(at + 4);
            return Ok(Some((String::from_utf8_lossy(&read).into_owned(), early)));
        }
        match stream.read(&mut block)? {
            0 => return Ok(None),
            n => read.extend_from_slice(&block[..n]),
        }
    }
}

/// The value of a header, by name.
pub(super) fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// Reads and drops `bytes` bytes.
pub(super) fn discard(stream: &mut TcpStream, bytes: u64) -> io::Result<()> {
    let mut block = vec![0; BLOCK_BYTES];
    let mut left = bytes;
    while left > 0 {
        let part = left.min(BLOCK_BYTES as u64) as usize;
        match stream.read(&mut block[..part])? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => left -= n as u64,
        }
    }
    Ok(())
}

//! The only client: reads until the expected message is complete.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::fault::{Fault, Tried};
use crate::stamp;
use crate::wire::handshake::{self, Answer};
use crate::wire::parser::{FrameParser, Received, client_frame, opcode};

/// A message is lost after this time.
const PATIENCE: Duration = Duration::from_secs(5);

/// A WebSocket client that blocks.
pub(super) struct Client {
    stream: TcpStream,
    parser: FrameParser,
    buffer: Box<[u8]>,
}

impl Client {
    /// Connects and waits for the 101.
    pub(super) fn connect(addr: SocketAddr, path: &str) -> Result<Self, Fault> {
        let mut stream = TcpStream::connect(addr).tried("connect")?;
        stream.set_nodelay(true).tried("TCP_NODELAY")?;
        let timeout = stream.set_read_timeout(Some(PATIENCE));
        timeout.tried("SO_RCVTIMEO")?;
        let request = handshake::request(&addr.to_string(), path, None);
        stream.write_all(&request).tried("the request")?;
        let mut client = Self {
            stream,
            parser: FrameParser::default(),
            buffer: vec![0; 256 * 1024].into_boxed_slice(),
        };
        let mut head = Vec::new();
        loop {
            match handshake::answer(&head, None) {
                Answer::Open { head_bytes, .. } => {
                    // A retained message may follow at once.
                    let rest = head.split_off(head_bytes);
                    client.feed(&rest)?;
                    return Ok(client);
                }
                Answer::Refused(why) => return Err(Fault::Server(why)),
                Answer::Partial => {
                    let n = client.read()?;
                    head.extend_from_slice(&client.buffer[..n]);
                }
            }
        }
    }

    /// Reads until the message with this number is complete; returns the time of the read.
    pub(super) fn wait_for(&mut self, n: u64) -> Result<Instant, Fault> {
        loop {
            let bytes = self.read()?;
            let read = Instant::now();
            let buffer = std::mem::take(&mut self.buffer);
            let newest = self.feed(&buffer[..bytes]);
            self.buffer = buffer;
            if newest?.is_some_and(|newest| newest >= n) {
                return Ok(read);
            }
        }
    }

    fn read(&mut self) -> Result<usize, Fault> {
        match self.stream.read(&mut self.buffer).tried("read a message")? {
            0 => Err(Fault::Server("it closed the connection".into())),
            n => Ok(n),
        }
    }

    /// Returns the number of the newest message in these bytes. Answers pings.
    fn feed(&mut self, bytes: &[u8]) -> Result<Option<u64>, Fault> {
        let mut newest = None;
        let mut pongs = Vec::new();
        let fed = self.parser.feed(bytes, |received| match received {
            Received::Message { payload, .. } => newest = stamp::find(payload).map(|stamp| stamp.n),
            Received::Control {
                opcode: opcode::PING,
                payload,
            } => pongs.extend(client_frame(opcode::PONG, payload)),
            Received::Control { .. } => {}
        });
        fed.map_err(|error| Fault::Server(error.to_string()))?;
        self.stream.write_all(&pongs).tried("a pong")?;
        Ok(newest)
    }
}

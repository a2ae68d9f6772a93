//! Pushes events to devices, over `POST /internal/broadcast`.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

use super::TOKEN;
use crate::fault::{Fault, Tried};
use crate::http;
use crate::payload::Payload;

/// Longest wait for a response.
const PATIENCE: Duration = Duration::from_secs(30);
const EVENT: &str = "load.push";

/// A service with a kept connection to the gateway.
pub(super) struct Pusher {
    stream: TcpStream,
    payload: Payload,
    /// The end of a body, from the devices on.
    targets: String,
    request: Vec<u8>,
}

/// The message to each device.
pub(super) fn message(data: &[u8]) -> Vec<u8> {
    let mut message =
        format!(r#"{{"type":"event","event":"{EVENT}","request_id":null,"data":"#).into_bytes();
    message.extend_from_slice(data);
    message.extend_from_slice(br#","error":null}"#);
    message
}

impl Pusher {
    /// Pushes data of `bytes` bytes to these devices.
    pub(super) fn connect(
        addr: SocketAddr,
        device_ids: impl Iterator<Item = String>,
        bytes: usize,
    ) -> Result<Self, Fault> {
        let stream = TcpStream::connect(addr).tried("connect")?;
        stream.set_nodelay(true).tried("TCP_NODELAY")?;
        stream.set_read_timeout(Some(PATIENCE)).tried("timeout")?;
        let ids: Vec<_> = device_ids.map(|id| format!(r#""{id}""#)).collect();
        let ids = ids.join(",");
        Ok(Self {
            stream,
            payload: Payload::new(bytes),
            targets: format!(r#","targets":{{"device_ids":[{ids}]}}}}"#),
            request: Vec::new(),
        })
    }

    /// Sends a push with this stamp; [`Pusher::sent`] takes the response.
    pub(super) fn push(&mut self, stamp_us: u64, n: u64) -> Result<(), Fault> {
        let data = self.payload.stamped(stamp_us, n);
        let start = format!(r#"{{"event":"{EVENT}","data":"#);
        let length = start.len() + data.len() + self.targets.len();
        self.request.clear();
        write!(
            self.request,
            "POST /internal/broadcast HTTP/1.1\r\nHost: localhost\r\nX-Internal-Token: {TOKEN}\r\n\
             Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{start}"
        )
        .tried("request")?;
        self.request.extend_from_slice(data);
        self.request.extend_from_slice(self.targets.as_bytes());
        self.stream.write_all(&self.request).tried("push")
    }

    /// The deliveries, from the response to a push.
    pub(super) fn sent(&mut self) -> Result<u64, Fault> {
        let (mut answer, mut block) = (Vec::new(), [0; 4096]);
        let body = loop {
            match self.stream.read(&mut block).tried("answer to a push")? {
                0 => return Err(Fault::Server("no answer to a push".into())),
                n => answer.extend_from_slice(&block[..n]),
            }
            if let Some(body) = http::body(&answer) {
                break body;
            }
        };
        let sent = serde_json::from_slice::<Value>(&answer[body]);
        let sent = sent.ok().and_then(|value| value["sent"].as_u64());
        sent.ok_or_else(|| Fault::Server(String::from_utf8_lossy(&answer).into_owned()))
    }
}

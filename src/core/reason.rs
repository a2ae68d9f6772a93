//! Reasons for the end of a connection: the label of the metric, the word in the log line, and the base
//! of the close code.

use std::borrow::Cow;

use weirgate_wire::auth::Refusal;

/// Makes an enum whose variants have a label each, with the list of all variants.
macro_rules! labelled {
    (
        $(#[$about:meta])*
        $visible:vis enum $name:ident {
            $($(#[$meaning:meta])* $variant:ident = $label:literal,)*
        }
    ) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        $visible enum $name {
            $($(#[$meaning])* $variant,)*
        }

        impl $name {
            /// All, in the order of their numbers.
            $visible const ALL: [Self; [$($label),*].len()] = [$(Self::$variant),*];

            /// The label of a metric, and the word in logs and for clients.
            $visible const fn label(self) -> &'static str {
                match self {
                    $(Self::$variant => $label,)*
                }
            }
        }
    };
}
pub(super) use labelled;

labelled! {
    /// The reason for the end of a connection. The first reason counts; later events change nothing.
    #[derive(Hash)]
    #[repr(u8)]
    pub enum CloseReason {
        /// The client sent a close frame.
        PeerClosed = "peer_closed",
        /// The client's side ended without a close frame.
        PeerGone = "peer_gone",
        /// The socket failed.
        SocketError = "socket_error",
        /// A connection of a trusted proxy did not begin with a header of the PROXY protocol.
        ProxyHeader = "proxy_header",
        /// The handshake of TLS failed, or the client broke the protocol of TLS later.
        TlsError = "tls_error",
        /// The request head was not complete in time.
        HandshakeTimeout = "handshake_timeout",
        /// The request head was refused (status 4xx or 5xx).
        BadRequest = "bad_request",
        /// The request for a WebSocket came without `Upgrade` or `Connection`, or as HTTP/1.0: a proxy on the way took
        /// them off.
        UpgradeLost = "upgrade_lost",
        /// The gateway refused the handshake, or closed the connection by its contract.
        Policy = "policy",
        /// The peer broke RFC 6455 or RFC 7692: 1002.
        ProtocolError = "protocol_error",
        /// Text that is not UTF-8: 1007.
        BadUtf8 = "bad_utf8",
        /// A message over the limit: 1009.
        MessageTooBig = "message_too_big",
        /// No pong: 1011 (or the gateway's code).
        PongTimeout = "pong_timeout",
        /// The kernel accepted no byte for the time of the stall limit.
        SendStalled = "send_stalled",
        /// The send queue was above its soft limit for too long.
        SendQueueSoft = "send_queue_soft",
        /// The send queue would have exceeded its hard limit.
        SendQueueHard = "send_queue_hard",
        /// All frames together exceeded their limit, and the client was among those that held the most.
        FrameMemory = "frame_memory",
        /// The TLS of all clients held more bytes than allowed, and this client was chosen: its TLS had held much for
        /// long.
        TlsMemory = "tls_memory",
        /// The plain HTTP requests of all clients held more bytes than allowed, and this client's request was
        /// chosen: it had held much for long.
        HttpMemory = "http_memory",
        /// The input of all clients that weirgate could not handle yet exceeded its limit, and this client was
        /// chosen: its input had held much memory for long.
        MessageMemory = "message_memory",
        /// More connections than `--connections-max` allows.
        ConnectionLimit = "connection_limit",
        /// More connections than the limit on open files has room for.
        OpenFiles = "open_files",
        /// The connections of all clients took as much memory as they may, or those of the client's address their share.
        ConnectionMemory = "connection_memory",
        /// A connection of plain HTTP without a request under way, or any to the admin address, ended to make room for a new
        /// connection.
        Evicted = "evicted",
        /// More connections of one address than allowed.
        ConnectionsPerIp = "connections_per_ip",
        /// The address opens connections faster than allowed.
        ConnectionRatePerIp = "connection_rate_per_ip",
        /// An operator has cut the client off: 1008, `revoked`.
        Revoked = "revoked",
        /// An operator, or the supervisor of several processes, has moved the client: the code of a stop.
        Moved = "moved",
        /// The process stops: 1012 (or the code of the gateway or of `--stop-code`).
        ShuttingDown = "shutting_down",
    }
}

impl CloseReason {
    /// Whether weirgate drops an open client for this reason because the client does not keep up, or holds too much.
    pub(crate) const fn is_drop(self) -> bool {
        matches!(
            self,
            Self::PongTimeout
                | Self::SendStalled
                | Self::SendQueueSoft
                | Self::SendQueueHard
                | Self::FrameMemory
                | Self::TlsMemory
                | Self::MessageMemory
        )
    }
}

/// The most bytes of a reason in a close frame: the 125 bytes of a control frame without the code (RFC 6455 §5.5).
const REASON_BYTES_MAX: usize = 123;

/// A close code and its reason text (RFC 6455 §7.4) for the close frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloseCode {
    /// The status code.
    pub code: u16,
    /// At most 123 bytes; may be empty.
    pub text: &'static str,
    /// The time that the client is asked to wait before a new connection, milliseconds; 0 asks for no
    /// wait.
    pub retry_after_ms: u32,
}

impl CloseCode {
    /// For a client that an operator cuts off, and for its later connections while they are refused.
    pub const REVOKED: Self = Self::new(Refusal::CLOSE_CODE, Refusal::Revoked.label());

    /// Returns a code with a text and without a wait.
    pub const fn new(code: u16, text: &'static str) -> Self {
        Self {
            code,
            text,
            retry_after_ms: 0,
        }
    }

    /// Returns a code without a text.
    pub const fn bare(code: u16) -> Self {
        Self::new(code, "")
    }

    /// The reason of the close frame: the text, then `retry_after_ms=N` if the client is asked to wait.
    /// A text that leaves no room for the wait is cut.
    pub fn reason(self) -> Cow<'static, str> {
        if self.retry_after_ms == 0 {
            return Cow::Borrowed(self.text);
        }
        let wait = format!("retry_after_ms={}", self.retry_after_ms);
        let mut end = self.text.len().min(REASON_BYTES_MAX - 1 - wait.len());
        while !self.text.is_char_boundary(end) {
            end -= 1;
        }
        match &self.text[..end] {
            "" => Cow::Owned(wait),
            text => Cow::Owned(format!("{text} {wait}")),
        }
    }
}

/// How to close a client: which frames it still gets before the close frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closing {
    /// The close frame goes out after the bytes that the kernel takes in this turn, or at the next frame boundary;
    /// later frames are discarded and counted.
    Now,
    /// Waiting frames go out first; no new frame is queued.
    Graceful,
    /// The close frame goes out at the next frame boundary; every frame that waits is discarded and counted, also if an
    /// earlier close waits for it.
    Bare,
}

labelled! {
    /// Why a client gets no missed messages.
    pub enum NotRecovered {
        /// The text is not a position of this feed.
        Bad = "bad",
        /// The name is not in the kept feed, there is no history, this instance knows no position yet, the client holds
        /// the name already, or the client has a rate of its own.
        Off = "off",
        /// The position is from before a loss of the bus, or may be: that is yet to be found out.
        Gap = "gap",
        /// The mark or the id of the position is unknown here, or the history is still being filled.
        Epoch = "epoch",
        /// The message has not come here yet.
        Ahead = "ahead",
        /// A missed message is no longer kept, or was left out.
        Window = "window",
        /// The missed messages are too many, or the search for them is too long.
        Large = "large",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: &str = "An instance that stops names its reason at length, so that it fills a control frame \
        of the protocol up to its end…";

    #[test]
    fn a_reason_ends_with_the_wait_and_fits_into_a_control_frame() {
        let asks = |text, retry_after_ms| {
            let code = CloseCode::new(1012, text);
            CloseCode {
                retry_after_ms,
                ..code
            }
            .reason()
            .into_owned()
        };
        assert_eq!(asks("", 0), "");
        assert_eq!(asks("going away", 0), "going away");
        assert_eq!(asks("", 2_500), "retry_after_ms=2500");
        assert_eq!(asks("going away", 2_500), "going away retry_after_ms=2500");
        assert!(
            LONG.len() <= REASON_BYTES_MAX && LONG.len() > 110,
            "{}",
            LONG.len()
        );
        for retry_after_ms in [1, 300_000, u32::MAX] {
            let reason = asks(LONG, retry_after_ms);
            assert!(reason.len() <= REASON_BYTES_MAX, "{reason}");
            assert!(
                reason.ends_with(&format!(" retry_after_ms={retry_after_ms}")),
                "{reason}"
            );
        }
    }
}

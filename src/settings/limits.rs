//! The limits of the core, made once from what was set: milliseconds become its microseconds.

use super::Checked;
use crate::admission::AddressLimits;
use crate::hub;

impl Checked {
    /// The limits of the core.
    pub fn limits(&self) -> hub::Limits {
        hub::Limits {
            send_queue: self.send_queue(),
            frame_bytes_max: self.number("frame-bytes-max"),
            frame_walk_max: hub::FRAME_WALK_MAX,
            head_bytes_max: self.number("head-bytes-max"),
            head_headers_max: self.number("head-headers-max"),
            handshake_us: self.micros("handshake-timeout-ms"),
            event_stream: self.switch("event-stream"),
            event_stream_sends_max: self.number("event-stream-sends-max"),
            message_bytes_max: self.number("message-bytes-max"),
            connections_max: self.unless_0("connections-max").unwrap_or(usize::MAX),
            // The process knows, once it has raised the limit on open files.
            sockets_max: usize::MAX,
            per_ip: AddressLimits {
                connections_max: self.unless_0("connections-per-ip-max"),
                connections_per_second: self.unless_0("connection-rate-per-ip"),
                burst: self.number("connection-burst-per-ip"),
            },
            trusted_proxies: self.networks("trusted-proxies"),
            ping_interval_us: self.micros("ping-interval-ms"),
            pong_timeout_us: self.micros("pong-timeout-ms"),
            close_timeout_us: self.micros("close-timeout-ms"),
            stop_code: self.stop_code(),
            close_retry_after_ms: self.number("close-retry-after-ms"),
            turn_message_bytes_max: self.number("turn-message-bytes-max"),
            turn_all_message_bytes_max: self.number("turn-all-message-bytes-max"),
            write_bytes_max: self.number("write-bytes-max"),
            deflate_window: self.deflate_window(),
            deflate_level: self.number("deflate-level"),
            inflate_windows_bytes_max: self.number("inflate-windows-bytes-max"),
            deflate_min_bytes: self.number("deflate-min-bytes"),
            deflate_max_bytes: self.number("deflate-max-bytes"),
        }
    }

    /// Gateways without such a row have a code of their own.
    fn stop_code(&self) -> u16 {
        match self.has("stop-code") && self.choice("stop-code") == "1001" {
            true => 1001,
            false => 1012,
        }
    }

    /// Gateways without such a row share no window.
    fn deflate_window(&self) -> hub::DeflateWindow {
        match self.has("deflate-window") && self.choice("deflate-window") == "shared" {
            true => hub::DeflateWindow::Shared,
            false => hub::DeflateWindow::None,
        }
    }

    fn send_queue(&self) -> hub::SendQueueLimits {
        hub::SendQueueLimits {
            soft_bytes: self.number("send-queue-soft-bytes"),
            soft_for_us: self.micros("send-queue-soft-for-ms"),
            hard_bytes: self.number("send-queue-hard-bytes"),
            conflate_after_us: self.micros("send-queue-conflate-after-ms"),
            stall_us: self.micros("send-queue-stall-ms"),
            control_bytes_max: self.number("control-bytes-max"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_the_cores() {
        let made = Checked::defaults().limits();
        assert_eq!(format!("{made:?}"), format!("{:?}", hub::Limits::default()));
    }
}

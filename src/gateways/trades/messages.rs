//! The messages to clients (protocol-trades.md, "Messages"): success, error, status, pong and candles.

use std::sync::Arc;

use super::candles::Update;
use super::client::{Content, HeldSymbols};
use crate::gateways::shared::history::append_end;
use crate::gateways::shared::statuses::Status;
use weirgate_core::{CopyRank, Core, Frame, Position, TopicName};
use weirgate_wire::json::ObjectWriter;

/// `{"type":"success","message":…,"data":…,"timestamp":ms}`. A position, if given, follows the other members.
pub(super) fn success(
    core: &Core,
    message: &str,
    data: ObjectWriter,
    position: Option<Position>,
) -> Arc<Frame> {
    let mut object = ObjectWriter::new();
    object.string("type", "success");
    object.string("message", message);
    object.object("data", data);
    finish(core, object, position)
}

/// The words of the success of a `subscribe` that has added `count` symbols.
pub(super) fn subscribed_words(content: Content, count: usize) -> String {
    match (count, content) {
        (0, Content::Trades) => "Already subscribed to all requested symbols".to_owned(),
        (0, _) => "Already subscribed to candles of all requested symbols".to_owned(),
        (n, Content::Trades) => format!("Successfully subscribed to {n} symbol(s)"),
        (n, _) => format!("Successfully subscribed to candles of {n} symbol(s)"),
    }
}

/// `{"type":"status","bus":"up","timestamp":ms,"pos":…}`, with `"lost":true` after a loss.
pub(super) fn status(core: &Core, status: Status) -> Arc<Frame> {
    let mut object = ObjectWriter::new();
    object.string("type", "status");
    object.string("bus", status.bus());
    if status.has_lost {
        object.boolean("lost", true);
    }
    finish(core, object, status.position)
}

/// `{"type":"error","message":…,"timestamp":ms}`.
pub(super) fn error(core: &Core, message: &str) -> Arc<Frame> {
    let mut object = ObjectWriter::new();
    object.string("type", "error");
    object.string("message", message);
    finish(core, object, None)
}

/// `{"type":"pong","timestamp":ms}`.
pub(super) fn pong(core: &Core) -> Arc<Frame> {
    let mut object = ObjectWriter::new();
    object.string("type", "pong");
    finish(core, object, None)
}

/// Returns `data` of an answer about symbols: the changed symbols under `key`, and all symbols that the client holds.
/// For candles, `data` begins with the interval.
pub(super) fn symbols(
    content: Content,
    key: &str,
    changed: &[TopicName],
    held: &HeldSymbols,
) -> ObjectWriter {
    let mut data = ObjectWriter::new();
    if let Content::Candles(interval) = content {
        data.string("interval", interval.label());
    }
    data.strings(key, changed.iter().map(TopicName::as_str));
    data.raw("currentSubscriptions", &held.symbols(content));
    data
}

/// Returns the message of a running or closed candle.
pub(super) fn candle(core: &Core, update: &Update) -> Arc<Frame> {
    let frame = Frame::text(core.frame_bytes())
        .received(core.now())
        .body(update.message.as_bytes());
    match update.key {
        Some(key) => frame.key(key).finish(),
        None => frame.finish(),
    }
}

/// The frame of a message, with the time, and the position if there is one.
fn finish(core: &Core, mut object: ObjectWriter, position: Option<Position>) -> Arc<Frame> {
    object.number("timestamp", core.now().unix_ms());
    let mut frame = Frame::text(core.frame_bytes())
        .answer()
        .received(core.now())
        .body(object.finish_open().as_bytes());
    append_end(&mut frame, position, CopyRank::LAST);
    frame.finish()
}

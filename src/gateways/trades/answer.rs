//! Messages to clients: success, error, pong (contract: "Objects have these orders").

use std::sync::Arc;

use super::super::history::{Status, ended};
use super::candles::Update;
use super::client::{Content, Held};
use crate::hub::{CopyRank, Core, Frame, Position, TopicName};
use crate::wire::json::ObjectWriter;

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
    placed(core, object, position)
}

/// `{"type":"status","bus":"up","timestamp":ms,"pos":…}`, with `"lost":true` after a loss.
pub(super) fn status(core: &Core, status: Status) -> Arc<Frame> {
    let mut object = ObjectWriter::new();
    object.string("type", "status");
    object.string("bus", status.bus());
    if status.has_lost {
        object.boolean("lost", true);
    }
    placed(core, object, status.position)
}

/// `{"type":"error","message":…,"timestamp":ms}`.
pub(super) fn error(core: &Core, message: &str) -> Arc<Frame> {
    let mut object = ObjectWriter::new();
    object.string("type", "error");
    object.string("message", message);
    placed(core, object, None)
}

/// `{"type":"pong","timestamp":ms}`.
pub(super) fn pong(core: &Core) -> Arc<Frame> {
    let mut object = ObjectWriter::new();
    object.string("type", "pong");
    placed(core, object, None)
}

/// Returns `data` of an answer about symbols: the changed symbols under `key`, and all symbols that the client holds.
/// For candles, `data` begins with the interval.
pub(super) fn symbols(
    content: Content,
    key: &str,
    changed: &[TopicName],
    held: &Held,
) -> ObjectWriter {
    let mut data = ObjectWriter::new();
    if let Content::Candles(interval) = content {
        data.string("interval", interval.label());
    }
    let held = held.symbols(content).iter();
    data.strings(key, changed.iter().map(TopicName::as_str));
    data.strings("currentSubscriptions", held.map(TopicName::as_str));
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

fn placed(core: &Core, mut object: ObjectWriter, position: Option<Position>) -> Arc<Frame> {
    object.number("timestamp", core.now().unix_ms());
    let frame = Frame::text(core.frame_bytes())
        .answer()
        .received(core.now())
        .body(object.finish_open().as_bytes());
    ended(frame, position, CopyRank::LAST).finish()
}

//! What clients are told: success, error, pong (contract: "Objects have these orders").

use std::sync::Arc;

use crate::hub::{Core, Frame, TopicName};
use crate::wire::object_writer::ObjectWriter;

/// `{"type":"success","message":…,"data":…,"timestamp":ms}`.
pub(super) fn success(core: &Core, message: &str, data: ObjectWriter) -> Arc<Frame> {
    let mut object = ObjectWriter::new();
    object.string("type", "success");
    object.string("message", message);
    object.object("data", data);
    stamped(core, object)
}

/// `{"type":"error","message":…,"timestamp":ms}`.
pub(super) fn error(core: &Core, message: &str) -> Arc<Frame> {
    let mut object = ObjectWriter::new();
    object.string("type", "error");
    object.string("message", message);
    stamped(core, object)
}

/// `{"type":"pong","timestamp":ms}`.
pub(super) fn pong(core: &Core) -> Arc<Frame> {
    let mut object = ObjectWriter::new();
    object.string("type", "pong");
    stamped(core, object)
}

/// `data` of an answer about symbols: those that changed under `key`, and all that are held.
pub(super) fn symbols(key: &str, changed: &[TopicName], held: &[TopicName]) -> ObjectWriter {
    let mut data = ObjectWriter::new();
    data.strings(key, changed.iter().map(TopicName::as_str));
    data.strings("currentSubscriptions", held.iter().map(TopicName::as_str));
    data
}

fn stamped(core: &Core, mut object: ObjectWriter) -> Arc<Frame> {
    object.number("timestamp", core.now().unix_ms);
    Frame::text(core.frame_bytes())
        .answer()
        .received(core.now())
        .body(object.finish().as_bytes())
        .finish()
}

//! The answers to `INFO`, which are lines `NAME:VALUE`. Pure.

use crate::redis::resp::{CutString, Value};

/// What follows `name`, with its colon, in the answer to `INFO`.
pub(super) fn info_line(info: &Value, name: &str) -> Option<String> {
    let (Value::Bulk(info) | Value::Cut(CutString { start: info, .. })) = info else {
        return None;
    };
    let info = String::from_utf8_lossy(info);
    let mut lines = info.lines();
    lines.find_map(|line| Some(line.strip_prefix(name)?.to_owned()))
}

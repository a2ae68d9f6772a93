//! Members of a JSON object by name, each as its own text.

use sonic_rs::LazyValue;

use crate::wire::json::{self, JsonError, object_entries};

/// Returns the members of an object with these names. Other members are ignored; the last of repeated members
/// counts.
pub(super) fn members<'a, const N: usize>(
    json: &'a [u8],
    depth_max: usize,
    names: [&str; N],
) -> Result<[Option<LazyValue<'a>>; N], JsonError> {
    let mut found = [const { None }; N];
    for entry in object_entries(json, depth_max)? {
        let (key, value) = entry?;
        if let Some(at) = names.iter().position(|name| *name == key) {
            found[at] = Some(value);
        }
    }
    Ok(found)
}

/// Returns the text of a JSON string; `None` for another value.
pub(super) fn text_of(value: &LazyValue<'_>) -> Option<String> {
    json::text_of(value.as_raw_str())
}

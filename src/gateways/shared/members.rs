//! Members of a JSON object by name, each as its own text.

use sonic_rs::LazyValue;

use weirgate_core::MaxRate;
use weirgate_wire::json::{Json, JsonError};

/// The most members of an object, known or not. Each takes the time of 20 ordinary bytes.
const MEMBERS_MAX: usize = 16_384;

/// Returns the members of an object with these names. Other members are ignored; the last of repeated members
/// counts.
pub(in crate::gateways) fn members<'a, const N: usize>(
    json: &'a [u8],
    names: [&str; N],
) -> Result<[Option<LazyValue<'a>>; N], JsonError> {
    let mut found = [const { None }; N];
    for (before, entry) in Json::object_entries(json)?.enumerate() {
        if before == MEMBERS_MAX {
            return Err(JsonError::TooManyMembers);
        }
        let (key, value) = entry?;
        if let Some(at) = names.iter().position(|name| *name == key) {
            found[at] = Some(value);
        }
    }
    Ok(found)
}

/// Returns the members of a client's request. A request that would take long to read is refused unread: it may have
/// `values_max` values, or more if any gateway reads more.
pub(in crate::gateways) fn members_of_request<'a, const N: usize>(
    json: &'a str,
    values_max: usize,
    names: [&str; N],
) -> Result<[Option<LazyValue<'a>>; N], JsonError> {
    Json::check_density(json.as_bytes(), values_max)?;
    members(json.as_bytes(), names)
}

/// Returns the text of a JSON string; `None` for another value.
pub(in crate::gateways) fn text_of(value: &LazyValue<'_>) -> Option<String> {
    Json::text_of(value.as_raw_str())
}

/// Reads `max_hz` of a request for the client's own rate; `null` ends the rate.
///
/// # Errors
/// The text of the error for the client.
pub(in crate::gateways) fn read_max_rate(
    value: Option<&LazyValue<'_>>,
) -> Result<Option<MaxRate>, &'static str> {
    const WANTED: &str = "max_hz must be a number from 0.1 to 1000, or null";
    match value.ok_or(WANTED)?.as_raw_str() {
        "null" => Ok(None),
        number => MaxRate::parse(number).map(Some).ok_or(WANTED),
    }
}

/// A rate as JSON, for answers.
pub(in crate::gateways) fn max_hz(rate: Option<MaxRate>) -> String {
    rate.map_or_else(|| "null".to_owned(), |rate| rate.hz().to_string())
}

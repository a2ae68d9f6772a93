//! Messages of devices: `{event, request_id?, data?}`, each part as its original text.

use sonic_rs::LazyValue;

use crate::gateways::shared::history::{Since, read_since};
use crate::gateways::shared::members::{members, members_of_request, text_of};
use weirgate_wire::json::Json;

/// A message of the right shape. Parts are JSON text, so that numbers and escapes stay unchanged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DeviceMessage {
    /// The decoded name of the event, used for decisions.
    pub(super) name: String,
    /// The event, as a JSON string.
    pub(super) event: String,
    /// A JSON string, or `null`.
    pub(super) request_id: String,
    /// A JSON object without white space.
    pub(super) data: String,
}

impl DeviceMessage {
    /// Reads a message; `None` if the text is not JSON or has another shape (protocol-events.md, "Messages"). Other
    /// members are ignored; the last of repeated members counts.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let names = ["event", "request_id", "data"];
        // 0: no more values than the limit that all gateways have.
        let [event, request_id, data] = members_of_request(text, 0, names).ok()?;
        let event = event?;
        let name = text_of(&event).filter(|name| !name.is_empty())?;
        let request_id = match &request_id {
            None => "null",
            Some(value) if value.as_raw_str() == "null" => "null",
            Some(value) => text_of(value).map(|_| value.as_raw_str())?,
        };
        let data = match &data {
            None => "{}".to_owned(),
            Some(value) => value
                .as_raw_str()
                .starts_with('{')
                .then(|| Json::compact(value.as_raw_str()))?,
        };
        Some(Self {
            name,
            event: event.as_raw_str().to_owned(),
            request_id: request_id.to_owned(),
            data,
        })
    }

    /// The event and the id, which the response repeats.
    pub(super) fn request(&self) -> (&str, &str) {
        (&self.event, &self.request_id)
    }

    /// Returns `data.device_id`, if valid.
    pub(super) fn device_id(&self) -> Option<String> {
        let id = self.member("device_id")?;
        text_of(&id).filter(|id| is_device_id(id))
    }

    /// Returns `data.since`.
    pub(super) fn since(&self) -> Since {
        read_since(self.member("since").as_ref())
    }

    /// The member of `data` with this name.
    fn member(&self, name: &str) -> Option<LazyValue<'_>> {
        // The whole message was checked, so neither depth nor syntax can fail here.
        let [member] = members(self.data.as_bytes(), [name]).ok()?;
        member
    }
}

/// Whether the id has 1 to 200 characters.
pub(super) fn is_device_id(id: &str) -> bool {
    (1..=200).contains(&id.chars().take(201).count())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Option<[String; 4]> {
        DeviceMessage::parse(text).map(|m| [m.name, m.event, m.request_id, m.data])
    }

    #[test]
    fn parts_keep_their_text() {
        for (text, want) in [
            (r#"{"event":"a"}"#, ["a", r#""a""#, "null", "{}"]),
            (
                r#" {"data": {"n": 1.50, "s": " \" x"}, "event":"\u0061b","request_id":"","x":[1]} "#,
                ["ab", r#""\u0061b""#, r#""""#, r#"{"n":1.50,"s":" \" x"}"#],
            ),
            (
                r#"{"event":3,"event":"b","request_id":"1","request_id":null}"#,
                ["b", r#""b""#, "null", "{}"],
            ),
        ] {
            assert_eq!(parsed(text), Some(want.map(str::to_owned)), "{text}");
        }
    }

    #[test]
    fn what_would_take_long_to_read_is_no_message() {
        let message = |escapes: usize| format!(r#"{{"event":"{}"}}"#, r"\n".repeat(escapes));
        assert!(parsed(&message(262_144)).is_some());
        assert_eq!(parsed(&message(262_145)), None);
    }

    #[test]
    fn other_shapes_are_no_messages() {
        let deep = format!(
            r#"{{"event":"a","data":{{"x":{}{}}}}}"#,
            "[".repeat(511),
            "]".repeat(511)
        );
        for text in [
            "",
            "{",
            "null",
            "[]",
            "{}",
            r#"{"event":""}"#,
            r#"{"event":3}"#,
            r#"{"event":null}"#,
            r#"{"event":"a","request_id":5}"#,
            r#"{"event":"a","request_id":{}}"#,
            r#"{"event":"a","data":null}"#,
            r#"{"event":"a","data":[]}"#,
            r#"{"event":"a","data":{"x":NaN}}"#,
            r#"{"event":"a",}"#,
            r#"{"event":"a"} x"#,
            &deep,
        ] {
            assert_eq!(parsed(text), None, "{text}");
        }
    }

    #[test]
    fn a_device_id_has_one_to_two_hundred_characters() {
        let id = |id: &str| {
            let text = format!(r#"{{"event":"identify","data":{{"device_id":{id}}}}}"#);
            DeviceMessage::parse(&text).expect("a message").device_id()
        };
        let long = |n: usize| format!("\"{}\"", "é".repeat(n));
        assert_eq!(id(r#"" a""#).as_deref(), Some(" a"));
        assert_eq!(id(r#"1,"device_id":"b""#).as_deref(), Some("b"));
        assert_eq!(id(&long(200)).map(|id| id.len()), Some(400));
        for bad in [r#""""#, "5", "null", &long(201)] {
            assert_eq!(id(bad), None, "{bad}");
        }
    }
}

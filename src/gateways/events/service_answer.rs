//! How a service's answer becomes a message to the device that asked: a response with its `data`, or the error
//! `upstream_error`. Pure.

use std::sync::Arc;

use super::call::{AnswerReader, CallFailure, ServiceAnswer};
use super::device_message::DeviceMessage;
use super::envelope::{Code, Origin, refusal, response};
use crate::gateways::shared::members::members;
use weirgate_wire::json::{Json, ObjectWriter};
use weirgate_wire::space;

/// The error for a service that cannot be called.
pub(super) const UNREACHABLE: &str = "Upstream unreachable";
/// The most characters of a content coding in an error.
const CODING_MAX: usize = 64;

/// Returns a reader that makes the answer to `message` from the service's answer.
pub(super) fn reader(origin: Origin, message: Arc<DeviceMessage>) -> AnswerReader {
    AnswerReader::new(move |answer| match outcome(answer) {
        // An answer of a service has no position.
        Ok(data) => Ok(response(&origin, message.request(), &data, None)),
        Err(why) => {
            let code = Code::UpstreamError;
            Err(refusal(&origin, &message, code, &why))
        }
    })
}

/// Returns `data` of the response, or the message of the `upstream_error`.
fn outcome(outcome: Result<ServiceAnswer, CallFailure>) -> Result<String, String> {
    match outcome {
        Ok(answer) => read(&answer),
        Err(CallFailure::Timeout) => Err("Upstream timeout".to_owned()),
        Err(CallFailure::Unreachable) => Err(UNREACHABLE.to_owned()),
        Err(CallFailure::TooLarge) => Err("Upstream answer too large".to_owned()),
    }
}

/// Returns `data` of a service's answer, or the message of the `upstream_error`. Redirects are not followed, so a redirect
/// is an answer too (recorded case `upstream_answers`).
fn read(answer: &ServiceAnswer) -> Result<String, String> {
    let unreadable = unreadable(answer);
    if answer.status >= 400 {
        let detail = unreadable.unwrap_or_else(|| detail(&answer.body));
        return Err(format!("Upstream error ({}): {detail}", answer.status));
    }
    if let Some(what) = unreadable {
        return Err(format!("Upstream sent {what}"));
    }
    if !is_json(&answer.content_type) {
        let mut object = ObjectWriter::new();
        object.string("text", &String::from_utf8_lossy(&answer.body));
        return Ok(object.finish());
    }
    // Without a body: 204, 205, or a framework that names a content type all the same (RFC 9110 §15.3.5).
    let body = Json::utf8_of(&answer.body);
    if is_blank(&body) {
        return Ok("null".to_owned());
    }
    Json::check(&body)
        .map(Json::compact)
        .map_err(|_| "Upstream sent invalid JSON".to_owned())
}

/// Returns why a body cannot be read; `None` if it can.
fn unreadable(answer: &ServiceAnswer) -> Option<String> {
    let coding = answer.unknown_coding.as_ref();
    let coding = coding.filter(|_| !answer.body.is_empty())?;
    let short: String = coding.chars().take(CODING_MAX).collect();
    Some(format!("the unknown Content-Encoding '{short}'"))
}

/// Whether a body has nothing but JSON's white space (RFC 8259 §2).
fn is_blank(body: &[u8]) -> bool {
    body.iter().all(|byte| b" \t\r\n".contains(byte))
}

/// Returns true if the media type without its parameters is `application/json`, in any case (RFC 9110
/// §8.3.1).
fn is_json(content_type: &str) -> bool {
    let media_type = content_type.split(';').next().unwrap_or_default();
    space::trim(media_type).eq_ignore_ascii_case("application/json")
}

/// Returns the last `detail` of a JSON object, else the whole body. Strings lose their quotes, other JSON loses its
/// white space, other text is unchanged.
fn detail(body: &[u8]) -> String {
    let json = Json::utf8_of(body);
    let Ok(text) = Json::check(&json) else {
        return String::from_utf8_lossy(body).into_owned();
    };
    match members(&json, ["detail"]) {
        Ok([Some(detail)]) => shown(detail.as_raw_str()),
        _ => shown(text),
    }
}

fn shown(json: &str) -> String {
    Json::text_of(json).unwrap_or_else(|| Json::compact(json))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, content_type: &str, body: &str) -> Result<String, String> {
        let answer = ServiceAnswer {
            status,
            content_type: content_type.to_owned(),
            body: body.as_bytes().to_vec(),
            unknown_coding: None,
        };
        outcome(Ok(answer))
    }

    #[test]
    fn good_answers_become_data() {
        for (content_type, body, data) in [
            ("application/json", "null", "null"),
            (
                "Application/JSON; charset=utf-8",
                " [1, {\"a\" : 1.50}] ",
                r#"[1,{"a":1.50}]"#,
            ),
            ("text/plain", "he\"llo", r#"{"text":"he\"llo"}"#),
            ("application/jsonx", "{}", r#"{"text":"{}"}"#),
            ("", "", r#"{"text":""}"#),
            ("application/json", "", "null"),
            ("application/json; charset=utf-8", " \r\n\t ", "null"),
            ("text/plain", " ", r#"{"text":" "}"#),
        ] {
            assert_eq!(
                answer(200, content_type, body),
                Ok(data.to_owned()),
                "{body}"
            );
        }
        assert_eq!(
            answer(307, "", "x"),
            Ok(r#"{"text":"x"}"#.to_owned()),
            "not followed"
        );
    }

    /// All forms of a text that Python's `json.loads`, and so the replaced gateway, reads.
    fn forms(text: &str) -> Vec<Vec<u8>> {
        let utf_16 =
            |unit: fn(u16) -> [u8; 2]| -> Vec<u8> { text.encode_utf16().flat_map(unit).collect() };
        let utf_32 = |unit: fn(u32) -> [u8; 4]| -> Vec<u8> {
            text.chars().flat_map(|char| unit(char.into())).collect()
        };
        let bare: [Vec<u8>; 5] = [
            text.into(),
            utf_16(u16::to_le_bytes),
            utf_16(u16::to_be_bytes),
            utf_32(u32::to_le_bytes),
            utf_32(u32::to_be_bytes),
        ];
        let marks: [&[u8]; 5] = [
            b"\xef\xbb\xbf",
            b"\xff\xfe",
            b"\xfe\xff",
            b"\xff\xfe\0\0",
            b"\0\0\xfe\xff",
        ];
        let marked = marks.iter().zip(&bare);
        let marked: Vec<_> = marked.map(|(mark, text)| [*mark, text].concat()).collect();
        bare.into_iter().chain(marked).collect()
    }

    #[test]
    fn json_is_read_in_every_encoding_of_unicode_with_and_without_a_mark() {
        let outcome_of = |status, body: Vec<u8>| {
            let answer = ServiceAnswer {
                status,
                content_type: "application/json; charset=utf-16".to_owned(),
                body,
                unknown_coding: None,
            };
            outcome(Ok(answer))
        };
        for text in [r#"{"a":"é🦀"}"#, "7", "12", r#""""#] {
            for body in forms(text) {
                assert_eq!(
                    outcome_of(200, body.clone()),
                    Ok(text.to_owned()),
                    "{body:?}"
                );
            }
        }
        let message = Err("Upstream error (422): é no".to_owned());
        for body in forms(r#"{"detail":"é no"}"#) {
            assert_eq!(outcome_of(422, body.clone()), message, "{body:?}");
        }
        let invalid = Err("Upstream sent invalid JSON".to_owned());
        for body in [
            &b"\xff\xfe{"[..],
            b"\xff\xfe\x00\xd8",
            b"\xff\xfe\0\0\0\0\x11\0",
            b"\xef\xbb\xbf\xef\xbb\xbf{}",
        ] {
            assert_eq!(outcome_of(200, body.to_vec()), invalid, "{body:?}");
        }
        assert_eq!(
            outcome_of(204, b"\xef\xbb\xbf".to_vec()),
            Ok("null".to_owned())
        );
    }

    #[test]
    fn what_is_wrong_upstream_is_said() {
        let invalid = Err("Upstream sent invalid JSON".to_owned());
        let deep = format!("{}{}", "[".repeat(513), "]".repeat(513));
        for body in ["<html>", "\u{a0}", "{\"a\":NaN}", &deep] {
            assert_eq!(answer(200, "application/json", body), invalid, "{body}");
        }
        for (status, body, message) in [
            (
                404,
                r#"{"detail":"Lobby not found"}"#,
                "Upstream error (404): Lobby not found",
            ),
            (
                422,
                r#"{"detail": [ {"loc": 1} ]}"#,
                r#"Upstream error (422): [{"loc":1}]"#,
            ),
            (400, r#"{"detail":null}"#, "Upstream error (400): null"),
            (
                400,
                r#"{ "b":1, "a":null }"#,
                r#"Upstream error (400): {"b":1,"a":null}"#,
            ),
            (
                500,
                "Internal Server Error",
                "Upstream error (500): Internal Server Error",
            ),
            (500, r#""text""#, "Upstream error (500): text"),
            (503, "", "Upstream error (503): "),
        ] {
            assert_eq!(answer(status, "", body), Err(message.to_owned()), "{body}");
        }
        for (status, body, result) in [
            (
                200,
                "x",
                Err("Upstream sent the unknown Content-Encoding 'br'"),
            ),
            (
                500,
                "x",
                Err("Upstream error (500): the unknown Content-Encoding 'br'"),
            ),
            (200, "", Ok("null")),
        ] {
            let answer = ServiceAnswer {
                status,
                content_type: "application/json".to_owned(),
                body: body.as_bytes().to_vec(),
                unknown_coding: Some("br".to_owned()),
            };
            let result = result.map(str::to_owned).map_err(str::to_owned);
            assert_eq!(outcome(Ok(answer)), result);
        }
        for (failure, message) in [
            (CallFailure::Timeout, "Upstream timeout"),
            (CallFailure::Unreachable, "Upstream unreachable"),
            (CallFailure::TooLarge, "Upstream answer too large"),
        ] {
            assert_eq!(outcome(Err(failure)), Err(message.to_owned()));
        }
    }
}

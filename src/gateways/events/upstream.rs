//! From a service's answer to what its client gets.

use std::sync::Arc;

use super::call::{Answer, CallFailure, Reader};
use super::envelope::{self, Code, Origin};
use super::message::Message;
use crate::wire::json::{check_json, compact, object_entries};
use crate::wire::object_writer::ObjectWriter;

/// Answers `message` with what its service says.
pub(super) fn reader(origin: Origin, message: Arc<Message>, depth_max: usize) -> Reader {
    Reader::new(move |answer| match outcome(answer, depth_max) {
        Ok(data) => Ok(envelope::response(&origin, &message, &data)),
        Err(why) => {
            let code = Code::UpstreamError;
            Err(envelope::refusal(&origin, &message, code, &why))
        }
    })
}

/// `data` of the response, or the message of the `upstream_error`.
fn outcome(outcome: Result<Answer, CallFailure>, depth_max: usize) -> Result<String, String> {
    match outcome {
        Ok(answer) if answer.status >= 400 => {
            let detail = detail(&answer.body, depth_max);
            Err(format!("Upstream error ({}): {detail}", answer.status))
        }
        Ok(answer) if is_json(&answer.content_type) => match check_json(&answer.body, depth_max) {
            Ok(text) => Ok(compact(text)),
            Err(_) => Err("Upstream sent invalid JSON".to_owned()),
        },
        Ok(answer) => {
            let mut object = ObjectWriter::new();
            object.string("text", &String::from_utf8_lossy(&answer.body));
            Ok(object.finish())
        }
        Err(CallFailure::Timeout) => Err("Upstream timeout".to_owned()),
        Err(CallFailure::Unreachable) => Err(UNREACHABLE.to_owned()),
        Err(CallFailure::TooLarge) => Err("Upstream answer too large".to_owned()),
    }
}

/// What is said of a service that cannot be called.
pub(super) const UNREACHABLE: &str = "Upstream unreachable";

/// The media type without its parameters is `application/json`, in any case (RFC 9110 §8.3.1).
fn is_json(content_type: &str) -> bool {
    let media_type = content_type.split(';').next().unwrap_or_default();
    media_type.trim().eq_ignore_ascii_case("application/json")
}

/// The body's `detail` if it is an object with one, else the body; strings without their quotes,
/// other JSON without white space, other text as it is.
fn detail(body: &[u8], depth_max: usize) -> String {
    let Ok(text) = check_json(body, depth_max) else {
        return String::from_utf8_lossy(body).into_owned();
    };
    let members = object_entries(body, depth_max).into_iter().flatten();
    let details = members
        .filter_map(Result::ok)
        .filter(|(key, _)| key == "detail");
    match details.last() {
        Some((_, detail)) => shown(detail.as_raw_str()),
        None => shown(text),
    }
}

fn shown(json: &str) -> String {
    sonic_rs::from_str::<String>(json).unwrap_or_else(|_| compact(json))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, content_type: &str, body: &str) -> Result<String, String> {
        let answer = Answer {
            status,
            content_type: content_type.to_owned(),
            body: body.as_bytes().to_vec(),
        };
        outcome(Ok(answer), 8)
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

    #[test]
    fn what_is_wrong_upstream_is_said() {
        let invalid = Err("Upstream sent invalid JSON".to_owned());
        let deep = format!("{}{}", "[".repeat(9), "]".repeat(9));
        for body in ["<html>", "", "{\"a\":NaN}", &deep] {
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
        for (failure, message) in [
            (CallFailure::Timeout, "Upstream timeout"),
            (CallFailure::Unreachable, "Upstream unreachable"),
            (CallFailure::TooLarge, "Upstream answer too large"),
        ] {
            assert_eq!(outcome(Err(failure), 8), Err(message.to_owned()));
        }
    }
}

//! The recorded cases of the levels contract, through the feed in-process: what each message
//! broadcasts, and what a client that connects afterwards gets.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use serde_json::value::RawValue;
use weirgate::gateways::levels::feed::{LevelsFeed, LevelsFeedSettings};
use weirgate_core::{BusEvent, BusMessage, Feed, FrameBytes, Publication, Retain, StreamPosition};
use weirgate_wire::base::Now;

type Object = BTreeMap<String, Box<RawValue>>;

/// The clock that messages without `ts` see: within the first 15 minutes, 14 after the open.
const NOW: Now = Now {
    mono_us: 1_000_000,
    unix_us: 1_721_137_499_999 * 1_000,
};

#[test]
fn every_recorded_case() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/levels/public");
    let mut cases = 0;
    let mut failures = Vec::new();
    for entry in std::fs::read_dir(directory).expect("the vectors are there") {
        let path = entry.expect("readable").path();
        if path.extension().is_none_or(|e| e != "json") {
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("readable");
        let case: Object = serde_json::from_str(&text).expect("a case");
        cases += 1;
        if let Err(why) = run(&case) {
            failures.push(format!("{}: {why}", path.display()));
        }
    }
    assert!(cases > 0, "no case was found");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

fn run(case: &Object) -> Result<(), String> {
    let mut feed = LevelsFeed::new(LevelsFeedSettings::default(), FrameBytes::default());
    let steps: Vec<Object> = serde_json::from_str(case["steps"].get()).expect("steps");
    assert!(!steps.is_empty());
    let mut retained = None;
    for (i, step) in steps.iter().enumerate() {
        let at = |why| format!("step {i}: {why}");
        let out = publish(&mut feed, step, i as u64 + 1);
        let now_fields = step.contains_key("now_fields");
        if step["broadcast"].get() == "null" {
            if !out.is_empty() {
                return Err(at(format!("broadcast {}", body(&out[0]))));
            }
            if let (Some(want), Some(got)) = (step.get("state_after"), &retained) {
                same_payload(value(want), got, now_fields).map_err(at)?;
            }
            continue;
        }
        let [publication] = &out[..] else {
            return Err(at(format!("{} broadcasts", out.len())));
        };
        assert!(publication.deliver);
        let got: Value = serde_json::from_str(&body(publication)).map_err(|e| at(e.to_string()))?;
        same_payload(value(&step["broadcast"]), &got, now_fields).map_err(at)?;
        retained = match publication.retain {
            Retain::Set => Some(got),
            Retain::Clear => None,
            Retain::Keep => return Err(at("kept what is retained".into())),
        };
    }
    let want = value(&case["on_connect"]);
    let nothing = want.is_null() || want == Value::Object(Default::default());
    match retained {
        Some(got) if !nothing => {
            let now_fields = case.contains_key("on_connect_now_fields");
            same_payload(want, &got, now_fields).map_err(|why| format!("on connect: {why}"))
        }
        None if nothing => Ok(()),
        other => Err(format!("on connect: want {want}, got {other:?}")),
    }
}

fn publish(feed: &mut LevelsFeed, step: &Object, sequence: u64) -> Vec<Publication> {
    let subject = text(&step["subject"]);
    let payload = if let Some(raw) = step.get("raw") {
        text(raw).into_bytes()
    } else if let Some(raw) = step.get("raw_b64") {
        base64(&text(raw))
    } else {
        // The text as it stands in the case, so that key order and numbers are what was sent.
        step["message"].get().as_bytes().to_vec()
    };
    let message = BusMessage {
        position: Some(StreamPosition { epoch: 1, sequence }),
        ..BusMessage::new(Arc::from(subject), payload, NOW)
    };
    let mut out = Vec::new();
    feed.event(NOW, BusEvent::Message(message), &mut out);
    out
}

fn value(raw: &RawValue) -> Value {
    serde_json::from_str(raw.get()).expect("the case's own format")
}

fn text(raw: &RawValue) -> String {
    serde_json::from_str(raw.get()).expect("the case's own format")
}

fn body(publication: &Publication) -> String {
    let frame = publication.frame().expect("a frame");
    String::from_utf8(frame.body().to_vec()).expect("text")
}

/// Equal as the checker of the recorded cases compares.
fn same_payload(mut want: Value, got: &Value, now_fields: bool) -> Result<(), String> {
    let mut got = got.clone();
    if let (Some(want), Some(got)) = (want.get("levels"), got.get_mut("levels")) {
        // Instruments other than spy may be passed on.
        let got = got.as_object_mut().ok_or("levels is no object")?;
        got.retain(|key, value| want.get(key).is_some() || value.get("spot").is_none());
    }
    if let (true, Some(levels)) = (now_fields, want.get_mut("levels")) {
        levels["ts"] = NOW.unix_ms().into();
        for level in levels["levels"].as_array_mut().ok_or("no list")? {
            level["is_first_15m"] = true.into();
            level["bars_since_open"] = 14.into();
        }
    }
    same(&want, &got, "$")
}

/// Objects without regard to key order, numbers by value.
fn same(want: &Value, got: &Value, path: &str) -> Result<(), String> {
    let differs = || Err(format!("{path}: want {want}, got {got}"));
    match (want, got) {
        (Value::Object(w), Value::Object(g)) => {
            if !w.keys().eq(g.keys()) {
                return differs();
            }
            w.iter()
                .try_for_each(|(k, v)| same(v, &g[k], &format!("{path}.{k}")))
        }
        (Value::Array(w), Value::Array(g)) => {
            if w.len() != g.len() {
                return differs();
            }
            let mut pairs = w.iter().zip(g).enumerate();
            pairs.try_for_each(|(i, (w, g))| same(w, g, &format!("{path}[{i}]")))
        }
        (Value::Number(w), Value::Number(g)) => {
            let integers = (w.as_i128(), g.as_i128());
            let equal = match integers {
                (Some(w), Some(g)) => w == g,
                _ => w.as_f64() == g.as_f64(),
            };
            if equal { Ok(()) } else { differs() }
        }
        _ if want == got => Ok(()),
        _ => differs(),
    }
}

fn base64(text: &str) -> Vec<u8> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut bits, mut count, mut out) = (0_u32, 0, Vec::new());
    for byte in text.bytes().filter(|&b| b != b'=') {
        let value = ALPHABET.iter().position(|&a| a == byte).expect("base64");
        (bits, count) = (bits << 6 | value as u32, count + 6);
        if count >= 8 {
            count -= 8;
            out.push((bits >> count) as u8);
        }
    }
    out
}

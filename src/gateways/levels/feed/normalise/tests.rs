use super::*;

/// 2024-07-16 09:44:59.999 in New York: within the first 15 minutes, 14 after the open.
const NOW_MS: i64 = 1_721_137_499_999;

fn normalise(message: &str) -> Result<(String, Option<String>), BadMessage> {
    let mut out = Vec::new();
    let viewport = Normaliser::new(240).normalise(message.as_bytes(), NOW_MS, &mut out)?;
    let viewport = viewport.map(str::to_owned);
    Ok((String::from_utf8(out).expect("text"), viewport))
}

fn levels(message: &str) -> String {
    normalise(message).expect("good").0
}

fn wrong(message: &str, field: &'static str) {
    assert_eq!(
        normalise(message),
        Err(BadMessage::wrong(field)),
        "{message}"
    );
}

/// A message's output with `[…]` of its levels reduced to their ids.
fn ids(message: &str) -> Vec<String> {
    let levels = levels(message);
    let parts = levels.split("{\"id\":").skip(1);
    parts
        .map(|part| {
            part.split(",\"level_price\"")
                .next()
                .unwrap_or_default()
                .to_owned()
        })
        .collect()
}

#[test]
fn ts_is_kept_as_text_or_now() {
    for ts in [
        "1715629300123",
        "1715629300123.50",
        "1.7156293e12",
        "-5",
        "1e-400",
    ] {
        let expected = format!("{{\"ts\":{ts},\"spy\":{SPY_UNKNOWN},\"levels\":[]}}");
        assert_eq!(levels(&format!("{{\"ts\":{ts}}}")), expected);
    }
    let now = format!("{{\"ts\":{NOW_MS},\"spy\":{SPY_UNKNOWN},\"levels\":[]}}");
    assert_eq!(levels("{}"), now);
    for ts in ["null", "0", "-0.0", "0e9", "false", "\"\"", "[]", "{ }"] {
        assert_eq!(levels(&format!("{{\"ts\":{ts}}}")), now);
    }
    for ts in ["true", "\"1715629300123\"", "[1]", "{\"a\":1}"] {
        wrong(&format!("{{\"ts\":{ts}}}"), "ts");
    }
}

#[test]
fn ts_has_a_range() {
    for (ts, good) in [
        ("9223372036854", true),
        ("-9223372036854", true),
        ("9223372036854.0", true),
        ("9.223372036854e12", true),
        ("9223372036855", false),
        ("-9223372036855", false),
        ("9223372036854.5", false),
        ("99999999999999999999999", false),
        ("1e13", false),
        ("1e400", false),
        ("-1E400", false),
    ] {
        let result = normalise(&format!("{{\"ts\":{ts},\"levels\":[{{}}]}}"));
        match good {
            true => assert!(result.is_ok(), "{ts}"),
            false => assert_eq!(result, Err(BadMessage::TsOutOfRange), "{ts}"),
        }
    }
}

#[test]
fn the_session_follows_from_ts_or_now() {
    let session = |message: &str| {
        let out = levels(message);
        (
            out.contains("\"is_first_15m\":true"),
            out.contains("\"bars_since_open\":14,"),
        )
    };
    assert_eq!(session(r#"{"levels":[{}]}"#), (true, true));
    assert_eq!(
        session(r#"{"levels":[{}],"ts":1721137499999.9}"#),
        (true, true)
    );
    assert_eq!(
        session(r#"{"levels":[{}],"ts":1721137500000}"#),
        (false, false)
    );
    let capped = levels(r#"{"levels":[{}],"ts":1721160000000}"#);
    assert!(capped.contains("\"bars_since_open\":240,"), "{capped}");
    let mut out = Vec::new();
    let message = br#"{"levels":[{}],"ts":1721160000000}"#;
    let result = Normaliser::new(390).normalise(message, 0, &mut out);
    assert_eq!(result, Ok(None));
    assert!(String::from_utf8_lossy(&out).contains("\"bars_since_open\":390,"));
}

#[test]
fn spy_is_an_object_or_unknown() {
    for spy in ["{}", "{\"spot\": 1.50 }", "{\"spot\":null,\"x\":[1]}"] {
        let out = levels(&format!("{{\"ts\":1,\"spy\":{spy}}}"));
        assert_eq!(out, format!("{{\"ts\":1,\"spy\":{spy},\"levels\":[]}}"));
    }
    for spy in ["null", "[1]", "\"687\"", "1", "true", "[]"] {
        let out = levels(&format!("{{\"ts\":1,\"spy\":{spy}}}"));
        assert_eq!(
            out,
            format!("{{\"ts\":1,\"spy\":{SPY_UNKNOWN},\"levels\":[]}}")
        );
    }
}

#[test]
fn other_instruments_follow_spy_in_the_order_in_which_they_came() {
    let instruments = |message: &str| {
        let out = levels(message);
        let (_, after) = out.split_once(SPY_UNKNOWN).expect("spy");
        let (before, _) = after.split_once(",\"levels\":[").expect("levels");
        before.to_owned()
    };
    for (message, shown) in [
        (
            r#"{"qqq":{"spot":2},"es":{"spot": 1}}"#,
            r#","qqq":{"spot":2},"es":{"spot": 1}"#,
        ),
        (r#"{"es":{"spot":null}}"#, r#","es":{"spot":null}"#),
        (r#"{"es":{"sp\u006ft":1}}"#, r#","es":{"sp\u006ft":1}"#),
        (r#"{"e\u0073":{"spot":1}}"#, r#","es":{"spot":1}"#),
        (r#"{"a\"\\\n":{"spot":1}}"#, r#","a\"\\\u000a":{"spot":1}"#),
        (r#"{"é\ud83d\ude80":{"spot":1}}"#, r#","é🚀":{"spot":1}"#),
        (r#"{"":{"spot":1}}"#, r#","":{"spot":1}"#),
        (
            r#"{"core":{"x":{"spot":1}},"a":[{"spot":1}],"b":"spot"}"#,
            "",
        ),
        (
            r#"{"es":{"spot":1},"es":{"spot":2}}"#,
            r#","es":{"spot":2}"#,
        ),
        (r#"{"es":{"spot":1},"es":5}"#, ""),
        // A key keeps its first place, whatever its values, as in Python's objects.
        (
            r#"{"es":{"spot":1},"nq":{"spot":2},"es":5,"es":{"spot":3}}"#,
            r#","es":{"spot":3},"nq":{"spot":2}"#,
        ),
        (
            r#"{"es":5,"nq":{"spot":2},"es":{"spot":3}}"#,
            r#","es":{"spot":3},"nq":{"spot":2}"#,
        ),
        (r#"{"es":{"spot":1},"es":{"bid":1}}"#, ""),
        (
            r#"{"ts":1,"levels":{"spot":1},"flow":{"spot":1},"viewport":{"spot":1}}"#,
            "",
        ),
        (r#"{"fl\u006fw":{"spot":1}}"#, ""),
    ] {
        assert_eq!(instruments(message), shown, "{message}");
    }
}

#[test]
fn levels_may_be_nested_once() {
    assert_eq!(ids(r#"{"levels":[{"id":1},{"id":2}]}"#), ["1", "2"]);
    assert_eq!(ids(r#"{"levels":{"levels":[{"id":1}]}}"#), ["1"]);
    assert_eq!(
        ids(r#"{"levels":{"levels":[{"id":1}],"levels":[{"id":2}]}}"#),
        ["2"]
    );
    let none: [&str; 0] = [];
    for levels in [
        "\"abc\"",
        "\"\"",
        "{}",
        "{\"levels\":null}",
        "{\"levels\":3}",
        "{\"levels\":\"x\"}",
        "{\"levels\":{\"levels\":[{\"id\":1}]}}",
        "{\"a\":[{\"id\":1}]}",
        "[]",
        "[ ]",
    ] {
        assert_eq!(ids(&format!("{{\"levels\":{levels}}}")), none, "{levels}");
    }
    for levels in ["null", "3", "0", "true", "false"] {
        wrong(&format!("{{\"levels\":{levels}}}"), "levels");
    }
    assert_eq!(ids(r#"{"levels":null,"levels":[{"id":1}]}"#), ["1"]);
    wrong(r#"{"levels":[],"levels":null}"#, "levels");
}

#[test]
fn entries_that_are_no_objects_are_skipped() {
    let message = r#"{"levels":[null,1,"x",[],{"id":1},true,[{"id":"inner"}],{"id":2},{}]}"#;
    assert_eq!(ids(message), ["1", "2", "\"\""]);
    assert!(levels(message).ends_with("}]}"));
}

#[test]
fn anything_wrong_in_any_level_makes_the_message_bad() {
    wrong(r#"{"levels":[{},{"barrier":"x"},{}]}"#, "barrier");
    wrong(r#"{"levels":[{"id":1},{"id":{}}]}"#, "id");
    wrong(r#"{"levels":{"levels":[{},{"signal":[]}]}}"#, "signal");
}

#[test]
fn a_message_is_an_object() {
    for message in ["[]", "1", "\"x\"", "null", "true", " \"a\\n\" ", "[{}]"] {
        assert_eq!(
            normalise(message),
            Err(BadMessage::NotAnObject),
            "{message}"
        );
    }
    assert!(normalise(" \t\r\n{ } \n").is_ok());
}

#[test]
fn viewport_is_kept_as_text_unless_missing_or_null() {
    for viewport in [
        "{}",
        "{ \"targets\" : [ ] }",
        "\"\"",
        "0",
        "false",
        "[]",
        "0.0",
    ] {
        let message = format!("{{\"viewport\": {viewport} }}");
        let got = normalise(&message).expect("good").1;
        assert_eq!(got.as_deref(), Some(viewport));
    }
    assert_eq!(normalise("{}").expect("good").1, None);
    assert_eq!(normalise(r#"{"viewport":null}"#).expect("good").1, None);
    assert_eq!(
        normalise(r#"{"viewport":{},"viewport":null}"#)
            .expect("good")
            .1,
        None
    );
    for viewport in ["1", "true", "\"x\"", "[1]", "[[]]", "-0.5"] {
        wrong(&format!("{{\"viewport\":{viewport}}}"), "viewport");
    }
    assert!(normalise(r#"{"viewport":1,"viewport":{}}"#).is_ok());
}

fn predicted(id: &str, targets: &str) -> Option<String> {
    let message = format!(r#"{{"viewport":{{"targets":{targets}}},"levels":[{{"id":{id}}}]}}"#);
    let out = levels(&message);
    let (_, predictions) = out.split_once(",\"ml_predictions\":")?;
    predictions.strip_suffix("}]}").map(str::to_owned)
}

#[test]
fn predictions_have_their_order_and_defaults() {
    let defaults = concat!(
        r#"{"p_tradeable_2":0.0,"p_no_trade":0.0,"p_break":0.0,"p_bounce":0.0,"#,
        r#""strength_signed":0.0,"strength_abs":0.0,"utility_score":0.0,"stage":"stage_a","#,
        r#""time_to_threshold":{},"retrieval":{}}"#,
    );
    assert_eq!(
        predicted("\"a\"", r#"[{"level_id":"a"}]"#).as_deref(),
        Some(defaults)
    );
    let full = concat!(
        r#"{"p_tradeable_2":1.10,"p_no_trade":null,"p_break":"x","p_bounce":[],"#,
        r#""strength_signed":-1e-7,"strength_abs":2,"utility_score":true,"stage":"stage_b","#,
        r#""time_to_threshold":{"t1": {"60":1}},"retrieval":null}"#,
    );
    let target = full.replacen('{', "{\"zzz\":1,\"level_id\":\"a\",", 1);
    assert_eq!(
        predicted("\"a\"", &format!("[{target}]")).as_deref(),
        Some(full)
    );
}

#[test]
fn predictions_go_to_the_level_whose_id_equals() {
    let p_break = |id: &str, targets: &str| {
        let predictions = predicted(id, targets)?;
        let (_, after) = predictions.split_once("\"p_break\":")?;
        after.split(',').next().map(str::to_owned)
    };
    let some = |text: &str| Some(text.to_owned());
    let twice = r#"[{"level_id":"a","p_break":1,"stage":"x"},{"level_id":"a","p_break":2}]"#;
    assert_eq!(p_break("\"a\"", twice), some("2"));
    assert!(
        predicted("\"a\"", twice)
            .expect("found")
            .contains("stage_a"),
        "the last, whole"
    );
    assert_eq!(
        p_break(r#""\u0061""#, r#"[{"level_id":"a","p_break":1}]"#),
        some("1")
    );
    assert_eq!(
        p_break("\"a\"", r#"[{"level_id":"\u0061","p_break":1}]"#),
        some("1")
    );
    assert_eq!(
        p_break("\"a\"", r#"[{"level_id":"b","level_id":"a"}]"#),
        some("0.0")
    );
    assert_eq!(p_break("7", r#"[{"level_id":7.0,"p_break":1}]"#), some("1"));
    assert_eq!(p_break("7", r#"[{"level_id":"7"}]"#), None);
    assert_eq!(p_break("\"b\"", r#"[{"level_id":"a"}]"#), None);
    for empty in ["\"\"", "null", "0", "false"] {
        let targets = format!("[{{\"level_id\":{empty}}}]");
        assert_eq!(p_break(empty, &targets), None, "{empty}");
    }
    let two = r#"{"viewport":{"targets":[{"level_id":"a"}]},"levels":[{"id":"a"},{"id":"a"}]}"#;
    assert_eq!(levels(two).matches("ml_predictions").count(), 2);
}

#[test]
fn targets_that_are_no_list_of_objects() {
    for targets in ["[]", "{}", "\"abc\"", "\"\"", "{\"level_id\":\"a\"}"] {
        assert_eq!(predicted("\"a\"", targets), None, "{targets}");
    }
    let odd = r#"[null,1,"a",["a"],{"p_break":1},{"level_id":[]},{"level_id":{}}]"#;
    assert_eq!(predicted("\"a\"", odd), None);
    for targets in ["null", "3", "0", "true", "false"] {
        wrong(
            &format!("{{\"viewport\":{{\"targets\":{targets}}}}}"),
            "viewport.targets",
        );
    }
    for level_id in ["[1]", "{\"a\":1}"] {
        let message = format!("{{\"viewport\":{{\"targets\":[{{\"level_id\":{level_id}}}]}}}}");
        wrong(&message, "level_id");
    }
    assert!(normalise(r#"{"viewport":{"targets":null,"targets":[]}}"#).is_ok());
    let repeated = r#"{"viewport":{"targets":[{"level_id":[1]},2],"targets":[]},"levels":[]}"#;
    assert!(normalise(repeated).is_ok());
}

#[test]
fn what_grows_past_the_limit_is_bad() {
    let many = vec!["{}"; NORMALISED_BYTES_MAX / 600].join(",");
    let message = format!("{{\"levels\":[{many}]}}");
    assert!(message.len() < 1024 * 1024);
    let why = normalise(&message).err();
    let bytes_max = NORMALISED_BYTES_MAX;
    assert_eq!(why, Some(BadMessage::NormalisedTooLarge { bytes_max }));
}

/// Very many levels are counted before one is written.
#[test]
fn too_many_levels_are_refused_before_they_are_written() {
    let message = |count: usize| format!("{{\"levels\":[{}]}}", vec!["{}"; count].join(","));
    let mut out = Vec::new();
    let mut written = |count| {
        out.clear();
        let message = message(count);
        let is_good = Normaliser::new(390)
            .normalise(message.as_bytes(), 0, &mut out)
            .is_ok();
        (is_good, out.len())
    };
    let (is_good, bytes) = written(300_000);
    assert!(!is_good && bytes < 1_000, "{bytes}");
    let (is_good, one) = written(1);
    let least = Level::bytes_min();
    assert!(
        is_good && (least..2 * least).contains(&one),
        "{least} {one}"
    );
}

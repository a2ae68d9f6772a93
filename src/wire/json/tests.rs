use proptest::prelude::*;

use super::*;

fn nested(depth: usize) -> String {
    "[".repeat(depth) + &"]".repeat(depth)
}

fn entries(text: &str) -> Result<Vec<(String, String)>, JsonError> {
    Json::object_entries(text.as_bytes())?
        .map(|entry| entry.map(|(key, value)| (key.into_owned(), value.as_raw_str().to_owned())))
        .collect()
}

#[test]
fn depth_is_counted_outside_strings() {
    let too_deep = |offset| Err(JsonError::TooDeep { offset });
    assert_eq!(check_depth(nested(512).as_bytes()), Ok(()));
    assert_eq!(check_depth(nested(513).as_bytes()), too_deep(512));
    let quoted = format!(r#"["\"{}\\","{{"]"#, "[".repeat(600));
    assert_eq!(check_depth(quoted.as_bytes()), Ok(()));
    let behind = r#"["\\","#.to_owned() + &"{".repeat(512);
    assert_eq!(check_depth(behind.as_bytes()), too_deep(6 + 511));
    let open = "[".repeat(511);
    let flat = open.clone() + &"[],{},".repeat(1000);
    assert_eq!(check_depth(flat.as_bytes()), Ok(()));
    let flat = open + "[{}],";
    assert_eq!(check_depth(flat.as_bytes()), too_deep(512));
}

#[test]
fn depth_survives_texts_that_are_no_json() {
    for text in ["", "\"", "\"\\", "]]]}", "\"\\\"", "[\"", "[[[\"[[["] {
        let _ = check_depth(text.as_bytes());
        let _ = Json::check(text.as_bytes());
        let _ = entries(text);
    }
    let closed_first = "]]]]".to_owned() + &"[".repeat(513);
    assert_eq!(
        check_depth(closed_first.as_bytes()),
        Err(JsonError::TooDeep { offset: 4 + 512 })
    );
}

#[test]
fn a_deep_text_is_refused_before_the_stack_overflows() {
    let text = "{\"a\":".to_owned() + &"[".repeat(1_000_000);
    assert!(matches!(
        Json::check(text.as_bytes()),
        Err(JsonError::TooDeep { .. })
    ));
    assert!(matches!(entries(&text), Err(JsonError::TooDeep { .. })));
}

#[test]
fn json_is_what_rfc_8259_says() {
    for good in [
        "0",
        " [1, -0, 1.50, 1E400, 1.10000000000000000000001] ",
        "{}",
        r#""\u00e9\ud83d\ude00\\ud800""#,
        r#"{"a":1,"a":2}"#,
        "\"\u{10ffff}\"",
        "null\n",
    ] {
        assert_eq!(Json::check(good.as_bytes()), Ok(good), "{good}");
    }
    for bad in [
        "",
        " ",
        "NaN",
        "[Infinity]",
        "-Infinity",
        "\u{feff}{}",
        "{} {}",
        "{}x",
        "[1,]",
        "{\"a\":1,}",
        "01",
        "1.",
        ".5",
        "+1",
        "'a'",
        "{a:1}",
        "[1 2]",
        "\"\t\"",
        "\"\\x41\"",
        "\"\\u12\"",
        "tru",
        "[",
        "{\"a\"}",
        "\"a",
        "{}\0",
    ] {
        assert!(Json::check(bad.as_bytes()).is_err(), "{bad:?}");
    }
    for bad in [
        &b"\"\xff\""[..],
        b"{\"\xc0\xaf\":1}",
        b"[\"\xed\xa0\x80\"]",
        b"{}\xff",
    ] {
        assert!(Json::check(bad).is_err(), "{bad:?}");
        assert!(
            Json::object_entries(bad).map_or(true, |mut e| e.any(|entry| entry.is_err())),
            "{bad:?}"
        );
    }
}

#[test]
fn lone_surrogate_escapes_are_refused() {
    for (bad, offset) in [
        (r#"{"a":"\ud800"}"#, 6),
        (r#"{"a":"\uDC00"}"#, 6),
        (r#"{"a":"\ud800\u0041"}"#, 6),
        (r#"{"a":"\ud800x\udc00"}"#, 6),
        (r#"{"\udbff":1}"#, 2),
        (r#"{"a":"\\\ud800"}"#, 8),
    ] {
        let lone = Err(JsonError::BrokenEscape { offset });
        assert_eq!(Json::check(bad.as_bytes()), lone, "{bad}");
        assert_eq!(entries(bad).map(|_| ""), lone, "{bad}");
    }
}

#[test]
fn an_error_says_what_and_where_on_one_line() {
    let error = Json::check(b"[1,\n oops]").expect_err("not JSON");
    let text = error.to_string();
    assert!(text.starts_with("not JSON at byte "), "{text}");
    assert!(!text.contains('\n') && !text.contains("oops"), "{text}");
}

#[test]
fn entries_keep_order_repeats_and_number_text() {
    let got = entries(" {\"b\" : 1.50, \"\\u0061\":[1, 2] ,\"b\":{}, \"c\":null}\n").expect("JSON");
    let expected = [("b", "1.50"), ("a", "[1, 2]"), ("b", "{}"), ("c", "null")];
    let expected = expected.map(|(k, v)| (k.to_owned(), v.to_owned()));
    assert_eq!(got, expected);
    assert_eq!(entries("{}"), Ok(Vec::new()));
    assert_eq!(entries("\t{ } \r\n"), Ok(Vec::new()));
}

#[test]
fn entries_refuse_what_is_no_object_or_goes_on_after_it() {
    for text in ["", "[]", "1", "\"{}\"", "\u{feff}{}"] {
        assert_eq!(entries(text), Err(JsonError::NotAnObject), "{text:?}");
    }
    for text in [
        "{}x",
        "{} {}",
        "{\"a\":1}}",
        "{\"a\":1} ,",
        "{\"a\":{}}}",
        "{\"a\":1}\0",
    ] {
        let error = entries(text).expect_err(text);
        assert!(error.to_string().contains("more after"), "{text}: {error}");
    }
    for text in [
        "{",
        "{\"a\"",
        "{\"a\":1",
        "{\"a\":1,}",
        "{,}",
        "{\"a\":1 \"b\":2}",
    ] {
        assert!(
            matches!(entries(text), Err(JsonError::Syntax { .. })),
            "{text}"
        );
    }
}

/// JSON texts with white space, escapes and brackets in strings.
fn json_text() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        any::<i64>().prop_map(|n| n.to_string()),
        "-?(0|[1-9][0-9]{0,20})\\.[0-9]{1,20}([eE][+-]?[0-9]{1,3})?",
        "\"([a-z\\[\\]{}, é]|\\\\n|\\\\\"|\\\\\\\\|\\\\u0041|\\\\ud83d\\\\ude00){0,8}\"",
    ];
    leaf.prop_recursive(5, 60, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6)
                .prop_map(|items| format!("[ {} ]", items.join(" , "))),
            prop::collection::vec(("[a-z]{0,3}", inner), 0..6).prop_map(|entries| {
                let entries: Vec<_> = entries
                    .into_iter()
                    .map(|(key, value)| format!("\"{key}\" :{value}"))
                    .collect();
                format!("{{{}}}", entries.join(",\n"))
            }),
        ]
    })
}

/// Counts the depth with a plain state machine, without the shortcuts of the code under test.
fn depth(text: &str) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0_usize, 0, false, false);
    for byte in text.bytes() {
        match (in_string, escaped, byte) {
            (true, true, _) => escaped = false,
            (true, false, b'\\') => escaped = true,
            (_, false, b'"') => in_string = !in_string,
            (false, _, b'[' | b'{') => depth += 1,
            (false, _, b']' | b'}') => depth -= 1,
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

proptest! {
    #[test]
    fn generated_json_is_json_and_its_depth_exact(text in json_text()) {
        prop_assert_eq!(Json::check(text.as_bytes()), Ok(text.as_str()));
        let depth = depth(&text);
        let around = |levels| "[".repeat(levels) + &text + &"]".repeat(levels);
        let deepest = around(512 - depth);
        prop_assert_eq!(Json::check(deepest.as_bytes()), Ok(deepest.as_str()));
        if depth > 0 {
            let too_deep = around(513 - depth);
            prop_assert!(Json::check(too_deep.as_bytes()).is_err());
        }
    }

    #[test]
    fn entries_agree_with_the_check(text in json_text(), cut in any::<Option<prop::sample::Index>>(), more in "[ x}\\]]{0,2}") {
        let mut bytes = text.into_bytes();
        if let (Some(cut), false) = (cut, bytes.is_empty()) {
            bytes.remove(cut.index(bytes.len()));
        }
        bytes.extend_from_slice(more.as_bytes());
        let checked = Json::check(&bytes);
        let iterated = Json::object_entries(&bytes).and_then(|mut e| e.try_for_each(|entry| entry.map(|_| ())));
        match iterated {
            Err(JsonError::NotAnObject) => {}
            iterated => prop_assert_eq!(iterated.is_ok(), checked.is_ok(), "{:?} {:?}", iterated, checked),
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(prop_oneof![any::<u8>(), prop::sample::select(br#"[]{}",:\u0d8"#.to_vec())], 0..200)) {
        let _ = check_depth(&bytes);
        let _ = Json::check(&bytes);
        if let Ok(mut entries) = Json::object_entries(&bytes) {
            let _ = entries.try_for_each(|entry| entry.map(|_| ()));
        }
    }
}

#[test]
fn compacting_takes_only_what_stands_between_tokens() {
    for (json, want) in [
        (
            r#" { "a b" : [ 1.50 , "\\" , " \" " ] } "#,
            r#"{"a b":[1.50,"\\"," \" "]}"#,
        ),
        ("\t\"é ü\"\r\n", "\"é ü\""),
        ("1", "1"),
        ("", ""),
        ("  ", ""),
        // no JSON, and no panic either
        ("\"a \\", "\"a \\"),
        ("\" é", "\" é"),
    ] {
        assert_eq!(Json::compact(json), want, "{json}");
    }
}

#[test]
fn the_gate_refuses_depth_before_any_parser_sees_it() {
    let deep = "[".repeat(100_000);
    // After a broken escape, sonic-rs would read brackets that look like part of the next string.
    for text in [
        deep.clone(),
        format!(r#"{{"a":{deep}"#),
        format!(r#"{{"b":1,"a":{deep}"#),
        format!(r#"["\u12"," ,{deep}"]"#),
        format!(r#"{{"b":"\u12","a":",{deep}"}}"#),
    ] {
        let error = Json::read(text.as_bytes()).expect_err("not for a parser");
        let is_named = matches!(
            error,
            JsonError::TooDeep { .. } | JsonError::BrokenEscape { .. }
        );
        assert!(is_named, "{error}");
        assert!(Json::check(text.as_bytes()).is_err());
        assert!(Json::object_entries(text.as_bytes()).is_err());
    }
    assert_eq!(Json::text_of(&deep), None);
}

#[test]
fn values_are_found_by_their_path() {
    let json = Json::read(br#"{"a":{"b":"\u0041","n":7},"l":["x","y"]}"#).expect("JSON");
    assert_eq!(json.text(&["a", "b"]).as_deref(), Some("A"));
    assert_eq!(json.number(&["a", "n"]), Some(7));
    assert_eq!(json.text(&["a", "n"]), None);
    assert!(json.get(&["a", "c"]).is_none() && json.get(&["l", "b"]).is_none());
    let list = json.get(&["l"]).expect("a list");
    assert_eq!(
        Json::of(&list).parse(),
        Ok(vec!["x".to_owned(), "y".to_owned()])
    );
    assert!(Json::of(&list).parse::<Vec<u8>>().is_err());
    assert!(
        Json::read(b"{} {}")
            .expect("no deep JSON")
            .parse::<sonic_rs::Value>()
            .is_err()
    );
    assert!(
        Json::read(b"[1] [2]")
            .expect("no deep JSON")
            .parse_with_digits()
            .is_err()
    );
}

#[test]
fn keys_keep_their_order_and_text_is_escaped() {
    let mut inner = ObjectWriter::new();
    inner.boolean("ok", true);
    inner.boolean("bad", false);
    let mut object = ObjectWriter::new();
    object.string("z", "a\"b\\c\n\u{1}<é>");
    object.number("n", -5i64);
    object.maybe_number("none", None::<u64>);
    object.maybe_number("some", Some(u64::MAX));
    object.maybe_string("text", Some("t"));
    object.maybe_string("no text", None);
    object.decimal("price", 6850.25, 2);
    object.decimal("zero", -0.001, 2);
    object.decimal("small", -0.01, 2);
    object.decimal("no number", f64::NAN, 2);
    object.array("values", ["1.0", "2.5"].map(String::from).into_iter());
    object.array("empty", std::iter::empty());
    object.strings("list", ["x", "\""].into_iter());
    object.object("a", inner);
    object.raw("r", "1.50");
    let bytes = object.bytes();
    let text = object.finish();
    assert_eq!(bytes + "}".len(), text.len());
    assert_eq!(
        text,
        r#"{"z":"a\"b\\c\n\u0001<é>","n":-5,"none":null,"some":18446744073709551615,"text":"t","no text":null,"price":6850.25,"zero":0.00,"small":-0.01,"no number":null,"values":[1.0,2.5],"empty":[],"list":["x","\""],"a":{"ok":true,"bad":false},"r":1.50}"#
    );
    assert_eq!(ObjectWriter::new().finish(), "{}");
}

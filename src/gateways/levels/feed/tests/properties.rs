use proptest::prelude::*;

use super::*;

fn json() -> impl Strategy<Value = String> {
    let space = || prop_oneof![9 => Just(String::new()), 1 => "[ \t\r\n]{1,3}"];
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        Just("false".to_owned()),
        "-?(0|[1-9][0-9]{0,20})(\\.[0-9]{1,9})?([eE][+-]?[0-9]{1,2})?",
        r#""([ -!#-\[\]-~é🚀]|\\["\\/bfnrt]|\\u00[0-9a-fA-F]{2}|\\ud83d\\ude80){0,12}""#,
    ];
    let leaf = (space(), leaf, space()).prop_map(|(a, v, b)| a + &v + &b);
    leaf.prop_recursive(4, 48, 6, move |inner| {
        let key = r#"[ ]?"(id|ts|spy|spot|levels|viewport|targets|level_id|tape|[a-c]|\\u0061)""#;
        let field = (key, inner.clone()).prop_map(|(key, value)| format!("{key}:{value}"));
        prop_oneof![
            proptest::collection::vec(inner, 0..6).prop_map(|v| format!("[{}]", v.join(","))),
            proptest::collection::vec(field, 0..6).prop_map(|v| format!("{{{}}}", v.join(","))),
        ]
    })
}

/// A JSON text with a single place cut, doubled or replaced: mostly no longer JSON, but nearly.
fn damaged() -> impl Strategy<Value = String> {
    let damage = (
        json(),
        any::<prop::sample::Index>(),
        r#"[\[\]{}",:\\ue0-9.+ -]{0,3}"#,
        0..4_usize,
    );
    damage.prop_map(|(text, index, insert, cut)| {
        let chars: Vec<char> = text.chars().collect();
        let at = index.index(chars.len() + 1);
        let head = chars[..at].iter();
        let tail = chars[at..].iter().skip(cut);
        head.copied()
            .chain(insert.chars())
            .chain(tail.copied())
            .collect()
    })
}

proptest! {
    #[test]
    fn flow_passes_untouched(text in json()) {
        let mut bench = Bench::new();
        bench.flow(&text);
        let expected = match text.trim() {
            "null" => "{}".to_owned(),
            _ => format!("{{\"flow\":{text}}}"),
        };
        prop_assert_eq!(bench.took(), [expected]);
    }

    #[test]
    fn nearly_json_is_judged_as_another_parser_judges_it(text in damaged()) {
        let other = serde_json::from_str::<serde_json::Value>(&text).map_err(|e| e.to_string());
        // The other parser refuses a number outside of doubles, which is JSON all the same.
        prop_assume!(!other.as_ref().is_err_and(|e| e.contains("out of range")));
        let ours = Json::check(text.as_bytes());
        prop_assert_eq!(ours.is_ok(), other.is_ok(), "{:?} {:?}", ours, other);
    }

    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let mut bench = Bench::new();
        bench.flow(&bytes).message("levels.signals", &bytes);
        prop_assert!(bench.publications <= 1);
    }

    #[test]
    fn any_levels_message_gives_json_or_nothing(text in prop_oneof![json(), damaged()]) {
        let mut bench = Bench::new();
        bench.message("levels.signals", &text);
        bench.message("levels.signals", format!("{{\"ts\":1,\"levels\":[{text},{{\"id\":{text}}}]}}"));
        bench.message("levels.signals", format!("{{\"ts\":1,\"viewport\":{{\"targets\":{text}}}}}"));
        for payload in bench.took() {
            let parsed = serde_json::from_str::<serde_json::Value>(&payload);
            let out_of_range = parsed.as_ref().is_err_and(|e| e.to_string().contains("out of range"));
            prop_assert!(parsed.is_ok() || out_of_range, "{}", payload);
        }
    }

    /// The state after a sequence consists of the last good message of each subject.
    #[test]
    fn the_state_is_that_of_the_last_good_messages(
        messages in proptest::collection::vec((any::<bool>(), 0..4_u8, any::<bool>()), 1..30)
    ) {
        let mut bench = Bench::new();
        let (mut flow, mut levels) = (String::new(), String::new());
        for (i, (is_flow, kind, quiet)) in messages.into_iter().enumerate() {
            let subject = if is_flow { "market.flow" } else { "levels.signals" };
            let payload = match kind {
                0 => format!("{{\"ts\":{}}}", i + 1),
                1 => format!("{{\"ts\":{},\"viewport\":{i}", i + 1),
                2 => format!("{{\"levels\":{i},\"x\":"),
                _ => format!("{{\"ts\":{},\"viewport\":{{}}}}", i + 1),
            };
            bench.at(Some((1, i as u64 + 1)), quiet, subject, &payload);
            if matches!(kind, 0 | 3) {
                let last = if is_flow { &mut flow } else { &mut levels };
                *last = payload;
            }
        }
        bench.event(BusEvent::CaughtUp);
        let mut fresh = Bench::new();
        if !flow.is_empty() {
            fresh.flow(&flow);
        }
        if !levels.is_empty() {
            fresh.message("levels.signals", &levels);
        }
        prop_assert_eq!(bench.retained, fresh.retained);
    }
}

use super::*;

const CLOSED: SessionContext = SessionContext {
    is_first_15m: false,
    bars_since_open: 240,
};

fn output(level: &str) -> Result<String, BadMessage> {
    let mut out = Vec::new();
    Level::read(&mut Reader::new(level))?.write(CLOSED, &mut out)?;
    out.push(b'}');
    Ok(String::from_utf8(out).expect("text"))
}

/// The text of an output value.
fn value_of(level: &str, key: &str) -> String {
    let output = output(level).expect("good");
    let mut found = None;
    Reader::new(&output)
        .object(|reader, k| {
            let value = reader.value();
            if k == key {
                found = Some(value.to_owned());
            }
            Ok(())
        })
        .expect("an object");
    found.unwrap_or_else(|| panic!("no {key} in {output}"))
}

#[test]
fn an_empty_level_has_every_default_in_the_contracts_order() {
    let expected = concat!(
        r#"{"id":"","level_price":0.0,"level_kind_name":"UNKNOWN","direction":"UP","#,
        r#""distance":0.0,"is_first_15m":false,"barrier_state":"NEUTRAL","#,
        r#""barrier_delta_liq":0.0,"barrier_replenishment_ratio":0.0,"wall_ratio":0.0,"#,
        r#""tape_imbalance":0.0,"tape_velocity":0.0,"tape_buy_vol":0,"tape_sell_vol":0,"#,
        r#""sweep_detected":false,"gamma_exposure":0.0,"fuel_effect":"NEUTRAL","#,
        r#""approach_velocity":0.0,"approach_bars":0,"approach_distance":0.0,"#,
        r#""prior_touches":0,"bars_since_open":240,"break_score_raw":0.0,"#,
        r#""break_score_smooth":0.0,"signal":"CHOP","confidence":"LOW","note":null,"#,
        r#""confluence_count":0,"confluence_pressure":0.0,"confluence_alignment":0,"#,
        r#""confluence_level":0,"confluence_level_name":"UNDEFINED"}"#,
    );
    assert_eq!(output("{}").as_deref(), Ok(expected));
}

#[test]
fn copied_values_keep_their_text_and_null_passes() {
    for (input, key, object) in [
        ("id", "id", None),
        ("price", "level_price", None),
        ("kind", "level_kind_name", None),
        ("distance", "distance", None),
        ("approach_velocity", "approach_velocity", None),
        ("approach_bars", "approach_bars", None),
        ("approach_distance", "approach_distance", None),
        ("prior_touches", "prior_touches", None),
        ("break_score_raw", "break_score_raw", None),
        ("confidence", "confidence", None),
        ("note", "note", None),
        ("confluence_count", "confluence_count", None),
        ("confluence_pressure", "confluence_pressure", None),
        ("confluence_alignment", "confluence_alignment", None),
        ("confluence_level", "confluence_level", None),
        ("confluence_level_name", "confluence_level_name", None),
        ("state", "barrier_state", Some("barrier")),
        ("delta_liq", "barrier_delta_liq", Some("barrier")),
        (
            "replenishment_ratio",
            "barrier_replenishment_ratio",
            Some("barrier"),
        ),
        ("imbalance", "tape_imbalance", Some("tape")),
        ("velocity", "tape_velocity", Some("tape")),
        ("buy_vol", "tape_buy_vol", Some("tape")),
        ("sell_vol", "tape_sell_vol", Some("tape")),
        ("net_dealer_gamma", "gamma_exposure", Some("fuel")),
        ("effect", "fuel_effect", Some("fuel")),
    ] {
        for value in ["null", "1.10", "1E400", "-0", "\"\\u0041 \"", "true", "0"] {
            let field = format!("{{\"{input}\" : {value} }}");
            let level = match object {
                Some(object) => format!("{{\"{object}\":{field}}}"),
                None => field,
            };
            assert_eq!(value_of(&level, key), value, "{level}");
        }
    }
}

#[test]
fn arrays_and_objects_pass_where_no_row_forbids_them() {
    for value in ["[]", "[1, 2]", "{}", "{\"a\": 1}"] {
        let level = format!("{{\"price\":{value},\"note\":{value},\"kind\":{value}}}");
        for key in ["level_price", "note", "level_kind_name"] {
            assert_eq!(value_of(&level, key), value);
        }
    }
}

#[test]
fn direction_and_signal_are_mapped_by_value() {
    for (value, direction, signal) in [
        ("\"SUPPORT\"", "\"DOWN\"", "\"SUPPORT\""),
        ("\"RESISTANCE\"", "\"UP\"", "\"RESISTANCE\""),
        ("\"\\u0052ESISTANCE\"", "\"UP\"", "\"\\u0052ESISTANCE\""),
        ("\"REJECT\"", "\"REJECT\"", "\"BOUNCE\""),
        ("\"RE\\u004aECT\"", "\"RE\\u004aECT\"", "\"BOUNCE\""),
        ("\"CONTESTED\"", "\"CONTESTED\"", "\"NO_TRADE\""),
        ("\"NEUTRAL\"", "\"NEUTRAL\"", "\"NO_TRADE\""),
        ("\"support\"", "\"support\"", "\"support\""),
        ("7", "7", "7"),
        ("true", "true", "true"),
        ("null", "\"UP\"", "\"CHOP\""),
        ("\"\"", "\"UP\"", "\"CHOP\""),
        ("0", "\"UP\"", "\"CHOP\""),
        ("-0.0", "\"UP\"", "\"CHOP\""),
        ("false", "\"UP\"", "\"CHOP\""),
    ] {
        let level = format!("{{\"direction\":{value},\"signal\":{value}}}");
        assert_eq!(value_of(&level, "direction"), direction);
        assert_eq!(value_of(&level, "signal"), signal);
    }
    for (value, direction) in [("[]", "\"UP\""), ("{}", "\"UP\""), ("[1]", "[1]")] {
        let level = format!("{{\"direction\":{value}}}");
        assert_eq!(value_of(&level, "direction"), direction);
    }
}

#[test]
fn wall_ratio() {
    for (level, ratio) in [
        (r#"{"wall_ratio":0,"barrier":{"depth_in_zone":450}}"#, "0"),
        (r#"{"wall_ratio":1.250}"#, "1.250"),
        (r#"{"wall_ratio":"x"}"#, "\"x\""),
        (r#"{"wall_ratio":null}"#, "0.0"),
        (
            r#"{"wall_ratio":null,"barrier":{"depth_in_zone":12500.0}}"#,
            "2.5",
        ),
        (r#"{"barrier":{"depth_in_zone":450}}"#, "0.09"),
        (r#"{"barrier":{"depth_in_zone":-250}}"#, "-0.05"),
        (r#"{"barrier":{"depth_in_zone":1}}"#, "0.0002"),
        (r#"{"barrier":{"depth_in_zone":true}}"#, "0.0002"),
        (r#"{"barrier":{"depth_in_zone":false}}"#, "0.0"),
        (r#"{"barrier":{"depth_in_zone":0}}"#, "0.0"),
        (r#"{"barrier":{"depth_in_zone":-0.0}}"#, "0.0"),
        (r#"{"barrier":{"depth_in_zone":"450"}}"#, "0.0"),
        (r#"{"barrier":{"depth_in_zone":null}}"#, "0.0"),
        (r#"{"barrier":{"depth_in_zone":[450]}}"#, "0.0"),
        (r#"{"barrier":{"depth_in_zone":1e20}}"#, "2e16"),
        (r#"{"barrier":{"depth_in_zone":5e-3}}"#, "1e-6"),
        (r#"{"wall_ratio":1,"barrier":{"depth_in_zone":1e400}}"#, "1"),
    ] {
        assert_eq!(value_of(level, "wall_ratio"), ratio, "{level}");
    }
    let digits = "9".repeat(400);
    for depth in ["1e400", "-1e309", digits.as_str()] {
        for wall_ratio in ["", "\"wall_ratio\":null,"] {
            let level = format!("{{{wall_ratio}\"barrier\":{{\"depth_in_zone\":{depth}}}}}");
            assert_eq!(output(&level), Err(BadMessage::DepthInZoneOutOfRange));
        }
    }
}

#[test]
fn a_depth_that_a_double_rounds_is_divided_before_it_is_rounded() {
    assert_eq!(doubled("-9007199254740993"), "-18014398509481986");
    assert_eq!(doubled("995"), "1990");
    // Both by exact division: 2^53 + 1 is the first integer that a double does not hold.
    assert_eq!(
        five_thousandth("9007199254740993"),
        Some(1801439850948.1986)
    );
    assert_eq!(
        five_thousandth("123456789012345678901234567890"),
        Some(2.469_135_780_246_913_6e25)
    );
    assert_eq!(five_thousandth("450"), Some(0.09));
    assert_eq!(five_thousandth("4.5e2"), Some(0.09));
}

#[test]
fn break_score_smooth_falls_back_to_raw() {
    for (level, smooth) in [
        (r#"{"break_score_raw":61.50}"#, "61.50"),
        (
            r#"{"break_score_raw":61.5,"break_score_smooth":null}"#,
            "61.5",
        ),
        (r#"{"break_score_raw":61.5,"break_score_smooth":0}"#, "0"),
        (
            r#"{"break_score_raw":61.5,"break_score_smooth":""}"#,
            "\"\"",
        ),
        (r#"{"break_score_raw":null}"#, "null"),
        (r#"{"break_score_smooth":null}"#, "0.0"),
        (r#"{"break_score_smooth":12}"#, "12"),
    ] {
        assert_eq!(value_of(level, "break_score_smooth"), smooth, "{level}");
    }
}

#[test]
fn a_sweep_is_detected_by_truth() {
    for (detected, shown) in [
        ("true", "true"),
        ("1", "true"),
        ("\"false\"", "true"),
        ("[0]", "true"),
        ("false", "false"),
        ("null", "false"),
        ("0.0", "false"),
        ("\"\"", "false"),
        ("{}", "false"),
    ] {
        let level = format!("{{\"tape\":{{\"sweep\":{{\"detected\":{detected}}}}}}}");
        assert_eq!(value_of(&level, "sweep_detected"), shown, "{detected}");
    }
}

#[test]
fn parts_that_are_no_objects_are_absent_when_empty_and_bad_otherwise() {
    for (part, path) in [
        ("barrier", "barrier"),
        ("tape", "tape"),
        ("fuel", "fuel"),
        ("sweep", "tape.sweep"),
    ] {
        let level = |value: &str| match part {
            "sweep" => format!("{{\"tape\":{{\"sweep\":{value}}}}}"),
            _ => format!("{{\"{part}\":{value}}}"),
        };
        for empty in ["null", "false", "0", "0.0", "\"\"", "[]", "[ ]", "{}"] {
            assert_eq!(output(&level(empty)), output("{}"), "{part} {empty}");
        }
        for wrong in ["true", "1", "-0.1", "\"x\"", "[1]", "[[]]"] {
            let bad = Err(BadMessage::wrong(path));
            assert_eq!(output(&level(wrong)), bad, "{part} {wrong}");
        }
    }
}

#[test]
fn an_id_or_signal_that_is_an_array_or_object_is_bad() {
    for field in ["id", "signal"] {
        for value in ["[]", "{}", "[1]", "{\"a\":1}"] {
            let level = format!("{{\"{field}\":{value}}}");
            assert_eq!(output(&level), Err(BadMessage::wrong(field)), "{level}");
        }
    }
}

#[test]
fn of_repeated_keys_the_last_counts_at_every_depth() {
    let same = [
        (r#"{"price":1,"price":2}"#, r#"{"price":2}"#),
        (r#"{"price":1,"pr\u0069ce":2}"#, r#"{"price":2}"#),
        (r#"{"id":[],"id":"a"}"#, r#"{"id":"a"}"#),
        (
            r#"{"barrier":{"state":"WALL","delta_liq":1},"barrier":{"state":"VACUUM"}}"#,
            r#"{"barrier":{"state":"VACUUM"}}"#,
        ),
        (r#"{"barrier":"x","barrier":{}}"#, "{}"),
        (r#"{"barrier":{"depth_in_zone":450},"barrier":null}"#, "{}"),
        (
            r#"{"tape":{"buy_vol":1,"sweep":{"detected":1}},"tape":{"buy_vol":2}}"#,
            r#"{"tape":{"buy_vol":2}}"#,
        ),
        (r#"{"tape":{"sweep":"x"},"tape":{}}"#, "{}"),
        (r#"{"tape":{"sweep":{"detected":1},"sweep":0}}"#, "{}"),
        (r#"{"tape":{"sweep":"x","sweep":{}}}"#, "{}"),
        (
            r#"{"fuel":{"effect":"A","effect":"B"}}"#,
            r#"{"fuel":{"effect":"B"}}"#,
        ),
    ];
    for (repeated, once) in same {
        assert_eq!(output(repeated), output(once), "{repeated}");
        assert!(output(once).is_ok());
    }
    assert!(output(r#"{"barrier":{},"barrier":"x"}"#).is_err());
}

#[test]
fn what_no_row_names_is_left_out() {
    let extra = r#"{"zzz":1,"runway":{"state":1},"barrier":{"churn":1,"sweep":2,"imbalance":3},
        "state":9,"sweep":"x","detected":true,"fuel":{"hvl":1},"ml_predictions":{"p_break":1}}"#;
    assert_eq!(output(extra), output("{}"));
}

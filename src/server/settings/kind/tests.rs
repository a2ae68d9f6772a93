use super::*;

fn shown(kind: Kind, text: &str) -> Option<String> {
    kind.parse(text).map(|v| v.to_string())
}

#[test]
fn numbers_keep_their_range() {
    let kind = Kind::number(Unit::Count, (2, 9));
    for good in ["2", "9", " 3 "] {
        assert_eq!(shown(kind, good).as_deref(), Some(good.trim()));
    }
    for bad in ["1", "10", "-2", "3.0", "3k", "", "18446744073709551616"] {
        assert_eq!(shown(kind, bad), None, "{bad}");
    }
    let seed = Kind::number(Unit::Count, (0, u64::MAX));
    assert!(seed.parse("18446744073709551615").is_some());
}

#[test]
fn numbers_with_a_fraction_are_rounded_to_thousandths() {
    let kind = Kind::decimal(Unit::Seconds, (-1_500, 10_000));
    for (typed, milli, as_text) in [
        ("10.0", 10_000, "10"),
        ("0.25", 250, "0.25"),
        ("1e1", 10_000, "10"),
        ("-1.5", -1_500, "-1.5"),
        (" 0 ", 0, "0"),
        ("1.0004", 1_000, "1"),
        ("0.0001", 1, "0.001"),
    ] {
        assert_eq!(kind.parse(typed), Some(Value::Milli(milli)), "{typed}");
        assert_eq!(shown(kind, typed).as_deref(), Some(as_text));
    }
    for bad in ["", "ten", "nan", "inf", "10.001", "-1.501", "1,5", "5s"] {
        assert_eq!(kind.parse(bad), None, "{bad}");
    }
}

/// The exact value of the double is rounded, and a tie goes to the even thousandth, as in Python's `round`. Multiplied
/// by 1,000 first, the first three values would become a thousandth too much.
#[test]
fn thousandths_are_rounded_as_python_rounds_them() {
    let kind = Kind::decimal(Unit::Seconds, (-1_000_000, i64::MAX));
    for (typed, milli) in [
        ("28.9985", 28_998),
        ("24.0535", 24_053),
        ("0.2145", 214),
        ("0.0625", 62),
        ("0.1875", 188),
        ("-0.0625", -62),
        ("1e306", i64::MAX),
        ("2251799813685249.5", 2_251_799_813_685_249_500),
    ] {
        assert_eq!(kind.parse(typed), Some(Value::Milli(milli)), "{typed}");
    }
}

#[test]
fn ports() {
    assert_eq!(Kind::Port.parse("65535"), Some(Value::Number(65535)));
    assert_eq!(Kind::Port.parse("65536"), None);
    assert_eq!(Kind::Port.parse("tcp://10.0.0.1:80"), None);
}

#[test]
fn urls_need_a_scheme_that_fits_and_a_host() {
    let kind = Kind::Urls(&["nats", "tls"]);
    for good in [
        "nats://nats:4222",
        "nats",
        "nats:4222",
        "10.0.0.1:4222",
        "tls://u:p@h",
        "nats://a,nats://b:1",
        "nats://a,",
        "nats://a, ",
        "NATS://a",
        "nats://m\u{fc}ller",
        "nats://[::1]",
    ] {
        assert!(kind.parse(good).is_some(), "{good}");
    }
    for bad in [
        "http://h",
        "nats://",
        "nats://h:port",
        "nats://h:70000",
        "nats://h:0",
        ",",
        "nats://a,,b",
        "nats://$(HOST)",
        "'nats://a'",
        "nats://\"a\"",
        "http//nats:4222",
        "nats://h?x",
        "",
    ] {
        assert!(kind.parse(bad).is_none(), "{bad}");
    }
}

#[test]
fn one_url_may_name_a_database_or_be_absent() {
    let kind = Kind::OptionalUrl(&["redis", "rediss", "unix"]);
    for good in [
        "",
        "redis://h",
        "rediss://u:p@h:1/2",
        "redis://:p@[::1]:6379/",
        "redis://h?password=p",
        "unix:///run/redis.sock",
        "redis+unix://u:p@/run/redis.sock?db=2",
    ] {
        assert!(kind.parse(good).is_some(), "{good}");
    }
    for bad in [
        "h",
        "h:6379",
        "nats://h",
        "redis://",
        "redis://h/x",
        "redis://h:0",
        "redis://`h`",
        "redis://${HOST}:6379",
        "unix://h/run/redis.sock",
        "unix:///",
    ] {
        assert!(kind.parse(bad).is_none(), "{bad}");
    }
    assert_eq!(
        shown(kind, "redis://u:p@h/1").as_deref(),
        Some("redis://u:***@h/1")
    );
    assert_eq!(
        shown(kind, "unix://u:p@/run/r.sock?password=p").as_deref(),
        Some("unix://u:***@/run/r.sock?***")
    );
    let list = Kind::OptionalUrls(&["redis", "nats"]);
    for good in ["redis://u:p@h/2", "nats://a,nats://b/"] {
        assert!(list.parse(good).is_some(), "{good}");
    }
    for bad in ["redis://h/x", "nats://a/2", "unix:///run/redis.sock"] {
        assert!(list.parse(bad).is_none(), "{bad}");
    }
}

#[test]
fn origins_are_what_browsers_send() {
    for (typed, value) in [
        ("*", "any"),
        ("https://Example.com:443/", "https://example.com"),
        ("http://a:8080, null", "http://a:8080,null"),
        ("chrome-extension://AbC", "chrome-extension://abc"),
    ] {
        assert_eq!(shown(Kind::Origins, typed).as_deref(), Some(value));
    }
    for bad in [
        "example.com",
        "https://a/path",
        "https://*.a",
        "https://u@a",
        "a,",
    ] {
        assert_eq!(shown(Kind::Origins, bad), None, "{bad}");
    }
}

#[test]
fn networks_are_addresses_and_prefixes() {
    for (typed, value) in [
        ("", "none"),
        ("*", "any"),
        ("10.1.2.3/8, ::1", "10.0.0.0/8,::1"),
    ] {
        assert_eq!(shown(Kind::Networks, typed).as_deref(), Some(value));
    }
    for bad in ["nginx", "10.0.0.0/33", "10.0.0.1,", "*,10.0.0.1"] {
        assert_eq!(shown(Kind::Networks, bad), None, "{bad}");
    }
}

#[test]
fn switches_choices_and_text() {
    for (text, on) in [("TRUE", true), ("1", true), ("off", false), ("no", false)] {
        assert_eq!(Kind::Switch.parse(text), Some(Value::Switch(on)));
    }
    assert_eq!(Kind::Switch.parse("maybe"), None);
    let choice = Kind::Choice(&["text", "json"]);
    assert_eq!(choice.parse("JSON"), Some(Value::Choice("json")));
    assert_eq!(choice.parse("jsn"), None);
    assert_eq!(shown(Kind::Text, " a b ").as_deref(), Some("a b"));
    for (typed, value) in [("redis://:s3cret@h", "redis://:***@h"), ("a@b", "a@b")] {
        assert_eq!(shown(Kind::Text, typed).as_deref(), Some(value));
    }
    let secret = Kind::Secret.parse("s3cret");
    assert!(!format!("{secret:?}").contains("s3cret"));
    assert_eq!(shown(Kind::Secret, "s3cret").as_deref(), Some("***"));
}

#[test]
fn a_broken_url_shows_nothing_that_may_be_a_password() {
    let kind = Kind::Urls(&["nats"]);
    for kind in [kind, Kind::OptionalUrl(&["redis"]), Kind::Port, Kind::Text] {
        for (wrong, shown) in [
            ("nats://u:s3cret", "\"nats://***\""),
            ("redis://:5", "\"redis://***\""),
            (" nats://h?a=s3cret", "\"nats://***\""),
            ("nats://u:s3c,ret@h:x", "\"nats://***\""),
            ("nats://u:s3c@ret:1", "\"nats://***\""),
            ("nats://u:p@h,nats://u:s3cret", "\"nats://***\""),
            ("nats://h:4222/x", "\"nats://h:4222/x\""),
            ("nats://a,nats://b:1", "\"nats://a,nats://b:1\""),
        ] {
            assert_eq!(kind.shown_when_wrong(wrong), shown, "{wrong}");
        }
    }
    assert_eq!(Kind::Secret.shown_when_wrong("s3cret"), "***");
    for wrong in [
        "u:p@h:1",
        "u:s3cret",
        "s3cret://s3cret",
        "s3c://ret@h",
        "eyJh.e30.",
    ] {
        assert_eq!(kind.shown_when_wrong(wrong), "***");
    }
    assert_eq!(kind.shown_when_wrong("nats:/x"), "\"nats:/x\"");
    let origin = "https://a b";
    assert_eq!(Kind::Origins.shown_when_wrong(origin), "\"https://a b\"");
    assert_eq!(Kind::Port.shown_when_wrong("8\n0"), "\"8\\n0\"");
}

#[test]
fn the_content_of_a_file_is_no_path_and_is_not_shown() {
    let seed = format!("SUA{}", "B2".repeat(28));
    for kind in [Kind::Path, Kind::Paths] {
        for content in [
            "-----BEGIN PRIVATE KEY-----",
            "a\nb",
            "{\"keys\":[]}",
            &seed[..58],
        ] {
            assert_eq!(kind.parse(content), None, "{content}");
            assert_eq!(kind.shown_when_wrong(content), "***");
        }
        for path in ["", "a,b", "/s/SUAB2", "-", "S", &seed.to_lowercase()] {
            assert!(kind.parse(path).is_some(), "{path}");
        }
    }
}

//! Tests of the names and patterns that a role may subscribe to.

use super::*;

fn check(role: &str, steps: usize) -> RightsCheck {
    RightsCheck::new(&Rights::of_role(role.into()), steps)
}

fn grants(acl: &mut Acl, role: &str, name: &str) -> bool {
    let mut check = check(role, PATTERN_STEPS_MAX);
    acl.grants(&mut check, name).unwrap_or(false)
}

#[test]
fn of_several_roles_the_first_in_the_table_counts() {
    let read = |text: &str| Acl::from_json(NameSyntax::Redis, text.as_bytes()).expect("a table");
    let acl = read(r#"{"staff": ["*"], "desk": ["b"], "all": ["a"]}"#);
    let identity = |roles: &[&str]| Identity {
        roles: roles.iter().map(|&role| role.to_owned()).collect(),
        ..Identity::default()
    };
    for (roles, counts) in [
        (&[][..], Ok(None)),
        (&["all"], Ok(Some("all"))),
        (&["all", "desk", "offline_access"], Ok(Some("desk"))),
        (&["desk", "all"], Ok(Some("desk"))),
        (&["none"], Err(Refusal::Role)),
        (&["none", "nor"], Err(Refusal::Role)),
    ] {
        assert_eq!(acl.role_of(&identity(roles).roles), counts, "{roles:?}");
    }
    let built_in = Acl::default();
    assert_eq!(
        built_in.role_of(&identity(&["user", "admin"]).roles),
        Ok(Some("admin"))
    );
    // Another order is another table.
    let other = read(r#"{"desk": ["b"], "staff": ["*"], "all": ["a"]}"#);
    assert_eq!(acl.changes_to(&other).changed, ["desk", "staff"]);
    let longer = read(r#"{"new": [], "staff": ["*"], "desk": ["b"], "all": ["a"]}"#);
    let changes = acl.changes_to(&longer);
    assert!(
        changes.changed.is_empty() && changes.added == ["new"],
        "{changes:?}"
    );
    assert_eq!(read(&other.to_json()).to_json(), other.to_json());
    assert!(other.to_json().starts_with("{\n  \"desk\""));
}

#[test]
fn a_pattern_is_covered_by_the_narrowest_entry_that_contains_it_alone() {
    let cover = |acl: &Acl, pattern: &str| {
        let mut check = check("user", PATTERN_STEPS_MAX);
        acl.cover(&mut check, pattern)
    };
    let some = |name: &str| Some(name.to_owned());
    let acl = Acl::default();
    assert_eq!(cover(&acl, "market:tick:[AB]*"), some("market:tick:*"));
    assert_eq!(cover(&acl, "market:*"), some("*"), "of another role");
    assert_eq!(cover(&acl, "market:tick:*"), None, "an entry itself");
    let text = r#"{"user": ["a[0-9]*", "a[5-9x]:*", "b:*:c", "u:{sub}:*"]}"#;
    let acl = Acl::from_json(NameSyntax::Redis, text.as_bytes()).expect("a table");
    assert_eq!(cover(&acl, "a7:x*"), some("a[5-9x]:*"), "not a plain one");
    assert_eq!(cover(&acl, "a?:*"), None, "neither has all");
    assert_eq!(cover(&acl, "b:?:c"), some("b:*:c"));
    let identity = Identity {
        user: Some("ann".to_owned()),
        ..Identity::default()
    };
    let limits = TokenNameLimits {
        names_max: 5,
        name_bytes_max: 100,
    };
    let rights = acl.admit(&identity, "user", limits).expect("rights");
    let mut of_ann = RightsCheck::new(&rights, PATTERN_STEPS_MAX);
    assert_eq!(acl.cover(&mut of_ann, "u:ann:x*"), some("u:ann:*"));
    assert_eq!(acl.cover(&mut of_ann, "u:ann:*"), None);
    assert_eq!(cover(&acl, "u:ann:x*"), None, "nobody reads for all users");
    let nats = Acl::built_in(NameSyntax::Nats);
    assert_eq!(cover(&nats, "market.tick.*.b"), some("market.tick.>"));
}

#[test]
fn what_changes_between_two_tables_is_told_by_role() {
    let acl = |text: &str| Acl::from_json(NameSyntax::Redis, text.as_bytes()).expect("a table");
    let old = acl(r#"{"a": ["x"], "b": ["y:*"], "c": []}"#);
    let new = acl(r#"{"b": ["y:*"], "c": ["z"], "d": []}"#);
    assert!(old.changes_to(&old.clone()).is_empty());
    let changes = old.changes_to(&new);
    assert!(!changes.is_empty());
    assert_eq!(changes.added, ["d"]);
    assert_eq!(changes.removed, ["a"]);
    assert_eq!(changes.changed, ["c"]);
}

#[test]
fn the_contracts_table() {
    let mut acl = Acl::default();
    assert_eq!(acl.roles(), 3);
    for (role, name, granted) in [
        ("user", "market:tick", true),
        ("user", "market:tick:BANKNIFTY", true),
        ("user", "indicators:", true),
        ("user", "market:tickets:1", false),
        ("user", "market:tic", false),
        ("user", "engine:signal", false),
        ("user", "", false),
        ("admin", "engine:signal", true),
        ("admin", "engine:decision:X", true),
        ("admin", "engine:other", false),
        ("internal", "anything at all", true),
        ("internal", "*", true),
        ("internal", "[à-é]*", true),
        ("guest", "market:tick", false),
        ("", "market:tick", false),
    ] {
        assert_eq!(grants(&mut acl, role, name), granted, "{role} {name}");
    }
    assert!(acl.knows("user") && !acl.knows("guest"));
}

#[test]
fn the_same_table_for_nats_subjects() {
    let mut acl = Acl::built_in(NameSyntax::Nats);
    for (role, name, granted) in [
        ("user", "market.tick", true),
        ("user", "market.tick.NIFTY", true),
        ("user", "market.tick.NSE.NIFTY", true),
        ("user", "market.tick.*", true),
        ("user", "market.tick.>", true),
        ("user", "market.tick.*.>", true),
        ("user", "indicators.>", true),
        ("user", "market.*", false),
        ("user", "market.>", false),
        ("user", "*.tick.x", false),
        ("user", ">", false),
        ("user", "market:tick", false),
        ("user", "market.tickets.1", false),
        ("user", "engine.signal", false),
        ("admin", "engine.signal.>", true),
        ("admin", "engine.>", false),
        ("internal", ">", true),
        ("internal", "*", true),
        ("guest", "market.tick", false),
    ] {
        assert_eq!(grants(&mut acl, role, name), granted, "{role} {name}");
    }
    let shown = acl.to_json();
    let read = Acl::from_json(NameSyntax::Nats, shown.as_bytes()).expect("its own text");
    assert_eq!(read.to_json(), shown);
    let wrong = Acl::from_json(NameSyntax::Nats, br#"{"r": ["a.b*"]}"#).expect_err("no subject");
    assert!(wrong.to_string().contains("whole tokens"), "{wrong}");
}

#[test]
fn a_pattern_is_granted_where_all_that_it_matches_is() {
    let mut acl = Acl::default();
    for (name, granted) in [
        ("market:tick:*", true),
        ("market:tick:B*", true),
        ("market:tick:*:*", true),
        ("market:tick:B?", true),
        ("market:tick:?*", true),
        ("[m]arket:tick:*", true),
        ("market\\:tick:*", true),
        ("market:tick:[a-c]*", true),
        ("indicators:*", true),
        ("**indicators:*", false),
        ("market:*", false),
        ("market:tick*", false),
        ("market:tic?", false),
        ("market:tick?", false),
        ("market:tick[:x]*", false),
        ("market:tick\\:*", true),
        ("market:tick:\\*", true),
        ("*", false),
        ("?", false),
        ("*:*", false),
        ("[mi]*", false),
        ("market:tick:[à-é]*", false),
    ] {
        assert_eq!(grants(&mut acl, "user", name), granted, "{name}");
    }
    assert!(!grants(&mut acl, "user", "engine:signal:*"));
    assert!(grants(&mut acl, "admin", "engine:signal:*"));
    assert!(!grants(&mut acl, "admin", "engine:*"));
}

#[test]
fn several_patterns_may_grant_one_together() {
    let table = br#"{"r": ["a:x*", "a:[^x]*", "a:"]}"#;
    let mut acl = Acl::from_json(NameSyntax::Redis, table).expect("a table");
    assert!(grants(&mut acl, "r", "a:*"));
    let table = br#"{"r": ["a:x*", "a:[^x]*"]}"#;
    let mut acl = Acl::from_json(NameSyntax::Redis, table).expect("a table");
    assert!(!grants(&mut acl, "r", "a:*"), "a: itself is not granted");
    assert!(grants(&mut acl, "r", "a:?*"));
}

#[test]
fn a_table_is_read_and_shown() {
    let shown = Acl::default().to_json();
    let read = Acl::from_json(NameSyntax::Redis, shown.as_bytes()).expect("its own text");
    assert_eq!(read.to_json(), shown);
    assert!(Acl::from_json(NameSyntax::Redis, b"{}").is_ok_and(|acl| !acl.knows("user")));
    let deep = format!(r#"{{"a": {}}}"#, "[".repeat(512));
    for (bad, says) in [
        (deep.as_str(), "deeper than 512"),
        ("", "not a JSON object"),
        ("[]", "not a JSON object"),
        (r#"{"a": "x"}"#, "role \"a\": not a list of texts"),
        (r#"{"a": [1]}"#, "role \"a\": not a list of texts"),
        (r#"{"a": [["x"]]}"#, "role \"a\": not a list of texts"),
        (r#"{"a": [], "a": []}"#, "role \"a\" is there twice"),
        (r#"{"a": []} x"#, "more after the end"),
        (r#"{"a": ["[à-é]*"]}"#, "outside of ASCII"),
    ] {
        let error = Acl::from_json(NameSyntax::Redis, bad.as_bytes())
            .expect_err(bad)
            .to_string();
        assert!(error.contains(says), "{bad}: {error}");
    }
}

/// The thread that reads the file makes it, and the loop gets a copy.
#[test]
fn a_table_has_what_the_first_pattern_of_a_client_needs() {
    let table = br#"{"r": ["desk:1", "desk:2", "pub:*"], "s": ["a:[ab]?"]}"#;
    let acl = Acl::from_json(NameSyntax::Redis, table).expect("a table");
    for acl in [acl.clone(), acl, Acl::default()] {
        let sets = acl.roles.values().map(|role| &role.set);
        let covers = acl.covers.iter().map(|(_, set)| set);
        for set in sets.chain(covers) {
            let bytes = set.memory_bytes();
            set.prepare_contain();
            assert_eq!(set.memory_bytes(), bytes, "it was made before");
        }
    }
}

#[test]
fn what_was_asked_before_costs_its_length() {
    let table = br#"{"r": ["*a*b*c*d*e*f*g*h"], "s": ["*"], "t": []}"#;
    let mut acl = Acl::from_json(NameSyntax::Redis, table).expect("a table");
    let mut cost = |role: &str, granted: bool| {
        let mut check = check(role, PATTERN_STEPS_MAX);
        let pattern = "1*a*b*c*d*e*f*g*h";
        let found = acl.grants(&mut check, pattern);
        assert_eq!(found, Ok(granted), "{role}");
        PATTERN_STEPS_MAX - check.budget.left()
    };
    assert!(cost("r", true) > 1_000);
    assert_eq!(cost("r", true), 17);
    assert!(cost("t", false) > 17, "each role has answers of its own");
    assert_eq!(cost("t", false), 17);
    assert_eq!(cost("s", true), 0);
}

#[test]
fn without_a_budget_nothing_is_granted_and_nothing_remembered() {
    let table = br#"{"r": ["*a*b*c*d*e*f*g*h", "x:*"]}"#;
    let mut acl = Acl::from_json(NameSyntax::Redis, table).expect("a table");
    let pattern = "1*a*b*c*d*e*f*g*h";
    for name in [pattern, "x:1", "x:*"] {
        for steps in [0, 5] {
            let found = acl.grants(&mut check("r", steps), name);
            assert!(!found.unwrap_or(false), "{name} {steps}");
        }
    }
    let mut few = check("r", 2_000);
    assert_eq!(acl.grants(&mut few, pattern), Err(Undecided::Request));
    assert_eq!(few.budget.left(), 0);
    assert!(grants(&mut acl, "r", pattern));
}

#[test]
fn a_pattern_that_needs_too_much_is_refused_and_that_is_remembered() {
    let table = format!(r#"{{"r": ["*{}"]}}"#, "[ab]?".repeat(60));
    let mut acl = Acl::from_json(NameSyntax::Redis, table.as_bytes()).expect("a table");
    let evil = format!("{}b", "*a".repeat(120));
    let mut check = check("r", 2 * PATTERN_STEPS_MAX);
    let too_many = Err(Undecided::Name {
        steps_max: PATTERN_STEPS_MAX,
    });
    assert_eq!(acl.grants(&mut check, &evil), too_many);
    assert_eq!(check.budget.left(), PATTERN_STEPS_MAX - evil.len());
    assert_eq!(acl.grants(&mut check, &evil), too_many);
    assert_eq!(check.budget.left(), PATTERN_STEPS_MAX - 2 * evil.len());
}

#[test]
fn a_name_that_needs_too_much_is_told_from_a_request_that_does() {
    let pattern = |n: usize| format!("\"*a*b{n}\"");
    let patterns: Vec<String> = (0..2_000).map(pattern).collect();
    let table = format!(r#"{{"r": [{}]}}"#, patterns.join(","));
    let mut acl = Acl::from_json(NameSyntax::Redis, table.as_bytes()).expect("a table");
    let name = "1".repeat(500);
    let mut asked = |steps| acl.grants(&mut check("r", steps), &name);
    let too_many = Err(Undecided::Name {
        steps_max: NAME_STEPS_MAX,
    });
    assert_eq!(asked(NAME_STEPS_MAX), too_many);
    assert_eq!(asked(2 * NAME_STEPS_MAX), too_many);
    assert_eq!(asked(NAME_STEPS_MAX - 1), Err(Undecided::Request));
}

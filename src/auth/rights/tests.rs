//! Tests of names made from claims, and of names in tokens.

use proptest::prelude::*;

use super::super::acl::Acl;
use super::super::claims::TokenClaims;
use super::super::template::{CLAIM, CLAIM_BYTES_MAX, TemplateError, USER};
use super::*;

const LIMITS: TokenNameLimits = TokenNameLimits {
    names_max: 3,
    name_bytes_max: 40,
};

fn identity(user: Option<&str>, claims: &[(&str, Option<&str>)], names: &[&str]) -> Identity {
    let owned = |text: &str| text.to_owned();
    let of_token: std::collections::BTreeMap<_, _> = claims.iter().copied().collect();
    let json = sonic_rs::to_string(&of_token).expect("JSON");
    Identity {
        roles: vec!["r".to_owned()],
        user: user.map(owned),
        claims: TokenClaims::new(json.into_bytes()),
        names: Ok(names.iter().copied().map(owned).collect()),
        ..Identity::default()
    }
}

fn table(syntax: NameSyntax, names: &[&str]) -> Acl {
    let text = sonic_rs::to_string(&std::collections::BTreeMap::from([("r", names)]));
    Acl::from_json(syntax, text.expect("JSON").as_bytes()).expect("a table")
}

fn grants(acl: &mut Acl, rights: &Rights, name: &str) -> bool {
    let mut check = RightsCheck::new(rights, 100_000);
    acl.grants(&mut check, name).unwrap_or(false)
}

#[test]
fn a_placeholder_names_a_claim_or_its_path() {
    let mut acl = table(NameSyntax::Nats, &["desks.{claim:y.desk}.>"]);
    for (json, desk) in [
        (r#"{"y":{"desk":"fx"}}"#, Some("fx")),
        (r#"{"y.desk":"fx","y":{"desk":"gx"}}"#, Some("fx")),
        (r#"{"y":{"desk":["fx"]}}"#, None),
        (r#"{"y":{"desk":"fx","desk":"gx"}}"#, None),
        (r#"{"desk":"fx"}"#, None),
    ] {
        let mut identity = identity(None, &[], &[]);
        identity.claims = TokenClaims::new(json.as_bytes().to_vec());
        let rights = acl.admit(&identity, "r", LIMITS).expect("rights");
        for other in ["fx", "gx"] {
            let is_granted = grants(&mut acl, &rights, &format!("desks.{other}.a"));
            assert_eq!(is_granted, desk == Some(other), "{json} {other}");
        }
    }
}

#[test]
fn placeholders_are_whole_tokens_behind_a_word() {
    use NameSyntax::{Nats, Redis};
    use TemplateError::{Class, NoFixedStart, NoPlaceholder, PartOfToken, Wildcard};
    for (syntax, name, error) in [
        (Nats, "orders.{sub}", None),
        (Nats, "orders.{sub}.>", None),
        (Nats, "a.{claim:x}.{sub}.*", None),
        (Nats, "a.{claim:https://x/y}", None),
        (Redis, "orders:{sub}:*", None),
        (Redis, "orders/{sub}", None),
        (Nats, "orders.u{sub}", Some(PartOfToken)),
        (Nats, "orders.{sub}x", Some(PartOfToken)),
        (Nats, "orders.{sub}{claim:x}", Some(PartOfToken)),
        (Redis, "orders:{sub}*", Some(PartOfToken)),
        (Redis, "orders:[{sub}]", Some(PartOfToken)),
        (Redis, "[ab]:{sub}", Some(Class)),
        (Redis, "a\\:{sub}", Some(Class)),
        (Nats, "{sub}.orders", Some(NoFixedStart)),
        (Nats, "{claim:x}", Some(NoFixedStart)),
        (Nats, "*.{sub}", Some(NoFixedStart)),
        (Nats, "*.*.{sub}.>", Some(NoFixedStart)),
        (Nats, "a.*.{sub}.>", None),
        (Nats, "?.{sub}", None),
        (Redis, "*:{sub}", Some(NoFixedStart)),
        (Redis, ":{sub}", Some(NoFixedStart)),
        (Redis, "/a:{sub}", Some(NoFixedStart)),
        (Redis, "?:{sub}", Some(Wildcard)),
        (Redis, "a*:{sub}", Some(Wildcard)),
        (Redis, "a:*:{sub}", Some(Wildcard)),
        (Redis, "a:{sub}:*:{claim:x}", Some(Wildcard)),
        (Redis, "a:{sub}:{claim:x}:?*", None),
        (Nats, "a.{claim:}", Some(NoPlaceholder)),
        (Nats, "a.{claim:x", Some(NoPlaceholder)),
        (Nats, "a.{user}", Some(NoPlaceholder)),
        (Nats, "a.{SUB}", Some(NoPlaceholder)),
        (Nats, "a.{ sub }", Some(NoPlaceholder)),
        (Nats, "a.{claim.x}", Some(NoPlaceholder)),
        (Nats, "a.{{sub}}", Some(NoPlaceholder)),
        (Nats, "a.\\{sub", Some(NoPlaceholder)),
        (Redis, "x:{user}:y", Some(NoPlaceholder)),
        (Redis, "x:{sub}:{user}", Some(NoPlaceholder)),
        (Redis, "{", Some(NoPlaceholder)),
        (Redis, "\\{a}:{sub}", Some(Class)),
    ] {
        let parsed = Template::parse(syntax, name);
        assert_eq!(parsed.as_ref().err(), error.as_ref(), "{name}");
        if let Ok(template) = parsed {
            assert!(template.is_some(), "{name}");
        }
    }
    for plain in ["orders.*", "sub", "}", "x:\\{user}:*"] {
        assert_eq!(Template::parse(Redis, plain), Ok(None), "{plain}");
    }
    let text = br#"{"r": ["a.{sub}.>.b"]}"#;
    let error = Acl::from_json(Nats, text)
        .expect_err("no subject")
        .to_string();
    assert!(error.contains("a.{sub}.>.b"), "{error}");
}

#[test]
fn a_user_has_names_of_the_claims() {
    let mut acl = table(
        NameSyntax::Nats,
        &["all.>", "orders.{sub}.>", "desk.{claim:desk}"],
    );
    let ann = identity(Some("ann"), &[("desk", Some("fx"))], &[]);
    let rights = acl.admit(&ann, "user", LIMITS).expect("admitted");
    assert_eq!(acl.own_names(&rights), ["orders.ann.>", "desk.fx"]);
    for (name, granted) in [
        ("all.x", true),
        ("all.>", true),
        ("orders.ann.7", true),
        ("orders.ann.*", true),
        ("orders.ann.>", true),
        ("desk.fx", true),
        ("orders.ann", false),
        ("orders.bob.7", false),
        ("orders.*.7", false),
        ("orders.>", false),
        ("orders.{sub}.7", false),
        ("desk.*", false),
        (">", false),
    ] {
        assert_eq!(grants(&mut acl, &rights, name), granted, "{name}");
    }
    assert_eq!(
        acl.all_names().into_iter().collect::<Vec<_>>(),
        ["all.>", "desk.*", "orders.*.>"]
    );
    let nobody = identity(None, &[], &[]);
    let rights = acl.admit(&nobody, "user", LIMITS).expect("admitted");
    assert!(grants(&mut acl, &rights, "all.x") && acl.own_names(&rights).is_empty());
    assert!(!grants(&mut acl, &rights, "orders..7"));
}

/// What a claim puts into a name, as a second implementation: percent-encoding as in a URL.
fn url_model(claim: &str) -> String {
    let plain = |byte: &u8| matches!(byte, b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'-' | b'_' | b'@' | b'|' | b'=');
    let each = |byte: u8| match plain(&byte) {
        true => (byte as char).to_string(),
        false => format!("%{byte:02X}"),
    };
    claim.bytes().map(each).collect()
}

#[test]
fn a_claim_is_escaped() {
    for (claim, text) in [
        ("ann", "ann"),
        ("ann.smith", "ann%2Esmith"),
        ("ann.smith@example.com", "ann%2Esmith@example%2Ecom"),
        ("Ann Smith", "Ann%20Smith"),
        (
            "auth0|5f7c8ec7c33c6c004bbafe82",
            "auth0|5f7c8ec7c33c6c004bbafe82",
        ),
        ("a%2Eb", "a%252Eb"),
        ("ä", "%C3%A4"),
        ("*", "%2A"),
        (">", "%3E"),
        ("\0", "%00"),
        ("$JS", "%24JS"),
    ] {
        assert_eq!(escape_claim(claim).as_deref(), Ok(text), "{claim:?}");
    }
    assert_eq!(escape_claim(""), Err(ClaimFault::Empty));
    assert!(escape_claim(&"x".repeat(CLAIM_BYTES_MAX)).is_ok());
    assert_eq!(
        escape_claim(&"x".repeat(CLAIM_BYTES_MAX + 1)),
        Err(ClaimFault::Long)
    );
}

proptest::proptest! {
    /// Whatever the name of a user, the user gets only names made from it: not those of another user, and no pattern.
    #[test]
    fn any_user_gets_the_own_names_alone(
        user in "\\PC{0,40}|[.*>:/?%a\\[\\]\\\\ \u{0}\u{202e}]{0,8}|a{120,140}",
        other in "\\PC{0,8}|[.*>:/?%a]{0,4}",
    ) {
        for (syntax, placeholder) in [(NameSyntax::Nats, "orders.{sub}.>"), (NameSyntax::Redis, "orders:{sub}:*")] {
            let mut acl = table(syntax, &["all", placeholder]);
            let admitted = acl.admit(&identity(Some(&user), &[], &[]), "user", LIMITS);
            let rights = admitted.expect("no user name is refused");
            proptest::prop_assert!(grants(&mut acl, &rights, "all"));
            let is_usable = (1..=CLAIM_BYTES_MAX).contains(&user.len());
            let of = |name: &str| placeholder.replace("{sub}", name).replace(['>', '*'], "7");
            proptest::prop_assert_eq!(grants(&mut acl, &rights, &of(&url_model(&user))), is_usable);
            if user != other && syntax.check(&of(&url_model(&other))).is_ok() {
                proptest::prop_assert!(!grants(&mut acl, &rights, &of(&url_model(&other))));
            }
            for name in [placeholder.replace("{sub}", "*"), placeholder.replace("{sub}", &other)] {
                // Also names below the user's own: of user a, what another a.a would have.
                let own = placeholder.replace("{sub}", &url_model(&user));
                let is_own = is_usable && name.starts_with(own.trim_end_matches(['>', '*']));
                let is_name = syntax.check(&name).is_ok();
                proptest::prop_assert!(is_own || !is_name || !grants(&mut acl, &rights, &name), "{}", name);
            }
        }
    }
}

#[test]
fn a_claim_that_fills_no_placeholder_is_named() {
    let acl = table(
        NameSyntax::Nats,
        &["all", "a.{sub}", "n.{claim:n}.>", "both.{sub}.{claim:n}"],
    );
    let long = "x".repeat(CLAIM_BYTES_MAX + 1);
    for (user, claims, name, fault) in [
        (Some(""), &[][..], "a.b", Some(("{sub}", ClaimFault::Empty))),
        (
            Some(long.as_str()),
            &[],
            "a.b",
            Some(("{sub}", ClaimFault::Long)),
        ),
        (None, &[], "a.b", Some(("{sub}", ClaimFault::Missing))),
        (
            None,
            &[("n", None)],
            "n.7.x",
            Some(("{claim:n}", ClaimFault::NoText)),
        ),
        (
            Some("u"),
            &[],
            "both.u.7",
            Some(("{claim:n}", ClaimFault::Missing)),
        ),
        (Some("u"), &[], "a.b", None),
        (None, &[], "other.b", None),
    ] {
        let rights = acl.admit(&identity(user, claims, &[]), "user", LIMITS);
        let mut check = RightsCheck::new(&rights.expect("admitted"), 10_000);
        let found = acl.fault(&mut check, name);
        assert_eq!(
            found,
            fault.map(|(placeholder, fault)| (placeholder.to_owned(), fault)),
            "{name}"
        );
    }
}

#[test]
fn a_missing_claim_is_named_wherever_the_wildcards_of_redis_are() {
    let names = ["o:{sub}:*", "n:{claim:n}:a?c:*z", "p:{claim:p}"];
    let acl = table(NameSyntax::Redis, &names);
    let rights = acl.admit(&identity(None, &[], &[]), "user", LIMITS);
    let rights = rights.expect("admitted");
    for (name, placeholder) in [
        ("o:ann:new", Some("{sub}")),
        ("o:ann:*", Some("{sub}")),
        ("o:ann:n?w", Some("{sub}")),
        ("o:[ab]:*", Some("{sub}")),
        ("o:ann", None),
        ("o:a*", None),
        ("o*", None),
        ("n:7:abc:xyz", Some("{claim:n}")),
        ("n:7:a[bd]c:*yz", Some("{claim:n}")),
        ("n:7:abc:x", None),
        ("n:7:a*c:z", None),
        ("p:7", Some("{claim:p}")),
    ] {
        let mut check = RightsCheck::new(&rights, 10_000);
        let found = acl.fault(&mut check, name);
        let found = found.map(|(placeholder, _)| placeholder);
        assert_eq!(found.as_deref(), placeholder, "{name}");
    }
    // The reason costs no more than a part of the steps of a request.
    let many: Vec<String> = (0..2_000)
        .map(|n| format!("o:{{claim:c{n}}}:*a*b*c*d*z"))
        .collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let acl = table(NameSyntax::Redis, &many);
    let rights = acl.admit(&identity(None, &[], &[]), "user", LIMITS);
    let mut check = RightsCheck::new(&rights.expect("admitted"), 1_000_000);
    assert!(acl.fault(&mut check, "o:ann:*a*b*c*d*e").is_none());
    assert!(check.budget.left() >= 1_000_000 - 10_000);
}

#[test]
fn a_token_has_names_of_its_own_within_limits() {
    let mut acl = table(NameSyntax::Nats, &["a"]);
    let names = ["b", "c.*", "d.>"];
    let rights = acl
        .admit(&identity(None, &[], &names), "user", LIMITS)
        .expect("admitted");
    for (name, granted) in [
        ("a", true),
        ("b", true),
        ("c.*", true),
        ("c.x", true),
        ("d.x.y", true),
        ("c.>", false),
        ("e", false),
    ] {
        assert_eq!(grants(&mut acl, &rights, name), granted, "{name}");
    }
    let long = "x".repeat(41);
    let wrong: [&[&str]; 4] = [&["a", "b", "c", "d"], &[&long], &["a..b"], &["a b"]];
    for names in wrong {
        let refused = acl.admit(&identity(None, &[], names), "user", LIMITS);
        assert_eq!(refused.err(), Some(Refusal::Names), "{names:?}");
    }
    let mut no_list = identity(None, &[], &[]);
    no_list.names = Err(Refusal::Names);
    assert_eq!(
        acl.admit(&no_list, "user", LIMITS).err(),
        Some(Refusal::Names)
    );
}

/// With a new table, the role is chosen again, and a client's own names are made again from the claims of its token, also
/// from those that no earlier table needed.
#[test]
fn a_new_table_makes_the_rights_again() {
    let of = |text: &str| Acl::from_json(NameSyntax::Nats, text.as_bytes()).expect("a table");
    let mut ann = identity(Some("ann"), &[("desk", Some("fx"))], &["own"]);
    ann.roles = vec!["desk".to_owned(), "r".to_owned()];
    let mut rights = of(r#"{"r": ["a"]}"#)
        .admit(&ann, "user", LIMITS)
        .expect("admitted");
    let before = rights.clone();
    for (text, role, names) in [
        (
            r#"{"r": ["b.{sub}", "c.{claim:desk}"], "desk": ["d"]}"#,
            "r",
            &["b.ann", "c.fx", "own"][..],
        ),
        (
            r#"{"desk": ["d", "e.{claim:sub}"], "r": ["a"]}"#,
            "desk",
            &["d", "own"],
        ),
        (r#"{"user": ["b.{sub}", "c.{claim:desk}"]}"#, "desk", &[]),
        (r#"{"r": ["a"]}"#, "r", &["a", "own"]),
    ] {
        let mut table = of(text);
        table.renew(&mut rights, "user");
        assert_eq!(&*rights.role, role, "{text}");
        for name in ["a", "b.ann", "c.fx", "d", "e.ann", "own"] {
            assert_eq!(
                grants(&mut table, &rights, name),
                names.contains(&name),
                "{text} {name}"
            );
        }
    }
    assert!(rights.have_same_names(&before));
}

#[test]
fn a_client_without_a_role_has_that_of_the_settings_by_every_table() {
    let mut nobody = Rights::of_role("user".into());
    let mut ann = identity(Some("ann"), &[], &[]);
    ann.roles.clear();
    let mut first = table(NameSyntax::Nats, &["a"]);
    let mut ann = first.admit(&ann, "user", LIMITS).expect("admitted");
    let text = br#"{"r": ["a"], "user": ["b", "c.{sub}"]}"#;
    let mut next = Acl::from_json(NameSyntax::Nats, text).expect("a table");
    for rights in [&mut nobody, &mut ann] {
        assert!(!grants(&mut first, rights, "a"));
        next.renew(rights, "user");
        assert!(grants(&mut next, rights, "b") && !grants(&mut next, rights, "a"));
    }
    assert!(grants(&mut next, &ann, "c.ann") && !grants(&mut next, &nobody, "c.ann"));
    assert_eq!(nobody.memory_bytes(), 0, "it has no token");
}

/// The rule in ten lines: a name is granted if every token of it matches one pattern of the role, filled with the
/// claims, or one pattern in the token.
fn model(patterns: &[String], asked: &str) -> bool {
    let takes = |pattern: &str| {
        let (mut own, mut asked) = (pattern.split('.'), asked.split('.'));
        loop {
            match (own.next(), asked.next()) {
                (None, None) | (Some(">"), Some(_)) => return true,
                (Some("*"), Some(token)) if token != ">" => {}
                (Some(one), Some(other)) if one == other => {}
                _ => return false,
            }
        }
    };
    patterns.iter().any(|pattern| takes(pattern))
}

fn token() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "a",
        "b",
        "ann",
        "bob",
        "*",
        "a%2Eb",
        "{sub}",
        "{claim:desk}",
    ])
    .prop_map(str::to_owned)
}

fn name(first: &'static [&'static str]) -> impl Strategy<Value = String> {
    let first = prop::sample::select(first.to_vec());
    (first, prop::collection::vec(token(), 0..3), prop::bool::ANY).prop_map(|(first, rest, all)| {
        let mut tokens = vec![first.to_owned()];
        tokens.extend(rest);
        if all {
            tokens.push(">".to_owned());
        }
        tokens.join(".")
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn random_tokens_roles_and_names_agree_with_the_model(
        table_names in prop::collection::vec(name(&["a", "b"]), 0..4),
        token_names in prop::collection::vec(name(&["a", "b", "c"]), 0..3),
        user in prop::sample::select(vec![None, Some("ann"), Some("bob"), Some("a.b"), Some("*")]),
        desk in prop::sample::select(vec![None, Some("a"), Some(">")]),
        asked in prop::collection::vec(name(&["a", "b", "c"]), 1..8),
    ) {
        let texts: Vec<&str> = table_names.iter().map(String::as_str).collect();
        let mut acl = table(NameSyntax::Nats, &texts);
        let claims: Vec<_> = desk.map(|desk| ("desk", Some(desk))).into_iter().collect();
        // Braces have no meaning in a token.
        let token_texts: Vec<&str> = token_names.iter().map(String::as_str).collect();
        let identity = identity(user, &claims, &token_texts);
        let rights = acl.admit(&identity, "user", LIMITS).expect("no claim is refused");
        let filled = table_names.iter().filter_map(|name| {
            let name = match user {
                Some(user) => name.replace(USER, &url_model(user)),
                None if name.contains(USER) => return None,
                None => name.clone(),
            };
            match desk {
                Some(desk) => Some(name.replace("{claim:desk}", &url_model(desk))),
                None if name.contains(CLAIM) => None,
                None => Some(name),
            }
        });
        let patterns: Vec<String> = filled.chain(token_names.iter().cloned()).collect();
        for name in asked {
            // Two patterns together may grant a pattern that neither grants alone; the model does not know that.
            let granted = grants(&mut acl, &rights, &name);
            let wanted = model(&patterns, &name);
            prop_assert!(granted || !wanted, "{} refused with {:?}", name, patterns);
            let is_pattern = NameSyntax::Nats.is_pattern(&name);
            prop_assert!(wanted || !granted || is_pattern, "{} granted with {:?}", name, patterns);
            if granted && is_pattern {
                // If a pattern is granted, so is every subject of it that these tokens can make.
                for one in ["a", "b", "ann", "bob", "other"] {
                    let subject = name.replace(['*', '>'], one);
                    prop_assert!(model(&patterns, &subject), "{} of {}", subject, name);
                }
            }
        }
    }
}

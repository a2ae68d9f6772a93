//! Tests of names made from claims, and of names in tokens.

use proptest::prelude::*;

use super::super::acl::Acl;
use super::*;

const LIMITS: TokenNameLimits = TokenNameLimits {
    names_max: 3,
    name_bytes_max: 40,
};

fn identity(user: Option<&str>, claims: &[(&str, Option<&str>)], names: &[&str]) -> Identity {
    let owned = |text: &str| text.to_owned();
    let claim = |(name, text): &(&str, Option<&str>)| (owned(name), text.map(owned));
    Identity {
        roles: vec!["r".to_owned()],
        user: user.map(owned),
        texts: claims.iter().map(claim).collect(),
        names: Ok(names.iter().copied().map(owned).collect()),
        ..Identity::default()
    }
}

fn table(syntax: NameSyntax, names: &[&str]) -> Acl {
    let text = sonic_rs::to_string(&std::collections::BTreeMap::from([("r", names)]));
    Acl::read(syntax, text.expect("JSON").as_bytes()).expect("a table")
}

fn grants(acl: &mut Acl, rights: &Rights, name: &str) -> bool {
    let mut check = RightsCheck::new(rights, 100_000);
    acl.grants(&mut check, name).unwrap_or(false)
}

#[test]
fn places_are_whole_tokens_behind_a_word() {
    use NameSyntax::{Nats, Redis};
    use TemplateError::{Class, First, PartOfToken, Place, Wildcard};
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
        (Nats, "{sub}.orders", Some(First)),
        (Nats, "{claim:x}", Some(First)),
        (Nats, "*.{sub}", Some(First)),
        (Nats, "*.*.{sub}.>", Some(First)),
        (Nats, "a.*.{sub}.>", None),
        (Nats, "?.{sub}", None),
        (Redis, "*:{sub}", Some(First)),
        (Redis, ":{sub}", Some(First)),
        (Redis, "/a:{sub}", Some(First)),
        (Redis, "?:{sub}", Some(Wildcard)),
        (Redis, "a*:{sub}", Some(Wildcard)),
        (Redis, "a:*:{sub}", Some(Wildcard)),
        (Redis, "a:{sub}:*:{claim:x}", Some(Wildcard)),
        (Redis, "a:{sub}:{claim:x}:?*", None),
        (Nats, "a.{claim:}", Some(Place)),
        (Nats, "a.{claim:x", Some(Place)),
        (Nats, "a.{user}", Some(Place)),
        (Nats, "a.{SUB}", Some(Place)),
        (Nats, "a.{ sub }", Some(Place)),
        (Nats, "a.{claim.x}", Some(Place)),
        (Nats, "a.{{sub}}", Some(Place)),
        (Nats, "a.\\{sub", Some(Place)),
        (Redis, "x:{user}:y", Some(Place)),
        (Redis, "x:{sub}:{user}", Some(Place)),
        (Redis, "{", Some(Place)),
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
    let error = Acl::read(Nats, text).expect_err("no subject").to_string();
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

#[test]
fn hostile_claims_are_refused() {
    let long = "x".repeat(10_000);
    let just = "x".repeat(CLAIM_BYTES_MAX);
    for syntax in [NameSyntax::Nats, NameSyntax::Redis] {
        let of_user = table(
            syntax,
            &["a:{sub}"].map(|n| {
                if syntax == NameSyntax::Nats {
                    "a.{sub}"
                } else {
                    n
                }
            }),
        );
        for claim in [
            "*", ">", ".", "", "a.b", "a*", "a:b", "a/b", "?", "[a]", "\\", " ", "a b", "\0",
            "%2e", "a%", "{sub}", "ä", "漢", "а", "\u{202e}", "\n", "$JS", &long,
        ] {
            let refused = of_user.admit(&identity(Some(claim), &[], &[]), "user", LIMITS);
            assert_eq!(refused.err(), Some(Refusal::ClaimText), "{claim:?}");
        }
        for claim in ["a", "auth0|5f7c8ec7c33c6c004bbafe82", "a-b_c@d=", &just] {
            let admitted = of_user.admit(&identity(Some(claim), &[], &[]), "user", LIMITS);
            assert!(admitted.is_ok(), "{claim:?}");
        }
    }
    let of_claim = table(NameSyntax::Nats, &["a.{claim:n}"]);
    let number = of_claim.admit(&identity(None, &[("n", None)], &[]), "user", LIMITS);
    assert_eq!(number.err(), Some(Refusal::ClaimText));
    let unused = table(NameSyntax::Nats, &["a.b"]);
    let hostile = identity(Some("*"), &[("n", None)], &[]);
    assert!(
        unused.admit(&hostile, "user", LIMITS).is_ok(),
        "no name needs the claims"
    );
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

/// A new table judges the names of a client with the claims of the client's token.
#[test]
fn a_new_table_makes_the_names_again() {
    let mut acl = table(NameSyntax::Nats, &["a.{sub}"]);
    let ann = identity(Some("ann"), &[], &["own"]);
    let rights = acl.admit(&ann, "user", LIMITS).expect("admitted");
    assert!(grants(&mut acl, &rights, "a.ann"));
    let mut next = table(NameSyntax::Nats, &["b.{sub}", "c.{claim:desk}"]);
    assert!(grants(&mut next, &rights, "b.ann") && grants(&mut next, &rights, "own"));
    assert!(!grants(&mut next, &rights, "a.ann"));
    assert_eq!(next.own_names(&rights), ["b.ann", "own"]);
    let mut without = Acl::built_in(NameSyntax::Nats);
    assert!(!grants(&mut without, &rights, "b.ann") && grants(&mut without, &rights, "own"));
}

/// The rule in ten lines: a name is granted if one pattern of the role, filled with the claims, or one
/// pattern of the token takes every token of the name.
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
    prop::sample::select(vec!["a", "b", "ann", "bob", "*", "{sub}", "{claim:desk}"])
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
        let uses = |place: &str| table_names.iter().any(|name| name.contains(place));
        let is_hostile = uses(USER) && user.is_some_and(|user| !is_good(user))
            || uses(CLAIM) && desk == Some(">");
        let rights = acl.admit(&identity, "user", LIMITS);
        prop_assert_eq!(rights.is_err(), is_hostile);
        let Ok(rights) = rights else { return Ok(()) };
        let filled = table_names.iter().filter_map(|name| {
            let name = match user {
                Some(user) => name.replace(USER, user),
                None if name.contains(USER) => return None,
                None => name.clone(),
            };
            match desk {
                Some(desk) => Some(name.replace("{claim:desk}", desk)),
                None if name.contains(CLAIM) => None,
                None => Some(name),
            }
        });
        let patterns: Vec<String> = filled.chain(token_names.iter().cloned()).collect();
        for name in asked {
            // Two patterns together may grant what none grants alone; the model does not know that.
            let granted = grants(&mut acl, &rights, &name);
            let wanted = model(&patterns, &name);
            prop_assert!(granted || !wanted, "{} refused with {:?}", name, patterns);
            let is_pattern = NameSyntax::Nats.is_pattern(&name);
            prop_assert!(wanted || !granted || is_pattern, "{} granted with {:?}", name, patterns);
            if granted && is_pattern {
                // Every subject of the pattern that these tokens can make is granted too.
                for one in ["a", "b", "ann", "bob", "other"] {
                    let subject = name.replace(['*', '>'], one);
                    prop_assert!(model(&patterns, &subject), "{} of {}", subject, name);
                }
            }
        }
    }
}

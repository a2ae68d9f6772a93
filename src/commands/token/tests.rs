//! Tests of the tokens that are made and judged on a terminal.

use super::*;
use crate::auth::ClaimRules;
use crate::settings::SecretText;

fn command(action: TokenAction) -> TokenCommand {
    let rules = ClaimRules {
        audiences: vec!["here".to_owned()],
        issuers: vec!["us".to_owned()],
        ..ClaimRules::default()
    };
    TokenCommand {
        action,
        auth: AuthSettings {
            required: false,
            api_key: None,
            jwt_secret: Some(SecretText::new("secret")),
            jwt_secret_before: None,
            public_key_files: Vec::new(),
            jwks_file: None,
            jwks_url: None,
            jwks_ca_file: None,
            rules,
            token_cookie: String::new(),
        },
        judge: None,
    }
}

fn at(unix_ms: i64) -> Now {
    Now {
        unix_us: unix_ms.saturating_mul(1_000),
        ..Now::default()
    }
}

#[test]
fn a_token_of_the_secret_before_is_good() {
    let mint = command(TokenAction::Inspect(None));
    let old = Token::new(mint.mint(&Claims::default(), 0).expect("a token"));
    let mut next = command(TokenAction::Inspect(None));
    next.auth.jwt_secret = Some(SecretText::new("next"));
    next.inspect(old.as_ref(), at(0)).expect_err("unsigned");
    next.auth.jwt_secret_before = mint.auth.jwt_secret;
    next.inspect(old.as_ref(), at(0)).expect("good");
}

#[test]
fn what_is_minted_is_let_in_until_it_ends() {
    let claims = Claims {
        role: Some("admin".to_owned()),
        user: Some("ann \"a\"".to_owned()),
        channels: Vec::new(),
        symbols_max: Some(3),
        expires_in_s: Some(60),
    };
    let mint = command(TokenAction::Mint(claims.clone()));
    let token = mint.mint(&claims, 1_700_000_000_000).expect("a token");
    let token = token_from(format!(" {token}\n").as_bytes()).expect("text");
    let shown = mint
        .inspect(token.as_ref(), at(1_700_000_001_000))
        .expect("good");
    assert_eq!(
        shown,
        "good\n  role:     admin\n  user:     ann \"a\"\n  symbols:  3\n  \
         ends:     2023-11-14T22:14:20+00:00, in 59 s"
    );
    let late = mint.inspect(token.as_ref(), at(1_700_000_060_000));
    let told = late.expect_err("expired");
    assert_eq!(told, "refused with 1008: its time (exp) is over [expired]");
    let endless = mint.mint(&Claims::default(), 0).expect("a token");
    let shown = mint
        .inspect(Token::new(endless).as_ref(), at(i64::MAX))
        .expect("good");
    assert!(shown.ends_with("ends:     never"), "{shown}");
}

#[test]
fn without_a_secret_nothing_is_signed_and_nothing_is_good() {
    let mut mint = command(TokenAction::Inspect(None));
    mint.auth.jwt_secret = None;
    let refused = mint.mint(&Claims::default(), 0);
    assert!(refused.expect_err("no secret").contains("JWT_SECRET"));
    let refused = mint.inspect(None, at(0));
    let missing = super::refused(Refusal::Missing);
    assert_eq!(refused, Err(missing));
}

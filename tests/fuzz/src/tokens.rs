//! Tokens: unchanged, and with any header and claims under a good signature, against Python's own HMAC and
//! JSON.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use weirgate::auth::{ApiKey, Authenticator, KeyRing, KeySet, Token};
use weirgate_wire::auth::ClaimRules;
use weirgate_wire::base::{Now, Secret};

use super::{choices, oracle, outcome};

/// The same as in the oracle.
const SECRET: &str = "0123456789abcdef0123456789abcdef";
const NOW_MS: i64 = 1_700_000_000_500;

fn authenticator(audiences: bool) -> Authenticator {
    let mut keys = KeySet::default();
    keys.add_secret(&Secret::new(SECRET))
        .expect("a good secret");
    Authenticator {
        cookie: None,
        required: true,
        api_key: ApiKey::new(&Secret::new("the-key")),
        keys: KeyRing::new(keys),
        rules: ClaimRules {
            audiences: if audiences {
                vec!["here".to_owned()]
            } else {
                Vec::new()
            },
            issuers: if audiences {
                vec!["them".to_owned()]
            } else {
                Vec::new()
            },
            leeway_ms: 1_000,
            ..ClaimRules::default()
        },
    }
}

/// The header is the first line, the claims are the rest.
fn signed(text: &[u8]) -> String {
    let at = text.iter().position(|&b| b == b'\n').unwrap_or(text.len());
    let (header, claims) = (&text[..at], text.get(at + 1..).unwrap_or_default());
    let message = [header, claims]
        .map(|part| URL_SAFE_NO_PAD.encode(part))
        .join(".");
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    let signature = crypto::sign(message.as_bytes(), &key, Algorithm::HS256).expect("signed");
    format!("{message}.{signature}")
}

pub(crate) fn run(data: &[u8]) -> u64 {
    let ([kind], rest) = choices(data);
    let text = match kind & 1 {
        0 => String::from_utf8_lossy(rest).into_owned(),
        _ => signed(rest),
    };
    let audiences = kind & 2 != 0;
    let token = Token::new(text.clone());
    let now = Now {
        unix_us: NOW_MS * 1_000,
        ..Now::default()
    };
    let identity = authenticator(audiences).identify(token.as_ref(), now);
    let text_or_none = |text: &Option<String>| match text {
        Some(text) => format!("={text}"),
        None => "-".to_owned(),
    };
    let number_or_none = |number: Option<i64>| match number {
        Some(number) => number.to_string(),
        None => "-".to_owned(),
    };
    let ours = match &identity {
        Ok(identity) => [
            text_or_none(&(!identity.roles.is_empty()).then(|| identity.roles.join("|"))),
            text_or_none(&identity.user),
            number_or_none(identity.symbols_max.map(i64::from)),
            number_or_none(identity.expires_unix_ms),
        ]
        .join("\n"),
        Err(_) => "refused".to_owned(),
    };
    let audience: &[u8] = if audiences { b"here" } else { b"" };
    oracle::python_agrees(&[b"tokens", text.as_bytes(), audience, ours.as_bytes()]);
    outcome(match identity {
        Ok(identity) => format!(
            "{} {} {} {}",
            !identity.roles.is_empty(),
            identity.user.is_some(),
            identity.symbols_max.is_some(),
            identity.expires_unix_ms.is_some()
        ),
        Err(refusal) => refusal.label().to_owned(),
    })
}

//! Tokens: whether they are asked for, what they are checked with, what their claims are called.

use super::super::kind::Kind;
use super::super::setting::{Heading, Part, Setting};
use super::HOUR_MS;

pub(super) static ROWS: &[Setting] = &[
    Setting::new(
        Heading::TOKENS,
        "require-auth",
        Kind::Switch,
        "false",
        "Refuse clients without a good token: closed with 1008",
    )
    .more("Without it no token is looked at.")
    .original_env(&["REQUIRE_AUTH"])
    .part(Part::RequireAuth),
    Setting::new(
        Heading::TOKENS,
        "gateway-api-key",
        Kind::Secret,
        "",
        "Whoever brings this key as a token is an admin",
    )
    .original_env(&["GATEWAY_API_KEY"])
    .part(Part::Tokens),
    Setting::new(
        Heading::TOKENS,
        "jwt-secret",
        Kind::Secret,
        "",
        "Secret that HS256 tokens are signed with; 32 bytes or more",
    )
    .original_env(&["JWT_SECRET"])
    .part(Part::Tokens),
    Setting::new(
        Heading::TOKENS,
        "jwt-public-key-files",
        Kind::Text,
        "",
        "PEM files with public keys, for RS256, ES256 (P-256) and EdDSA (Ed25519)",
    )
    .more("Several with commas between them. Read again when they change.")
    .original_env(&["JWT_PUBLIC_KEY_FILES"])
    .part(Part::Tokens),
    Setting::new(
        Heading::TOKENS,
        "jwt-jwks-file",
        Kind::Text,
        "",
        "File with a JSON Web Key Set, for RS256, ES256 and EdDSA",
    )
    .more("Read again when it changes; a broken one leaves the keys as they are.")
    .original_env(&["JWT_JWKS_FILE"])
    .part(Part::Tokens),
    Setting::new(
        Heading::TOKENS,
        "jwt-audience",
        Kind::Text,
        "",
        "The aud that tokens have to name; several with commas between them",
    )
    .more("Empty: a token that names an audience is refused, for it is meant for somebody else.")
    .original_env(&["JWT_AUDIENCE"])
    .part(Part::Tokens),
    Setting::new(
        Heading::TOKENS,
        "jwt-issuer",
        Kind::Text,
        "",
        "The iss that tokens have to name; several with commas; empty for any",
    )
    .original_env(&["JWT_ISSUER"])
    .part(Part::Tokens),
    Setting::ms(
        Heading::TOKENS,
        "jwt-leeway-ms",
        (0, HOUR_MS),
        "0",
        "How far the issuer's clock may differ, for exp and nbf",
    )
    .part(Part::Tokens),
    Setting::new(
        Heading::TOKENS,
        "jwt-role-claim",
        Kind::Text,
        "role",
        "The claim with the role",
    )
    .part(Part::Tokens),
    Setting::new(
        Heading::TOKENS,
        "jwt-user-claim",
        Kind::Text,
        "sub",
        "The claim with the user",
    )
    .part(Part::Tokens),
    Setting::new(
        Heading::TOKENS,
        "jwt-symbols-claim",
        Kind::Text,
        "maxSymbols",
        "The claim with the user's symbol limit, a whole number",
    )
    .part(Part::Tokens),
];

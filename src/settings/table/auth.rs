//! Tokens: whether they are asked for, what they are checked with, what their claims are called.

use super::super::kind::Kind;
use super::super::setting::Heading::Auth;
use super::super::setting::Setting;
use super::super::setting::Subcommand::{self, Channels, Token, Trades};
use super::HOUR_MS;

/// Those that look at tokens.
const ON: &[Subcommand] = &[Trades, Channels, Token];

pub(super) static ROWS: &[Setting] = &[
    Setting::new(
        Auth,
        "require-auth",
        Kind::Switch,
        "false",
        "Refuse clients without a good token: closed with 1008",
    )
    .more("Without it no token is looked at.")
    .original_env(&["REQUIRE_AUTH"])
    .on(&[Channels]),
    Setting::new(
        Auth,
        "require-auth",
        Kind::Switch,
        "false",
        "Refuse clients without a good token: closed with 1008",
    )
    .more("Without it a token refuses nobody, and a good one still brings its claims.")
    .original_env(&["REQUIRE_AUTH"])
    .on(&[Trades]),
    Setting::new(
        Auth,
        "gateway-api-key",
        Kind::Secret,
        "",
        "Whoever brings this key as a token is an admin",
    )
    .original_env(&["GATEWAY_API_KEY"])
    .on(ON),
    Setting::new(
        Auth,
        "jwt-secret",
        Kind::Secret,
        "",
        "Secret that HS256 tokens are signed with; 32 bytes or more",
    )
    .original_env(&["JWT_SECRET"])
    .on(ON),
    Setting::new(
        Auth,
        "jwt-public-key-files",
        Kind::Text,
        "",
        "PEM files with public keys, for RS256, ES256 (P-256) and EdDSA (Ed25519)",
    )
    .more("Several with commas between them. Read again when they change.")
    .original_env(&["JWT_PUBLIC_KEY_FILES"])
    .on(ON),
    Setting::new(
        Auth,
        "jwt-jwks-file",
        Kind::Text,
        "",
        "File with a JSON Web Key Set, for RS256, ES256 and EdDSA",
    )
    .more("Read again when it changes; a broken one leaves the keys as they are.")
    .original_env(&["JWT_JWKS_FILE"])
    .on(ON),
    Setting::new(
        Auth,
        "jwt-audience",
        Kind::Text,
        "",
        "The aud that tokens have to name; several with commas between them",
    )
    .more("Empty: a token that names an audience is refused, for it is meant for somebody else.")
    .original_env(&["JWT_AUDIENCE"])
    .on(ON),
    Setting::new(
        Auth,
        "jwt-issuer",
        Kind::Text,
        "",
        "The iss that tokens have to name; several with commas; empty for any",
    )
    .original_env(&["JWT_ISSUER"])
    .on(ON),
    Setting::ms(
        Auth,
        "jwt-leeway-ms",
        (0, HOUR_MS),
        "0",
        "How far the issuer's clock may differ, for exp and nbf",
    )
    .on(ON),
    Setting::new(
        Auth,
        "jwt-role-claim",
        Kind::Text,
        "role",
        "The claim with the role",
    )
    .on(ON),
    Setting::new(
        Auth,
        "jwt-user-claim",
        Kind::Text,
        "sub",
        "The claim with the user",
    )
    .on(ON),
    Setting::new(
        Auth,
        "jwt-symbols-claim",
        Kind::Text,
        "maxSymbols",
        "The claim with the user's symbol limit, a whole number",
    )
    .on(ON),
];

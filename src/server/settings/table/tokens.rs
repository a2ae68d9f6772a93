//! How clients prove who they are: tokens, their keys, rules and claims.

use super::super::field::With;
use super::super::groups::AuthSettings;
use super::super::key_set_url::{KEY_SET_URL, KeySetUrl};
use super::super::kind::Kind;
use super::super::setting::{Heading, Setting, TablePart};
use super::HOUR_MS;
use crate::field;

pub(super) static TOKENS: &[Setting] = &Heading::TOKENS.in_part(TablePart::Tokens).of([
    Setting::new(
        "require-auth",
        Kind::Switch,
        field!(AuthSettings, required),
        "Refuse clients without a valid token: close with 1008",
    )
    .more("By default tokens are ignored.")
    .original_env(&["REQUIRE_AUTH"])
    .in_short_help()
    .part(TablePart::RequireAuth),
    Setting::new(
        "gateway-api-key",
        Kind::Secret,
        field!(AuthSettings, api_key),
        "API key; a client with this key as token is an admin",
    )
    .original_env_only(&["GATEWAY_API_KEY"])
    .guessable(),
    Setting::new(
        "token-cookie",
        Kind::Text,
        field!(AuthSettings, token_cookie),
        "Cookie with the token, for pages of --allowed-origins",
    )
    .more("It is read if the request has no other token."),
    Setting::new(
        "jwt-secret",
        Kind::Secret,
        field!(AuthSettings, jwt_secret),
        "Secret of HS256 tokens; 32 bytes or more",
    )
    .original_env_only(&["JWT_SECRET"])
    .guessable(),
    Setting::new(
        "jwt-secret-before",
        Kind::Secret,
        field!(AuthSettings, jwt_secret_before),
        "The previous JWT_SECRET; tokens signed with either are valid",
    )
    .more("Set it while clients still have tokens of the previous secret.")
    .original_env_only(&["JWT_SECRET_BEFORE"])
    .guessable(),
    Setting::new(
        "jwt-public-key-files",
        Kind::Paths,
        field!(AuthSettings, public_key_files),
        "PEM files with public keys, for RS256, ES256 (P-256) and EdDSA (Ed25519)",
    )
    .more("Several are separated by commas. Changed files are read again.")
    .original_env(&["JWT_PUBLIC_KEY_FILES"]),
    Setting::new(
        "jwt-jwks-file",
        Kind::Path,
        field!(AuthSettings, jwks_file),
        "File with a JSON Web Key Set, for RS256, ES256 and EdDSA",
    )
    .more("A changed file is read again; a broken file leaves the keys unchanged.")
    .original_env(&["JWT_JWKS_FILE"]),
    Setting::new(
        "jwt-jwks-url",
        Kind::Form(&KEY_SET_URL),
        &With::<AuthSettings, String> {
            set: |auth, url| auth.jwks_url = KeySetUrl::parse(&url),
            // The URL may have a password, and there is no default.
            get: |_| String::new(),
        },
        "URL of a JSON Web Key Set, for RS256, ES256 and EdDSA",
    )
    .original_env(&["JWT_JWKS_URL"]),
    Setting::new(
        "jwt-jwks-ca-file",
        Kind::Path,
        field!(AuthSettings, jwks_ca_file),
        "PEM file with the authorities for --jwt-jwks-url, instead of the system's",
    )
    .original_env(&["JWT_JWKS_CA_FILE"]),
    Setting::new(
        "jwt-audience",
        Kind::Texts,
        field!(AuthSettings, rules.audiences),
        "Required aud of tokens; several are separated by commas",
    )
    .more("If it is empty, a token with an audience is refused.")
    .original_env(&["JWT_AUDIENCE"]),
    Setting::new(
        "jwt-issuer",
        Kind::Texts,
        field!(AuthSettings, rules.issuers),
        "Required iss of tokens; several are separated by commas; empty for any",
    )
    .original_env(&["JWT_ISSUER"]),
    Setting::ms(
        "jwt-leeway-ms",
        (0, HOUR_MS),
        field!(AuthSettings, rules.leeway_ms),
        "How far the issuer's clock may differ, for exp and nbf",
    )
    .more("nbf always has at least 5 s."),
    Setting::new(
        "jwt-role-claim",
        Kind::Text,
        field!(AuthSettings, rules.role),
        "The claim with the role or a list of roles; a dot leads into an object",
    )
    .more("For example realm_access.roles."),
    Setting::new(
        "jwt-user-claim",
        Kind::Text,
        field!(AuthSettings, rules.user),
        "The claim with the user",
    ),
    Setting::new(
        "jwt-symbols-claim",
        Kind::Text,
        field!(AuthSettings, rules.symbols_max),
        "The claim with the user's symbol limit, a whole number",
    ),
    Setting::new(
        "jwt-channels-claim",
        Kind::Text,
        field!(AuthSettings, rules.names),
        "The claim with a list of names that the token grants in addition to the role",
    )
    .more("Only channels reads it."),
]);

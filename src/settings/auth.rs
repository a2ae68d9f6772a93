//! What tokens are checked with.

use std::path::PathBuf;

use super::Checked;
use super::secret::SecretText;
use crate::auth::ClaimRules;

/// Keys, and what is asked of claims.
#[derive(Clone, Debug, PartialEq)]
pub struct AuthSettings {
    /// Who brings no good token is refused.
    pub required: bool,
    /// A key that is brought as it is.
    pub api_key: Option<SecretText>,
    /// For HS256.
    pub jwt_secret: Option<SecretText>,
    /// PEM files.
    pub public_key_files: Vec<PathBuf>,
    /// A JSON Web Key Set.
    pub jwks_file: Option<PathBuf>,
    /// What is asked of claims, and what they are called.
    pub rules: ClaimRules,
}

impl Checked {
    /// What tokens are checked with. A subcommand that does not have a row does not have the thing.
    pub fn auth(&self) -> AuthSettings {
        AuthSettings {
            required: self.has("require-auth") && self.switch("require-auth"),
            api_key: self.secret("gateway-api-key"),
            jwt_secret: self.secret("jwt-secret"),
            public_key_files: self
                .list("jwt-public-key-files")
                .map(PathBuf::from)
                .collect(),
            jwks_file: self.path("jwt-jwks-file"),
            rules: ClaimRules {
                audiences: self.list("jwt-audience").collect(),
                issuers: self.list("jwt-issuer").collect(),
                leeway_ms: self.number("jwt-leeway-ms"),
                role: self.text("jwt-role-claim"),
                user: self.text("jwt-user-claim"),
                symbols_max: self.text("jwt-symbols-claim"),
            },
        }
    }

    /// A list with commas between its entries.
    fn list(&self, flag: &str) -> impl Iterator<Item = String> {
        let text = self.text(flag);
        let entries: Vec<_> = text
            .split(',')
            .map(|entry| entry.trim().to_owned())
            .collect();
        entries.into_iter().filter(|entry| !entry.is_empty())
    }
}

//! How to reach NATS, whichever gateway does.

use std::path::PathBuf;

use super::Checked;
use super::secret::{SecretText, SecretUrl};

/// Servers, and what they are shown.
#[derive(Clone, Debug, PartialEq)]
pub struct NatsAccess {
    /// NATS servers, with commas between them; shown without the secret.
    pub url: SecretUrl,
    /// For the servers whose URL names no user.
    pub user: NatsUser,
    /// The authorities that may sign the servers' certificates; the system's when `None`.
    pub ca: Option<PathBuf>,
    /// The client certificate and its key.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// Who we are to NATS.
#[derive(Clone, Debug, PartialEq)]
pub enum NatsUser {
    /// No user: the server has to let anybody in.
    None,
    /// User and password.
    Password(String, SecretText),
    /// Whoever has this token.
    Token(SecretText),
    /// Whom a credentials file names.
    Creds(PathBuf),
    /// Who has the nkey whose seed is in this file.
    Nkey(PathBuf),
}

impl Checked {
    /// How to reach NATS.
    pub fn nats(&self) -> NatsAccess {
        self.nats_at(self.url("nats-url"))
    }

    /// How to reach the NATS servers of `url`.
    pub fn nats_at(&self, url: SecretUrl) -> NatsAccess {
        NatsAccess {
            url,
            user: self.nats_user(),
            ca: self.path("nats-ca"),
            client: self.path("nats-cert").zip(self.path("nats-key")),
        }
    }

    /// [`Checked::new`] saw to it that there is at most one.
    fn nats_user(&self) -> NatsUser {
        let password = self.secret("nats-password");
        let pair = self.some_text("nats-user").zip(password);
        let ways = [
            pair.map(|(user, password)| NatsUser::Password(user, password)),
            self.secret("nats-token").map(NatsUser::Token),
            self.path("nats-creds").map(NatsUser::Creds),
            self.path("nats-nkey").map(NatsUser::Nkey),
        ];
        ways.into_iter().flatten().next().unwrap_or(NatsUser::None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{Part, Rows};

    fn run(flags: &[(&str, &str)], env: &[(&str, &str)]) -> Result<NatsAccess, String> {
        let rows = Rows::gateway(&[Part::JetStream, Part::Nats]);
        Checked::of(rows, flags, env).map(|checked| checked.nats())
    }

    #[test]
    fn there_is_one_way_to_be_somebody() {
        let password = NatsUser::Password("u".into(), SecretText::new("s3cret"));
        for (args, env, want) in [
            (&[][..], &[][..], NatsUser::None),
            (&[], &[("NATS_CREDS", "")], NatsUser::None),
            (
                &[],
                &[("NATS_CREDS", "/a b")],
                NatsUser::Creds("/a b".into()),
            ),
            (&[("nats-nkey", "n")], &[], NatsUser::Nkey("n".into())),
            (
                &[],
                &[("NATS_TOKEN", "s3cret")],
                NatsUser::Token(SecretText::new("s3cret")),
            ),
            (
                &[("nats-user", "u")],
                &[("WEIRGATE_NATS_PASSWORD", "s3cret")],
                password,
            ),
        ] {
            let got = run(args, env).expect("good settings");
            assert_eq!(got.user, want);
            assert!(!format!("{got:?}").contains("s3cret"), "{got:?}");
        }
        let both = run(&[("nats-creds", "c")], &[("NATS_TOKEN", "s3cret")]).unwrap_err();
        assert!(both.contains("--nats-token (env NATS_TOKEN) and --nats-creds (flag)"));
        assert!(!both.contains("s3cret"), "{both}");
        let alone = run(&[], &[("NATS_PASSWORD", "s3cret")]).unwrap_err();
        assert!(alone.contains("without --nats-user") && !alone.contains("s3cret"));
    }

    #[test]
    fn a_client_certificate_needs_its_key() {
        let error = run(&[("nats-cert", "c.pem")], &[]).unwrap_err();
        assert!(error.contains("--nats-cert (flag) is set without --nats-key"));
        let env = [("NATS_CERT", "c"), ("NATS_KEY", "k"), ("NATS_CA", "a")];
        let access = run(&[], &env).expect("good settings");
        assert_eq!(access.client, Some(("c".into(), "k".into())));
        assert_eq!(access.ca, Some("a".into()));
    }
}

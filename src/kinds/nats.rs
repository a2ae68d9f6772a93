//! The NATS connection from settings, for the gateways that have one.

use crate::settings::{NatsAccess, NatsUser};
use crate::sources::nats::{Credentials, NatsSettings, Tls};

/// Servers, log-in and TLS; no streams.
pub(super) fn source_settings(access: &NatsAccess) -> NatsSettings {
    let tls = Tls {
        ca: access.ca.clone(),
        client: access.client.clone(),
    };
    NatsSettings::plain(access.url.expose(), credentials(&access.user), tls)
}

fn credentials(user: &NatsUser) -> Credentials {
    match user {
        NatsUser::None => Credentials::None,
        NatsUser::Password(user, password) => {
            Credentials::UserPassword(user.clone(), password.expose().to_owned())
        }
        NatsUser::Token(token) => Credentials::Token(token.expose().to_owned()),
        NatsUser::Creds(path) => Credentials::CredsFile(path.clone()),
        NatsUser::Nkey(path) => Credentials::NkeyFile(path.clone()),
    }
}

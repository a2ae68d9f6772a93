//! The NATS connection.

use super::super::kind::Kind;
use super::super::setting::{Heading, Part, Setting};

pub(super) static ROWS: &[Setting] = &[
    Setting::new(
        Heading::NATS,
        "nats-url",
        Kind::Urls(&["nats", "tls"]),
        "nats://nats:4222",
        "NATS servers, with commas between them",
    )
    .more("nats://USER:PASSWORD@HOST:PORT or nats://TOKEN@HOST:PORT; shown without the secret.")
    .original_env(&["NATS_URL"])
    .part(Part::Nats),
    Setting::new(
        Heading::NATS,
        "nats-user",
        Kind::Text,
        "",
        "User, for the servers whose URL names none",
    )
    .original_env(&["NATS_USER"])
    .part(Part::Nats),
    Setting::new(
        Heading::NATS,
        "nats-password",
        Kind::Secret,
        "",
        "Its password",
    )
    .more("A flag shows in the list of processes; the environment does not.")
    .original_env(&["NATS_PASSWORD"])
    .part(Part::Nats),
    Setting::new(
        Heading::NATS,
        "nats-token",
        Kind::Secret,
        "",
        "Token, for the servers whose URL names none",
    )
    .original_env(&["NATS_TOKEN"])
    .part(Part::Nats),
    Setting::new(
        Heading::NATS,
        "nats-creds",
        Kind::Path,
        "",
        "Credentials file: the user's JWT and the seed of its key",
    )
    .more("Files are read for every connection, so one that was replaced counts from the next on.")
    .original_env(&["NATS_CREDS"])
    .part(Part::Nats),
    Setting::new(
        Heading::NATS,
        "nats-nkey",
        Kind::Path,
        "",
        "File with the seed of the user's nkey",
    )
    .original_env(&["NATS_NKEY"])
    .part(Part::Nats),
    Setting::new(
        Heading::NATS,
        "nats-ca",
        Kind::Path,
        "",
        "PEM file of the authorities that may sign the servers' certificates",
    )
    .more("Instead of the system's. With it every connection uses TLS, whatever the URL says.")
    .original_env(&["NATS_CA"])
    .part(Part::Nats),
    Setting::new(
        Heading::NATS,
        "nats-cert",
        Kind::Path,
        "",
        "PEM file of the client certificate, for servers that want one",
    )
    .more("With it every connection uses TLS, whatever the URL says.")
    .original_env(&["NATS_CERT"])
    .part(Part::Nats),
    Setting::new(
        Heading::NATS,
        "nats-key",
        Kind::Path,
        "",
        "PEM file of its key",
    )
    .original_env(&["NATS_KEY"])
    .part(Part::Nats),
    Setting::new(
        Heading::NATS,
        "ephemeral",
        Kind::Switch,
        "false",
        "Use unnamed consumers, so that every replica gets every message",
    )
    .more("Without it, one instance holds the durables gateway_levels and gateway_flow.")
    .part(Part::Nats),
];

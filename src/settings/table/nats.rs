//! The NATS connection.

use super::super::kind::Kind;
use super::super::setting::Heading::Nats;
use super::super::setting::Setting;
use super::super::setting::Subcommand::Levels;

pub(super) static ROWS: &[Setting] = &[
    Setting::new(
        Nats,
        "nats-url",
        Kind::Urls(&["nats", "tls"]),
        "nats://nats:4222",
        "NATS servers, with commas between them",
    )
    .more("nats://USER:PASSWORD@HOST:PORT or nats://TOKEN@HOST:PORT; shown without the secret.")
    .original_env(&["NATS_URL"])
    .on(&[Levels]),
    Setting::new(
        Nats,
        "ephemeral",
        Kind::Switch,
        "false",
        "Use unnamed consumers, so that every replica gets every message",
    )
    .more("Without it, one instance holds the durables gateway_levels and gateway_flow.")
    .on(&[Levels]),
];

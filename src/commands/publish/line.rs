//! The command line of `weirgate publish`: its flags, and the login for the broker in the environment.

use std::ffi::OsString;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;

use clap::{Arg, ArgMatches, Command, value_parser};

use super::template::Template;
use super::{BrokerUrl, Messages, PublishCommand};
use crate::commands::args::{flag, switch, value};
use crate::commands::program::start_again;
use weirgate_bus::nats::Credentials;
use weirgate_bus::redis::RedisEndpoint;
use weirgate_server::settings::{Env, without_secrets};
use weirgate_wire::base::Secret;

/// The default message.
const EXAMPLE: &str = r#"{"n":{number},"time":{time},"value":{walk}}"#;
/// Messages per second at most.
const RATE_MAX: f64 = 1_000_000.0;

const HELP: &str = "\
Examples:
  weirgate publish redis://127.0.0.1:6379 a:b '{\"value\":{walk}}' --rate 5
  weirgate publish nats://127.0.0.1:4222 news.flash 'hello' --jetstream
  weirgate publish redis://127.0.0.1:6379 a:b 'hello' --stream ticks
  weirgate publish nats://127.0.0.1:4222 news.flash @message.bin
  cat lines.json | weirgate publish redis://127.0.0.1:6379 a:b - --rate 100

In MESSAGE, {number} is the number of the message from 1, {time} the Unix time in milliseconds, {walk} a number that \
changes a little with each message, from 100.00 on. Lines of standard input and the bytes of a file are published as they \
are. Without --count and --rate one message is published; with --rate alone, messages until Ctrl-C. With --retry, \
messages on their way when the broker goes away may be missing, and one may come twice. A URL with a login is moved to the \
environment at once, out of the list of processes. For a URL without one the login is read from the environment: NATS_USER \
and NATS_PASSWORD, NATS_TOKEN, NATS_CREDS or NATS_NKEY; REDIS_PASSWORD, or the login of REDIS_URL for the same server.

Exit status: 0, or 1 if the broker is away or refuses a message.";

/// The subcommand.
pub(in crate::commands) fn command() -> Command {
    let positional = |name, placeholder, help: String| {
        let arg = Arg::new(name).value_name(placeholder);
        arg.help(help)
    };
    let url = "nats://HOST:4222, tls://…, redis://HOST:6379, rediss://… or unix:///PATH";
    let name = "The subject of NATS, or the channel of Redis";
    let message = format!(
        "The message; @FILE for the bytes of a file, - for each line of standard input [default: {EXAMPLE}]"
    );
    Command::new("publish")
        .about("Publish messages on a NATS subject or a Redis channel")
        .after_help(HELP)
        .args_override_self(true)
        .arg(positional("url", "URL", url.to_owned()).required(true))
        .arg(positional("name", "SUBJECT|CHANNEL", name.to_owned()).required(true))
        .arg(positional("message", "MESSAGE|@FILE|-", message).allow_hyphen_values(true))
        .args(flags())
}

fn flags() -> [Arg; 9] {
    let file = |name, help| value(name, "FILE", help).value_parser(value_parser!(PathBuf));
    let stored = "Wait until a JetStream stream has stored each message";
    let retry = "Go on after the broker was away, instead of ending";
    let authorities = "PEM file with the certificates to trust for TLS [default: the system's]";
    [
        value("count", "N", "End after N messages").value_parser(value_parser!(u64).range(1..)),
        value("rate", "R", "Messages per second, for example 5 or 0.5").value_parser(rate),
        switch("jetstream", stored),
        value(
            "stream",
            "KEY",
            "Add to this Redis stream, in the form that weirgate reads, in place of PUBLISH",
        ),
        switch("retry", retry),
        file("creds", "Credentials file of a NATS user"),
        file("ca-file", authorities),
        file("cert", "PEM file of the client certificate, for TLS").requires("key"),
        file("key", "PEM file of the key of --cert").requires("cert"),
    ]
}

/// Messages per second.
fn rate(text: &str) -> Result<f64, String> {
    let rate: Option<f64> = text.parse().ok();
    rate.filter(|rate| (0.001..=RATE_MAX).contains(rate))
        .ok_or_else(|| "allowed: a number from 0.001 to 1000000".to_owned())
}

/// Reads the arguments, and the file of the message.
///
/// # Errors
/// The URL, the name or a combination of flags is not valid, or the file cannot be read. The text does not contain the
/// URL.
pub(in crate::commands) fn read(matches: &ArgMatches, env: &Env) -> Result<PublishCommand, String> {
    let file = |name| matches.get_one::<PathBuf>(name).cloned();
    let creds = file("creds");
    let url = whole_url(&flag(matches, "url").unwrap_or_default(), env)?;
    let url = broker_url(&url, creds.clone(), env)?;
    let name = flag(matches, "name").unwrap_or_default();
    let is_nats = matches!(url, BrokerUrl::Nats(..));
    check_name(&name, is_nats)?;
    let jetstream = matches.get_flag("jetstream");
    if !is_nats && (jetstream || creds.is_some()) {
        return Err("--jetstream and --creds are for NATS, and the URL is that of Redis".into());
    }
    let stream = flag(matches, "stream");
    if is_nats && stream.is_some() {
        return Err(
            "--stream is for Redis; a JetStream stream stores its subjects by itself".into(),
        );
    }
    // Random: each `RandomState` hashes the same number differently.
    let seed = RandomState::new().hash_one(0);
    let messages = match flag(matches, "message").as_deref() {
        Some("-") => Messages::Lines,
        Some(text) if let Some(path) = text.strip_prefix('@') => {
            let bytes = fs::read(path).map_err(|error| format!("cannot read {path}: {error}"));
            Messages::File(bytes?)
        }
        text => Messages::Made(Template::new(text.unwrap_or(EXAMPLE), seed)),
    };
    let rate: Option<f64> = matches.get_one("rate").copied();
    let count: Option<u64> = matches.get_one("count").copied();
    let is_single = rate.is_none() && !matches!(messages, Messages::Lines);
    Ok(PublishCommand {
        url,
        name,
        messages,
        count: count.or_else(|| is_single.then_some(1)),
        rate,
        jetstream,
        stream,
        retry: matches.get_flag("retry"),
        ca_file: file("ca-file"),
        certificate: file("cert").zip(file("key")),
    })
}

/// The name in the environment for a URL with a login, which is hidden from the list of processes there.
const URL_ENV: &str = "WEIRGATE_PUBLISH_URL";

/// The URL with its login. A login among the arguments of this process is moved to the environment first: before anything
/// else is read, for the bytes of a pipe are there only once.
fn whole_url(shown: &str, env: &Env) -> Result<String, String> {
    let hidden = without_secrets(shown);
    if shown.contains('@') {
        let mut args: Vec<OsString> = std::env::args_os().skip(1).collect();
        if let Some(arg) = args.iter_mut().find(|arg| *arg == shown) {
            *arg = hidden.into();
        }
        start_again(args, URL_ENV, shown, "the login of the URL");
        // Only if nothing had to be hidden, or the program could not start again.
        return Ok(shown.to_owned());
    }
    let whole = env.value(URL_ENV).map_err(|error| error.to_string())?;
    let whole = whole.filter(|whole| whole.contains('@') && without_secrets(whole) == shown);
    Ok(whole.unwrap_or(shown).to_owned())
}

/// Returns the broker of a URL. A URL without a login gets that of the flag or of the environment.
fn broker_url(url: &str, creds: Option<PathBuf>, env: &Env) -> Result<BrokerUrl, String> {
    let scheme = url.split_once("://").map(|(scheme, _)| scheme);
    match scheme.unwrap_or_default().to_ascii_lowercase().as_str() {
        "nats" | "tls" if url.contains('@') => {
            Ok(BrokerUrl::Nats(url.to_owned(), Credentials::None))
        }
        "nats" | "tls" => Ok(BrokerUrl::Nats(url.to_owned(), nats_login(creds, env)?)),
        scheme if RedisEndpoint::has_scheme(scheme) => redis_endpoint(url, env),
        "ws" | "wss" => Err(
            "clients cannot publish through a gateway; give the URL of the \
            broker, nats://HOST:4222 or redis://HOST:6379"
                .to_owned(),
        ),
        _ => Err("the URL is neither nats://HOST:4222 nor redis://HOST:6379".to_owned()),
    }
}

/// The value of a setting of the gateway in the environment, by either of its names.
fn from_env(env: &Env, name: &str) -> Result<Option<String>, String> {
    let ours = format!("WEIRGATE_{name}");
    let read = |name| env.value(name).map_err(|error| error.to_string());
    Ok(match read(name)? {
        None => read(&ours)?.map(str::to_owned),
        value => value.map(str::to_owned),
    })
}

/// The login for a NATS server without one in its URL: the file of the flag, or the one login in the environment.
fn nats_login(creds: Option<PathBuf>, env: &Env) -> Result<Credentials, String> {
    if let Some(creds) = creds {
        return Ok(Credentials::CredsFile(creds));
    }
    let read = |name| from_env(env, name);
    let password = read("NATS_USER")?.zip(read("NATS_PASSWORD")?);
    let logins = [
        password.map(|(user, password)| Credentials::UserPassword(user, Secret::new(&password))),
        read("NATS_TOKEN")?.map(|token| Credentials::Token(Secret::new(&token))),
        read("NATS_CREDS")?.map(|file| Credentials::CredsFile(file.into())),
        read("NATS_NKEY")?.map(|file| Credentials::NkeyFile(file.into())),
    ];
    let mut logins = logins.into_iter().flatten();
    match (logins.next(), logins.next()) {
        (_, Some(_)) => {
            Err("the environment has more than one login of NATS: set one alone".to_owned())
        }
        (login, None) => Ok(login.unwrap_or_default()),
    }
}

/// Returns the Redis server of a URL. If the URL has no password, one in the environment counts: that of `REDIS_URL`,
/// if it has one and names the same server, or else `REDIS_PASSWORD`.
fn redis_endpoint(url: &str, env: &Env) -> Result<BrokerUrl, String> {
    let parsed = |url: &str| RedisEndpoint::parse(url).map_err(|error| error.to_string());
    let mut endpoint = parsed(url)?;
    if endpoint.password.is_none() {
        let server = |one: &RedisEndpoint| (one.host.clone(), one.port, one.socket.clone());
        // A URL that cannot be read does not name this server.
        let ours = from_env(env, "REDIS_URL")?.and_then(|url| parsed(&url).ok());
        let password = from_env(env, "REDIS_PASSWORD")?;
        if let Some(ours) = ours.filter(|ours| server(ours) == server(&endpoint)) {
            endpoint.username = endpoint.username.or(ours.username);
            endpoint.password = ours.password;
        }
        endpoint.password = endpoint.password.or(password);
    }
    Ok(BrokerUrl::Redis(endpoint))
}

/// Checks a name to publish on.
fn check_name(name: &str, is_nats: bool) -> Result<(), String> {
    if name.is_empty() {
        return Err("the name to publish on is empty".to_owned());
    }
    if !is_nats {
        return Ok(());
    }
    let is_token = |token: &str| {
        let has_space = token.chars().any(|c| c.is_whitespace() || c.is_control());
        !token.is_empty() && !has_space && token != "*" && token != ">"
    };
    match name.split('.').all(is_token) {
        true => Ok(()),
        false => Err(format!(
            "{name:?} is not a subject of NATS to publish on: words with dots between them, without \
             spaces and wildcards"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(args: &[&str]) -> Result<PublishCommand, String> {
        in_env(args, &[])
    }

    fn in_env(args: &[&str], env: &[(&str, &str)]) -> Result<PublishCommand, String> {
        let line = ["publish"].iter().chain(args);
        let matches = command().try_get_matches_from(line);
        let env = Env::new(env.iter().copied());
        read(&matches.map_err(|error| error.to_string())?, &env)
    }

    #[test]
    fn the_environment_has_the_login_for_a_url_without_one() {
        let login = |args: &[&str], env: &[(&str, &str)]| -> Result<String, String> {
            match in_env(args, env)?.url {
                BrokerUrl::Nats(_, Credentials::None) => Ok("none".to_owned()),
                BrokerUrl::Nats(_, Credentials::Token(token)) => Ok(token.expose().to_string()),
                BrokerUrl::Nats(_, Credentials::UserPassword(user, word)) => {
                    Ok(user + " " + &word.expose())
                }
                BrokerUrl::Nats(_, Credentials::CredsFile(file) | Credentials::NkeyFile(file)) => {
                    Ok(file.display().to_string())
                }
                BrokerUrl::Redis(one) => {
                    let parts = [one.username, one.password].map(Option::unwrap_or_default);
                    Ok(parts.join(" "))
                }
            }
        };
        let both = [("NATS_TOKEN", "t"), ("NATS_CREDS", "c")];
        let nats = [("NATS_USER", "u"), ("WEIRGATE_NATS_PASSWORD", "p")];
        let redis = [
            ("REDIS_URL", "redis://u:p@h:6379/3"),
            ("REDIS_PASSWORD", "q"),
        ];
        for (args, env, want) in [
            (&["nats://h", "a"][..], &[][..], Ok("none")),
            (&["nats://h", "a"], &both[..1], Ok("t")),
            (&["nats://h", "a"], &both[1..], Ok("c")),
            (&["nats://h", "a"], &nats, Ok("u p")),
            (&["nats://h", "a"], &both, Err("more than one login")),
            (&["nats://h", "a", "--creds", "f"], &both, Ok("f")),
            (&["nats://x@h", "a"], &both, Ok("none")),
            (&["redis://h", "a"], &redis, Ok("u p")),
            (&["redis://h", "a"], &redis[1..], Ok(" q")),
            (&["redis://h:1", "a"], &redis, Ok(" q")),
            (&["redis://h:1", "a"], &redis[..1], Ok(" ")),
            (&["redis://:x@h", "a"], &redis, Ok(" x")),
        ] {
            match (login(args, env), want) {
                (Ok(got), Ok(want)) => assert_eq!(got, want, "{args:?} {env:?}"),
                (Err(error), Err(want)) => assert!(error.contains(want), "{error}"),
                (got, want) => panic!("{args:?} {env:?}: {got:?}, not {want:?}"),
            }
        }
    }

    #[test]
    fn one_message_or_the_rate_until_the_end() {
        let count = |args: &[&str]| {
            let all = [&["redis://h", "c"], args].concat();
            let command = parsed(&all).unwrap_or_else(|error| panic!("{args:?}: {error}"));
            (command.count, command.rate)
        };
        assert_eq!(count(&[]), (Some(1), None));
        assert_eq!(count(&["m", "--count", "3"]), (Some(3), None));
        assert_eq!(count(&["m", "--rate", "0.5"]), (None, Some(0.5)));
        assert_eq!(count(&["m", "--rate=5", "--count=2"]), (Some(2), Some(5.0)));
        assert_eq!(count(&["-"]), (None, None));
        assert_eq!(
            count(&["-1"]),
            (Some(1), None),
            "a message may be a negative number"
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused_without_the_url() {
        for (args, want) in [
            (&["http://u:secret@h", "c"][..], "neither nats://"),
            (&["secret", "c"], "neither nats://"),
            (&["ws://secret", "c"], "the URL of the broker"),
            (&["redis://secret", ""], "is empty"),
            (&["redis://secret", "c", "m", "--jetstream"], "for NATS"),
            (&["nats://secret", "c", "m", "--stream", "k"], "for Redis"),
            (&["nats://secret", "a b"], "is not a subject"),
            (&["nats://secret", "a.*"], "is not a subject"),
            (&["nats://secret", "a..b"], "is not a subject"),
            (&["redis://h", "c", "--rate", "0"], "allowed: a number"),
            (&["redis://h", "c", "--rate", "nan"], "allowed: a number"),
            (&["redis://h", "c", "--count", "0"], "--count"),
        ] {
            let error = parsed(args).expect_err("it was taken");
            assert!(error.contains(want), "{args:?}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn redis_takes_any_name() {
        assert!(parsed(&["redis://h", "a b*"]).is_ok());
        assert!(parsed(&["tls://h", "a.b"]).is_ok());
    }
}

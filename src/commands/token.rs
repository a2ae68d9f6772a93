//! `weirgate token inspect`: checks a token by the rules of a gateway.
//!
//! In a process of its own; no gateway uses this module. Called by `commands`.

use std::io::{self, Read};

use chrono::DateTime;
use clap::{Arg, ArgMatches, Command};

use super::args::{For, arg, flag, value};
use super::program::{Exit, chosen};
use crate::auth::{Acl, ApiKey, Authenticator, Identity, KeyRing, Rights, Token, UnfilledName};
use crate::commands::{GatewayKind, Program, RoleTable, TokenUse};
use crate::keys::KeyFiles;
use weirgate_runtime::Clock;
use weirgate_server::settings::Env;
use weirgate_server::settings::{AuthSettings, Checked, Rows, Setting, SettingsError};
use weirgate_wire::auth::Refusal;
use weirgate_wire::base::{Now, escaped};

/// The settings of the gateway for `weirgate token inspect`, beside the settings of tokens.
const TAKES: [&str; 5] = ["acl", "bus", "channels-max", "default-role", "symbols-max"];

/// `weirgate token inspect`, ready to run.
#[derive(Debug)]
pub(crate) struct TokenCommand {
    /// The token to check; `None`: the token on standard input.
    pub token: Option<Token>,
    /// The keys, and the rules for claims.
    pub auth: AuthSettings,
    /// The gateway that checks the token, with its settings; `None` if no gateway of the program takes tokens.
    pub judge: Option<(GatewayKind, Checked)>,
}

/// The rows of `weirgate token inspect`, for this gateway.
fn inspect_rows(gateway: Option<&GatewayKind>) -> Vec<Setting> {
    let Some(kind) = gateway else {
        return Rows::TOKEN.settings();
    };
    let of_tokens = Rows::TOKEN.settings();
    let is_taken = |row: &Setting| {
        TAKES.contains(&row.flag) || of_tokens.iter().any(|one| one.flag == row.flag)
    };
    kind.rows.settings().into_iter().filter(is_taken).collect()
}

/// The flags of `weirgate token inspect` that come from gateways with tokens, beside those for keys and claims.
fn inspect_args(program: &Program, made_for: For) -> Vec<Arg> {
    let mut rows: Vec<Setting> = Vec::new();
    for row in program.with_tokens().flat_map(|kind| kind.rows.settings()) {
        let is_new = rows.iter().all(|known| known.flag != row.flag);
        if is_new && TAKES.contains(&row.flag) {
            rows.push(row);
        }
    }
    args_of(&rows, made_for)
}

fn args_of(rows: &[Setting], made_for: For) -> Vec<Arg> {
    let flags = rows.iter().filter(|row| row.is_flag());
    flags.map(|row| arg(row, made_for)).collect()
}

/// The subcommand.
pub(super) fn command(program: &Program, made_for: For) -> Command {
    let inspect = Command::new("inspect")
        .about("Check a token as a gateway with REQUIRE_AUTH=true does: exit status 0 if admitted")
        .after_help("The settings are the gateway's own, read from the same env.")
        .args_override_self(true)
        .args(args_of(&Rows::TOKEN.settings(), made_for))
        .arg(
            Arg::new("token")
                .value_name("TOKEN")
                .help("The token; if missing or -, the token is read from standard input"),
        )
        .arg(inspect_gateway(program))
        .args(inspect_args(program, made_for));
    Command::new("token")
        .about("Check a token as a gateway does")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(inspect)
}

/// Returns the flag `--gateway` of `token inspect`, for which only gateways that accept tokens are named.
fn inspect_gateway(program: &Program) -> Arg {
    let names: Vec<_> = program.with_tokens().map(|kind| kind.name).collect();
    let default = program.gateway_of_tokens().map_or("", |kind| kind.name);
    let help = format!(
        "The gateway that the token is for: {} [env: {}] [default: {default}]",
        names.join(", "),
        Env::GATEWAY
    );
    value("gateway", "GATEWAY", help)
}

/// Reads the arguments of `weirgate token inspect`.
///
/// # Errors
/// The error in the arguments or in the environment, for the user.
pub(super) fn read(
    program: &Program,
    matches: &ArgMatches,
    env: &Env,
) -> Result<TokenCommand, Exit> {
    let Some((_, matches)) = matches.subcommand() else {
        return Err(Exit::wrong_use("no command of token"));
    };
    let gateway = gateway_of_token(program, matches, env);
    let gateway = gateway.map_err(|error| Exit::settings(&[error], 2))?;
    // Without the gateway's check of its settings against each other: a token can be judged all the same. The warnings of
    // the settings are the gateway's to log, and are not shown here.
    let checked = program.checked(inspect_rows(gateway), matches, env, |_| Vec::new());
    let checked = checked.map_err(|errors| Exit::settings(&errors, 2))?;
    let token = flag(matches, "token").filter(|token| token != "-");
    // An unset variable of a shell would wait for standard input without a word.
    if token.as_deref() == Some("") {
        return Err(Exit::wrong_use(
            "the token is empty; without the argument, or with -, it is read from standard input",
        ));
    }
    let auth = checked.auth();
    let judge = gateway.map(|gateway| (*gateway, checked));
    Ok(TokenCommand {
        token: token.and_then(Token::new),
        auth,
        judge,
    })
}

/// Returns the gateway that `weirgate token inspect` simulates.
fn gateway_of_token(
    program: &Program,
    matches: &ArgMatches,
    env: &Env,
) -> Result<Option<&'static GatewayKind>, SettingsError> {
    if let Some(name) = matches.get_one::<String>("gateway") {
        return chosen("--gateway", name, program.with_tokens()).map(Some);
    }
    let named = program.env_gateway(env)?.filter(|kind| kind.takes_tokens());
    Ok(named.or_else(|| program.gateway_of_tokens()))
}

impl TokenCommand {
    /// Runs the command. Returns the text to show.
    ///
    /// # Errors
    /// A secret, a file or the token is missing, or the token is refused.
    pub(crate) fn run(self) -> Result<String, String> {
        let token = match &self.token {
            Some(token) => Some(token.clone()),
            None => token_from(io::stdin())
                .map_err(|error| format!("no token on standard input: {error}"))?,
        };
        self.inspect(token.as_ref(), Clock::start().now())
    }

    /// The role that counts, and why.
    fn shown_role(&self, role: &str, identity: &Identity) -> String {
        let named = &identity.roles;
        match named.as_slice() {
            [] if identity.lacks_role_claim => {
                let claim = &self.auth.rules.role;
                format!("{role} (the default role; the token has no claim {claim})")
            }
            [] => format!("{role} (the default role)"),
            [_] => role.to_owned(),
            several => {
                let several = several.join(", ");
                format!("{role} (of {several}: the first in the table counts)")
            }
        }
    }

    /// Checks the token by the keys, by the rules for claims, and then by the rule of the gateway. Returns the text to
    /// show, or why the token is refused.
    fn inspect(&self, token: Option<&Token>, now: Now) -> Result<String, String> {
        let keys = KeyFiles::new(&self.auth).read();
        let authenticator = Authenticator {
            required: true,
            api_key: self
                .auth
                .api_key
                .as_ref()
                .and_then(|key| ApiKey::new(key.secret())),
            keys: KeyRing::new(keys.map_err(|error| error.to_string())?),
            rules: self.auth.rules.clone(),
            // The token is on the command line or in standard input, not in a cookie.
            cookie: None,
        };
        let identity = authenticator.identify(token, now);
        let mut identity = identity.map_err(refusal_text)?;
        let Some((gateway, checked)) = &self.judge else {
            return Ok(good(&identity, now.unix_ms()));
        };
        let mut grants = format!("\n  gateway:  {}", gateway.name);
        if let TokenUse::Roles(table) = gateway.tokens {
            let roles = table(checked).map_err(|error| error.to_string())?;
            let table = &roles.acl;
            let rights = table.admit(&identity, &roles.default_role, roles.limits);
            let shown = shown_table(&roles);
            let rights = rights.map_err(|refusal| match refusal {
                Refusal::Role => format!("{}; the table is {shown}", refusal_text(refusal)),
                _ => refusal_text(refusal),
            })?;
            let names = names(table, &rights);
            grants += &format!("\n  table:    {shown}\n  names:    {names}");
            grants.extend(unfilled(table, &rights));
            // Only to be shown: `good` prints the roles.
            identity.roles = vec![self.shown_role(&rights.role, &identity)];
        }
        if let TokenUse::Names(admit) = gateway.tokens {
            admit(&identity).map_err(refusal_text)?;
        }
        // A token without a limit has that of the gateway.
        if let TokenUse::Claims(symbols_max) = gateway.tokens {
            identity
                .symbols_max
                .get_or_insert_with(|| symbols_max(checked));
        }
        Ok(good(&identity, now.unix_ms()) + &grants)
    }
}

/// The refusal with the close code and the label that a client would get.
fn refusal_text(refusal: Refusal) -> String {
    let (code, label) = (refusal.close_code(), refusal.label());
    format!("refused with {code}: {refusal} [{label}]")
}

/// Where the table of roles comes from.
fn shown_table(roles: &RoleTable) -> String {
    match &roles.file {
        Some(file) => file.display().to_string(),
        None => "built in (--acl FILE replaces it)".to_owned(),
    }
}

/// The names of the role, and the client's own.
fn names(table: &Acl, rights: &Rights) -> String {
    let of_role = table.names_without_placeholders(&rights.role);
    let known = of_role.is_some();
    let own = table.own_names(rights);
    let all = of_role.into_iter().flatten().chain(&own);
    let names: Vec<&str> = all.map(String::as_str).collect();
    match (names.is_empty(), known) {
        (true, true) => "none".to_owned(),
        (true, false) => "none, because the table does not have the role".to_owned(),
        (false, _) => names.join(", "),
    }
}

/// A line for each name of the role with a placeholder that no claim of the token fills.
fn unfilled(table: &Acl, rights: &Rights) -> impl Iterator<Item = String> {
    let faults = table.faults(rights).into_iter();
    faults.map(|unfilled| {
        let UnfilledName {
            name,
            placeholder,
            fault,
        } = unfilled;
        format!("\n  not:      {name}, {placeholder}: {fault}")
    })
}

/// Returns the text about a token that is accepted: what the gateway reads in it, and the seconds that it is still
/// valid.
fn good(identity: &Identity, unix_ms: i64) -> String {
    let or =
        |value: &Option<String>, other: &str| value.clone().unwrap_or_else(|| other.to_owned());
    // Names of the token stay in their line.
    let role = match identity.roles.is_empty() {
        true => "the gateway's default".to_owned(),
        false => escaped(&identity.roles.join(", "), &[]).into_owned(),
    };
    let user = identity.user.as_ref();
    let user = user.map(|user| escaped(user, &[]).into_owned());
    let symbols = identity.symbols_max.map(|n| n.to_string());
    let ends = identity.expires_unix_ms.map(|at| {
        let left_s = (at - unix_ms) / 1000;
        let date = DateTime::from_timestamp_millis(at);
        let date = date.map_or_else(|| "beyond all dates".to_owned(), |date| date.to_rfc3339());
        format!("{date}, in {left_s} s")
    });
    format!(
        "good\n  role:     {}\n  user:     {}\n  symbols:  {}\n  ends:     {}",
        role,
        or(&user, "none"),
        or(&symbols, "the gateway's limit"),
        or(&ends, "never"),
    )
}

fn token_from(input: impl Read) -> io::Result<Option<Token>> {
    let mut text = String::new();
    // Enough to see that a token is too long.
    let bytes_max = 2 * Refusal::TOKEN_BYTES_MAX as u64;
    input.take(bytes_max).read_to_string(&mut text)?;
    Ok(Token::new(text.trim()))
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{EncodingKey, Header};
    use serde_json::{Value, json};

    use super::*;
    use weirgate_server::settings::SecretText;
    use weirgate_wire::auth::ClaimRules;

    /// A gateway for tokens that are signed with this secret, for the audience `here`, by the issuer `us`.
    fn gateway(secret: Option<&str>) -> TokenCommand {
        let rules = ClaimRules {
            audiences: vec!["here".to_owned()],
            issuers: vec!["us".to_owned()],
            ..ClaimRules::default()
        };
        TokenCommand {
            token: None,
            auth: AuthSettings {
                jwt_secret: secret.map(SecretText::new),
                rules,
                ..AuthSettings::default()
            },
            judge: None,
        }
    }

    fn token(secret: &str, mut claims: Value) -> Option<Token> {
        (claims["aud"], claims["iss"]) = (json!("here"), json!("us"));
        let key = EncodingKey::from_secret(secret.as_bytes());
        let token = jsonwebtoken::encode(&Header::default(), &claims, &key).expect("a token");
        token_from(format!(" {token}\n").as_bytes()).expect("text")
    }

    fn at(unix_ms: i64) -> Now {
        Now {
            unix_us: unix_ms.saturating_mul(1_000),
            ..Now::default()
        }
    }

    #[test]
    fn a_token_of_the_secret_before_is_good() {
        let old = token("secret", json!({}));
        let mut next = gateway(Some("next"));
        next.inspect(old.as_ref(), at(0)).expect_err("unsigned");
        next.auth.jwt_secret_before = Some(SecretText::new("secret"));
        next.inspect(old.as_ref(), at(0)).expect("good");
    }

    #[test]
    fn a_token_is_let_in_until_it_ends() {
        let gateway = gateway(Some("secret"));
        let claims =
            json!({"role": "admin", "sub": "ann \"a\"\n", "maxSymbols": 3, "exp": 1_700_000_060});
        let of_a_minute = token("secret", claims);
        let shown = gateway
            .inspect(of_a_minute.as_ref(), at(1_700_000_001_000))
            .expect("good");
        assert_eq!(
            shown,
            "good\n  role:     admin\n  user:     ann \"a\"\\u000a\n  symbols:  3\n  \
             ends:     2023-11-14T22:14:20+00:00, in 59 s"
        );
        let late = gateway.inspect(of_a_minute.as_ref(), at(1_700_000_060_000));
        assert_eq!(
            late.expect_err("expired"),
            "refused with 1008: its time (exp) is over [expired]"
        );
        let endless = token("secret", json!({}));
        let shown = gateway
            .inspect(endless.as_ref(), at(i64::MAX))
            .expect("good");
        assert!(shown.ends_with("ends:     never"), "{shown}");
    }

    #[test]
    fn without_a_secret_nothing_is_good() {
        let refused = gateway(None).inspect(None, at(0));
        let missing = super::refusal_text(Refusal::Missing);
        assert_eq!(refused, Err(missing));
    }
}

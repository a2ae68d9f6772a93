//! `weirgate token`: makes test tokens, and checks a token by the rules of a gateway.
//!
//! In a process of its own; no gateway uses this module. Called by `commands`.

use std::io::{self, Read};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::DateTime;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use jsonwebtoken::{Algorithm, EncodingKey, crypto};

use super::program::{Exit, For, arg, chosen, flag, value};
use crate::commands::Program;
use weirgate_bus::runtime::Clock;
use weirgate_server::run::files::KeyFiles;
use weirgate_server::run::{GatewayKind, RoleTable, TokenUse};
use weirgate_server::settings::typed::{Env, GATEWAY_ENV};
use weirgate_server::settings::{AuthSettings, Checked, Rows, Setting, SettingsError};
use weirgate_wire::auth::{
    Acl, ApiKey, Authenticator, Identity, KeyRing, Refusal, Rights, TOKEN_BYTES_MAX, Token,
};
use weirgate_wire::base::Now;
use weirgate_wire::json::ObjectWriter;

/// The settings of the gateway for `weirgate token inspect`, beside the settings of tokens.
const TAKES: [&str; 5] = ["acl", "bus", "channels-max", "default-role", "symbols-max"];

/// The action of the command.
#[derive(Clone, Debug, PartialEq)]
pub enum TokenAction {
    /// Make a token, signed with `JWT_SECRET`.
    Mint(Claims),
    /// Check this token, or else the token on standard input.
    Inspect(Option<Token>),
}

/// The claims of a new token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    /// The role.
    pub role: Option<String>,
    /// The user.
    pub user: Option<String>,
    /// Names and patterns beside the role's.
    pub channels: Vec<String>,
    /// The symbol limit.
    pub symbols_max: Option<u32>,
    /// The lifetime in seconds; `None` for a token that never expires.
    pub expires_in_s: Option<u32>,
}

/// `weirgate token`, ready to run.
#[derive(Debug)]
pub struct TokenCommand {
    /// The action.
    pub action: TokenAction,
    /// The keys, and the rules for claims.
    pub auth: AuthSettings,
    /// The gateway that checks the token, with settings.
    pub judge: Option<(GatewayKind, Checked)>,
}

/// The rows of `weirgate token inspect`, for this gateway.
fn inspect_rows(of: Option<&GatewayKind>) -> Vec<Setting> {
    let Some(kind) = of else {
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
    let part = |name, about| {
        Command::new(name)
            .about(about)
            .after_help("The settings are the gateway's own, read from the same env.")
            .args_override_self(true)
            .args(args_of(&Rows::TOKEN.settings(), made_for))
    };
    let number = |name, help| value(name, "N", help).value_parser(value_parser!(u32));
    let mint = part("mint", "Make a test token, signed with JWT_SECRET (HS256)")
        .arg(value("role", "ROLE", "Role of the token"))
        .arg(value("user", "USER", "User of the token"))
        .arg(
            value(
                "channel",
                "NAME",
                "Name or pattern that the token grants; may be repeated",
            )
            .action(ArgAction::Append),
        )
        .arg(number("symbols-max", "Symbol limit of the user"))
        .arg(
            number(
                "expires-in-s",
                "Lifetime in seconds; 0 for a token without end [default: 3600]",
            )
            .value_name("S")
            .default_value("3600")
            .hide_default_value(true),
        );
    let inspect = part(
        "inspect",
        "Check a token as a gateway with REQUIRE_AUTH=true does: exit status 0 if admitted",
    )
    .arg(
        Arg::new("token")
            .value_name("TOKEN")
            .help("The token; if missing or -, the token is read from standard input"),
    )
    .arg(inspect_gateway(program))
    .args(inspect_args(program, made_for));
    Command::new("token")
        .about("Make a test token, or check a token as a gateway does")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(mint)
        .subcommand(inspect)
}

fn inspect_gateway(program: &Program) -> Arg {
    let names: Vec<_> = program.with_tokens().map(|kind| kind.name).collect();
    let default = program.gateway_of_tokens().map_or("", |kind| kind.name);
    let help = format!(
        "The gateway that the token is for: {} [env: {GATEWAY_ENV}] [default: {default}]",
        names.join(", ")
    );
    value("gateway", "GATEWAY", help)
}

/// Reads the arguments of `weirgate token`.
///
/// # Errors
/// The error in the arguments or in the environment, for the user.
pub(super) fn read(
    program: &Program,
    matches: &ArgMatches,
    env: &Env,
) -> Result<TokenCommand, Exit> {
    let Some((name, matches)) = matches.subcommand() else {
        return Err(Exit::wrong_use("no command of token"));
    };
    let gateway = match name {
        "mint" => Ok(None),
        _ => inspecting(program, matches, env),
    };
    let gateway = gateway.map_err(|error| Exit::settings(&[error], 2))?;
    // The warnings belong to the gateway.
    let checked = program.checked(inspect_rows(gateway), matches, env, |_| Vec::new());
    let checked = checked.map_err(|errors| Exit::settings(&errors, 2))?;
    let action = match name {
        "mint" => TokenAction::Mint(Claims {
            role: flag(matches, "role"),
            user: flag(matches, "user"),
            channels: matches
                .get_many("channel")
                .map_or_else(Vec::new, |names| names.cloned().collect()),
            symbols_max: matches.get_one("symbols-max").copied(),
            expires_in_s: matches.get_one("expires-in-s").copied().filter(|s| *s > 0),
        }),
        _ => {
            let token = flag(matches, "token").filter(|token| token != "-");
            TokenAction::Inspect(token.and_then(Token::new))
        }
    };
    let auth = checked.auth();
    let judge = gateway.map(|gateway| (*gateway, checked));
    Ok(TokenCommand {
        action,
        auth,
        judge,
    })
}

/// Returns the gateway that `weirgate token inspect` simulates.
fn inspecting(
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
    pub fn run(self) -> Result<String, String> {
        let now = Clock::start().now();
        match &self.action {
            TokenAction::Mint(claims) => self.mint(claims, now.unix_ms()),
            TokenAction::Inspect(token) => {
                let token = match token {
                    Some(token) => Some(token.clone()),
                    None => token_from(io::stdin())
                        .map_err(|error| format!("no token on standard input: {error}"))?,
                };
                self.inspect(token.as_ref(), now)
            }
        }
    }

    fn mint(&self, claims: &Claims, unix_ms: i64) -> Result<String, String> {
        let secret = self.auth.jwt_secret.as_ref();
        let secret = secret.ok_or("JWT_SECRET is not set: tokens are signed with it")?;
        let claims = self.claims(claims, unix_ms / 1000);
        let parts = [r#"{"alg":"HS256","typ":"JWT"}"#, &claims];
        let message = parts.map(|part| URL_SAFE_NO_PAD.encode(part)).join(".");
        let key = EncodingKey::from_secret(secret.expose().as_bytes());
        let signature = crypto::sign(message.as_bytes(), &key, Algorithm::HS256);
        let signature =
            signature.map_err(|error| format!("the token cannot be signed: {error}"))?;
        Ok(format!("{message}.{signature}"))
    }

    /// The claims as JSON. Adds the issuer and the audience that the gateway requires, so that it accepts the token.
    fn claims(&self, claims: &Claims, unix_s: i64) -> String {
        let rules = &self.auth.rules;
        let mut json = ObjectWriter::new();
        for (name, value) in [
            (rules.role.as_str(), &claims.role),
            (&rules.user, &claims.user),
            ("iss", &rules.issuers.first().cloned()),
            ("aud", &rules.audiences.first().cloned()),
        ] {
            if let Some(value) = value {
                json.string(name, value);
            }
        }
        if !claims.channels.is_empty() {
            json.strings(&rules.names, claims.channels.iter().map(String::as_str));
        }
        if let Some(symbols_max) = claims.symbols_max {
            json.number(&rules.symbols_max, symbols_max);
        }
        json.number("iat", unix_s);
        if let Some(expires_in_s) = claims.expires_in_s {
            json.number("exp", unix_s + i64::from(expires_in_s));
        }
        json.finish()
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
            cookie: None,
        };
        let identity = authenticator.identify(token, now);
        let mut identity = identity.map_err(refused)?;
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
                Refusal::Role => format!("{}; the table is {shown}", refused(refusal)),
                _ => refused(refusal),
            })?;
            let names = names(table, &rights);
            grants += &format!("\n  table:    {shown}\n  names:    {names}");
            grants.extend(unfilled(table, &rights));
            identity.roles = vec![self.shown_role(&rights.role, &identity)];
        }
        if let TokenUse::Names(admit) = gateway.tokens {
            admit(&identity).map_err(refused)?;
        }
        if let TokenUse::Claims(symbols_max) = gateway.tokens {
            identity
                .symbols_max
                .get_or_insert_with(|| symbols_max(checked));
        }
        Ok(good(&identity, now.unix_ms()) + &grants)
    }
}

/// The words of a gateway's refusal.
fn refused(refusal: Refusal) -> String {
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
    let of_role = table.plain_names(&rights.role);
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

/// A line for each name of the role with a place that no claim of the token fills.
fn unfilled(table: &Acl, rights: &Rights) -> impl Iterator<Item = String> {
    let faults = table.faults(rights).into_iter();
    faults.map(|(name, place, fault)| format!("\n  not:      {name}, {place}: {fault}"))
}

fn good(identity: &Identity, unix_ms: i64) -> String {
    let or =
        |value: &Option<String>, other: &str| value.clone().unwrap_or_else(|| other.to_owned());
    let role = match identity.roles.is_empty() {
        true => "the gateway's default".to_owned(),
        false => identity.roles.join(", "),
    };
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
        or(&identity.user, "none"),
        or(&symbols, "the gateway's limit"),
        or(&ends, "never"),
    )
}

fn token_from(input: impl Read) -> io::Result<Option<Token>> {
    let mut text = String::new();
    let bytes_max = 2 * TOKEN_BYTES_MAX as u64;
    input.take(bytes_max).read_to_string(&mut text)?;
    Ok(Token::new(text.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use weirgate_server::settings::SecretText;
    use weirgate_wire::auth::ClaimRules;

    fn command(action: TokenAction) -> TokenCommand {
        let rules = ClaimRules {
            audiences: vec!["here".to_owned()],
            issuers: vec!["us".to_owned()],
            ..ClaimRules::default()
        };
        TokenCommand {
            action,
            auth: AuthSettings {
                jwt_secret: Some(SecretText::new("secret")),
                rules,
                ..AuthSettings::default()
            },
            judge: None,
        }
    }

    fn at(unix_ms: i64) -> Now {
        Now {
            unix_us: unix_ms.saturating_mul(1_000),
            ..Now::default()
        }
    }

    #[test]
    fn a_token_of_the_secret_before_is_good() {
        let mint = command(TokenAction::Inspect(None));
        let old = Token::new(mint.mint(&Claims::default(), 0).expect("a token"));
        let mut next = command(TokenAction::Inspect(None));
        next.auth.jwt_secret = Some(SecretText::new("next"));
        next.inspect(old.as_ref(), at(0)).expect_err("unsigned");
        next.auth.jwt_secret_before = mint.auth.jwt_secret;
        next.inspect(old.as_ref(), at(0)).expect("good");
    }

    #[test]
    fn what_is_minted_is_let_in_until_it_ends() {
        let claims = Claims {
            role: Some("admin".to_owned()),
            user: Some("ann \"a\"".to_owned()),
            channels: Vec::new(),
            symbols_max: Some(3),
            expires_in_s: Some(60),
        };
        let mint = command(TokenAction::Mint(claims.clone()));
        let token = mint.mint(&claims, 1_700_000_000_000).expect("a token");
        let token = token_from(format!(" {token}\n").as_bytes()).expect("text");
        let shown = mint
            .inspect(token.as_ref(), at(1_700_000_001_000))
            .expect("good");
        assert_eq!(
            shown,
            "good\n  role:     admin\n  user:     ann \"a\"\n  symbols:  3\n  \
             ends:     2023-11-14T22:14:20+00:00, in 59 s"
        );
        let late = mint.inspect(token.as_ref(), at(1_700_000_060_000));
        let told = late.expect_err("expired");
        assert_eq!(told, "refused with 1008: its time (exp) is over [expired]");
        let endless = mint.mint(&Claims::default(), 0).expect("a token");
        let shown = mint
            .inspect(Token::new(endless).as_ref(), at(i64::MAX))
            .expect("good");
        assert!(shown.ends_with("ends:     never"), "{shown}");
    }

    #[test]
    fn without_a_secret_nothing_is_signed_and_nothing_is_good() {
        let mut mint = command(TokenAction::Inspect(None));
        mint.auth.jwt_secret = None;
        let refused = mint.mint(&Claims::default(), 0);
        assert!(refused.expect_err("no secret").contains("JWT_SECRET"));
        let refused = mint.inspect(None, at(0));
        let missing = super::refused(Refusal::Missing);
        assert_eq!(refused, Err(missing));
    }
}

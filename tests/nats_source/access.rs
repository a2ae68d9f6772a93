//! As whom the source goes to a server: tokens, passwords, nkeys, credentials files, certificates.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nkeys::{KeyPair, KeyPairType};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa};
use tempfile::TempDir;
use weirgate_wire::admission::ClientAddr;

use super::subjects::{Subjects, run_subjects, subscription};
use super::*;

/// What the source says of its first failure.
fn fault(source: &Running) -> String {
    match source.next() {
        BusEvent::Down(fault) => fault,
        other => panic!("it is not down: {other:?}"),
    }
}

fn let_in(settings: NatsSettings) -> Running {
    let source = run(settings);
    assert_eq!(source.until("CaughtUp"), ["Up", "CaughtUp"]);
    source
}

fn with(server: &NatsServer, credentials: Credentials) -> NatsSettings {
    NatsSettings {
        credentials,
        ..settings(&server.url())
    }
}

fn secret_file(folder: &TempDir, name: &str, text: &str) -> PathBuf {
    let path = folder.path().join(name);
    fs::write(&path, text).expect("written");
    path
}

#[test]
fn passwords_and_tokens_are_shown_to_servers_whose_url_has_none() {
    let user = |name: &str, password: &str| Credentials::UserPassword(name.into(), password.into());
    let server = NatsServer::start_with("authorization { user: gw, password: \"s3cr/et@\" }");
    let_in(with(&server, user("gw", "s3cr/et@")));
    let refused = fault(&run(with(&server, user("gw", "s3cret"))));
    assert!(refused.contains("Authorization Violation"), "{refused}");
    // what the URL says counts for its server
    let mut other = with(&server, user("nobody", "s3cret"));
    other.urls = server.url_as("gw:s3cr%2Fet%40").as_str().into();
    let_in(other);

    let server = NatsServer::start_with("authorization { token: \"s3cr?et\" }");
    let_in(with(&server, Credentials::Token("s3cr?et".into())));
    let_in(settings(&server.url_as("s3cr%3Fet")));
    let refused = fault(&run(with(&server, Credentials::Token("s3cret".into()))));
    assert!(refused.contains("Authorization Violation"), "{refused}");
    assert!(!refused.contains("s3cr"), "{refused}");
}

#[test]
fn an_nkey_signs_what_the_server_asks() {
    let folder = tempfile::tempdir().expect("a folder");
    let [known, other] = [(); 2].map(|()| KeyPair::new_user());
    let seed = |pair: &KeyPair| pair.seed().expect("a seed");
    let config = format!(
        "authorization {{ users: [{{ nkey: {} }}] }}",
        known.public_key()
    );
    let server = NatsServer::start_with(&config);
    let file = secret_file(&folder, "gateway.nk", &seed(&other));
    let source = run(with(&server, Credentials::NkeyFile(file.clone())));
    let refused = fault(&source);
    assert!(refused.contains("Authorization Violation"), "{refused}");
    // A file that was replaced counts at the next attempt.
    fs::write(&file, seed(&known)).expect("written");
    assert_eq!(source.until("CaughtUp"), ["Up", "CaughtUp"]);

    fs::write(&file, "SUs3cret").expect("written");
    let refused = fault(&run(with(&server, Credentials::NkeyFile(file))));
    assert!(
        refused.contains("gateway.nk") && !refused.contains("s3cret"),
        "{refused}"
    );
}

/// A token of the operator's or an account's, as `nsc` makes them (JWT version 2 of NATS).
fn jwt(signer: &KeyPair, subject: &str, claims: &str) -> String {
    let part = |text: &str| base64_url(text.as_bytes());
    let body = format!(
        r#"{{"jti":"{subject}","iat":1700000000,"iss":"{}","sub":"{subject}","name":"test","nats":{claims}}}"#,
        signer.public_key()
    );
    let signed = format!(
        "{}.{}",
        part(r#"{"typ":"JWT","alg":"ed25519-nkey"}"#),
        part(&body)
    );
    let signature = signer.sign(signed.as_bytes()).expect("signed");
    format!("{signed}.{}", base64_url(&signature))
}

fn base64_url(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let digits = |three: &[u8]| {
        let bits = (0..3).fold(0u32, |bits, i| {
            bits << 8 | u32::from(three.get(i).copied().unwrap_or(0))
        });
        let all = [18, 12, 6, 0].map(|at| DIGITS[(bits >> at & 63) as usize] as char);
        all[..three.len() + 1].iter().collect::<String>()
    };
    bytes.chunks(3).map(digits).collect()
}

#[test]
fn a_credentials_file_lets_in_and_may_be_replaced() {
    let [operator, account, user] = [
        KeyPairType::Operator,
        KeyPairType::Account,
        KeyPairType::User,
    ]
    .map(KeyPair::new);
    let user_key = user.public_key();
    let operator_jwt = jwt(
        &operator,
        &operator.public_key(),
        r#"{"type":"operator","version":2}"#,
    );
    let account_jwt = |of: &KeyPair, storage: i32| {
        let claims = format!(
            r#"{{"type":"account","version":2,"limits":{{"subs":-1,"data":-1,"payload":-1,
                "imports":-1,"exports":-1,"wildcards":true,"conn":-1,"leaf":-1,
                "mem_storage":{storage},"disk_storage":{storage},"streams":-1,"consumer":-1}}}}"#
        );
        jwt(&operator, &of.public_key(), &claims)
    };
    // JetStream wants a system account too, which has none itself.
    let system = KeyPair::new(KeyPairType::Account);
    let server = NatsServer::start_with(&format!(
        "operator: {operator_jwt}\nsystem_account: {}\nresolver: MEMORY\n\
         resolver_preload: {{ {}: {}, {}: {} }}",
        system.public_key(),
        system.public_key(),
        account_jwt(&system, 0),
        account.public_key(),
        account_jwt(&account, -1),
    ));
    let creds = |user_jwt: &str| {
        format!(
            "-----BEGIN NATS USER JWT-----\n{user_jwt}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
            user.seed().expect("a seed")
        )
    };
    let claims = r#"{"type":"user","version":2,"subs":-1,"data":-1,"payload":-1}"#;
    let folder = tempfile::tempdir().expect("a folder");
    let stranger = KeyPair::new(KeyPairType::Account);
    let of_stranger = creds(&jwt(&stranger, &user_key, claims));
    let file = secret_file(&folder, "gateway.creds", &of_stranger);
    let source = run(with(&server, Credentials::CredsFile(file.clone())));
    let refused = fault(&source);
    assert!(refused.contains("Authorization Violation"), "{refused}");
    // An editor may put a byte order mark before the text.
    let good = creds(&jwt(&account, &user_key, claims));
    fs::write(&file, format!("\u{feff}{good}")).expect("written");
    assert_eq!(source.until("CaughtUp"), ["Up", "CaughtUp"]);

    let missing = folder.path().join("missing.creds");
    let refused = fault(&run(with(&server, Credentials::CredsFile(missing))));
    assert!(refused.contains("missing.creds"), "{refused}");
}

/// A certificate authority of the test, and what it signs.
struct Authority {
    folder: TempDir,
    issuer: CertifiedIssuer<'static, rcgen::KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("an authority");
        let folder = tempfile::tempdir().expect("a folder");
        secret_file(&folder, "ca.pem", &issuer.pem());
        Self { folder, issuer }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// A certificate for that name or address, and its key.
    fn sign(&self, name: &str) -> (PathBuf, PathBuf) {
        let key = rcgen::KeyPair::generate().expect("a key");
        let params = CertificateParams::new([name.to_owned()]).expect("a name");
        let signed = params.signed_by(&key, &self.issuer).expect("signed");
        let certificate = secret_file(&self.folder, &format!("{name}.pem"), &signed.pem());
        let key = secret_file(&self.folder, &format!("{name}.key"), &key.serialize_pem());
        (certificate, key)
    }
}

/// A server that speaks TLS, with more lines in its `tls` block.
fn tls_server((certificate, key): &(PathBuf, PathBuf), more: &str) -> NatsServer {
    NatsServer::start_with(&format!(
        "tls {{ cert_file: {certificate:?}, key_file: {key:?}, timeout: 2, {more} }}"
    ))
}

fn over_tls(server: &NatsServer, ca: &Path) -> NatsSettings {
    NatsSettings {
        tls: Tls {
            ca: Some(ca.to_owned()),
            client: None,
        },
        ..settings(&server.url().replace("nats://", "tls://"))
    }
}

#[test]
fn tls_relays_through_outages_with_an_authority_of_ones_own() {
    let ours = Authority::new();
    let mut server = tls_server(&ours.sign("127.0.0.1"), "");
    let source = let_in(over_tls(&server, &ours.path()));
    // the other end, over the same crate
    let connect = |url: String| {
        let options = nats::Options::new().add_root_certificate(ours.path());
        options.connect(url).expect("a connection")
    };
    let publisher = connect(server.url());
    for n in 0..2_000 {
        publisher.publish(LEVELS, n.to_string()).expect("published");
    }
    let want: Vec<String> = (0..2_000).map(|n| format!("levels {n}")).collect();
    assert_eq!(source.until("levels 1999"), want);
    server.freeze();
    assert_eq!(source.until("Down"), ["Down"]);
    server.thaw();
    source.until("Up");
    server.kill();
    source.until("Down");
    server.restart();
    source.until("Up");
    let publisher = connect(server.url());
    for n in 2_000..2_100 {
        publisher.publish(LEVELS, n.to_string()).expect("published");
    }
    let seen = source.until_but_up("levels 2099");
    assert_eq!(seen.len(), 100, "{seen:?}");
    // a payload of many TLS records
    let large = vec![b'x'; 1_000_000];
    publisher.publish(LEVELS, large).expect("published");
    assert_eq!(source.next_message().payload.len(), 1_000_000);
}

#[test]
fn tls_refuses_servers_that_are_not_who_they_should_be() {
    let (ours, other) = (Authority::new(), Authority::new());
    let good = tls_server(&ours.sign("127.0.0.1"), "");
    let unknown = fault(&run(over_tls(&good, &other.path())));
    assert!(unknown.contains("invalid peer certificate"), "{unknown}");
    // The system's authorities do not know ours; nats:// uses TLS where the server wants it.
    let unknown = fault(&run(settings(&good.url())));
    assert!(unknown.contains("certificate"), "{unknown}");
    let elsewhere = tls_server(&ours.sign("nats.example"), "");
    let wrong_name = fault(&run(over_tls(&elsewhere, &ours.path())));
    assert!(wrong_name.contains("not valid for name"), "{wrong_name}");
    // The server's own words come through.
    let (certificate, key) = ours.sign("127.0.0.1");
    let closed = NatsServer::start_with(&format!(
        "tls {{ cert_file: {certificate:?}, key_file: {key:?} }}\nauthorization {{ token: t }}"
    ));
    let refused = fault(&run(over_tls(&closed, &ours.path())));
    assert!(refused.contains("Authorization Violation"), "{refused}");
    // Nobody in between can talk us out of TLS.
    let plain = NatsServer::start();
    let mut asked_for = over_tls(&plain, &ours.path());
    for url in [plain.url(), asked_for.urls.expose().to_string()] {
        asked_for.urls = url.as_str().into();
        let refused = fault(&run(asked_for.clone()));
        assert!(refused.contains("no TLS with NATS"), "{refused}");
    }
}

#[test]
fn tls_shows_a_client_certificate_where_one_is_wanted() {
    let ours = Authority::new();
    let ca = ours.path();
    let server = tls_server(
        &ours.sign("127.0.0.1"),
        &format!("ca_file: {ca:?}, verify: true"),
    );
    let mut settings = over_tls(&server, &ca);
    let refused = fault(&run(settings.clone()));
    assert!(refused.contains("certificate"), "{refused}");
    settings.tls.client = Some(ours.sign("gateway"));
    let_in(settings.clone());
    let (certificate, _) = ours.sign("another");
    settings.tls.client = Some((certificate, ca.with_file_name("missing.key")));
    let refused = fault(&run(settings));
    assert!(refused.contains("missing.key"), "{refused}");
}

/// What `docs/reference/nats.md` says that a user has to be allowed.
const PERMISSIONS: &str = r#"{
    publish: [
        "$JS.API.STREAM.INFO.*", "$JS.API.STREAM.CREATE.*", "$JS.API.STREAM.MSG.GET.*",
        "$JS.API.CONSUMER.INFO.*.*", "$JS.API.CONSUMER.DURABLE.CREATE.*.*",
        "$JS.API.CONSUMER.CREATE.*", "$JS.API.CONSUMER.DELETE.*.*", "$JS.ACK.>"
    ]
    subscribe: ["_INBOX.>"]
}"#;

#[test]
fn a_user_needs_no_more_than_the_documented_permissions() {
    let server = NatsServer::start_with(&format!(
        "authorization {{ users: [\n{{ user: gw, password: p, permissions: {PERMISSIONS} }}\n\
         {{ user: feed, password: f }}\n] }}"
    ));
    let source = let_in(settings(&server.url_as("gw:p")));
    let js = jetstream(&server.url_as("feed:f"));
    publish(&js, LEVELS, 0..3);
    assert_eq!(
        source.until("levels 2"),
        ["levels 0", "levels 1", "levels 2"]
    );
    // One that does not have the durable, and takes it over.
    let next = run(settings(&server.url_as("gw:p")));
    next.until("CaughtUp");
    drop(source.events);
    publish(&js, LEVELS, 3..4);
    assert_eq!(next.until("levels 3"), ["levels 3"]);
    let consumers = || {
        js.stream_info("LEVEL_SIGNALS")
            .map(|s| s.state.consumer_count)
    };
    eventually("the durable is taken over", || {
        let info = js.consumer_info("LEVEL_SIGNALS", "gateway_levels");
        consumers().is_ok_and(|n| n == 1) && info.is_ok_and(|i| i.push_bound)
    });
    js.delete_consumer("LEVEL_SIGNALS", "gateway_levels")
        .expect("deleted");
    publish(&js, LEVELS, 4..5);
    assert_eq!(next.until("levels 4"), ["levels 4"]);
}

/// What the source of channels says of its first failure.
fn subjects_fault(settings: NatsSettings) -> String {
    let source = run_subjects(settings, 16);
    match source.events.recv_timeout(PATIENCE).expect("an event") {
        BusEvent::Down(fault) => fault,
        other => panic!("it is not down: {other:?}"),
    }
}

fn subjects_let_in(settings: NatsSettings) -> Subjects {
    let source = run_subjects(settings, 16);
    assert_eq!(source.until("CaughtUp"), ["Up", "CaughtUp"]);
    source
}

#[test]
fn the_source_of_channels_logs_in_the_same_ways() {
    let ours = Authority::new();
    let other = Authority::new();
    let ca = ours.path();
    let folder = tempfile::tempdir().expect("a folder");
    let pair = KeyPair::new_user();
    let (certificate, key) = ours.sign("127.0.0.1");
    let server = NatsServer::start_with(&format!(
        "tls {{ cert_file: {certificate:?}, key_file: {key:?}, ca_file: {ca:?}, verify: true }}
        authorization {{ users: [{{ nkey: {} }}] }}",
        pair.public_key()
    ));
    let mut settings = over_tls(&server, &ca);
    let refused = subjects_fault(settings.clone());
    assert!(refused.contains("certificate"), "{refused}");
    settings.tls.client = Some(ours.sign("gateway"));
    let refused = subjects_fault(settings.clone());
    assert!(refused.contains("Authorization Violation"), "{refused}");
    let seed = pair.seed().expect("a seed");
    let file = secret_file(&folder, "gateway.nk", &seed);
    settings.credentials = Credentials::NkeyFile(file);
    subjects_let_in(settings.clone());
    // The first server of the list is not there.
    settings.urls = format!("tls://127.0.0.1:1,{}", settings.urls.expose())
        .as_str()
        .into();
    let source = subjects_let_in(settings.clone());
    source.interest.subscribe(subscription("a.*"));
    assert_eq!(source.next(), "+a.*");
    settings.tls.ca = Some(other.path());
    settings.urls = server.url().as_str().into();
    let unknown = subjects_fault(settings.clone());
    assert!(unknown.contains("invalid peer certificate"), "{unknown}");
    // Nobody in between can talk us out of TLS.
    let plain = NatsServer::start();
    settings.urls = plain.url().as_str().into();
    let refused = subjects_fault(settings);
    assert!(refused.contains("no TLS with NATS"), "{refused}");
}

/// What `docs/reference/nats.md` says that a user of channels with last values has to be allowed.
const CHANNELS_PERMISSIONS: &str = r#"{
    publish: [
        "$JS.API.STREAM.LIST", "$JS.API.STREAM.MSG.GET.*",
        "$JS.API.CONSUMER.CREATE.*", "$JS.API.CONSUMER.DELETE.*.*",
        "$JS.API.CONSUMER.MSG.NEXT.*.*"
    ]
    subscribe: ["_INBOX.>", "levels.>"]
}"#;

#[test]
fn channels_need_no_more_than_the_documented_permissions() {
    let server = NatsServer::start_with(&format!(
        "authorization {{ users: [\n{{ user: gw, password: p, permissions: {CHANNELS_PERMISSIONS} }}\n\
         {{ user: feed, password: f }}\n] }}"
    ));
    let js = jetstream(&server.url_as("feed:f"));
    make_streams(&js);
    publish(&js, LEVELS, 0..3);
    let url = server.url_as("gw:p");
    let settings = NatsSettings::plain(&url, Credentials::None, Tls::default());
    let source = subjects_let_in(settings);
    for name in ["levels.signals", "levels.*"] {
        source.interest.subscribe(subscription(name));
        source.until(&format!("+{name}"));
        source.interest.ask_retained(
            subscription(name),
            None,
            (1, ClientAddr::Unix),
            Arc::default(),
        );
        let end = format!("end of {name}");
        assert_eq!(source.until(&end).len(), 2, "a value and the end");
    }
    let deleted = || {
        js.stream_info("LEVEL_SIGNALS")
            .expect("it")
            .state
            .consumer_count
            == 0
    };
    eventually("the consumer is deleted", deleted);
}

//! Passwords, users, rules about channels, databases, TLS.

use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use super::*;

const SECRET: &str = "p@ss w/rd#1";
const SECRET_ENCODED: &str = "p%40ss%20w%2Frd%231";

fn assert_shows_no_secret(text: &str) {
    for part in [SECRET, SECRET_ENCODED, "p%40ss", "w/rd"] {
        assert!(!text.contains(part), "{text}");
    }
}

#[test]
fn a_password_is_given_and_a_wrong_one_is_told_without_it() {
    let config = format!("requirepass \"{SECRET}\"");
    let server = RedisServer::start_with(&config);
    let url = server.url_as(&format!(":{SECRET_ENCODED}"));
    let source = run_with(&url, &[Subscription::channel("a")]);
    let mut client = server.client_as(&format!(":{SECRET_ENCODED}@"));
    publish(&mut client, "a", "1");
    assert_eq!(source.next_short(), "a: 1");

    let wrong = run(settings(&server.url_as(&format!(":{SECRET_ENCODED}x"))));
    let fault = wrong.fault();
    assert!(fault.contains("WRONGPASS"), "{fault}");
    assert_shows_no_secret(&fault);
    let none = run(settings(&server.url()));
    let fault = none.fault();
    assert!(fault.contains("NOAUTH"), "{fault}");
    // It goes on trying: somebody may set it right at the other end.
    let mut command = redis::cmd("CONFIG");
    command.arg("SET").arg("requirepass").arg("");
    command.query::<()>(&mut client).expect("set");
    assert_eq!(none.until("CaughtUp"), ["Up", "CaughtUp"]);
    // A password that nobody asked for is no trouble.
    assert_eq!(wrong.until("CaughtUp"), ["Up", "CaughtUp"]);
}

#[test]
fn a_server_without_the_command_shows_no_password() {
    let server = RedisServer::start_with("rename-command AUTH \"\"");
    let source = run(settings(&server.url_as(&format!("me:{SECRET_ENCODED}"))));
    let fault = source.fault();
    assert!(fault.contains("unknown command"), "{fault}");
    assert_shows_no_secret(&fault);
}

/// A source whose only name is refused delivers nothing, and the status says so.
#[test]
fn a_needed_name_that_is_refused_counts_as_an_outage() {
    let server = RedisServer::start_with("user reader on nopass resetchannels +@all");
    let url = server.url_as("reader:any");
    let mut settings = settings(&url);
    settings.needs_all_names = true;
    let source = run(settings);
    source.until("CaughtUp");
    source
        .interest
        .subscribe(Subscription::pattern("channel:trade:*"));
    source.until("!channel:trade:*");
    eventually("it connected", || source.status.connected());
    eventually("it is refused", || source.status.refused() > 0);
    let counts_as_away =
        || !source.status.subscribed() && source.status.away_ms(Now::default()).is_some();
    eventually(
        "nothing is subscribed, and that counts as away",
        counts_as_away,
    );
    // It stays so.
    thread::sleep(Duration::from_millis(300));
    assert!(counts_as_away());
    assert!(
        source.status.is_subscription_refused(),
        "/ready tells at once"
    );
    let mut admin = server.client();
    let mut allow = redis::cmd("ACL");
    let allow = allow.arg("SETUSER").arg("reader").arg("allchannels");
    allow.query::<()>(&mut admin).expect("allowed");
    // As after 30 s: the name is requested again, and its clients have missed messages.
    source
        .interest
        .subscribe(Subscription::pattern("channel:trade:*"));
    assert_eq!(
        source.until("+channel:trade:*"),
        ["Gap", "+channel:trade:*"]
    );
    eventually("it stands", || source.status.subscribed());
    assert!(source.status.away_ms(Now::default()).is_none());
    assert!(!source.status.is_subscription_refused());
}

#[test]
fn a_forbidden_channel_is_refused_once_and_hurts_no_other() {
    let rules = format!(
        "user reader on \">{SECRET}\" resetchannels &market:* -@all +subscribe +psubscribe \
         +unsubscribe +punsubscribe"
    );
    let server = RedisServer::start_with(&rules);
    let url = server.url_as(&format!("reader:{SECRET_ENCODED}"));
    let mut settings = settings(&url);
    // This user may not even ping, which is an answer too.
    settings.times.ping_interval_ms = 50;
    let source = run(settings);
    source.until("CaughtUp");
    for n in 0..20 {
        source
            .interest
            .subscribe(Subscription::channel(format!("market:{n}")));
    }
    source.interest.subscribe(Subscription::channel("secret"));
    source.interest.subscribe(Subscription::pattern("*"));
    source
        .interest
        .subscribe(Subscription::channel("market:last"));
    let mut seen: Vec<_> = (0..23).map(|_| source.next_short()).collect();
    seen.sort();
    let mut want: Vec<_> = (0..20).map(|n| format!("+market:{n}")).collect();
    want.extend(["!*", "!secret", "+market:last"].map(String::from));
    want.sort();
    assert_eq!(seen, want);
    assert_eq!(source.status.refused(), 2);
    source.nothing_comes_for(Duration::from_millis(500));
    let mut client = server.client();
    publish(&mut client, "market:7", "1");
    assert_eq!(source.next_short(), "market:7: 1");

    // Redis ends the connection of a user whose channels it takes away. No loop comes of it, and
    // what was refused before is not told again.
    let mut command = redis::cmd("ACL");
    command
        .arg("SETUSER")
        .arg("reader")
        .arg("resetchannels")
        .arg("&market:7");
    command.query::<()>(&mut client).expect("set");
    let seen = source.until("CaughtUp");
    assert_eq!(seen[..2], ["Gap", "Down"]);
    assert_eq!(seen[2..].iter().filter(|s| s.starts_with('!')).count(), 20);
    assert!(seen.contains(&"+market:7".into()) && !seen.contains(&"!secret".into()));
    assert_eq!(source.status.reconnects(), 1);
    assert_eq!(source.status.refused(), 22);
    publish(&mut client, "market:7", "2");
    assert_eq!(source.next_short(), "market:7: 2");

    // Somebody new who asks is answered anew.
    let secret = Subscription::channel("secret");
    source.interest.unsubscribe(secret.clone());
    source.interest.subscribe(secret);
    assert_eq!(source.next_short(), "!secret");
}

/// A right that the marks need is taken away while the source runs, and given back.
#[test]
fn positions_are_shared_again_once_the_rights_are_back() {
    const RIGHTS: [&str; 4] = ["resetchannels", "&market:*", "&marks", "+@all"];
    const WITHOUT: [&[&str]; 2] = [&["resetchannels", "&market:*"], &["-publish"]];
    thread::scope(|scope| {
        for without in WITHOUT {
            scope.spawn(move || {
                let server = RedisServer::start_with("user reader on nopass");
                let mut admin = server.client();
                let mut set = |rights: &[&str]| {
                    let mut command = redis::cmd("ACL");
                    let command = command.arg("SETUSER").arg("reader").arg(rights);
                    command.query::<()>(&mut admin).expect("set");
                };
                set(&RIGHTS);
                let source = run_with_marks(settings(&server.url_as("reader:any")), "marks");
                eventually("shared", || source.status.positions_shared());
                set(without);
                eventually("alone", || !source.status.positions_shared());
                // The refusal.
                thread::sleep(Duration::from_secs(3));
                assert!(!source.status.positions_shared());
                set(&RIGHTS);
                thread::sleep(Duration::from_secs(30));
                eventually("shared again", || source.status.positions_shared());
            });
        }
    });
}

#[test]
fn publications_come_whatever_the_database_and_a_wrong_one_is_told() {
    let server = RedisServer::start();
    let source = run_with(
        &format!("{}/7", server.url()),
        &[Subscription::channel("a")],
    );
    let mut client = server.client();
    publish(&mut client, "a", "from database 0");
    assert_eq!(source.next_short(), "a: from database 0");
    let mut command = redis::cmd("CLIENT");
    command.arg("LIST").arg("TYPE").arg("pubsub");
    let list: String = command.query(&mut client).expect("a list");
    assert!(
        list.contains(" db=7 ") && list.contains(" name=weirgate "),
        "{list}"
    );
    let wrong = run(settings(&format!("{}/700", server.url())));
    let fault = wrong.fault();
    assert!(
        fault.contains("SELECT") && fault.contains("out of range"),
        "{fault}"
    );
}

/// A server with a port for TLS.
struct TlsServer {
    server: RedisServer,
    port: u16,
    /// The CA that signed its certificate.
    ca_file: PathBuf,
}

fn tls_server() -> TlsServer {
    let ca_key = KeyPair::generate().expect("a key");
    let mut ca = CertificateParams::new(Vec::new()).expect("parameters");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(ca, ca_key).expect("a CA");
    let key = KeyPair::generate().expect("a key");
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let certificate = CertificateParams::new(names)
        .and_then(|parameters| parameters.signed_by(&key, &ca))
        .expect("a certificate");

    let mut server = RedisServer::reserve("");
    let directory = server.directory().to_owned();
    let path = |name: &str| directory.join(name);
    std::fs::write(path("ca.pem"), ca.pem()).expect("written");
    std::fs::write(path("server.pem"), certificate.pem()).expect("written");
    std::fs::write(path("server.key"), key.serialize_pem()).expect("written");
    let (port, ca_file) = (free_port(), path("ca.pem"));
    let config = format!(
        "tls-port {port}\ntls-cert-file {}\ntls-key-file {}\ntls-ca-cert-file {}\ntls-auth-clients no",
        path("server.pem").display(),
        path("server.key").display(),
        ca_file.display(),
    );
    server.restart_with(&config);
    TlsServer {
        server,
        port,
        ca_file,
    }
}

#[test]
fn tls_with_a_private_ca() {
    let TlsServer {
        mut server,
        port,
        ca_file,
    } = tls_server();
    for host in ["localhost", "127.0.0.1"] {
        let mut settings = settings(&format!("rediss://{host}:{port}"));
        settings.tls_ca_file = Some(ca_file.clone());
        let source = run(settings);
        source.until("CaughtUp");
        for n in 0..3_000 {
            source
                .interest
                .subscribe(Subscription::channel(format!("channel:{n}")));
        }
        source.until("+channel:2999");
        let mut client = server.client();
        let big = vec![b'x'; 5_000_000];
        publish(&mut client, "channel:0", &big);
        publish(&mut client, "channel:2999", "small");
        assert!(source.next_message().payload == big);
        assert_eq!(source.next_short(), "channel:2999: small");
        server.restart();
        assert_eq!(source.until("Down"), ["Gap", "Down"]);
        assert_eq!(source.until("CaughtUp").len(), 3_002);
    }
}

#[test]
fn tls_that_does_not_come_about_is_told() {
    let TlsServer {
        server,
        port,
        ca_file,
    } = tls_server();
    // Nobody whom the system trusts signed it.
    let source = run(settings(&format!("rediss://localhost:{port}")));
    let fault = source.fault();
    assert!(
        fault.contains("no TLS") && fault.contains("UnknownIssuer"),
        "{fault}"
    );
    let with_ca = |url: &str| {
        let mut settings = settings(url);
        settings.tls_ca_file = Some(ca_file.clone());
        run(settings)
    };
    // It is not who we asked for: the certificate names 127.0.0.1 and no other address.
    let source = with_ca(&format!("rediss://127.0.0.2:{port}"));
    let fault = source.fault();
    assert!(
        fault.contains("no TLS") && fault.contains("not valid for name"),
        "{fault}"
    );
    // TLS to a port without it, and the other way round.
    let source = with_ca(&server.url().replace("redis:", "rediss:"));
    let fault = source.fault();
    assert!(fault.contains("no TLS"), "{fault}");
    let source = run(settings(&format!("redis://localhost:{port}")));
    let fault = source.fault();
    assert!(fault.contains("whether it has TLS"), "{fault}");
    // A file that holds no certificate ends the start.
    let mut settings = settings("rediss://localhost");
    settings.tls_ca_file = Some(server.directory().join("redis.conf"));
    let refused = RedisSource::new(settings, Arc::new(BusStatus::new(&[], 1)));
    let error = refused.err().map(|e| e.to_string()).expect("an error");
    assert!(error.contains("redis.conf"), "{error}");
}

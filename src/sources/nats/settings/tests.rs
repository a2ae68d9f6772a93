//! URLs, servers of a cluster, and files of credentials.

use super::*;

#[test]
fn secrets_are_hidden() {
    for (url, want) in [
        ("nats://nats:4222", "nats://nats:4222"),
        ("nats", "nats"),
        ("nats://u:p@h:4222", "nats://u:***@h:4222"),
        ("u:p@h", "u:***@h"),
        ("tls://t0ken@h/x", "tls://***@h/x"),
        ("nats://u:p@ss@h", "nats://u:***@h"),
        ("nats://u:p/s@h", "nats://u:***@h"),
        ("nats://u:p@h,nats://b:1", "nats://u:***@h,nats://b:1"),
        ("nats://u:pa,ss@h", "nats://***,***@h"),
        ("nats://[::1]:4222", "nats://[::1]:4222"),
        ("", ""),
    ] {
        assert_eq!(redacted(url), want);
    }
}

fn parsed(url: &str) -> (String, Credentials) {
    let endpoint = Endpoint::parse(url).map_err(|e| e.to_string()).unwrap();
    (endpoint.url(), endpoint.auth)
}

#[test]
fn urls_are_read() {
    let pair = |u: &str, p: &str| Credentials::UserPassword(u.into(), p.into());
    for (url, want, auth) in [
        ("nats", "nats://nats:4222", Credentials::None),
        ("nats://h:1/", "nats://h:1", Credentials::None),
        ("tls://[::1]", "tls://[::1]:4222", Credentials::None),
        ("nats://u:p%40^s@h", "nats://h:4222", pair("u", "p@^s")),
        ("nats://u:a%zz%@h", "nats://h:4222", pair("u", "a%zz%")),
        ("nats://u:@h", "nats://h:4222", pair("u", "")),
        (
            "nats://tok@h",
            "nats://h:4222",
            Credentials::Token("tok".into()),
        ),
    ] {
        let got = parsed(url);
        assert!(got == (want.to_owned(), auth), "{url}: {}", got.0);
    }
}

#[test]
fn bad_urls_are_told_without_their_secrets() {
    for url in [
        "http://h",
        "nats://",
        "nats://u:secret@",
        "nats://u:secret@h:x",
        "ws://h",
        "",
    ] {
        let error = Endpoint::parse(url).err().map(|e| e.to_string());
        let error = error.unwrap_or_else(|| panic!("{url} was taken"));
        assert!(!error.contains("secret"), "{error}");
    }
}

#[test]
fn servers_of_the_cluster_are_remembered_within_a_limit() {
    let configured = Endpoint::parse("nats://u:p@nats.example:4222");
    let configured = configured.map_err(|e| e.to_string()).unwrap();
    let told = |addresses: &[String]| -> Vec<Endpoint> {
        let one = |address: &String| configured.neighbour(address, true);
        addresses.iter().filter_map(one).collect()
    };
    let mut learned = Vec::new();
    let first = [
        "nats.example:4222",
        "10.0.0.1:4222",
        "[::1]:1",
        "b:2",
        ":3",
        "c:x",
    ];
    learn(
        &mut learned,
        told(&first.map(str::to_owned)),
        std::slice::from_ref(&configured),
    );
    let urls: Vec<String> = learned.iter().map(Endpoint::url).collect();
    assert_eq!(urls, ["tls://10.0.0.1:4222", "tls://[::1]:1", "tls://b:2"]);
    assert!(learned.iter().all(|e| e.auth == configured.auth));
    let many: Vec<String> = (0..100).map(|n| format!("n{n}:1")).collect();
    learn(&mut learned, told(&many), &[]);
    assert_eq!(learned.len(), LEARNED_MAX);
    assert_eq!(learned[0].url(), "tls://n0:1");
}

#[test]
fn a_learned_server_has_the_certificate_of_the_configured_one_it_was_learned_through() {
    let parse = |url| Endpoint::parse(url).map_err(|e| e.to_string()).unwrap();
    let configured = [parse("tls://one.example"), parse("tls://u:p@two.example")];
    let [one, two] = &configured;
    let told = |by: &Endpoint, address| Vec::from_iter(by.neighbour(address, true));
    let mut learned = Vec::new();
    learn(&mut learned, told(one, "attacker.example:1"), &configured);
    // A learned server announces another server.
    let next = told(&learned[0], "10.0.0.1:1");
    learn(&mut learned, next, &configured);
    // A configured server keeps its own name, whichever server announces it.
    learn(&mut learned, told(one, "two.example:4222"), &configured);
    let names = |learned: &[Endpoint]| -> Vec<_> {
        let pair = |e: &Endpoint| (e.host.clone(), e.tls_name.clone());
        learned.iter().map(pair).collect()
    };
    let pair = |host: &str, name: &str| (host.to_owned(), name.to_owned());
    let want = [
        pair("10.0.0.1", "one.example"),
        pair("attacker.example", "one.example"),
    ];
    assert_eq!(names(&learned), want);
    // If two servers announce the same server, name and log-in come from the last announcement.
    learn(&mut learned, told(two, "attacker.example:1"), &configured);
    assert_eq!(names(&learned)[0], pair("attacker.example", "two.example"));
    assert!(learned[0].auth == two.auth && learned[1].auth == one.auth);
}

#[test]
fn several_urls_are_separate() {
    let settings = |urls: &str| NatsSettings::plain(urls, Credentials::None, Tls::default());
    let some = settings("nats://a:1, http://b,,c");
    let good: Vec<bool> = some.endpoints().map(|e| e.is_ok()).collect();
    assert_eq!(good, [true, false, true]);
    assert_eq!(settings(" ").endpoints().filter(Result::is_err).count(), 1);
}

fn refused(of_url: &Credentials, credentials: &Credentials) -> Option<String> {
    let made = Login::read(of_url, credentials);
    made.err().map(|error| error.to_string())
}

#[test]
fn files_that_are_wrong_are_named_and_not_shown() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("secret.txt");
    fs::write(&path, "s3cret\nSUs3cret\n").expect("written");
    for wrong in [
        Credentials::CredsFile(path.clone()),
        Credentials::NkeyFile(path.clone()),
        Credentials::NkeyFile(folder.path().join("nothing.txt")),
    ] {
        let error = refused(&Credentials::None, &wrong).expect("an error");
        assert!(
            error.contains(".txt") && !error.contains("s3cret"),
            "{error}"
        );
        // The log-in of the URL comes first, and then the file does not matter.
        assert_eq!(refused(&Credentials::Token("t".into()), &wrong), None);
    }
}

#[test]
fn a_seed_may_have_comments_around_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("user.nk");
    let seed = KeyPair::new_user().seed().expect("a seed");
    fs::write(&path, format!("# the gateway\n{seed}\r\n")).expect("written");
    assert_eq!(
        refused(&Credentials::None, &Credentials::NkeyFile(path)),
        None
    );
}

use std::fs;

use super::*;
use crate::auth::ClaimRules;
use crate::settings::{KeySetUrl, SecretText};

/// The keys in force, and their files.
struct Both(KeysInForce, KeyWatch);

impl Both {
    fn of(files: KeyFiles) -> Self {
        let (keys, watch) = files.in_force().expect("keys");
        Self(keys, watch)
    }

    fn look(&mut self) -> bool {
        self.1.look()
    }

    fn read_again(&mut self) -> Result<Option<KeysChanged>, KeyFileError> {
        let texts = self.1.read_again()?.expect("no change meanwhile");
        self.0.take_files(texts)
    }
}

const JWKS: &str = include_str!("../../../../tests/vectors/tokens/jwks.json");
const RSA: &str = include_str!("../../../../tests/vectors/tokens/rsa.pem");
const P256: &str = include_str!("../../../../tests/vectors/tokens/p256.pem");

fn settings(pem: &[&Path], jwks: Option<&Path>) -> AuthSettings {
    AuthSettings {
        required: true,
        api_key: None,
        jwt_secret: Some(SecretText::new("secret")),
        jwt_secret_before: None,
        public_key_files: pem.iter().map(|&path| path.to_owned()).collect(),
        jwks_file: jwks.map(Path::to_owned),
        jwks_url: None,
        jwks_ca_file: None,
        rules: ClaimRules::default(),
        token_cookie: String::new(),
    }
}

#[test]
fn a_set_that_changes_is_read_again_and_a_broken_one_is_not_taken() {
    let folder = tempfile::tempdir().expect("a folder");
    let (set, next) = (folder.path().join("set"), folder.path().join("next"));
    fs::write(&set, JWKS).expect("written");
    let files = KeyFiles::new(&settings(&[], Some(&set)));
    let mut keys = Both::of(files);
    let ring = keys.0.ring();
    assert_eq!(ring.current().len(), 4);
    assert!(keys.0.may_change() && !keys.look());
    assert_eq!(keys.read_again().expect("the same"), None);
    let settled = |keys: &mut Both| !keys.look() && keys.look();
    // Replaced, as for a mounted secret; then written in place; then removed, without an effect.
    fs::write(&next, JWKS.replacen("\"sig\"", "\"enc\"", 1)).expect("written");
    fs::rename(&next, &set).expect("renamed");
    assert!(settled(&mut keys), "another file");
    let changed = keys.read_again().expect("a set").expect("another one");
    let files = vec![set.clone()];
    assert_eq!((changed.keys, changed.before, changed.files), (3, 4, files));
    assert_eq!(ring.current().len(), 3);
    fs::write(&set, "{").expect("written");
    assert!(settled(&mut keys), "another length");
    keys.read_again().expect_err("broken");
    assert_eq!(ring.current().len(), 3);
    assert!(!settled(&mut keys), "a broken file is told once");
    fs::remove_file(&set).expect("removed");
    assert!(settled(&mut keys));
    keys.read_again().expect_err("gone");
    assert_eq!(ring.current().len(), 3);
    fs::write(&set, JWKS).expect("written");
    assert!(settled(&mut keys));
    assert_eq!(keys.read_again().expect("a set").expect("new").keys, 4);
}

/// The first key is complete long before the last one is written.
#[test]
fn a_file_that_is_being_written_is_read_when_its_writer_is_done() {
    let folder = tempfile::tempdir().expect("a folder");
    let pem = folder.path().join("pem");
    let new = format!("{RSA}{P256}");
    fs::write(&pem, RSA).expect("written");
    let mut keys = Both::of(KeyFiles::new(&settings(&[&pem], None)));
    assert_eq!(keys.0.ring().current().len(), 2);
    for written in [RSA.len() - 20, RSA.len() + 20, new.len()] {
        fs::write(&pem, &new[..written]).expect("written");
        assert!(!keys.look(), "{written} bytes");
    }
    assert!(keys.look());
    let changed = keys.read_again().expect("keys").expect("others");
    assert_eq!((changed.keys, changed.before), (3, 2));
    assert!(!keys.look() && !keys.look());
}

#[test]
fn of_two_files_a_broken_one_keeps_both_as_they_were() {
    let folder = tempfile::tempdir().expect("a folder");
    let (pem, set) = (folder.path().join("pem"), folder.path().join("set"));
    fs::write(&pem, RSA).expect("written");
    fs::write(&set, JWKS).expect("written");
    let files = KeyFiles::new(&settings(&[&pem], Some(&set)));
    let mut keys = Both::of(files);
    assert_eq!(keys.0.ring().current().len(), 5);
    fs::write(&set, JWKS.replacen("\"sig\"", "\"enc\"", 1)).expect("written");
    fs::write(&pem, "nothing").expect("written");
    let error = keys.read_again().expect_err("broken").to_string();
    assert!(error.contains("pem: no PEM public key"), "{error}");
    assert_eq!(keys.0.ring().current().len(), 5);
    fs::write(&pem, RSA).expect("written");
    let changed = keys.read_again().expect("keys").expect("another set");
    assert_eq!((changed.keys, changed.before), (4, 5));
    assert_eq!(changed.files, [set]);
}

#[test]
fn a_fetched_set_stands_beside_the_files_and_a_broken_one_changes_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let pem = folder.path().join("pem");
    fs::write(&pem, RSA).expect("written");
    let mut settings = settings(&[&pem], None);
    settings.jwks_url = KeySetUrl::parse("http://127.0.0.1:1/keys");
    let mut keys = Both::of(KeyFiles::new(&settings));
    let ring = keys.0.ring();
    assert_eq!((ring.current().len(), ring.expects_newer()), (2, true));
    assert!(keys.0.may_change() && keys.0.url().is_some());
    let changed = keys
        .0
        .take_fetched(JWKS.into())
        .expect("a set")
        .expect("new");
    assert_eq!((changed.keys, changed.before), (5, 2));
    assert_eq!(keys.0.take_fetched(JWKS.into()).expect("the same"), None);
    for broken in ["", "{", "{\"keys\":[]}", "<html>"] {
        let error = keys.0.take_fetched(broken.into()).expect_err(broken);
        let shown = error.to_string();
        assert!(
            shown.starts_with("--jwt-jwks-url http://127.0.0.1:1/keys: no "),
            "{shown}"
        );
        assert_eq!(ring.current().len(), 5, "{broken}");
    }
    // Both change apart from each other.
    fs::write(&pem, format!("{RSA}{P256}")).expect("written");
    assert!(!keys.look() && keys.look());
    let changed = keys.read_again().expect("keys").expect("others");
    assert_eq!((changed.keys, changed.before), (6, 5));
    let next = JWKS.replacen("\"sig\"", "\"enc\"", 1);
    let changed = keys
        .0
        .take_fetched(next.into())
        .expect("a set")
        .expect("new");
    assert_eq!((changed.keys, changed.before), (5, 6));
    keys.0.request_fetch();
    assert!(keys.0.take_request() && !keys.0.take_request());
}

#[test]
fn a_secret_and_the_one_before_are_keys() {
    let mut settings = settings(&[], None);
    let keys = |settings: &AuthSettings| KeyFiles::new(settings).read().expect("keys").len();
    settings.jwt_secret_before = Some(SecretText::new("before"));
    assert_eq!(keys(&settings), 2);
    settings.jwt_secret = None;
    assert_eq!(keys(&settings), 1);
}

#[test]
fn errors_name_the_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let (good, bad) = (folder.path().join("good"), folder.path().join("bad"));
    fs::write(&good, RSA).expect("written");
    fs::write(&bad, "nothing").expect("written");
    let read = |pem: &[&Path]| KeyFiles::new(&settings(pem, None)).read();
    assert_eq!(read(&[&good]).expect("keys").len(), 2);
    for (pem, says) in [
        (vec![good.as_path(), &bad], "bad: no PEM public key"),
        (vec![&folder.path().join("none")], "none: No such file"),
    ] {
        let error = read(&pem).expect_err(says).to_string();
        assert!(error.contains(says), "{error}");
    }
}

//! `weirgate token` from outside: the real binary, its output and its exit status. What the gateway says of the same
//! tokens is in `tests/blackbox/test_check.py`.

use jsonwebtoken::{EncodingKey, Header};
use serde_json::{Value, json};

use crate::{shown, weirgate};

const SECRET: &str = "s3cret";

/// A token with these claims, signed with [`SECRET`].
fn token(claims: Value) -> String {
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    jsonwebtoken::encode(&Header::default(), &claims, &key).expect("a token")
}

#[test]
fn nothing_of_a_token_steers_the_terminal() {
    let user = "ann\x1b]0;owned\x07\n\u{9b}2J\u{202e}";
    let token = token(json!({"sub": user, "channels": ["a\u{202e}b"], "role": "admin"}));
    let told = shown(&["token", "inspect", &token], &[("JWT_SECRET", SECRET)]);
    let steers = |c: char| c != '\n' && (c.is_control() || c == '\u{202e}');
    assert!(!told.contains(steers), "{told:?}");
    assert!(told.contains(r"ann\u001b]0;owned\u0007"), "{told}");
    assert!(told.contains(r"a\u202eb"), "{told}");
}

#[test]
fn a_token_is_judged_and_never_repeated() {
    let env = [("JWT_SECRET", SECRET), ("JWT_AUDIENCE", "here")];
    let token = token(json!({"role": "admin", "sub": "ann", "aud": "here"}));
    let token = token.as_str();
    let told = shown(&["token", "inspect", token], &env);
    assert!(
        told.starts_with("good\n  role:     admin\n  user:     ann\n"),
        "{told}"
    );
    for (args, env, says) in [
        (
            vec!["token", "inspect", token],
            vec![("JWT_SECRET", "other")],
            "[signature]",
        ),
        (
            vec!["token", "inspect", token],
            vec![("JWT_SECRET", SECRET)],
            "[audience]",
        ),
        (vec!["token", "inspect", token], vec![], "[unknown_key]"),
        (
            vec!["token", "inspect", "-"],
            vec![("JWT_SECRET", SECRET)],
            "[missing]",
        ),
        (
            vec!["token", "inspect", token, "--acl", "/none"],
            env.to_vec(),
            "--acl /none: No such file",
        ),
        (
            vec!["token", "inspect", "--gateway=levels", token],
            env.to_vec(),
            "allowed: trades or channels",
        ),
        (
            vec!["token", "inspect"],
            vec![("JWT_JWKS_FILE", "/none")],
            "/none",
        ),
        (
            vec!["token", "inspect", "x", token],
            vec![],
            "unexpected argument",
        ),
        (
            vec!["token", "inspect", "--", "x", token],
            vec![],
            "unexpected argument",
        ),
    ] {
        let run = weirgate(&args, &env);
        assert_ne!(run.status, 0, "{args:?}");
        assert!(run.stderr.contains(says), "{}", run.stderr);
        let all = run.stdout + &run.stderr;
        assert!(
            !all.contains(&token[..30]) && !all.contains(SECRET),
            "{all}"
        );
    }
}

#[test]
fn a_token_is_judged_by_the_table_of_its_gateway() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("acl.json");
    std::fs::write(&file, r#"{"guest": ["a", "b:*"], "idle": []}"#).expect("written");
    let acl = file.to_str().expect("text");
    let env = [("JWT_SECRET", SECRET)];
    let inspect = |role: &str, more: &[&str]| {
        let token = token(json!({"role": role}));
        let run = weirgate(&[&["token", "inspect", &token], more].concat(), &env);
        (run.status, run.stdout + &run.stderr)
    };
    let line = |text: &str, name: &str| {
        let mut lines = text.lines().filter(|line| line.contains(name));
        lines.next().unwrap_or_default().trim().to_owned()
    };
    let (status, told) = inspect("user", &[]);
    assert_eq!(status, 0, "{told}");
    let names = "names:    market:tick, market:tick:*, indicators:*";
    assert_eq!(line(&told, "names:"), names);
    assert_eq!(
        line(&told, "table:"),
        "table:    built in (--acl FILE replaces it)"
    );
    let refused = "error: refused with 1008: its role is not in the table [role]; the table is";
    for (role, more, table) in [
        ("user", &["--acl", acl][..], acl),
        ("guest", &[], "built in (--acl FILE replaces it)"),
    ] {
        let refused = format!("{refused} {table}\n");
        assert_eq!(inspect(role, more), (1, refused), "{role}");
    }
    let (_, told) = inspect("guest", &["--acl", acl]);
    assert_eq!(line(&told, "names:"), "names:    a, b:*");
    let (_, told) = inspect("idle", &["--acl", acl]);
    assert_eq!(line(&told, "names:"), "names:    none");
    let args = ["token", "inspect", &token(json!({})), "--acl", acl];
    let told = shown(&args, &[env[0], ("DEFAULT_ROLE", "guest")]);
    assert_eq!(line(&told, "role:"), "role:     guest (the default role)");
    // The names of the user and of the token.
    std::fs::write(&file, r#"{"user": ["a", "b:{sub}:*"]}"#).expect("written");
    for (claims, says) in [
        (json!({"sub": "ann"}), "names:    a, b:ann:*"),
        (
            json!({"sub": "ann", "channels": ["c", "d:*"]}),
            "names:    a, b:ann:*, c, d:*",
        ),
        (json!({"role": "user"}), "names:    a"),
        (
            json!({"sub": "ann.smith@example.com"}),
            "names:    a, b:ann%2Esmith@example%2Ecom:*",
        ),
        (
            json!({"sub": ""}),
            "names:    a\n  not:      b:{sub}:*, {sub}: the claim is empty",
        ),
    ] {
        let args = ["token", "inspect", &token(claims), "--acl", acl];
        let run = weirgate(&args, &env);
        let told = run.stdout + &run.stderr;
        assert!(told.contains(says), "{told}");
    }
    // No table of roles there.
    let (status, told) = inspect("nobody", &["--gateway=trades", "--symbols-max=9"]);
    assert_eq!(
        (status, line(&told, "symbols:")),
        (0, "symbols:  9".to_owned())
    );
    assert_eq!(line(&told, "gateway:"), "gateway:  trades");
}

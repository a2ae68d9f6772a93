//! The settings table against the documents: `docs/reference/settings.md` and `docs/reference/limits.md` are made from it,
//! and every limit names a test that is there.
//!
//! `UPDATE_DOCS=1 cargo test --test limits` writes the documents anew.

mod fixed;
mod held;
mod tables;

use std::fs;
use std::path::PathBuf;

use tables::settings;
use weirgate_server::settings::{Counts, Setting};

const BEGIN: &str = "<!-- made from the settings table: UPDATE_DOCS=1 cargo test --test limits -->";
const END: &str = "<!-- end of what is made -->";

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// Compares the made part of a document with what it should be; with `UPDATE_DOCS` it is written.
fn check_made(name: &str, made: &str) {
    let text = read(name);
    let parts = text
        .split_once(BEGIN)
        .and_then(|(before, rest)| Some((before, rest.split_once(END)?)));
    let Some((before, (found, after))) = parts else {
        panic!("{name} has no part that is made");
    };
    let made = format!("\n\n{}\n\n", made.trim());
    if found == made {
        return;
    }
    if std::env::var_os("UPDATE_DOCS").is_some() {
        let text = format!("{before}{BEGIN}{made}{END}{after}");
        fs::write(path(name), text).expect("the document can be written");
    } else {
        panic!("{name} is not what the table says: UPDATE_DOCS=1 cargo test --test limits");
    }
}

/// The settings that are limits; one that differs between gateways only once.
fn limits() -> Vec<Setting> {
    let mut limits: Vec<Setting> = Vec::new();
    for setting in settings().into_iter().filter(|s| s.limit.is_some()) {
        if limits.iter().all(|known| known.flag != setting.flag) {
            limits.push(setting);
        }
    }
    limits
}

#[test]
fn the_document_of_limits_is_what_the_table_says() {
    check_made("docs/reference/limits.md", &tables::limits(&limits()));
}

#[test]
fn the_document_of_settings_is_what_the_table_says() {
    check_made("docs/reference/settings.md", &tables::all_settings());
}

/// `FILE::NAME` names a function of that file.
fn check_test(limit: &str, test: &str) {
    let Some((file, name)) = test.split_once("::") else {
        panic!("{limit}: {test} is not FILE::FUNCTION");
    };
    let text = read(file);
    let found = [format!("fn {name}("), format!("def {name}(")];
    assert!(found.iter().any(|f| text.contains(f)), "{limit}: no {test}");
}

#[test]
fn every_limit_has_a_test_that_is_there() {
    for setting in limits() {
        check_test(setting.flag, setting.limit.expect("a limit").test);
    }
}

/// A number of bytes, milliseconds or things that has "max" in its name is a limit, and some other
/// words too. What says so and is none stands here with the reason.
#[test]
fn what_sounds_like_a_limit_is_one() {
    for setting in settings() {
        let flag = setting.flag;
        let sounds = ["-max", "timeout", "-stall", "hard", "soft", "per-ip"];
        if setting.memory_thousandths.is_some() || sounds.iter().any(|word| flag.contains(word)) {
            assert!(
                setting.limit.is_some(),
                "--{flag} says nothing of what is beyond it"
            );
        }
    }
}

/// The rest is for what lies between the blocks of the allocator, and for what is on its way from one sum to another. The
/// limit of one thing is no part of its own: what it limits is in a sum.
#[test]
fn the_parts_of_the_memory_leave_room_for_the_program() {
    for kind in weirgate::gateways::WEIRGATE.gateways {
        let rows = kind.rows.settings();
        let sums = rows.iter().filter(|row| row.counts() == Counts::All);
        let sum: u16 = sums.filter_map(|row| row.memory_thousandths).sum();
        assert!((300..=920).contains(&sum), "{}: {sum}", kind.name);
    }
}

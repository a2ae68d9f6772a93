//! What is made from the settings table beside `--help`: the dozen of `-h`, completions, manual pages.

use std::fs;
use std::process::Command;

use weirgate::gateways::WEIRGATE;
use weirgate_server::settings::{Kind, Setting};

use crate::{refused, shown};

#[test]
fn the_short_help_has_a_dozen_settings_on_a_line_each() {
    for gateway in WEIRGATE.gateways {
        let help = shown(&[gateway.name, "-h"], &[("COLUMNS", "100")]);
        let list = help.split("\nSettings:\n").nth(1).expect("a list");
        let lines: Vec<_> = list.lines().take_while(|line| !line.is_empty()).collect();
        let mut rows = gateway.rows.settings();
        rows.retain(Setting::is_flag);
        let mut marked: Vec<_> = rows.iter().filter(|row| row.in_short_help).collect();
        marked.sort_by_key(|row| !row.leads_short_help);
        assert!((10..=14).contains(&marked.len()), "{}", gateway.name);
        // As many lines as settings, so none is wrapped.
        assert_eq!(lines.len(), marked.len(), "{help}");
        for (line, row) in lines.iter().zip(&marked) {
            assert!(line.starts_with(&format!("      --{}", row.flag)), "{line}");
            let default = row.default();
            let has_default = !default.is_empty() && !matches!(row.kind, Kind::Switch);
            let default = format!(" [default: {default}]");
            assert_eq!(line.ends_with(&default), has_default, "{line}");
        }
        let (some, all) = (marked.len(), rows.len());
        assert!(
            help.contains(&format!("{some} of {all} settings.")),
            "{help}"
        );
        assert!(help.contains(&format!("weirgate {} --help", gateway.name)));
    }
}

#[test]
fn the_long_help_has_all_settings_in_groups() {
    for gateway in WEIRGATE.gateways {
        let help = shown(&[gateway.name, "--help"], &[]);
        let rows = gateway.rows.settings().into_iter();
        for row in rows.filter(Setting::is_flag) {
            let heading = format!("\n{}:\n", row.heading.0);
            let group = help.split(&heading).nth(1).expect("a group");
            let group = group.split("\n\n\n").next().unwrap_or_default();
            let flag = format!("\n      --{}", row.flag);
            assert!(format!("\n{group}").contains(&flag), "--{}", row.flag);
        }
    }
}

/// Runs a shell that has read the completions from standard input.
fn completed(shell: &str, script: &str) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("completions");
    fs::write(&file, shown(&["completions", shell], &[])).expect("written");
    let output = Command::new(shell)
        .args(["-c", script])
        .env("COMPLETIONS", &file)
        .output()
        .unwrap_or_else(|error| panic!("{shell}: {error}; run scripts/install-test-deps.sh"));
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn bash_completes_commands_flags_and_words() {
    let script = r#"
        source "$COMPLETIONS"
        ask() { COMP_WORDS=(weirgate "$@"); COMP_CWORD=$#; COMPREPLY=()
                _weirgate weirgate "${@: -1}" "${COMP_WORDS[$# - 1]}"; echo "${COMPREPLY[@]}"; }
        ask le
        ask levels --log-f
        ask levels --log-format ""
        ask completions ""
        ask health ev
    "#;
    assert_eq!(
        completed("bash", script),
        "levels\n--log-format --log-filter --log-filter-file\ntext json\n-h --help bash zsh fish\nevents\n"
    );
}

#[test]
fn fish_completes_commands_and_words() {
    let script = r#"
        source $COMPLETIONS
        complete -C "weirgate le"
        complete -C "weirgate levels --log-format "
    "#;
    let about = WEIRGATE.gateways[0].about;
    assert_eq!(
        completed("fish", script),
        format!("levels\t{about}\njson\ntext\n")
    );
}

#[test]
fn zsh_reads_its_completions_and_knows_every_flag() {
    completed(
        "zsh",
        "autoload -U compinit && compinit -D -u && source $COMPLETIONS",
    );
    let script = shown(&["completions", "zsh"], &[]);
    assert!(script.starts_with("#compdef weirgate\n"));
    let rows = WEIRGATE
        .gateways
        .iter()
        .flat_map(|gateway| gateway.rows.settings());
    for row in rows.filter(Setting::is_flag) {
        assert!(
            script.contains(&format!("--{}=", row.flag)),
            "--{}",
            row.flag
        );
    }
}

#[test]
fn another_shell_is_refused_with_those_there_are() {
    let told = refused(&["completions", "tcsh"], &[]);
    assert!(
        told.contains("[possible values: bash, zsh, fish]"),
        "{told}"
    );
}

#[test]
fn there_is_a_manual_page_for_each_command_and_it_has_every_flag() {
    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path().join("man");
    assert_eq!(
        shown(&["man", "--dir", dir.to_str().expect("text")], &[]),
        ""
    );
    let read = |name: &str| fs::read_to_string(dir.join(name)).expect(name);
    let root = read("weirgate.1");
    for gateway in WEIRGATE.gateways {
        let name = gateway.name;
        let page = read(&format!("weirgate-{name}.1"));
        assert!(
            page.contains(&format!("\n.TH weirgate-{name} 1 \" \" \"weirgate ")),
            "{page}"
        );
        let unescaped = page.replace('\\', "");
        for row in gateway.rows.settings().iter().filter(|row| row.is_flag()) {
            assert!(
                unescaped.contains(&format!("fB--{}fR", row.flag)),
                "--{}",
                row.flag
            );
        }
        for section in ["SIGNALS", "ENVIRONMENT", "EXIT STATUS", "SEE ALSO"] {
            assert!(
                page.contains(&format!("\n.SH \"{section}\""))
                    || page.contains(&format!("\n.SH {section}")),
                "{section}"
            );
        }
        let listed = root.replace('\\', "");
        assert!(listed.contains(&format!("weirgate-{name}(1)")), "{root}");
        assert_eq!(shown(&["man", name], &[]), page);
        assert_eq!(shown(&["man", &format!("weirgate-{name}")], &[]), page);
    }
    assert_eq!(shown(&["man"], &[]), root);
    assert_eq!(
        shown(&["man", "token-inspect"], &[]),
        read("weirgate-token-inspect.1")
    );
    let told = refused(&["man", "levles"], &[]);
    assert!(told.contains("weirgate-levels, "), "{told}");
    let both = refused(&["man", "levels", "--dir", "d"], &[]);
    assert!(both.contains("cannot be used with"), "{both}");
}

#[test]
fn a_directory_that_cannot_be_made_is_named() {
    let run = crate::weirgate(&["man", "--dir", "/dev/null/man"], &[]);
    assert_eq!((run.status, run.stdout.as_str()), (1, ""));
    assert!(
        run.stderr.starts_with("error: /dev/null/man: "),
        "{}",
        run.stderr
    );
}

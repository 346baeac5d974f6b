//! Golden interaction scripts: `tests/golden/*.txt`.
//!
//! A script is a list of commands, each a line that starts with `> `, followed by what it printed. Comments start with `#`.
//! Run with `ETCORE_GOLDEN_REWRITE=1` to write down what is printed now, then read the difference.
//!
//! Nothing happens by itself: `ready 1` takes a Ready and leaves its writes in flight until `persist 1`, messages wait in the
//! network until `deliver`, and `settle` repeats all of it until nothing moves. `apply=manual` holds committed entries back.

#[path = "rig/interaction.rs"]
mod interaction;
#[path = "rig/member.rs"]
#[allow(dead_code, reason = "each test uses its own part of the rig")]
mod member;

use std::path::{Path, PathBuf};

use interaction::Interaction;

fn scripts() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let files = std::fs::read_dir(folder).expect("the folder of scripts is there");
    let mut paths: Vec<PathBuf> = files
        .map(|file| file.expect("the folder can be listed").path())
        .collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    paths.sort();
    paths
}

/// Runs a script and gives back its text with the outputs of now.
fn play(text: &str) -> String {
    let mut interaction = Interaction::default();
    let mut out = String::new();
    for line in text.lines() {
        if let Some(command) = line.strip_prefix("> ") {
            out += &format!("{line}\n{}", interaction.run(command));
        } else if line.is_empty() || line.starts_with('#') {
            out += &format!("{line}\n");
        }
    }
    out
}

#[test]
fn every_script_prints_what_it_printed_before() {
    let rewrite = std::env::var_os("ETCORE_GOLDEN_REWRITE").is_some();
    let mut differing = Vec::new();
    for path in scripts() {
        let expected = std::fs::read_to_string(&path).expect("a script is readable");
        let found = play(&expected);
        if rewrite {
            std::fs::write(&path, &found).expect("a script is writable");
        } else if found != expected {
            let name = path
                .file_name()
                .expect("a script has a name")
                .to_string_lossy()
                .into_owned();
            let at = found
                .lines()
                .zip(expected.lines())
                .position(|(found, expected)| found != expected);
            let line = at.unwrap_or_else(|| found.lines().count().min(expected.lines().count()));
            let show = |text: &str| text.lines().nth(line).unwrap_or("(end)").to_string();
            differing.push(format!(
                "{name}:{}\n  expected {}\n  found    {}",
                line + 1,
                show(&expected),
                show(&found)
            ));
        }
    }
    assert!(
        differing.is_empty(),
        "scripts print something else:\n{}",
        differing.join("\n")
    );
}

#[test]
fn there_are_scripts_for_every_subject() {
    assert!(scripts().len() >= 20, "only {} scripts", scripts().len());
}

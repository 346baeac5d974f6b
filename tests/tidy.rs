//! The rules of the house that no compiler checks: who may know whom, where I/O and `unsafe` live, how long a file may be.
//!
//! The lists below are ratchets: shorten them when you can, lengthen them only with a reason in the commit.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The files that may contain `unsafe`, each block with its SAFETY comment.
const UNSAFE_FILES: &[&str] = &[
    "src/runtime/probe/ring.rs",
    "storage/src/io/glommio_disk.rs",
    "storage/src/io/map.rs",
    "storage/src/io/system.rs",
];

/// Where the runtime's name may stand. The trait and the codec around it know nothing of it.
const GLOMMIO_PLACES: &[&str] = &["net/src/io", "src/runtime", "storage/src/io"];

/// No source file is longer.
const FILE_LINES_MAX: usize = 900;

/// Crate, then the crates of the workspace that it must not name.
const FORBIDDEN_CRATES: &[(&str, &[&str])] = &[
    ("raft", &["storage", "net", "etcore"]),
    ("storage", &["net", "etcore"]),
    ("net", &["storage", "etcore"]),
];

/// What consensus must not reach for: its clock, its threads and its disk are its caller's.
const FORBIDDEN_IN_RAFT: &[&str] = &[
    "std::time",
    "std::thread",
    "std::fs",
    "std::net",
    "std::io",
    "async fn",
    "tokio",
    "rand::",
];

/// Texts that belong to one machine or one mirror, in pieces, so that this file does not contain them.
const FORBIDDEN_TEXTS: &[(&str, &str)] = &[
    ("/wo", "rk/"),
    ("/ro", "ot/"),
    ("/ho", "me/"),
    ("/opt/et", "cd"),
    ("deb.deb", "ian.org"),
    ("static.cra", "tes.io"),
    ("index.cra", "tes.io"),
    ("proxy.gol", "ang.org"),
    ("pypi", ".org"),
];

struct Source {
    path: String,
    text: String,
}

impl Source {
    /// Lines of code with their numbers; a comment of its own line is none.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.text.lines().enumerate().map(|(index, line)| (index + 1, line));
        lines.filter(|(_, line)| !line.trim_start().starts_with("//"))
    }

    fn is_in(&self, place: &str) -> bool {
        let rest = self.path.strip_prefix(place);
        rest.is_some_and(|rest| rest.starts_with('/') || rest == ".rs")
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every file of the repository that is text, except what cargo and git keep.
fn files(extension: Option<&str>) -> Vec<Source> {
    let mut found = Vec::new();
    walk(&root(), &mut found);
    found.sort();
    let wanted = found.into_iter().filter(|path| {
        extension.is_none()
            || path
                .extension()
                .is_some_and(|e| Some(e) == extension.map(AsRef::as_ref))
    });
    let read = wanted.filter_map(|path| {
        let text = fs::read_to_string(&path).ok()?;
        let path = path
            .strip_prefix(root())
            .expect("the walk begins at the root")
            .to_string_lossy()
            .into_owned();
        Some(Source { path, text })
    });
    read.collect()
}

fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a folder of the repository can be listed") {
        let path = entry.expect("a folder of the repository can be listed").path();
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        if path.is_dir() {
            if name != "target" && name != ".git" && !name.ends_with(".etcore") {
                walk(&path, found);
            }
        } else if name != "Cargo.lock" && name != ".git" {
            found.push(path);
        }
    }
}

fn sources() -> Vec<Source> {
    files(Some("rs"))
}

/// Whether the word stands in the line by itself, not as a part of a longer name.
fn names(line: &str, word: &str) -> bool {
    let part_of_name = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(start, _)| {
        !line[..start].ends_with(part_of_name) && !line[start + word.len()..].starts_with(part_of_name)
    })
}

/// Whether the line contains the text; an absolute path only where a path can begin.
fn is_named(line: &str, text: &str) -> bool {
    let continues_a_path = |c: char| c.is_alphanumeric() || "_-.$}".contains(c);
    line.match_indices(text)
        .any(|(start, _)| !text.starts_with('/') || !line[..start].ends_with(continues_a_path))
}

#[track_caller]
fn none(complaints: Vec<String>, rule: &str) {
    assert!(complaints.is_empty(), "{rule}:\n  {}", complaints.join("\n  "));
}

#[test]
fn crates_know_only_whom_they_may_know() {
    let mut complaints = Vec::new();
    for (owner, forbidden) in FORBIDDEN_CRATES {
        let manifest = fs::read_to_string(root().join(owner).join("Cargo.toml")).expect("each crate has a manifest");
        for other in *forbidden {
            let named = |line: &&str| line.starts_with(&format!("{other}.")) || line.starts_with(&format!("{other} ="));
            complaints.extend(
                manifest
                    .lines()
                    .find(named)
                    .map(|line| format!("{owner}/Cargo.toml: {line}")),
            );
        }
        for source in sources()
            .iter()
            .filter(|source| source.path.starts_with(&format!("{owner}/")))
        {
            for other in *forbidden {
                let paths = [
                    format!("use {other}::"),
                    format!(" {other}::"),
                    format!("etcore_{other}::"),
                ];
                let used = source
                    .code()
                    .find(|(_, line)| paths.iter().any(|path| line.contains(path.as_str())));
                complaints.extend(used.map(|(number, line)| format!("{}:{number}: {line}", source.path)));
            }
        }
    }
    none(complaints, "raft knows nobody, storage and net know raft at most");
}

#[test]
fn the_member_knows_neither_the_services_nor_the_runtime() {
    let mut complaints = Vec::new();
    for source in sources().iter().filter(|source| source.is_in("src/member")) {
        let used = source.code().filter(|(_, line)| {
            ["api::", "runtime::"]
                .iter()
                .any(|path| line.contains(&format!("crate::{path}")) || line.contains(&format!("super::{path}")))
        });
        complaints.extend(used.map(|(number, line)| format!("{}:{number}: {line}", source.path)));
    }
    none(complaints, "src/member is a state machine: events in, effects out");
}

#[test]
fn raft_has_no_clock_no_threads_and_no_files() {
    let mut complaints = Vec::new();
    for source in sources().iter().filter(|source| source.path.starts_with("raft/src/")) {
        let used = source
            .code()
            .filter(|(_, line)| FORBIDDEN_IN_RAFT.iter().any(|word| line.contains(word)));
        complaints.extend(used.map(|(number, line)| format!("{}:{number}: {line}", source.path)));
    }
    none(complaints, "consensus must replay bit-equal");
}

#[test]
fn the_runtime_is_named_only_where_io_is() {
    let mut complaints = Vec::new();
    let of_the_product = |source: &&Source| source.path.starts_with("src/") || source.path.contains("/src/");
    for source in sources().iter().filter(of_the_product) {
        if GLOMMIO_PLACES.iter().any(|place| source.is_in(place)) {
            continue;
        }
        let used = source.code().find(|(_, line)| names(line, "glommio"));
        complaints.extend(used.map(|(number, line)| format!("{}:{number}: {line}", source.path)));
    }
    none(complaints, &format!("glommio is named only in {GLOMMIO_PLACES:?}"));
}

#[test]
fn unsafe_stands_only_in_the_listed_files() {
    let mut complaints = Vec::new();
    for source in sources().iter().filter(|source| source.path != "tests/tidy.rs") {
        let mut used = source.code().filter(|(_, line)| {
            names(line, "unsafe")
                && (line.contains("unsafe {")
                    || line.contains("unsafe fn")
                    || line.contains("unsafe impl")
                    || line.contains("unsafe extern"))
        });
        match (UNSAFE_FILES.contains(&source.path.as_str()), used.next()) {
            (false, Some((number, line))) => complaints.push(format!("{}:{number}: {line}", source.path)),
            (true, None) => complaints.push(format!("{} has none any more: take it off the list", source.path)),
            _ => {}
        }
    }
    none(
        complaints,
        "unsafe is kept in few files, each of them listed in tests/tidy.rs",
    );
}

#[test]
fn files_are_short_enough_to_be_read() {
    let long = sources()
        .into_iter()
        .map(|source| (source.text.lines().count(), source.path));
    let long = long
        .filter(|(lines, _)| *lines > FILE_LINES_MAX)
        .map(|(lines, path)| format!("{path}: {lines} lines"));
    none(
        long.collect(),
        &format!("no file is longer than {FILE_LINES_MAX} lines"),
    );
}

#[test]
fn a_file_and_the_folder_of_its_parts_share_a_name() {
    let found = sources()
        .into_iter()
        .map(|source| source.path)
        .filter(|path| path.ends_with("/mod.rs"));
    none(found.collect(), "foo.rs and foo/, not foo/mod.rs");
}

#[test]
fn nothing_is_left_to_be_written() {
    let mut complaints = Vec::new();
    for source in sources().iter().filter(|source| source.path != "tests/tidy.rs") {
        let left = ["todo!(", "unimplemented!(", "dbg!("];
        let used = source
            .code()
            .filter(|(_, line)| left.iter().any(|word| line.contains(word)));
        complaints.extend(used.map(|(number, line)| format!("{}:{number}: {line}", source.path)));
    }
    none(complaints, "no todo!, unimplemented! or dbg!");
}

/// The mutants of the sources, each as "name in path".
fn mutants_of(sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    let of_the_product = |source: &&Source| source.path.starts_with("src/") || source.path.contains("/src/");
    for source in sources.iter().filter(of_the_product) {
        for (_, line) in source.code() {
            let sites = line.split("mutant::on(\"").skip(1);
            found.extend(sites.filter_map(|rest| Some(format!("{} in {}", rest.split_once('"')?.0, source.path))));
        }
    }
    found.sort();
    found
}

/// The mutants of the table, in the same form: the rows whose first and third cells are code.
fn mutants_of_the_table(text: &str) -> Vec<String> {
    let rows = text
        .lines()
        .map(|line| line.split('|').map(str::trim).collect::<Vec<_>>());
    let code = |cell: &str| Some(cell.strip_prefix('`')?.strip_suffix('`')?.to_owned());
    let named = rows.filter(|cells| cells.len() == 6);
    let mut found: Vec<String> = named
        .filter_map(|cells| Some(format!("{} in {}", code(cells[1])?, code(cells[3])?)))
        .collect();
    found.sort();
    found
}

#[test]
fn every_mutant_is_in_the_table_and_every_row_in_the_code() {
    let table = fs::read_to_string(root().join("docs/MUTANTS.md")).expect("docs/MUTANTS.md is there");
    assert_eq!(
        mutants_of(&sources()),
        mutants_of_the_table(&table),
        "docs/MUTANTS.md lists each mutant once, with the file it is in"
    );
}

#[test]
fn every_setting_is_used_outside_of_where_it_is_read() {
    let all = sources();
    let of_the_server = |source: &&Source| source.path.starts_with("src") && !source.path.starts_with("src/config");
    let users: Vec<&Source> = all
        .iter()
        .filter(of_the_server)
        .filter(|source| source.path != "src/config.rs")
        .collect();
    let config = all
        .iter()
        .find(|source| source.path == "src/config.rs")
        .expect("it is there");
    let body = config
        .text
        .split("pub struct Config {")
        .nth(1)
        .and_then(|rest| rest.split("\n}").next());
    let fields = body.expect("it has fields").lines().filter_map(|line| {
        let (name, _) = line.trim().strip_prefix("pub ")?.split_once(':')?;
        Some(name)
    });
    let unused = |name: &&str| {
        !users
            .iter()
            .any(|source| source.text.lines().any(|line| names(line, name)))
    };
    none(
        fields.filter(unused).map(str::to_owned).collect(),
        "a setting that changes nothing",
    );
}

#[test]
fn no_feature_is_on_by_default() {
    let mut complaints = Vec::new();
    for manifest in ["Cargo.toml", "raft/Cargo.toml", "storage/Cargo.toml", "net/Cargo.toml"] {
        let text = fs::read_to_string(root().join(manifest)).expect("each crate has a manifest");
        let on = text.lines().find(|line| line.starts_with("default ="));
        complaints.extend(on.map(|line| format!("{manifest}: {line}")));
    }
    none(complaints, "mutants are never in a release");
}

#[test]
fn every_decision_record_has_a_number_of_its_own() {
    let mut by_number: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for entry in fs::read_dir(root().join("docs/adr")).expect("docs/adr is there") {
        let name = entry
            .expect("docs/adr can be listed")
            .file_name()
            .to_string_lossy()
            .into_owned();
        let number = name.split('-').next().unwrap_or_default().to_string();
        let well_named = number.len() == 4 && number.bytes().all(|b| b.is_ascii_digit()) && name.ends_with(".md");
        assert!(well_named, "docs/adr/{name} is not named NNNN-title.md");
        by_number.entry(number).or_default().push(name);
    }
    none(
        by_number
            .into_values()
            .filter(|names| names.len() > 1)
            .map(|names| names.join(", "))
            .collect(),
        "one number, one record",
    );
}

#[test]
fn no_file_names_a_path_or_a_mirror_of_one_machine() {
    let mut complaints = Vec::new();
    for source in files(None) {
        for (head, tail) in FORBIDDEN_TEXTS {
            let text = format!("{head}{tail}");
            let found = source.text.lines().enumerate().find(|(_, line)| is_named(line, &text));
            complaints.extend(found.map(|(index, line)| format!("{}:{}: {line}", source.path, index + 1)));
        }
    }
    none(complaints, "the repository is the same on every machine");
}

#[test]
fn the_rules_find_what_they_look_for() {
    assert!(names("use glommio::net;", "glommio") && names("(glommio)", "glommio"));
    assert!(!names("fn glommio_like()", "glommio") && !names("myglommio::x", "glommio"));
    let source = Source {
        path: "src/member/apply.rs".to_string(),
        text: "// unsafe {\n  /// todo!()\nlet x = 1;\n".to_string(),
    };
    assert_eq!(source.code().collect::<Vec<_>>(), [(3, "let x = 1;")]);
    assert!(source.is_in("src/member") && !source.is_in("src/mem"));
    let table = "| `a` | b | `src/c.rs` | d |\n| mutant | x | y | z |\n|---|---|---|---|";
    assert_eq!(mutants_of_the_table(table), ["a in src/c.rs"]);
    let (head, tail) = FORBIDDEN_TEXTS[0];
    let path = format!("{head}{tail}");
    assert!(is_named(&format!("cd {path}x"), &path) && is_named(&format!("\"{path}\""), &path));
    assert!(!is_named(&format!("net{path}x"), &path) && !is_named(&format!("$dir{path}"), &path));
}

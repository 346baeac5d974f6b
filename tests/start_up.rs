//! The binary from outside: what it prints and how it exits before it serves anything.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output};

const ETCORE: &str = env!("CARGO_BIN_EXE_etcore");

fn run(program: impl AsRef<Path>, args: &[&str], env: &[(&str, &str)]) -> Output {
    let mut command = Command::new(program.as_ref());
    // A variable of the surroundings must not change what is tested.
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("ETCD_")) {
        command.env_remove(name);
    }
    command
        .args(args)
        .envs(env.iter().copied())
        .output()
        .expect("the binary under test can be started")
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn version_and_help_go_to_standard_output_and_exit_0() {
    for (args, want) in [
        (["--version"], "etcore Version: "),
        (["--help"], "Usage:\n"),
        (["-h"], "Usage:\n"),
    ] {
        let output = run(ETCORE, &args, &[]);
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert!(stdout(&output).starts_with(want), "{args:?}: {}", stdout(&output));
        assert_eq!(stderr(&output), "", "{args:?}");
    }
}

#[test]
fn called_as_etcd_the_version_begins_as_etcds() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let etcd = dir.path().join("etcd");
    symlink(ETCORE, &etcd).expect("a symbolic link");
    let output = run(&etcd, &["--version"], &[]);
    assert!(
        stdout(&output).starts_with("etcd Version: 3.6.14\nGit SHA: "),
        "{}",
        stdout(&output)
    );
}

#[test]
fn a_command_line_that_cannot_be_obeyed_is_told_on_standard_error() {
    let table: [(&[&str], i32, &str); 4] = [
        (&["--bogus"], 2, "flag provided but not defined: -bogus\nUsage:\n"),
        (
            &["foo"],
            1,
            "etcore: failed to verify flags: 'foo' is not a valid flag\n",
        ),
        (
            &["--unsafe-no-fsync"],
            2,
            "etcore: flag --unsafe-no-fsync is not supported yet: ",
        ),
        (
            &["--heartbeat-interval=0"],
            1,
            "etcore: failed to verify flags: --heartbeat-interval must be >0 (set to 0ms)\n",
        ),
    ];
    for (args, code, want) in table {
        let output = run(ETCORE, args, &[]);
        assert_eq!(output.status.code(), Some(code), "{args:?}");
        assert!(stderr(&output).starts_with(want), "{args:?}: {}", stderr(&output));
        assert_eq!(stdout(&output), "", "{args:?}");
    }
}

#[test]
fn a_variable_is_read_as_its_flag_is() {
    let output = run(ETCORE, &[], &[("ETCD_CONFIG_FILE", "etcd.yaml")]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).starts_with("etcore: flag --config-file (set by ETCD_CONFIG_FILE)"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn tools_that_are_not_there_yet_say_so_and_exit_1() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for (name, args) in [
        ("etcore", ["ctl"]),
        ("etcore", ["utl"]),
        ("etcdctl", ["get"]),
        ("etcdutl", ["snapshot"]),
    ] {
        let program = dir.path().join(name);
        if !program.exists() {
            symlink(ETCORE, &program).expect("a symbolic link");
        }
        let output = run(&program, &args, &[]);
        assert_eq!(output.status.code(), Some(1), "{name} {args:?}");
        assert!(
            stderr(&output).contains("is not part of this build yet"),
            "{name} {args:?}: {}",
            stderr(&output)
        );
    }
}

#[test]
fn the_log_goes_to_every_output_that_is_named_and_a_file_is_appended_to() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("etcd.log");
    std::fs::write(&file, "from before\n").expect("a file");
    let outputs = format!("--log-outputs=stdout,{0},{0}", file.display());
    let unusable = format!("--data-dir={}/data", file.display());
    let output = run(ETCORE, &[&outputs, &unusable], &[]);
    assert_eq!(output.status.code(), Some(1));
    let log = std::fs::read_to_string(&file).expect("the file is still there");
    let (before, after) = log.split_once('\n').expect("lines");
    assert_eq!((before, after), ("from before", &*stdout(&output)));
    assert_eq!(log.matches("the server cannot start").count(), 1, "{log}");
}

#[test]
fn a_log_file_that_cannot_be_opened_is_told_before_anything_starts() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (missing, data) = (dir.path().join("missing/etcd.log"), dir.path().join("data"));
    let outputs = format!("--log-outputs={}", missing.display());
    let output = run(ETCORE, &[&outputs, &format!("--data-dir={}", data.display())], &[]);
    assert_eq!(output.status.code(), Some(1));
    let want = format!("etcore: the log cannot be written to {}: ", missing.display());
    assert!(stderr(&output).starts_with(&want), "{}", stderr(&output));
    assert!(!data.exists());
}

//! etcd's own tools, where they are installed.

use std::{
    env,
    path::PathBuf,
    process::{Command, Output},
};

/// The path of a program, if it is on PATH.
pub fn on_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|dir| dir.join(program))
        .find(|candidate| candidate.is_file())
}

/// The reference etcd for comparisons: `ETCORE_TEST_ETCD`, else `etcd` on PATH.
pub fn reference_etcd() -> Option<PathBuf> {
    env::var_os("ETCORE_TEST_ETCD")
        .map(PathBuf::from)
        .or_else(|| on_path("etcd"))
}

/// What a finished command said.
#[derive(Debug)]
pub struct Said {
    /// The exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Said {
    /// Standard output of a command that must have worked.
    #[track_caller]
    pub fn ok(&self) -> &str {
        assert_eq!(self.code, Some(0), "the command works: {self:?}");
        &self.out
    }
}

/// Runs a command to its end.
pub fn run(command: &mut Command) -> Said {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    said(output)
}

/// Turns a process's output to text.
pub fn said(output: Output) -> Said {
    Said {
        code: output.status.code(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

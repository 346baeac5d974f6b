//! A child process with its log, that cannot outlive the test.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex},
    thread,
    time::{Duration, Instant},
};

/// Lines that a process wrote to stderr, and whether it closed it.
#[derive(Default)]
struct Log {
    lines: Mutex<(Vec<String>, bool)>,
    grew: Condvar,
}

/// A running server. Dropping it kills it; if the test binary dies, a watchdog does.
pub struct Process {
    child: Child,
    watchdog: Child,
    log: Arc<Log>,
    status: Option<ExitStatus>,
}

impl Process {
    /// Starts `binary` with `flags` and `environment`, and collects its stderr.
    pub fn spawn(binary: &Path, flags: &[String], environment: &[(String, String)]) -> Process {
        let mut child = Command::new(binary)
            .args(flags)
            .envs(environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot run {}: {error}", binary.display()));
        let stderr = child.stderr.take().expect("stderr was asked for as a pipe");
        let log = Arc::new(Log::default());
        let sink = log.clone();
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                sink.lines.lock().expect("the reader never panics").0.push(line);
                sink.grew.notify_all();
            }
            sink.lines.lock().expect("the reader never panics").1 = true;
            sink.grew.notify_all();
        });
        let watchdog = watchdog(child.id());
        Process {
            child,
            watchdog,
            log,
            status: None,
        }
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a log line that contains `text`; false when the process closed its log or the time is up first.
    pub fn logged(&self, text: &str, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        let mut seen = 0;
        let mut guard = self.log.lines.lock().expect("the reader never panics");
        loop {
            if guard.0[seen..].iter().any(|line| line.contains(text)) {
                return true;
            }
            seen = guard.0.len();
            let left = deadline.saturating_duration_since(Instant::now());
            if guard.1 || left.is_zero() {
                return false;
            }
            guard = self
                .log
                .grew
                .wait_timeout(guard, left)
                .expect("the reader never panics")
                .0;
        }
    }

    /// Everything written to stderr so far.
    pub fn log(&self) -> String {
        self.log.lines.lock().expect("the reader never panics").0.join("\n")
    }

    /// The last lines of the log, for a failure report.
    pub fn log_tail(&self) -> String {
        let lines = &self.log.lines.lock().expect("the reader never panics").0;
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// Sends a signal by name (`TERM`, `STOP`, `CONT`, ...).
    pub fn signal(&self, name: &str) {
        let command = format!("kill -{name} {}", self.id());
        let status = Command::new("sh").arg("-c").arg(&command).status();
        assert!(status.is_ok_and(|status| status.success()), "{command} failed");
    }

    /// Kills the process at once and waits for its end.
    pub fn kill_9(&mut self) {
        if self.status.is_none() {
            // A kill that fails means that it is dead already.
            let _ = self.child.kill();
            self.status = self.child.wait().ok();
        }
    }

    /// Waits for the process to end by itself; `None` when it does not in time.
    pub fn wait(&mut self, patience: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + patience;
        while self.status.is_none() && Instant::now() < deadline {
            self.status = self
                .child
                .try_wait()
                .expect("waiting for a child of our own cannot fail");
            if self.status.is_none() {
                thread::sleep(Duration::from_millis(5));
            }
        }
        if self.status.is_some() {
            self.drain_log();
        }
        self.status
    }

    /// Waits until all that a dead process wrote has been read.
    fn drain_log(&self) {
        let guard = self.log.lines.lock().expect("the reader never panics");
        let drained = self
            .log
            .grew
            .wait_timeout_while(guard, Duration::from_secs(2), |(_, closed)| !*closed);
        drop(drained.expect("the reader never panics"));
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The watchdog goes first, so that it never kills a reused process id.
        let _ = self.watchdog.kill();
        let _ = self.watchdog.wait();
        self.kill_9();
    }
}

/// A shell that kills process `id` once the test binary is gone: its stdin is a pipe that only the test holds open.
fn watchdog(id: u32) -> Child {
    Command::new("sh")
        .arg("-c")
        .arg("trap '' INT; read _; kill -9 \"$0\" 2>/dev/null")
        .arg(id.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("sh runs the watchdog")
}

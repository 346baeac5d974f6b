//! The server's log: one line an event, in the form of etcd's lines, written by a thread of its own.
//!
//! A caller formats its line and puts it into a bounded queue; it never waits for the sink. When the queue is full the line is
//! dropped and counted, and the count is logged as soon as the sink takes lines again.

pub mod line;

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{Config, LogFormat, LogLevel, LogOutput};

/// Lines that may wait for the sink.
pub const QUEUE_LINES_MAX: usize = 4096;

/// How long the end of the process waits for a sink that takes nothing.
const FLUSH_WAIT: Duration = Duration::from_secs(1);

/// A file of `--log-outputs` that cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("the log cannot be written to {}: {error}; make its directory, or choose other --log-outputs", path.display())]
pub struct OutputError {
    path: PathBuf,
    error: io::Error,
}

/// Installs the process-wide log and logs the configuration's warnings. A second call in one process has no effect.
///
/// Errors: a file that cannot be opened.
pub fn start(config: &Config) -> Result<LogGuard, OutputError> {
    let outputs = config.log_outputs.iter().map(open).collect::<Result<Vec<_>, _>>()?;
    let (layer, guard) = to_sink(Box::new(Outputs(outputs)), config.log_format, QUEUE_LINES_MAX);
    // An error means that a log is installed already, which then stays.
    let _ = tracing_subscriber::registry()
        .with(layer.with_filter(targets(config.log_level)))
        .try_init();
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    Ok(guard)
}

fn open(output: &LogOutput) -> Result<Box<dyn Write + Send>, OutputError> {
    match output {
        LogOutput::Stderr => Ok(Box::new(io::stderr())),
        LogOutput::Stdout => Ok(Box::new(io::stdout())),
        LogOutput::File(path) => {
            let file = OpenOptions::new().create(true).append(true).open(path);
            let failed = |error| OutputError {
                path: path.clone(),
                error,
            };
            Ok(Box::new(file.map_err(failed)?))
        }
    }
}

/// Writes to each of them; one that fails does not keep a line from the others.
struct Outputs(Vec<Box<dyn Write + Send>>);

impl Write for Outputs {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for output in &mut self.0 {
            // An output that fails (a closed pipe, a full disk) has nobody left to tell.
            let _ = output.write_all(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.iter_mut().try_for_each(|output| output.flush())
    }
}

/// A layer that logs to this sink, and the guard of its writer. Bounds: at most `queue_lines_max` lines wait.
pub fn to_sink(sink: Box<dyn Write + Send>, format: LogFormat, queue_lines_max: usize) -> (LogLayer, LogGuard) {
    let (lines, queue) = sync_channel(queue_lines_max);
    let (done, finished) = sync_channel(1);
    let dropped = Arc::new(AtomicU64::new(0));
    let writer = LineWriter {
        queue,
        sink,
        format,
        dropped: dropped.clone(),
        reported: 0,
        done,
    };
    let thread = std::thread::Builder::new()
        .name("log".to_string())
        .spawn(move || writer.run());
    if let Err(error) = thread {
        // The queue's receiver is gone with the writer, so every line will be dropped and counted.
        eprintln!("etcore: no thread for the log: {error}");
    }
    (
        LogLayer {
            lines: lines.clone(),
            format,
            dropped: dropped.clone(),
        },
        LogGuard {
            lines,
            dropped,
            finished,
        },
    )
}

/// Formats events and queues the lines.
pub struct LogLayer {
    lines: SyncSender<Message>,
    format: LogFormat,
    dropped: Arc<AtomicU64>,
}

impl<S: Subscriber> Layer<S> for LogLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let line = line::format(event, self.format, line::now());
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = self.lines.try_send(Message::Line(line)) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Keeps the log open; dropping it writes what is queued and stops the writer.
#[must_use]
pub struct LogGuard {
    lines: SyncSender<Message>,
    dropped: Arc<AtomicU64>,
    finished: Receiver<()>,
}

impl LogGuard {
    /// Lines that were dropped because the sink was slower than the server, since the start.
    pub fn dropped_lines(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

impl Drop for LogGuard {
    fn drop(&mut self) {
        let deadline = Instant::now() + FLUSH_WAIT;
        while let Err(TrySendError::Full(_)) = self.lines.try_send(Message::Stop) {
            if Instant::now() > deadline {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        // Either the writer is done, or it is stuck in the sink and the process ends without it.
        let (Ok(()) | Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected)) = self
            .finished
            .recv_timeout(deadline.saturating_duration_since(Instant::now()));
    }
}

enum Message {
    Line(String),
    Stop,
}

struct LineWriter {
    queue: Receiver<Message>,
    sink: Box<dyn Write + Send>,
    format: LogFormat,
    dropped: Arc<AtomicU64>,
    reported: u64,
    done: SyncSender<()>,
}

impl LineWriter {
    fn run(mut self) {
        while let Ok(Message::Line(line)) = self.queue.recv() {
            // A sink that fails (a closed pipe) has nobody left to tell.
            let _ = self.sink.write_all(line.as_bytes());
            self.report_dropped();
        }
        let _ = self.sink.flush();
        let _ = self.done.try_send(());
    }

    fn report_dropped(&mut self) {
        let dropped = self.dropped.load(Ordering::Relaxed);
        if dropped > self.reported {
            let line = line::plain(
                Level::WARN,
                &format!(
                    "{} log lines were dropped because the sink was too slow",
                    dropped - self.reported
                ),
                self.format,
                line::now(),
            );
            let _ = self.sink.write_all(line.as_bytes());
            self.reported = dropped;
        }
    }
}

/// Our own crates at the level asked for, everybody else's warnings and errors.
fn targets(level: LogLevel) -> Targets {
    let level = match level {
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Error => LevelFilter::ERROR,
    };
    let ours = ["etcore", "net", "raft", "storage"].map(|target| (target, level));
    Targets::new()
        .with_default(level.min(LevelFilter::WARN))
        .with_targets(ours)
}

#[cfg(test)]
mod tests;

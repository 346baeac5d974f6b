//! One small durable write at a time, by a thread of its own, while its owner spins.
//!
//! A write that has the log to itself is most of what its put takes. On the ring it ends in two hand-offs to kernel
//! workers, which wait for the CPU that takes the disk's interrupt, and then wakes an executor whose CPU has halted
//! meanwhile. A blocking `pwrite` needs no worker, and an owner that spins for as long as a good disk takes keeps the CPU
//! awake. Whatever is not alone goes to the ring, which batches (ADR 9).
//!
//! ```text
//!  executor ──begin──► Asked ──thread takes it──► Writing ──► Ended ──take──► Idle
//!            └─ wait: spins, for so long at most      └─ wakes the executor's task, if that waits
//! ```

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    sync::{Arc, Condvar, Mutex, MutexGuard},
    task::{Context, Waker},
    thread,
    time::{Duration, Instant},
};

use super::{BLOCK_SIZE, Token, WriteBuf};

/// The largest write that goes this way.
///
/// Units: bytes.
pub(super) const LONE_BYTES_MAX: usize = BLOCK_SIZE;

/// A write to perform.
pub(super) struct Job {
    pub(super) token: Token,
    /// Opened so that a write is durable when it has ended.
    pub(super) file: Arc<File>,
    pub(super) offset: u64,
    pub(super) data: WriteBuf,
}

/// A write that has ended.
pub(super) struct Ended {
    pub(super) token: Token,
    /// How many bytes were written.
    pub(super) result: io::Result<usize>,
    pub(super) took: Duration,
}

/// The thread's owner, which ends it when dropped. A write that is under way then still ends.
pub(super) struct LoneWriter {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Something was asked, or the owner is gone.
    asked: Condvar,
}

#[derive(Default)]
struct State {
    phase: Phase,
    /// Whom the end is told; set only while a task waits.
    waker: Option<Waker>,
}

#[derive(Default)]
enum Phase {
    #[default]
    Idle,
    Asked(Job),
    Writing,
    Ended(Ended),
    /// The owner is gone.
    Closed,
}

impl LoneWriter {
    /// Starts the thread.
    ///
    /// Errors: of the system, when it has no thread to give.
    pub(super) fn start() -> io::Result<LoneWriter> {
        let shared = Arc::new(Shared::default());
        let for_thread = shared.clone();
        thread::Builder::new()
            .name("lone-write".into())
            .spawn(move || for_thread.serve())?;
        Ok(LoneWriter { shared })
    }

    /// Hands a write to the thread, which is idle.
    pub(super) fn begin(&self, job: Job) {
        debug_assert!(job.data.len() <= LONE_BYTES_MAX);
        let mut state = self.shared.lock();
        assert!(matches!(state.phase, Phase::Idle), "one write at a time");
        state.phase = Phase::Asked(job);
        drop(state);
        self.shared.asked.notify_one();
    }

    /// Takes the write that has ended, if it has.
    pub(super) fn take(&self) -> Option<Ended> {
        let mut state = self.shared.lock();
        match std::mem::take(&mut state.phase) {
            Phase::Ended(ended) => Some(ended),
            other => {
                state.phase = other;
                None
            }
        }
    }

    /// Whether a write waits to be taken; if one is under way, its end wakes the task of `cx`.
    pub(super) fn poll_ended(&self, cx: &mut Context<'_>) -> bool {
        let mut state = self.shared.lock();
        match state.phase {
            Phase::Ended(_) => true,
            Phase::Idle | Phase::Closed => false,
            Phase::Asked(_) | Phase::Writing => {
                if !state.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                    state.waker = Some(cx.waker().clone());
                }
                false
            }
        }
    }

    /// Spins until the write under way has ended; false when it takes longer than `patience`.
    ///
    /// It gives its CPU to whoever else wants to run there, the thread that writes first of all.
    pub(super) fn wait(&self, patience: Duration) -> bool {
        let began = Instant::now();
        // Whoever spins needs no waking.
        drop(self.shared.lock().waker.take());
        loop {
            if matches!(self.shared.lock().phase, Phase::Ended(_)) {
                return true;
            }
            if began.elapsed() >= patience {
                return false;
            }
            thread::yield_now();
        }
    }
}

impl Drop for LoneWriter {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        let waker = state.waker.take();
        // A write that was asked for and not begun may have been counted on by nobody yet: it is lost as in a crash.
        state.phase = Phase::Closed;
        drop(state);
        drop(waker);
        self.shared.asked.notify_one();
    }
}

const NEVER_POISONED: &str = "no code that can panic runs while the writer is locked";

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect(NEVER_POISONED)
    }

    fn serve(&self) {
        let mut room = Room::new();
        while let Some(job) = self.next() {
            let began = Instant::now();
            let result = room.write(&job);
            let ended = Ended {
                token: job.token,
                result,
                took: began.elapsed(),
            };
            drop(job);
            self.end(ended);
        }
    }

    fn next(&self) -> Option<Job> {
        let mut state = self.lock();
        loop {
            match std::mem::take(&mut state.phase) {
                Phase::Asked(job) => {
                    state.phase = Phase::Writing;
                    return Some(job);
                }
                Phase::Closed => return None,
                other => state.phase = other,
            }
            state = self.asked.wait(state).expect(NEVER_POISONED);
        }
    }

    fn end(&self, ended: Ended) {
        let mut state = self.lock();
        if matches!(state.phase, Phase::Closed) {
            return;
        }
        state.phase = Phase::Ended(ended);
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// A buffer as direct I/O asks for it: it begins at a multiple of the block size.
struct Room {
    bytes: Vec<u8>,
    start: usize,
}

impl Room {
    fn new() -> Room {
        let bytes = vec![0; LONE_BYTES_MAX + BLOCK_SIZE];
        let start = bytes.as_ptr().align_offset(BLOCK_SIZE);
        Room { bytes, start }
    }

    fn write(&mut self, job: &Job) -> io::Result<usize> {
        let buffer = &mut self.bytes[self.start..][..job.data.len()];
        job.data.copy_to(buffer);
        #[cfg(feature = "failpoints")]
        reach("walBeforeSync")?;
        let written = loop {
            match job.file.write_at(buffer, job.offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                written => break written,
            }
        };
        #[cfg(feature = "failpoints")]
        reach("walAfterSync")?;
        written
    }
}

/// Reaches a point of the log. A delay is the disk's; a return is an error of the disk.
#[cfg(feature = "failpoints")]
fn reach(name: &'static str) -> io::Result<()> {
    use crate::failpoint::{Reaction, reach};
    match reach(name) {
        Reaction::GoOn => {}
        Reaction::Delay(time) => thread::sleep(time),
        Reaction::Return => return Err(io::Error::from_raw_os_error(libc::EIO)),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        task::Wake,
    };

    use super::*;

    fn job(file: File, offset: u64) -> Job {
        Job {
            token: 7,
            file: Arc::new(file),
            offset,
            data: WriteBuf::Bytes(vec![9; LONE_BYTES_MAX].into()),
        }
    }

    #[test]
    fn a_write_ends_once_and_is_in_the_file() {
        let file = tempfile::tempfile().unwrap();
        let writer = LoneWriter::start().unwrap();
        writer.begin(job(file.try_clone().unwrap(), 4096));
        assert!(writer.wait(Duration::from_secs(60)));
        let ended = writer.take().expect("it has ended");
        assert_eq!((ended.token, ended.result.unwrap()), (7, LONE_BYTES_MAX));
        assert!(writer.take().is_none(), "and is told once");
        let mut found = [0; LONE_BYTES_MAX];
        file.read_exact_at(&mut found, 4096).unwrap();
        assert!(found.iter().all(|byte| *byte == 9));
    }

    #[test]
    fn an_error_of_the_write_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, b"").unwrap();
        let writer = LoneWriter::start().unwrap();
        writer.begin(job(File::open(path).unwrap(), 0));
        assert!(writer.wait(Duration::from_secs(60)));
        let result = writer.take().expect("it has ended").result;
        assert_eq!(
            result.unwrap_err().raw_os_error(),
            Some(libc::EBADF),
            "it is open for reading only"
        );
    }

    #[test]
    fn patience_ends_and_a_task_that_waits_is_woken_by_the_end() {
        struct Count(AtomicUsize);
        impl Wake for Count {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::SeqCst);
            }
        }
        // A thread that is stuck in its write is played by the test.
        let shared = Arc::new(Shared::default());
        let writer = LoneWriter { shared: shared.clone() };
        shared.lock().phase = Phase::Writing;
        assert!(!writer.wait(Duration::from_millis(1)));
        let told = Arc::new(Count(0.into()));
        let waker = Waker::from(told.clone());
        assert!(!writer.poll_ended(&mut Context::from_waker(&waker)));
        shared.end(Ended {
            token: 7,
            result: Ok(1),
            took: Duration::from_millis(1),
        });
        assert_eq!(told.0.load(Ordering::SeqCst), 1);
        assert!(writer.poll_ended(&mut Context::from_waker(&waker)));
    }
}

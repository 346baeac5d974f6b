//! Start-up probes: what the executors need from the machine, checked before the first one is built.
//!
//! glommio panics or fails with an unhelpful text when io_uring is denied, memory cannot be locked or sysfs cannot be
//! read. Each [`ProbeError`] says instead what is wrong and what to do; the texts are pinned by a test.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

mod ring;

/// Units: bytes. Lockable memory that one executor needs.
pub const MEMLOCK_PER_EXECUTOR_BYTES: u64 = 512 << 10;

/// The oldest kernel that has the io_uring operations in use.
pub const KERNEL_MIN: (u32, u32) = (5, 8);

/// What the machine does not grant, and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The kernel is older than [`KERNEL_MIN`].
    #[error(
        "this Linux kernel is too old: found {found}, need {}.{} or newer for io_uring; upgrade the kernel",
        KERNEL_MIN.0, KERNEL_MIN.1
    )]
    KernelTooOld {
        /// The release text of the running kernel.
        found: String,
    },
    /// The sysctl forbids io_uring.
    #[error(
        "io_uring is disabled on this host: kernel.io_uring_disabled is {value}; run \
         'sysctl -w kernel.io_uring_disabled=0', or with the value 1 add this user to the group named by \
         kernel.io_uring_group"
    )]
    Sysctl {
        /// The sysctl's value, 1 or 2.
        value: u32,
    },
    /// io_uring_setup was refused although the sysctl allows it: a seccomp profile or a security module.
    #[error(
        "io_uring is denied to this process ({reason}): most likely the container's seccomp profile, since Docker 25 and \
         containerd 2 deny io_uring by default; start the container with the shipped seccomp profile, or with \
         '--security-opt seccomp=unconfined' to test"
    )]
    Denied {
        /// The error of the system call.
        reason: &'static str,
    },
    /// io_uring_setup failed in another way.
    #[error(
        "io_uring cannot be set up: {0}; check the limits on open files and locked memory ('ulimit -n', 'ulimit -l')"
    )]
    Setup(io::Error),
    /// The limit on locked memory is too low for the executors.
    #[error(
        "the limit on locked memory is too low: {limit_bytes} bytes, need {needed_bytes} for {executors} executor(s); \
         raise it ('ulimit -l {}', LimitMEMLOCK= of the systemd unit, '--ulimit memlock=' of the container) or lower --cores",
        needed_bytes.div_ceil(1024)
    )]
    Memlock {
        /// RLIMIT_MEMLOCK, soft.
        limit_bytes: u64,
        /// What the executors need.
        needed_bytes: u64,
        /// How many executors were asked for.
        executors: usize,
    },
    /// The description of the data directory's block device cannot be read.
    #[error(
        "cannot read {}, which describes the disk under the data directory: {error}; mount /sys (read-only is enough) in \
         the container",
        path.display()
    )]
    SysfsUnreadable {
        /// The file that could not be read.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The limit on open files leaves no room for connections.
    #[error(
        "the limit on open files is too low: {limit}, of which {reserve} are kept for files of the server; raise it \
         ('ulimit -n 65536', LimitNOFILE= of the systemd unit, '--ulimit nofile=' of the container)"
    )]
    OpenFiles {
        /// RLIMIT_NOFILE, soft.
        limit: u64,
        /// Descriptors kept for the server's own files.
        reserve: u64,
    },
}

/// Checks what `executors` executors need; the disk is checked by [`check_sysfs`].
///
/// Errors: the first [`ProbeError`] in the order kernel, sysctl, memory, system call.
pub fn check(executors: usize) -> Result<(), ProbeError> {
    check_kernel(&fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default())?;
    check_memlock(soft_limit("Max locked memory"), executors)?;
    let disabled = fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok();
    let disabled = disabled.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    explain_setup(ring::try_setup(), disabled)
}

/// Checks that the description of the block device under `data_dir` can be read; without it use buffered writes.
///
/// Errors: [`ProbeError::SysfsUnreadable`].
pub fn check_sysfs(data_dir: &Path) -> Result<(), ProbeError> {
    let error = |path: &Path, error| ProbeError::SysfsUnreadable {
        path: path.to_owned(),
        error,
    };
    let device = fs::metadata(data_dir).map_err(|e| error(data_dir, e))?.dev();
    // glommio looks at minor 0, the whole disk, and takes a device that is absent for memory.
    check_sysfs_device(&Path::new("/sys/dev/block").join(format!("{}:0", libc::major(device))))
}

/// The limit on open files (soft), if the system tells.
pub fn open_files_limit() -> Option<u64> {
    soft_limit("Max open files")
}

/// Returns how many connections fit under a limit on open files, keeping `reserve` for the server's own files.
///
/// Errors: [`ProbeError::OpenFiles`] when none fits.
/// Source: limits.tsv, "fd reserve": etcd refuses to start at or below its reserve of 150.
pub fn connections_max(limit: u64, reserve: u64) -> Result<u64, ProbeError> {
    match limit.checked_sub(reserve) {
        None | Some(0) => Err(ProbeError::OpenFiles { limit, reserve }),
        Some(room) => Ok(room),
    }
}

/// Units: file descriptors. Kept for files of the server.
pub const OPEN_FILES_RESERVE: u64 = 150;

fn check_kernel(release: &str) -> Result<(), ProbeError> {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|text| text.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    // A release text that cannot be read is no reason to refuse: the system call itself decides.
    if version.0 != 0 && version < KERNEL_MIN {
        return Err(ProbeError::KernelTooOld {
            found: release.trim().to_owned(),
        });
    }
    Ok(())
}

fn check_memlock(limit_bytes: Option<u64>, executors: usize) -> Result<(), ProbeError> {
    let needed_bytes = MEMLOCK_PER_EXECUTOR_BYTES * executors as u64;
    match limit_bytes {
        Some(limit_bytes) if limit_bytes < needed_bytes => Err(ProbeError::Memlock {
            limit_bytes,
            needed_bytes,
            executors,
        }),
        _ => Ok(()),
    }
}

fn explain_setup(outcome: io::Result<()>, disabled: u32) -> Result<(), ProbeError> {
    let Err(error) = outcome else { return Ok(()) };
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) if disabled > 0 => Err(ProbeError::Sysctl { value: disabled }),
        Some(libc::EPERM) => Err(ProbeError::Denied { reason: "EPERM" }),
        Some(libc::EACCES) => Err(ProbeError::Denied { reason: "EACCES" }),
        Some(libc::ENOSYS) => Err(ProbeError::Denied { reason: "ENOSYS" }),
        _ => Err(ProbeError::Setup(error)),
    }
}

fn check_sysfs_device(device: &Path) -> Result<(), ProbeError> {
    let error = |path: &Path, error| ProbeError::SysfsUnreadable {
        path: path.to_owned(),
        error,
    };
    let device = match device.canonicalize() {
        Ok(path) => path,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(error(device, e)),
    };
    for name in SYSFS_QUEUE_FILES {
        let path = device.join("queue").join(name);
        fs::read_to_string(&path).map_err(|e| error(&path, e))?;
    }
    let slaves = device.join("slaves");
    fs::read_dir(&slaves).map_err(|e| error(&slaves, e))?;
    Ok(())
}

/// The files that glommio reads, and panics without.
const SYSFS_QUEUE_FILES: [&str; 8] = [
    "rotational",
    "minimum_io_size",
    "optimal_io_size",
    "logical_block_size",
    "physical_block_size",
    "max_sectors_kb",
    "max_segment_size",
    "write_cache",
];

/// A soft limit from /proc/self/limits; `None` when it is unlimited or cannot be read.
fn soft_limit(name: &str) -> Option<u64> {
    parse_soft_limit(&fs::read_to_string("/proc/self/limits").ok()?, name)
}

fn parse_soft_limit(limits: &str, name: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests;

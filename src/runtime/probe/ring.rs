//! One bare io_uring_setup call, since no safe interface tells whether it is allowed.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

/// Units: bytes. Size of the kernel's `struct io_uring_params`.
const PARAMS_BYTES: usize = 120;

/// Sets up the smallest ring and closes it again.
pub(super) fn try_setup() -> io::Result<()> {
    let mut params = [0_u64; PARAMS_BYTES / 8];
    // SAFETY: the kernel reads and writes PARAMS_BYTES bytes at the pointer, which is the size and at least the alignment
    // of the buffer that lives through the call; all zeros ask for defaults.
    let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1_u32, params.as_mut_ptr()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = i32::try_from(fd).expect("the kernel returns a file descriptor, which is an int");
    // SAFETY: the descriptor was just returned by the kernel and nobody else knows it.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
    Ok(())
}

//! A file mapped for reading, address space reserved once.
//!
//! The mapping is larger than the file: pages past the end become readable as the file grows, so growth never remaps
//! and a slice once given stays where it is. Whoever shrinks the file first makes sure that nobody reads the tail.

use std::{
    fs::File,
    io,
    os::fd::{FromRawFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use memmap2::{Mmap, MmapOptions};

use super::Pages;

/// The read-only mapping of one file.
pub struct MappedFile {
    map: Mmap,
    file: File,
    known_len: Arc<AtomicU64>,
}

impl MappedFile {
    /// Maps `file` and reserves address space for `reserve` bytes of it.
    ///
    /// `known_len` is a length the file is known to have; it is shared with whoever cuts the file, and must be lowered
    /// before that happens.
    ///
    /// Errors: no address space, or the file system does not map.
    pub fn new(file: &File, reserve: u64, known_len: Arc<AtomicU64>) -> io::Result<MappedFile> {
        let file = file.try_clone()?;
        let reserve = usize::try_from(reserve).map_err(|_| io::ErrorKind::InvalidInput)?;
        // SAFETY: the mapping is read-only and shared. Its bytes change only through writes to the file, which the
        // owner of the data directory makes (the directory is locked), and the formats above write a page only while
        // no reader can reach it. Reading past the end of the file is prevented in `bytes`.
        let map = unsafe { MmapOptions::new().len(reserve.max(1)).map(&file)? };
        Ok(MappedFile { map, file, known_len })
    }

    /// Whether the file reaches to `end`; asks the system only when the known length does not.
    fn reaches(&self, end: u64) -> bool {
        if end <= self.known_len.load(Ordering::Acquire) {
            return true;
        }
        let len = self.file.metadata().map_or(0, |metadata| metadata.len());
        self.known_len.fetch_max(len, Ordering::AcqRel);
        end <= len
    }
}

impl Pages for MappedFile {
    fn bytes(&self, offset: u64, len: usize) -> &[u8] {
        let end = offset
            .checked_add(len as u64)
            .expect("the end of a mapped range fits 64 bits");
        assert!(
            end <= self.map.len() as u64,
            "a read at {offset} of {len} bytes passes the reserved address space of {} bytes",
            self.map.len()
        );
        assert!(
            self.reaches(end),
            "a read at {offset} of {len} bytes passes the end of the mapped file"
        );
        let start = usize::try_from(offset).expect("an offset below the mapping's length fits usize");
        &self.map[start..start + len]
    }
}

/// A nameless file in memory: what the simulated disk maps.
pub(super) fn memory_file() -> io::Result<File> {
    // SAFETY: the name is a C string that lives through the call.
    let descriptor = unsafe { libc::memfd_create(c"etcore-sim".as_ptr(), libc::MFD_CLOEXEC) };
    if descriptor == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was made just now and nobody else has it.
    Ok(File::from(unsafe { OwnedFd::from_raw_fd(descriptor) }))
}

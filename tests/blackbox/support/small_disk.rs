//! A disk that is small enough to be filled.

use super::tools::run;
use std::{
    fs::File,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};
use tempfile::TempDir;

/// A file system of its own, unmounted when dropped.
pub struct SmallDisk {
    mount: PathBuf,
    _dir: TempDir,
}

impl SmallDisk {
    /// What it takes to have one.
    pub const NEEDS: &str = "root, loop devices, mkfs.ext4 and tmpfs";

    /// An ext4 file system in a file, unless that is not possible here.
    pub fn ext4(bytes: u64) -> Option<SmallDisk> {
        let dir = TempDir::new().ok()?;
        let (image, mount) = (dir.path().join("image"), dir.path().join("mount"));
        File::create(&image).and_then(|file| file.set_len(bytes)).ok()?;
        std::fs::create_dir(&mount).ok()?;
        let made = succeeds(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(&image));
        let mounted = made && succeeds(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&mount));
        mounted.then_some(SmallDisk { mount, _dir: dir })
    }

    /// A tmpfs, unless that is not possible here.
    pub fn tmpfs(bytes: u64) -> Option<SmallDisk> {
        let dir = TempDir::new().ok()?;
        let mount = dir.path().join("mount");
        std::fs::create_dir(&mount).ok()?;
        let size = format!("size={bytes}");
        let mounted = succeeds(
            Command::new("mount")
                .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
                .arg(&mount),
        );
        mounted.then_some(SmallDisk { mount, _dir: dir })
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mount
    }

    fn balloon(&self) -> PathBuf {
        self.mount.join("balloon")
    }

    /// Takes all space but `left` bytes.
    pub fn inflate(&self, left: u64) {
        let size = free_bytes(&self.mount).saturating_sub(left).to_string();
        assert!(
            succeeds(Command::new("fallocate").args(["-l", &size]).arg(self.balloon())),
            "the balloon inflates"
        );
    }

    /// Takes all space there is, to the last block.
    pub fn burst(&self) {
        let mut balloon = File::create(self.balloon()).expect("the balloon can be made");
        for piece in [1 << 20, 1 << 12, 1] {
            while balloon.write_all(&vec![1; piece]).is_ok() {}
        }
    }

    /// Gives back what [`SmallDisk::inflate`] or [`SmallDisk::burst`] took.
    pub fn deflate(&self) {
        std::fs::remove_file(self.balloon()).expect("the balloon can be removed");
    }

    /// Waits until what was given back is free: a file system gives it out again only once that is durable.
    pub fn sync(&self) {
        assert!(
            succeeds(Command::new("sync").arg("-f").arg(&self.mount)),
            "the disk can be synced"
        );
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        for _ in 0..50 {
            if succeeds(Command::new("umount").arg(&self.mount)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        eprintln!("cannot unmount {}", self.mount.display());
    }
}

fn succeeds(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}

fn free_bytes(mount: &Path) -> u64 {
    let said = run(Command::new("df").args(["--output=avail", "-B1"]).arg(mount));
    said.ok()
        .lines()
        .nth(1)
        .and_then(|line| line.trim().parse().ok())
        .expect("df tells the free bytes")
}

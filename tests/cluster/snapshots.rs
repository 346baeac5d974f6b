//! Snapshots for members that lag behind the log.

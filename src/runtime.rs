//! The executors: how work is placed on cores, how messages hop between them, and how long work may run before it pauses.

pub mod mailbox;
pub mod pause;
pub mod placement;
pub mod probe;

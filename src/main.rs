//! etcore.
fn main() {}

//! The texts of `--help` and `--version`.

/// The whole usage text.
pub fn full() -> String {
    todo!()
}

/// The version text for a program called by this name.
pub fn version(_program: &str) -> String {
    todo!()
}

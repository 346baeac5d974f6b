//! Feature gates.

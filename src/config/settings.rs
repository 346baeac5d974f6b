//! From the text of each flag to a checked configuration.

use super::args::Values;
use super::{Config, UsageError};

/// Applies etcd's rules.
pub fn resolve(_values: &Values) -> Result<Config, UsageError> {
    todo!()
}

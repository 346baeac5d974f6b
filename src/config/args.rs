//! From arguments and environment to the text of each flag.

use std::collections::BTreeMap;

use super::UsageError;

/// What the command line asks for, before any value is understood.
pub enum Request {
    /// Print the usage text.
    Help,
    /// Print the version.
    Version,
    /// Run with these values.
    Serve(Values),
}

/// The text given for each flag.
#[derive(Debug, Default)]
pub struct Values {
    given: BTreeMap<&'static str, String>,
}

/// Reads the arguments after the program's name and the environment.
pub fn read(_args: Vec<String>, _env: Vec<(String, String)>) -> Result<Request, UsageError> {
    todo!()
}

//! `etcore bench`: a load generator that costs the machine little, so that the server is what is measured.
//!
//! Requests are HTTP/2 frames prepared once and patched; answers are parsed for no more than where they end and how.
//! Each client has one request in flight; a latency counts from the moment its request should have been sent.

mod options;

use std::process::ExitCode;

use clap::Parser;
pub use options::Options;

/// Runs the load that `args` (without the name of the program) describe, and prints what was measured.
///
/// Errors: exit code 1 when any request failed, 2 when the command line is wrong.
pub fn run(args: &[String]) -> ExitCode {
    let args = std::iter::once("etcore bench").chain(args.iter().map(String::as_str));
    match Options::try_parse_from(args) {
        Ok(options) => {
            todo!("{options:?}")
        }
        Err(error) => {
            let _ = error.print();
            ExitCode::from(error.exit_code() as u8)
        }
    }
}

//! The one binary: the server and its tools, told apart by the name it was called by and by the first argument.
//!
//! `etcore` and `etcd` run the server. A tool has a subcommand (`etcore ctl`) and a name (`etcdctl`).

use std::path::Path;
use std::process::ExitCode;

use etcore::config::{Config, Outcome};
use etcore::logging;
use etcore::runtime::serve;

/// Requests allocate and free many small pieces, some of them on another executor.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let mut args: Vec<String> = std::env::args_os()
        .map(|arg| arg.to_string_lossy().into_owned())
        .collect();
    let called = if args.is_empty() { String::new() } else { args.remove(0) };
    let name = Path::new(&called)
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or("etcore");
    match Program::choose(name, args.first().map(String::as_str)) {
        Program::Server => run_server(name, args),
        Program::Bench => etcore::bench::run(&args[1..]),
        Program::Missing(what) => {
            eprintln!(
                "etcore: {what} is not part of this build yet; use etcd's own tool, which talks to etcore unchanged"
            );
            ExitCode::FAILURE
        }
    }
}

/// What to run.
enum Program {
    Server,
    Bench,
    Missing(&'static str),
}

impl Program {
    fn choose(name: &str, first: Option<&str>) -> Program {
        match (name, first) {
            ("etcdctl", _) | (_, Some("ctl")) => Program::Missing("etcdctl (etcore ctl)"),
            ("etcdutl", _) | (_, Some("utl")) => Program::Missing("etcdutl (etcore utl)"),
            (_, Some("bench")) => Program::Bench,
            (_, Some("gateway")) => Program::Missing("the gateway"),
            (_, Some("grpc-proxy")) => Program::Missing("the gRPC proxy"),
            _ => Program::Server,
        }
    }
}

fn run_server(name: &str, args: Vec<String>) -> ExitCode {
    // Only variables that are text can name a flag's value.
    let env =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    match Config::from_args_as(name, args, env) {
        Ok(Outcome::Serve(config)) => {
            #[cfg(feature = "failpoints")]
            if let Err(error) = etcore::failpoints::start(|name| std::env::var(name).ok()) {
                eprintln!("etcore: {error}");
                return ExitCode::FAILURE;
            }
            match logging::start(&config) {
                Ok(_log) => serve(*config),
                Err(error) => {
                    eprintln!("etcore: {error}");
                    ExitCode::FAILURE
                }
            }
        }
        Ok(Outcome::Print(text)) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(error.exit_code)
        }
    }
}

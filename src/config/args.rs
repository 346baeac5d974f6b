//! From arguments and environment to the text given for each flag.
//!
//! The walk over the arguments is Go's (`-name value`, `--name=value`, a boolean alone, `--` ends the flags) and reports syntax in
//! Go's words; what it accepts is handed to clap in the one form `--name=value`, so that one parser keeps the last value of each
//! flag. Values are checked for syntax here and understood in `settings.rs`.

use std::collections::BTreeMap;

use clap::{Arg, ArgAction, Command};

use super::flags::{self, FLAGS, Flag, Kind};
use super::{UsageError, features, go_value, help, urls::Url};

/// What the command line asks for, before any value is understood.
#[derive(Debug)]
pub enum Request {
    /// Print the usage text.
    Help,
    /// Print the version.
    Version,
    /// Run with these values.
    Serve(Values),
}

/// Where a value came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The command line.
    Flag,
    /// An environment variable.
    Env,
}

/// The text given for each flag, by its own name, and what to warn about.
#[derive(Debug, Default)]
pub struct Values {
    given: BTreeMap<&'static str, (String, Source)>,
    /// Unknown variables, in the order of their names.
    pub warnings: Vec<String>,
}

impl Values {
    /// The text given for that flag and where it came from.
    pub fn given(&self, name: &str) -> Option<(&str, Source)> {
        self.given.get(name).map(|(text, source)| (text.as_str(), *source))
    }

    /// Whether that flag was given at all.
    pub fn is_set(&self, name: &str) -> bool {
        self.given.contains_key(name)
    }

    /// Every flag given, in the order of names.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &str, Source)> {
        self.given
            .iter()
            .map(|(name, (text, source))| (*name, text.as_str(), *source))
    }
}

/// Reads the arguments after the program's name, then the environment.
///
/// Errors: exit code 2 for the syntax of flags, 1 for a stray argument, and for a variable that is malformed or set beside its
/// flag, which etcd refuses too.
pub fn read(args: Vec<String>, env: Vec<(String, String)>) -> Result<Request, UsageError> {
    let mut canonical = Vec::new();
    let mut rest = args.as_slice();
    let stray = loop {
        match next_flag(rest)? {
            Step::Flag { flag, value, taken } => {
                canonical.push(format!("--{}={value}", flag.name));
                rest = &rest[taken..];
            }
            Step::Help => return Ok(Request::Help),
            Step::End { stray } => break stray,
        }
    };
    if let Some(stray) = stray {
        return Err(UsageError {
            text: format!("etcore: failed to verify flags: '{stray}' is not a valid flag"),
            exit_code: 1,
        });
    }
    let mut values = collect(canonical);
    if values
        .given("version")
        .is_some_and(|(text, _)| go_value::parse_bool(text) == Some(true))
    {
        return Ok(Request::Version);
    }
    add_environment(&mut values, env)?;
    Ok(Request::Serve(values))
}

/// Whether the text is well formed for that kind; the error is Go's or etcd's reason.
pub fn check_syntax(kind: Kind, text: &str) -> Result<(), String> {
    match kind {
        Kind::Text | Kind::Any => Ok(()),
        Kind::Bool => go_value::parse_bool(text)
            .map(drop)
            .ok_or_else(|| "parse error".to_string()),
        Kind::Uint => go_value::parse_uint(text, u64::MAX)
            .map(drop)
            .map_err(|error| error.to_string()),
        Kind::Uint32 => go_value::parse_uint(text, u32::MAX.into())
            .map(drop)
            .map_err(|error| parse_uint_text(text, error)),
        Kind::Int => go_value::parse_int(text).map(drop).map_err(|error| error.to_string()),
        Kind::Duration => go_value::parse_duration_ns(text)
            .map(drop)
            .map_err(|_| "parse error".to_string()),
        Kind::Microseconds => go_value::parse_microseconds(text)
            .map(drop)
            .map_err(|_| "parse error: want microseconds, as in 50, or a duration, as in 50us".to_string()),
        Kind::Urls => Url::parse_list(text).map(drop).map_err(|error| error.to_string()),
        Kind::Choice(words) => words
            .contains(&text)
            .then_some(())
            .ok_or_else(|| "invalid value".to_string()),
        Kind::Gates => features::parse(text).map(drop).map_err(|error| error.to_string()),
    }
}

/// One step of the walk over the arguments.
enum Step {
    Flag {
        flag: &'static Flag,
        value: String,
        taken: usize,
    },
    Help,
    End {
        stray: Option<String>,
    },
}

fn next_flag(args: &[String]) -> Result<Step, UsageError> {
    let Some(arg) = args.first() else {
        return Ok(Step::End { stray: None });
    };
    if arg == "--" {
        return Ok(Step::End {
            stray: args.get(1).cloned(),
        });
    }
    let Some(body) = arg.strip_prefix('-').filter(|body| !body.is_empty()) else {
        return Ok(Step::End {
            stray: Some(arg.clone()),
        });
    };
    let body = body.strip_prefix('-').unwrap_or(body);
    if body.is_empty() || body.starts_with(['-', '=']) {
        return Err(syntax(format!("bad flag syntax: {arg}")));
    }
    let (name, inline) = body
        .split_once('=')
        .map_or((body, None), |(name, value)| (name, Some(value)));
    let Some(flag) = flags::find(name) else {
        return match name {
            "help" | "h" => Ok(Step::Help),
            _ => Err(syntax(format!("flag provided but not defined: -{name}"))),
        };
    };
    let (value, taken) = match (inline, args.get(1)) {
        (Some(value), _) => (value.to_string(), 1),
        (None, _) if flag.may_stand_alone() => ("true".to_string(), 1),
        (None, Some(value)) => (value.clone(), 2),
        (None, None) => return Err(syntax(format!("flag needs an argument: -{name}"))),
    };
    check_syntax(flag.kind, &value).map_err(|reason| match flag.kind {
        Kind::Bool => syntax(format!("invalid boolean value {value:?} for -{name}: {reason}")),
        _ => syntax(format!("invalid value {value:?} for flag -{name}: {reason}")),
    })?;
    Ok(Step::Flag { flag, value, taken })
}

/// Lets clap keep the last value of each flag.
fn collect(canonical: Vec<String>) -> Values {
    let command = FLAGS.iter().fold(
        Command::new("etcore")
            .no_binary_name(true)
            .disable_help_flag(true)
            .disable_version_flag(true)
            .args_override_self(true),
        |command, flag| {
            command.arg(
                Arg::new(flag.name)
                    .long(flag.name)
                    .require_equals(true)
                    .action(ArgAction::Set),
            )
        },
    );
    let matches = command
        .try_get_matches_from(canonical)
        .expect("every argument was rewritten to --name=value of a known flag");
    let given = FLAGS.iter().filter_map(|flag| {
        matches
            .get_one::<String>(flag.name)
            .map(|text| (flag.name, (text.clone(), Source::Flag)))
    });
    Values {
        given: given.collect(),
        warnings: Vec::new(),
    }
}

fn add_environment(values: &mut Values, mut env: Vec<(String, String)>) -> Result<(), UsageError> {
    env.retain(|(name, value)| name.starts_with("ETCD_") && !value.is_empty());
    env.sort();
    for (variable, text) in env {
        match FLAGS.iter().find(|flag| flags::env_name(flag.name) == variable) {
            Some(flag) if flag.name == "version" => {
                values
                    .warnings
                    .push(format!("cannot set special environment variable {variable}"));
            }
            Some(flag) if values.is_set(flag.name) => {
                return Err(UsageError {
                    text: format!(
                        "etcore: conflicting environment variable is shadowed by corresponding command-line flag (either unset \
                     environment variable or disable flag): {variable}"
                    ),
                    exit_code: 1,
                });
            }
            Some(flag) => {
                check_syntax(flag.kind, &text).map_err(|reason| UsageError {
                    text: format!("etcore: failed to verify flags: invalid value {text:?} for {variable}: {reason}"),
                    exit_code: 1,
                })?;
                values.given.insert(flag.name, (text, Source::Env));
            }
            None if matches!(variable.as_str(), "ETCD_UNSUPPORTED_ARCH" | "ETCD_VERIFY") => {}
            None => values
                .warnings
                .push(format!("unrecognized environment variable {variable}={text}")),
        }
    }
    Ok(())
}

fn syntax(problem: String) -> UsageError {
    UsageError {
        text: format!("{problem}\n{}", help::USAGE),
        exit_code: 2,
    }
}

/// The text of Go's `strconv.ParseUint`, which etcd lets through for 32-bit flags.
fn parse_uint_text(text: &str, error: go_value::NumberError) -> String {
    let reason = match error {
        go_value::NumberError::Syntax => "invalid syntax",
        go_value::NumberError::Range => "value out of range",
    };
    format!("strconv.ParseUint: parsing {text:?}: {reason}")
}

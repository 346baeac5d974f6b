//! The texts of `--help` and `--version`.

use super::features::GATES;
use super::flags::{FLAGS, Flag, Group, Status, env_name};
use super::{ETCD_VERSION, ETCORE_VERSION};

/// What is printed after a mistake in the syntax of flags.
pub const USAGE: &str = "Usage:

  etcore [flags]
    Start the server.

  etcore --version
    Show the version.

  etcore -h | --help
    Show every flag.
";

/// The commit the binary was built from, when the build knew it.
const GIT_SHA: &str = match option_env!("ETCORE_GIT_SHA") {
    Some(sha) => sha,
    None => "Not provided (set ETCORE_GIT_SHA when building)",
};

const GROUPS: [(Group, &str); 5] = [
    (Group::Member, "Member"),
    (Group::Clustering, "Clustering"),
    (Group::Monitoring, "Monitoring"),
    (Group::Logging, "Logging"),
    (Group::Etcore, "etcore's own"),
];

/// The whole usage text: every flag the server obeys, with its default and variable.
pub fn full() -> String {
    let mut text = USAGE.to_string();
    for (group, title) in GROUPS {
        text.push_str(&format!("\n{title}:\n"));
        for flag in FLAGS
            .iter()
            .filter(|flag| flag.group == group && flag.status == Status::Effective)
        {
            text.push_str(&entry(flag));
        }
    }
    text.push_str("\nFeature gates (--feature-gates Name=bool,...):\n");
    for gate in GATES {
        text.push_str(&format!("  {}={}  ({})\n", gate.name, gate.default, gate.help));
    }
    text.push_str(
        "\nEach flag can be set by the variable named beside it; a flag wins over its variable.\n\
         Other flags of etcd are refused with a reason unless they ask for what the server does anyway.\n",
    );
    text
}

/// The version text for a program called by this name: as etcd's when it is called `etcd`, with etcore's own line first
/// otherwise.
pub fn version(program: &str) -> String {
    let ours = format!("etcore Version: {ETCORE_VERSION}\n");
    let compatible = format!("etcd Version: {ETCD_VERSION}\n");
    let build = format!(
        "Git SHA: {GIT_SHA}\nOS/Arch: {}/{}\n",
        std::env::consts::OS,
        std::env::consts::ARCH
    );
    match program {
        "etcd" => format!("{compatible}{build}{ours}"),
        _ => format!("{ours}{compatible}{build}"),
    }
}

fn entry(flag: &Flag) -> String {
    format!(
        "  --{} '{}'  [{}]\n    {}\n",
        flag.name,
        flag.default,
        env_name(flag.name),
        flag.help
    )
}

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
        "\nEach flag can be set by the variable named beside it; setting both is an error.\n\
         Other flags of etcd are refused with a reason unless they ask for what the server does anyway.\n",
    );
    text
}

/// The version text for a program called by this name: etcd's lines first when it is called `etcd`, else etcore's own.
pub fn version(program: &str) -> String {
    let ours = format!("etcore Version: {ETCORE_VERSION}\n");
    let compatible = format!("etcd Version: {ETCD_VERSION}\nGit SHA: {GIT_SHA}\n");
    let os = std::env::consts::OS;
    match program {
        // Scripts look for etcd's four lines; there is no Go in here to name.
        "etcd" => format!(
            "{compatible}Go Version: none (Rust)\nGo OS/Arch: {os}/{}\n{ours}",
            go_arch()
        ),
        _ => format!("{ours}{compatible}OS/Arch: {os}/{}\n", std::env::consts::ARCH),
    }
}

/// Go's name of the processor.
fn go_arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
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

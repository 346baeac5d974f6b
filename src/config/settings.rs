//! From the text of each flag to a checked configuration: refusals first, then etcd's rules in etcd's order.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::args::{Source, Values};
use super::flags::{self, FLAGS, Flag, Kind, Status};
use super::{
    AutoCompaction, Bootstrap, Config, Discovery, LogFormat, LogLevel, LogOutput, MetricsLevel, Url, UsageError,
};
use super::{cluster, features, go_value};

const ELECTION_TIMEOUT_MS_MAX: u64 = 50_000;
const QUOTA_DEFAULT_BYTES: u64 = 2 * 1024 * 1024 * 1024;
const QUOTA_RECOMMENDED_BYTES_MAX: u64 = 8 * 1024 * 1024 * 1024;
const REQUEST_RECOMMENDED_BYTES_MAX: u64 = 10 * 1024 * 1024;
const WATCH_PROGRESS_MIN: Duration = Duration::from_millis(100);
const CORES_MAX: u64 = 64;
const SPIN_US_MAX: u64 = 10_000;
const WAL_SEGMENT_BYTES_MIN: u64 = 1024 * 1024;
const WAL_SEGMENT_BYTES_MAX: u64 = 1024 * 1024 * 1024;
const SNAPSHOT_SEND_RATE_MIN: u64 = 1024 * 1024;
const WAL_SEGMENT_ALIGN_BYTES: u64 = 4096;

/// Applies refusals, defaults and etcd's rules.
///
/// Errors: exit code 2 for a flag that is not supported yet, 1 for a broken rule.
pub fn resolve(values: &Values) -> Result<Config, UsageError> {
    let mut warnings = values.warnings.clone();
    check_support(values, &mut warnings)?;
    let features = read_gates(values, &mut warnings)?;
    let reader = Reader { values };
    let mut config = read_all(&reader, features)?;
    config.warnings = warnings;
    check_rules(&reader, &mut config)?;
    recommend(&mut config);
    Ok(config)
}

/// Refuses what is not there yet, and two names for one flag.
fn check_support(values: &Values, warnings: &mut Vec<String>) -> Result<(), UsageError> {
    for (name, text, source) in values.iter() {
        let flag = flags::find(name).expect("only flags of the table are collected");
        let (canonical, status) = match flag.status {
            Status::Alias(other) if values.is_set(other) => {
                return rule(format!("both --{name} and --{other} flags are set. Use only --{other}"));
            }
            Status::Alias(other) => {
                warnings.push(deprecated(name, &format!("--{other}")));
                let canonical = flags::find(other).expect("an alias names a flag of the table");
                (canonical, canonical.status)
            }
            status => (flag, status),
        };
        match status {
            Status::Only(value, reason) if !same_value(canonical.kind, text, value) => {
                return Err(unsupported(name, source, reason));
            }
            Status::Moot(reason) => warnings.push(format!("--{name} has no effect: {reason}")),
            _ => {}
        }
    }
    Ok(())
}

/// The gates that are on; refuses those given by two names.
fn read_gates(values: &Values, warnings: &mut Vec<String>) -> Result<features::Features, UsageError> {
    let text = values.given("feature-gates").map_or("", |(text, _)| text);
    let mut asked = features::parse(text).expect("the syntax of gates was checked when it was read");
    let by_gate = asked.clone();
    for flag in FLAGS {
        let (Status::Gate(name), Some((text, _))) = (flag.status, values.given(flag.name)) else {
            continue;
        };
        if by_gate.iter().any(|(gate, _)| gate.name == name) {
            return rule(format!(
                "cannot specify both flags: --{0}=(true|false) and --feature-gates={name}=(true|false) at the same time, please \
                 just use --feature-gates={name}=(true|false)",
                flag.name
            ));
        }
        warnings.push(deprecated(flag.name, &format!("--feature-gates={name}=true")));
        let gate = features::find(name).expect("a flag names a gate of the list");
        asked.push((gate, go_value::parse_bool(text) == Some(true)));
    }
    features::Features::new(&asked).or_else(rule)
}

/// The value of every field as given or by default, before the rules between fields.
fn read_all(reader: &Reader<'_>, features: features::Features) -> Result<Config, UsageError> {
    let name = reader.text("name");
    let (mode, retention) = (
        reader.text("auto-compaction-mode"),
        reader.text("auto-compaction-retention"),
    );
    Ok(Config {
        data_dir: non_empty(reader.text("data-dir"))
            .unwrap_or_else(|| format!("{name}.etcore"))
            .into(),
        wal_dir: non_empty(reader.text("wal-dir")).map(PathBuf::from),
        listen_client_urls: reader.urls("listen-client-urls"),
        advertise_client_urls: reader.urls("advertise-client-urls"),
        listen_peer_urls: reader.urls("listen-peer-urls"),
        initial_advertise_peer_urls: reader.urls("initial-advertise-peer-urls"),
        listen_metrics_urls: reader.urls("listen-metrics-urls"),
        initial_cluster: cluster::InitialCluster {
            members: Default::default(),
            token: reader.text("initial-cluster-token"),
        },
        bootstrap: Bootstrap::Static,
        resolv_conf: reader.text("resolv-conf").into(),
        joins_existing: false,
        force_new_cluster: reader.bool("force-new-cluster"),
        heartbeat_interval_ms: reader.uint("heartbeat-interval"),
        election_timeout_ms: reader.uint("election-timeout"),
        initial_election_tick_advance: reader.bool("initial-election-tick-advance"),
        pre_vote: reader.bool("pre-vote"),
        strict_reconfig_check: reader.bool("strict-reconfig-check"),
        max_learners: reader.count("max-learners")?,
        snapshot_catchup_entries: reader.uint("snapshot-catchup-entries"),
        quota_backend_bytes: match reader.int("quota-backend-bytes") {
            0 => Some(QUOTA_DEFAULT_BYTES),
            bytes => u64::try_from(bytes).ok(),
        },
        max_request_bytes: reader.uint("max-request-bytes"),
        max_txn_ops: reader.uint("max-txn-ops"),
        max_concurrent_streams: reader.uint("max-concurrent-streams") as u32,
        grpc_keepalive_min_time: reader.duration("grpc-keepalive-min-time")?,
        grpc_keepalive_interval: non_zero(reader.duration("grpc-keepalive-interval")?),
        grpc_keepalive_timeout: non_zero(reader.duration("grpc-keepalive-timeout")?),
        backend_batch_interval: or_default(reader.duration("backend-batch-interval")?, Duration::from_millis(100)),
        auto_compaction: auto_compaction(&mode, &retention)?,
        compaction_batch_limit_revisions: or_default(reader.count("compaction-batch-limit")?, 1000),
        compaction_sleep_interval: or_default(reader.duration("compaction-sleep-interval")?, Duration::from_millis(10)),
        watch_progress_notify_interval: or_default(
            reader.duration("watch-progress-notify-interval")?,
            Duration::from_secs(600),
        ),
        warning_apply_duration: reader.duration("warning-apply-duration")?,
        warning_unary_request_duration: reader.duration("warning-unary-request-duration")?,
        features,
        corrupt_check_interval: non_zero(reader.duration("corrupt-check-time")?),
        compact_hash_check_interval: reader.duration("compact-hash-check-time")?,
        metrics: metrics_level(&reader.text("metrics"))?,
        log_level: log_level(&reader.text("log-level"))?,
        log_format: log_format(&reader.text("log-format"))?,
        log_outputs: log_outputs(reader)?,
        cores: non_zero(reader.uint("cores")).map(|cores| cores as u32),
        wal_segment_bytes: non_zero(reader.uint("wal-segment-bytes")),
        snapshot_send_rate: non_zero(reader.uint("snapshot-send-rate")),
        spin: reader.microseconds("spin"),
        warnings: Vec::new(),
        name,
    })
}

/// etcd's rules, in etcd's order, then ours.
fn check_rules(reader: &Reader<'_>, config: &mut Config) -> Result<(), UsageError> {
    if reader.text("logger") != "zap" {
        return rule(format!("unknown logger option {:?}", reader.text("logger")));
    }
    check_listeners(config)?;
    check_advertised(config)?;
    config.bootstrap = bootstrap(reader)?;
    check_timing(config)?;
    if reader.values.is_set("listen-client-urls") && !reader.values.is_set("advertise-client-urls") {
        return rule("--advertise-client-urls is required when --listen-client-urls is set explicitly");
    }
    if config.compact_hash_check_interval.is_zero() {
        return rule("--compact-hash-check-time must be >0 (set to 0s)");
    }
    check_own_flags(config)?;
    check_cluster(reader, config)
}

fn check_listeners(config: &Config) -> Result<(), UsageError> {
    for (flag, urls) in [
        ("listen-peer-urls", &config.listen_peer_urls),
        ("listen-client-urls", &config.listen_client_urls),
    ] {
        if urls.is_empty() {
            return rule(format!("--{flag} must name at least one URL"));
        }
    }
    for url in [
        &config.listen_peer_urls,
        &config.listen_client_urls,
        &config.listen_metrics_urls,
    ]
    .into_iter()
    .flatten()
    {
        if url.host() != "localhost" && url.host().parse::<IpAddr>().is_err() {
            return rule(format!("expected IP in URL for binding ({url})"));
        }
    }
    Ok(())
}

fn check_advertised(config: &Config) -> Result<(), UsageError> {
    let lists = [
        (
            "initial-advertise-peer-urls",
            &config.initial_advertise_peer_urls,
            "must be \"host:port\"",
        ),
        (
            "advertise-client-urls",
            &config.advertise_client_urls,
            "must be in the format \"host:port\", \"unix:/path/to/socket\" or \"unixs:/path/to/socket\"",
        ),
    ];
    for (flag, urls, form) in lists {
        if urls.is_empty() {
            return rule(format!("--{flag} must name at least one URL"));
        }
        if let Some(url) = urls.iter().find(|url| url.host().is_empty()) {
            return rule(format!(
                "--{flag} {:?} {form} (unexpected empty host ({url}))",
                cluster::join(urls)
            ));
        }
    }
    Ok(())
}

fn check_timing(config: &Config) -> Result<(), UsageError> {
    let (heartbeat, election) = (config.heartbeat_interval_ms, config.election_timeout_ms);
    if heartbeat == 0 {
        return rule("--heartbeat-interval must be >0 (set to 0ms)");
    }
    if election == 0 {
        return rule("--election-timeout must be >0 (set to 0ms)");
    }
    if heartbeat.saturating_mul(5) > election {
        return rule(format!(
            "--election-timeout[{election}ms] should be at least as 5 times as --heartbeat-interval[{heartbeat}ms]"
        ));
    }
    if election > ELECTION_TIMEOUT_MS_MAX {
        return rule(format!(
            "--election-timeout[{election}ms] is too long, and should be set less than {ELECTION_TIMEOUT_MS_MAX}ms"
        ));
    }
    Ok(())
}

fn check_own_flags(config: &Config) -> Result<(), UsageError> {
    if let Some(cores) = config.cores.filter(|&cores| u64::from(cores) > CORES_MAX) {
        return rule(format!(
            "--cores must be between 0 (choose) and {CORES_MAX} (set to {cores})"
        ));
    }
    let spin_us = config.spin.as_micros() as u64;
    if spin_us > SPIN_US_MAX {
        return rule(format!(
            "--spin must be at most {SPIN_US_MAX} microseconds (set to {spin_us})"
        ));
    }
    if let Some(rate) = config.snapshot_send_rate.filter(|rate| *rate < SNAPSHOT_SEND_RATE_MIN) {
        return rule(format!(
            "--snapshot-send-rate must be 0 (no limit) or at least {SNAPSHOT_SEND_RATE_MIN} bytes a second (set to {rate})"
        ));
    }
    match config.wal_segment_bytes {
        Some(bytes)
            if !(WAL_SEGMENT_BYTES_MIN..=WAL_SEGMENT_BYTES_MAX).contains(&bytes)
                || bytes % WAL_SEGMENT_ALIGN_BYTES != 0 =>
        {
            rule(format!(
                "--wal-segment-bytes must be a multiple of {WAL_SEGMENT_ALIGN_BYTES} between {WAL_SEGMENT_BYTES_MIN} and \
                 {WAL_SEGMENT_BYTES_MAX} (set to {bytes})"
            ))
        }
        _ => Ok(()),
    }
}

/// How the other members are found. Source: etcd's `Validate`, its part on conflicting flags.
fn bootstrap(reader: &Reader<'_>) -> Result<Bootstrap, UsageError> {
    let (domain, token) = (reader.text("discovery-srv"), reader.text("discovery-token"));
    let endpoints = reader.text("discovery-endpoints");
    let named = reader.values.is_set("initial-cluster") && !reader.text("initial-cluster").is_empty();
    let ways = [named, !domain.is_empty(), !endpoints.is_empty()];
    if ways.iter().filter(|way| **way).count() > 1 {
        return rule(
            "multiple discovery or bootstrap flags are set. Choose one of \"initial-cluster\", \"discovery\", \
             \"discovery-endpoints\" or \"discovery-srv\"",
        );
    }
    if token.is_empty() != endpoints.is_empty() {
        return rule("both --discovery-token and --discovery-endpoints must be set");
    }
    let endpoints: Vec<String> = endpoints.split(',').map(|one| one.trim().to_string()).collect();
    if !token.is_empty() {
        if endpoints.iter().any(String::is_empty) {
            return rule("--discovery-endpoints must not contain empty endpoints");
        }
        if let Some(other) = endpoints
            .iter()
            .find(|one| one.contains("://") && !one.starts_with("http://"))
        {
            return rule(format!(
                "--discovery-endpoints must be plain http, since TLS is not there yet (set to {other})"
            ));
        }
        return Ok(Bootstrap::Discovery(Discovery {
            token,
            endpoints,
            dial_timeout: reader.duration("discovery-dial-timeout")?,
            request_timeout: reader.duration("discovery-request-timeout")?,
            keepalive_time: reader.duration("discovery-keepalive-time")?,
            keepalive_timeout: reader.duration("discovery-keepalive-timeout")?,
        }));
    }
    if domain.is_empty() {
        return Ok(Bootstrap::Static);
    }
    let suffix = non_empty(reader.text("discovery-srv-name")).map_or_else(String::new, |name| format!("-{name}"));
    Ok(Bootstrap::Srv { domain, suffix })
}

/// Flags that say more about a way to find the others, and the flag that chooses it.
const DISCOVERY_DETAILS: [(&str, &str); 5] = [
    ("discovery-srv-name", "discovery-srv"),
    ("discovery-dial-timeout", "discovery-endpoints"),
    ("discovery-request-timeout", "discovery-endpoints"),
    ("discovery-keepalive-time", "discovery-endpoints"),
    ("discovery-keepalive-timeout", "discovery-endpoints"),
];

fn check_cluster(reader: &Reader<'_>, config: &mut Config) -> Result<(), UsageError> {
    for (detail, way) in DISCOVERY_DETAILS {
        if reader.values.is_set(detail) && reader.text(way).is_empty() {
            config
                .warnings
                .push(format!("--{detail} has no effect without --{way}"));
        }
    }
    config.joins_existing = reader.text("initial-cluster-state") == "existing";
    let text = match &config.bootstrap {
        Bootstrap::Srv { .. } => return Ok(()),
        Bootstrap::Discovery(discovery) => {
            let own = (config.name.clone(), config.initial_advertise_peer_urls.clone());
            config.initial_cluster.members = [own].into();
            config.initial_cluster.token.clone_from(&discovery.token);
            return Ok(());
        }
        Bootstrap::Static if config.name != "default" && !reader.values.is_set("initial-cluster") => {
            cluster::from_name(
                non_empty(config.name.clone()).as_deref().unwrap_or("default"),
                &config.initial_advertise_peer_urls,
            )
        }
        Bootstrap::Static => reader.text("initial-cluster"),
    };
    config.initial_cluster.members =
        cluster::parse(&text).or_else(|error| rule(format!("error setting up initial cluster: {error}")))?;
    Ok(())
}

/// Adjusts what etcd adjusts and says what etcd recommends.
fn recommend(config: &mut Config) {
    if config.name == "default" {
        config.warnings.push(
            "it isn't recommended to use default name, please set a value for --name. Note that etcd might run into issue when \
             multiple members have the same default name"
                .to_string(),
        );
    }
    if config.watch_progress_notify_interval < WATCH_PROGRESS_MIN {
        config.watch_progress_notify_interval = WATCH_PROGRESS_MIN;
        config
            .warnings
            .push("--watch-progress-notify-interval was raised to its minimum of 100ms".to_string());
    }
    if let Some(bytes) = config
        .quota_backend_bytes
        .filter(|&bytes| bytes > QUOTA_RECOMMENDED_BYTES_MAX)
    {
        config.warnings.push(format!(
            "--quota-backend-bytes={bytes} exceeds the recommended maximum of {QUOTA_RECOMMENDED_BYTES_MAX}"
        ));
    }
    if config.max_request_bytes > REQUEST_RECOMMENDED_BYTES_MAX {
        config.warnings.push(format!(
            "--max-request-bytes={} exceeds the recommended maximum of {REQUEST_RECOMMENDED_BYTES_MAX}",
            config.max_request_bytes
        ));
    }
}

/// Reads values whose syntax is known to be good.
struct Reader<'a> {
    values: &'a Values,
}

impl Reader<'_> {
    /// The text given for the flag or an alias of it, else its default.
    fn text(&self, name: &str) -> String {
        let flag = flags::find(name).expect("the name stands in the table");
        let aliases = FLAGS.iter().filter(|other| other.status == Status::Alias(flag.name));
        let given = std::iter::once(flag)
            .chain(aliases)
            .find_map(|flag: &Flag| self.values.given(flag.name));
        given.map_or(flag.default, |(text, _)| text).to_string()
    }

    fn bool(&self, name: &str) -> bool {
        go_value::parse_bool(&self.text(name)).expect("the syntax of booleans was checked when it was read")
    }

    fn uint(&self, name: &str) -> u64 {
        go_value::parse_uint(&self.text(name), u64::MAX).expect("the syntax of numbers was checked when it was read")
    }

    fn microseconds(&self, name: &str) -> Duration {
        go_value::parse_microseconds(&self.text(name)).expect("the syntax of durations was checked when it was read")
    }

    fn int(&self, name: &str) -> i64 {
        go_value::parse_int(&self.text(name)).expect("the syntax of numbers was checked when it was read")
    }

    fn urls(&self, name: &str) -> Vec<Url> {
        Url::parse_list(&self.text(name)).expect("the syntax of URLs was checked when it was read")
    }

    /// A signed flag that counts something.
    fn count(&self, name: &str) -> Result<u64, UsageError> {
        let number = self.int(name);
        u64::try_from(number).or_else(|_| rule(format!("--{name} must not be negative (set to {number})")))
    }

    fn duration(&self, name: &str) -> Result<Duration, UsageError> {
        let text = self.text(name);
        let ns = go_value::parse_duration_ns(&text).expect("the syntax of durations was checked when it was read");
        let ns = u64::try_from(ns).or_else(|_| rule(format!("--{name} must not be negative (set to {text})")))?;
        Ok(Duration::from_nanos(ns))
    }
}

fn auto_compaction(mode: &str, retention: &str) -> Result<AutoCompaction, UsageError> {
    let unparsable = |error: go_value::DurationError| rule(format!("error parsing CompactionRetention: {error}"));
    let bare: Option<u64> = retention.parse::<i64>().ok().and_then(|number| number.try_into().ok());
    match (mode, bare) {
        ("periodic" | "revision", Some(0)) => Ok(AutoCompaction::Off),
        ("revision", Some(revisions)) => Ok(AutoCompaction::Revision(revisions)),
        ("periodic", Some(hours)) => match hours.checked_mul(3600) {
            Some(seconds) => Ok(AutoCompaction::Periodic(Duration::from_secs(seconds))),
            None => rule(format!("--auto-compaction-retention of {hours} hours is too long")),
        },
        ("revision", None) => rule(format!(
            "--auto-compaction-retention must be a number of revisions (set to {retention:?})"
        )),
        ("periodic", None) => match go_value::parse_duration_ns(retention).or_else(unparsable)? {
            0 => Ok(AutoCompaction::Off),
            ns => match u64::try_from(ns) {
                Ok(ns) => Ok(AutoCompaction::Periodic(Duration::from_nanos(ns))),
                Err(_) => rule(format!(
                    "--auto-compaction-retention must not be negative (set to {retention})"
                )),
            },
        },
        ("", _) => rule("undefined auto-compaction-mode"),
        (other, _) => rule(format!("unknown auto-compaction-mode {other:?}")),
    }
}

fn metrics_level(text: &str) -> Result<MetricsLevel, UsageError> {
    match text {
        "basic" => Ok(MetricsLevel::Basic),
        "extensive" => Ok(MetricsLevel::Extensive),
        other => rule(format!("unknown metrics level {other:?}; use basic or extensive")),
    }
}

fn log_level(text: &str) -> Result<LogLevel, UsageError> {
    match text {
        "debug" => Ok(LogLevel::Debug),
        "info" => Ok(LogLevel::Info),
        "warn" => Ok(LogLevel::Warn),
        "error" | "dpanic" | "panic" | "fatal" => Ok(LogLevel::Error),
        other => rule(format!(
            "unrecognized level: {other:?}; use debug, info, warn, error, panic or fatal"
        )),
    }
}

fn log_format(text: &str) -> Result<LogFormat, UsageError> {
    match text {
        "json" => Ok(LogFormat::Json),
        "console" => Ok(LogFormat::Console),
        other => rule(format!("unknown log format: {other}, supported values json, console")),
    }
}

fn log_outputs(reader: &Reader<'_>) -> Result<Vec<LogOutput>, UsageError> {
    let text = reader.text("log-outputs");
    let names: Vec<&str> = text.split(',').map(str::trim).collect();
    if names.len() > 1 && names.contains(&"default") {
        return rule("multi logoutput for \"default\" is not supported yet");
    }
    let mut outputs = Vec::new();
    for name in names {
        let output = match name {
            "default" | "stderr" => LogOutput::Stderr,
            "stdout" => LogOutput::Stdout,
            "" => return rule("--log-outputs names an empty output"),
            "systemd/journal" => {
                let given = reader.values.given("log-outputs");
                let source = given.map_or(Source::Flag, |(_, source)| source);
                let why = "the journal takes what a unit writes to stderr";
                return Err(unsupported(&format!("log-outputs={text}"), source, why));
            }
            path => LogOutput::File(PathBuf::from(path)),
        };
        if !outputs.contains(&output) {
            outputs.push(output);
        }
    }
    Ok(outputs)
}

/// Whether two well-formed texts mean the same.
fn same_value(kind: Kind, a: &str, b: &str) -> bool {
    match kind {
        Kind::Bool => go_value::parse_bool(a) == go_value::parse_bool(b),
        Kind::Uint | Kind::Uint32 => go_value::parse_uint(a, u64::MAX) == go_value::parse_uint(b, u64::MAX),
        Kind::Int => go_value::parse_int(a) == go_value::parse_int(b),
        Kind::Microseconds => go_value::parse_microseconds(a) == go_value::parse_microseconds(b),
        Kind::Duration => go_value::parse_duration_ns(a) == go_value::parse_duration_ns(b),
        _ => a == b,
    }
}

fn or_default<T: Default + PartialEq>(value: T, default: T) -> T {
    if value == T::default() { default } else { value }
}

fn non_zero<T: Default + PartialEq>(value: T) -> Option<T> {
    (value != T::default()).then_some(value)
}

fn non_empty(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

fn deprecated(name: &str, instead: &str) -> String {
    format!("--{name} is deprecated in v3.6 and will be decommissioned in v3.7. Use '{instead}' instead.")
}

fn unsupported(name: &str, source: Source, reason: &str) -> UsageError {
    let variable = match source {
        Source::Flag => String::new(),
        Source::Env => format!(" (set by {})", flags::env_name(name.split('=').next().unwrap_or(name))),
    };
    UsageError {
        text: format!("etcore: flag --{name}{variable} is not supported yet: {reason}"),
        exit_code: 2,
    }
}

fn rule<T>(problem: impl Into<String>) -> Result<T, UsageError> {
    Err(UsageError {
        text: format!("etcore: failed to verify flags: {}", problem.into()),
        exit_code: 1,
    })
}

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::flags::{FLAGS, Kind, Status, env_name};
use super::*;

/// The names of every flag that etcd 3.5 or 3.6 accepts, the ignored ones included.
const ETCD_FLAGS: &str = include_str!("flags/names.txt");

fn strings(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| word.to_string()).collect()
}

fn run(args: &[&str], env: &[(&str, &str)]) -> Result<Outcome, UsageError> {
    Config::from_args(
        strings(args),
        env.iter().map(|(name, value)| (name.to_string(), value.to_string())),
    )
}

fn config(args: &[&str]) -> Config {
    config_with_env(args, &[])
}

fn config_with_env(args: &[&str], env: &[(&str, &str)]) -> Config {
    match run(args, env) {
        Ok(Outcome::Serve(config)) => *config,
        other => panic!("{args:?} {env:?}: {other:?}"),
    }
}

fn refusal(args: &[&str], env: &[(&str, &str)]) -> (u8, String) {
    match run(args, env) {
        Err(error) => (
            error.exit_code,
            error.text.lines().next().unwrap_or_default().to_string(),
        ),
        other => panic!("{args:?} {env:?} was accepted: {other:?}"),
    }
}

#[track_caller]
fn broken_rule(args: &[&str], want: &str) {
    assert_eq!(
        refusal(args, &[]),
        (1, format!("etcore: failed to verify flags: {want}")),
        "{args:?}"
    );
}

#[track_caller]
fn bad_syntax(args: &[&str], want: &str) {
    assert_eq!(refusal(args, &[]), (2, want.to_string()), "{args:?}");
}

#[track_caller]
fn not_supported(args: &[&str], want: &str) {
    assert_eq!(refusal(args, &[]), (2, format!("etcore: flag {want}")), "{args:?}");
}

#[test]
fn a_server_that_was_told_nothing_has_the_defaults_of_etcd() {
    let config = Config::defaults();
    assert_eq!(config.name, "default");
    assert_eq!(config.data_dir.to_str(), Some("default.etcore"));
    assert_eq!(config.listen_client_urls[0].as_str(), "http://localhost:2379");
    assert_eq!(config.initial_advertise_peer_urls[0].as_str(), "http://localhost:2380");
    assert_eq!((config.heartbeat_interval_ms, config.election_timeout_ms), (100, 1000));
    assert_eq!(config.election_ticks(), 10);
    assert_eq!(config.request_timeout(), Duration::from_secs(7));
    assert_eq!(config.quota_backend_bytes, Some(2 << 30));
    assert_eq!((config.max_request_bytes, config.max_txn_ops), (1_572_864, 128));
    assert_eq!(config.snapshot_catchup_entries, 5_000);
    assert_eq!(config.backend_batch_interval, Duration::from_millis(100));
    assert_eq!(config.compaction_batch_limit_revisions, 1000);
    assert_eq!(config.watch_progress_notify_interval, Duration::from_secs(600));
    assert_eq!(config.grpc_keepalive_interval, Some(Duration::from_secs(7200)));
    assert_eq!(config.max_concurrent_streams, u32::MAX);
    assert_eq!(config.auto_compaction, AutoCompaction::Off);
    assert_eq!(
        (config.log_level, config.log_format, config.log_outputs),
        (LogLevel::Info, LogFormat::Json, vec![LogOutput::Stderr])
    );
    assert_eq!(
        (config.cores, config.wal_segment_bytes, config.spin),
        (None, None, Duration::ZERO)
    );
}

#[test]
fn flags_are_read_in_every_form_that_go_reads() {
    for args in [
        &["--name=a", "--pre-vote=false"][..],
        &["-name", "a", "-pre-vote=f"],
        &["--name", "b", "-name=a", "--pre-vote", "--pre-vote=0"],
        &["--name", "a", "--pre-vote=False", "--"],
    ] {
        let config = config(args);
        assert_eq!((config.name.as_str(), config.pre_vote), ("a", false), "{args:?}");
    }
    assert_eq!(
        config(&["--name", "--pre-vote"]).name,
        "--pre-vote",
        "a value may look like a flag"
    );
    assert_eq!(config(&["--data-dir="]).data_dir.to_str(), Some("default.etcore"));
    assert_eq!(config(&["--data-dir=/a=b"]).data_dir.to_str(), Some("/a=b"));
    assert_eq!(config(&["--quota-backend-bytes", "-1"]).quota_backend_bytes, None);
    assert_eq!(
        config(&["--snapshot-catchup-entries=0x10"]).snapshot_catchup_entries,
        16
    );
}

#[test]
fn syntax_errors_have_the_texts_of_go_and_exit_code_2() {
    bad_syntax(&["--bogus"], "flag provided but not defined: -bogus");
    bad_syntax(&["--bogus=1", "--help"], "flag provided but not defined: -bogus");
    bad_syntax(&["--name"], "flag needs an argument: -name");
    bad_syntax(&["---name"], "bad flag syntax: ---name");
    bad_syntax(&["--=x"], "bad flag syntax: --=x");
    bad_syntax(
        &["--heartbeat-interval=x"],
        "invalid value \"x\" for flag -heartbeat-interval: parse error",
    );
    bad_syntax(
        &["--heartbeat-interval=-1"],
        "invalid value \"-1\" for flag -heartbeat-interval: parse error",
    );
    bad_syntax(
        &["--pre-vote=maybe"],
        "invalid boolean value \"maybe\" for -pre-vote: parse error",
    );
    bad_syntax(
        &["--backend-batch-interval=1"],
        "invalid value \"1\" for flag -backend-batch-interval: parse error",
    );
    bad_syntax(
        &["--quota-backend-bytes=1k"],
        "invalid value \"1k\" for flag -quota-backend-bytes: parse error",
    );
    bad_syntax(
        &["--max-concurrent-streams=99999999999"],
        "invalid value \"99999999999\" for flag -max-concurrent-streams: strconv.ParseUint: parsing \"99999999999\": value out \
         of range",
    );
    bad_syntax(
        &["--listen-client-urls=localhost:2379"],
        "invalid value \"localhost:2379\" for flag -listen-client-urls: URL scheme must be http, https, unix, or unixs: \
         localhost:2379",
    );
    bad_syntax(
        &["--advertise-client-urls=https://a:1"],
        "invalid value \"https://a:1\" for flag -advertise-client-urls: TLS is not available yet; use an http URL: https://a:1",
    );
    bad_syntax(
        &["--initial-cluster-state=foo"],
        "invalid value \"foo\" for flag -initial-cluster-state: invalid value",
    );
    bad_syntax(
        &["--feature-gates=X=true"],
        "invalid value \"X=true\" for flag -feature-gates: unrecognized feature gate: X",
    );
}

#[test]
fn a_stray_argument_is_refused_with_exit_code_1() {
    broken_rule(&["foo"], "'foo' is not a valid flag");
    broken_rule(&["--pre-vote", "false"], "'false' is not a valid flag");
    broken_rule(&["--", "-x"], "'-x' is not a valid flag");
    broken_rule(&["-"], "'-' is not a valid flag");
    broken_rule(&["--version", "foo"], "'foo' is not a valid flag");
}

#[test]
fn rules_between_values_have_the_texts_of_etcd_and_exit_code_1() {
    broken_rule(
        &["--election-timeout=499"],
        "--election-timeout[499ms] should be at least as 5 times as --heartbeat-interval[100ms]",
    );
    broken_rule(
        &["--election-timeout=60000"],
        "--election-timeout[60000ms] is too long, and should be set less than 50000ms",
    );
    broken_rule(
        &["--heartbeat-interval=0"],
        "--heartbeat-interval must be >0 (set to 0ms)",
    );
    broken_rule(&["--election-timeout=0"], "--election-timeout must be >0 (set to 0ms)");
    broken_rule(
        &["--listen-client-urls=http://127.0.0.1:2379"],
        "--advertise-client-urls is required when --listen-client-urls is set explicitly",
    );
    broken_rule(
        &["--listen-client-urls=http://foo.bar:2379"],
        "expected IP in URL for binding (http://foo.bar:2379)",
    );
    broken_rule(
        &["--listen-peer-urls=http://:2380"],
        "expected IP in URL for binding (http://:2380)",
    );
    broken_rule(
        &["--listen-metrics-urls=http://foo:1"],
        "expected IP in URL for binding (http://foo:1)",
    );
    broken_rule(
        &["--initial-advertise-peer-urls=http://:1"],
        "--initial-advertise-peer-urls \"http://:1\" must be \"host:port\" (unexpected empty host (http://:1))",
    );
    broken_rule(&["--auto-compaction-mode=foo"], "unknown auto-compaction-mode \"foo\"");
    broken_rule(
        &["--auto-compaction-retention=foo"],
        "error parsing CompactionRetention: time: invalid duration \"foo\"",
    );
    broken_rule(&["--logger=foo"], "unknown logger option \"foo\"");
    broken_rule(
        &["--log-format=xml"],
        "unknown log format: xml, supported values json, console",
    );
    broken_rule(
        &["--log-outputs=default,stderr"],
        "multi logoutput for \"default\" is not supported yet",
    );
    broken_rule(
        &[
            "--warning-unary-request-duration=1s",
            "--experimental-warning-unary-request-duration=1s",
        ],
        "both --experimental-warning-unary-request-duration and --warning-unary-request-duration flags are set. Use only \
         --warning-unary-request-duration",
    );
    broken_rule(
        &["--grpc-keepalive-timeout=-1s"],
        "--grpc-keepalive-timeout must not be negative (set to -1s)",
    );
    broken_rule(&["--cores=65"], "--cores must be between 0 (choose) and 64 (set to 65)");
    broken_rule(
        &["--wal-segment-bytes=1048577"],
        "--wal-segment-bytes must be a multiple of 4096 between 1048576 and 1073741824 (set to 1048577)",
    );
    broken_rule(
        &["--snapshot-send-rate=1000"],
        "--snapshot-send-rate must be 0 (no limit) or at least 1048576 bytes a second (set to 1000)",
    );
}

/// As a member without data would, with hosts that stand for these addresses.
fn founder(args: &[&str], hosts: &[(&str, &str)]) -> Result<(), String> {
    let config = config(args);
    let resolve = |url: &Url| {
        let address = hosts.iter().find(|(host, _)| *host == url.host());
        Ok(address.map_or_else(
            || url.to_string(),
            |(_, address)| format!("http://{address}:{}", url.port()),
        ))
    };
    config
        .initial_cluster
        .check_founder(&config.name, &config.initial_advertise_peer_urls, &resolve)
}

#[test]
fn the_initial_cluster_must_agree_with_the_member() {
    broken_rule(
        &["--initial-cluster=x"],
        "error setting up initial cluster: URL scheme must be http, https, unix, or unixs: ",
    );
    let refused = |args: &[&str], want: &str| assert_eq!(founder(args, &[]), Err(want.to_string()), "{args:?}");
    refused(
        &["--initial-cluster=bar=http://localhost:2380"],
        "couldn't find local name \"default\" in the initial cluster configuration",
    );
    refused(
        &["--name="],
        "couldn't find local name \"\" in the initial cluster configuration",
    );
    refused(
        &["--initial-cluster=default=http://localhost:2381"],
        "--initial-cluster has default=http://localhost:2381 but missing from \
         --initial-advertise-peer-urls=http://localhost:2380 (resolved urls: \"http://localhost:2380\" != \
         \"http://localhost:2381\")",
    );
    refused(
        &["--initial-cluster=default=http://localhost:2380,default=http://localhost:2381"],
        "--initial-cluster has default=http://localhost:2381 but missing from \
         --initial-advertise-peer-urls=http://localhost:2380 (len([\"http://localhost:2380\"]) != \
         len([\"http://localhost:2380\" \"http://localhost:2381\"]))",
    );
    refused(
        &["--initial-advertise-peer-urls=http://a:1,http://localhost:2380"],
        "--initial-advertise-peer-urls has http://a:1 but missing from --initial-cluster=default=http://localhost:2380",
    );
    refused(
        &["--initial-cluster=default=http://localhost:2380,b=http://localhost:2380"],
        "initial cluster b=http://localhost:2380,default=http://localhost:2380 has duplicate url",
    );
}

#[test]
fn peer_urls_may_name_the_same_address_in_other_words() {
    let args = [
        "--initial-cluster=default=http://etcd-0.svc:2380",
        "--initial-advertise-peer-urls=http://10.0.0.7:2380",
    ];
    assert_eq!(founder(&args, &[("etcd-0.svc", "10.0.0.7")]), Ok(()));
    let moved = founder(&args, &[("etcd-0.svc", "10.0.0.8")]).expect_err("another address");
    assert!(
        moved.ends_with("(resolved urls: \"http://10.0.0.7:2380\" != \"http://10.0.0.8:2380\")"),
        "{moved}"
    );
}

#[test]
fn members_are_found_in_one_way_only() {
    let several = "multiple discovery or bootstrap flags are set. Choose one of \"initial-cluster\", \"discovery\", \
                   \"discovery-endpoints\" or \"discovery-srv\"";
    let (srv, cluster) = (
        "--discovery-srv=example.com",
        "--initial-cluster=default=http://localhost:2380",
    );
    broken_rule(&[srv, cluster], several);
    broken_rule(
        &[srv, "--discovery-endpoints=http://a:2379", "--discovery-token=t"],
        several,
    );
    broken_rule(
        &["--discovery-token=t"],
        "both --discovery-token and --discovery-endpoints must be set",
    );
    broken_rule(
        &["--discovery-endpoints=http://a:2379"],
        "both --discovery-token and --discovery-endpoints must be set",
    );
    broken_rule(
        &["--discovery-endpoints=http://a:2379,", "--discovery-token=t"],
        "--discovery-endpoints must not contain empty endpoints",
    );
    broken_rule(
        &["--discovery-endpoints=https://a:2379", "--discovery-token=t"],
        "--discovery-endpoints must be plain http, since TLS is not there yet (set to https://a:2379)",
    );
    let by_srv = config(&[srv, "--discovery-srv-name=east"]);
    let (domain, suffix) = ("example.com".to_string(), "-east".to_string());
    assert_eq!(by_srv.bootstrap, Bootstrap::Srv { domain, suffix });
    let by_service = config(&["--discovery-endpoints=a:2379, http://b:2379", "--discovery-token=t"]);
    assert_eq!(by_service.initial_cluster.token, "t", "ids are made with the token");
    let Bootstrap::Discovery(service) = by_service.bootstrap else {
        panic!("{:?}", by_service.bootstrap)
    };
    assert_eq!(service.endpoints, ["a:2379", "http://b:2379"]);
    let idle = config(&["--discovery-dial-timeout=1s"]);
    assert!(
        idle.warnings
            .iter()
            .any(|text| text.starts_with("--discovery-dial-timeout has no effect"))
    );
}

#[test]
fn spin_takes_microseconds_with_and_without_a_unit() {
    for (text, us) in [("50", 50), ("50us", 50), ("0.2ms", 200), ("0", 0)] {
        assert_eq!(
            config(&[&format!("--spin={text}")]).spin,
            Duration::from_micros(us),
            "--spin={text}"
        );
    }
    broken_rule(
        &["--spin=1s"],
        "--spin must be at most 10000 microseconds (set to 1000000)",
    );
    assert_eq!(refusal(&["--spin=soon"], &[]).0, 2);
    assert_eq!(refusal(&["--spin=-1us"], &[]).0, 2);
}

#[test]
fn a_name_alone_is_enough_for_the_initial_cluster() {
    let config = config(&["--name=m1", "--initial-advertise-peer-urls=http://10.0.0.1:2380"]);
    assert_eq!(config.data_dir.to_str(), Some("m1.etcore"));
    assert_eq!(config.initial_cluster.members["m1"][0].as_str(), "http://10.0.0.1:2380");
}

#[test]
fn a_cluster_may_be_born_with_several_members_or_be_joined() {
    let cluster = "--initial-cluster=default=http://localhost:2380,b=http://b:2380,c=http://c:2380";
    let born = config(&[cluster]);
    assert_eq!((born.initial_cluster.members.len(), born.joins_existing), (3, false));
    assert_eq!(born.initial_cluster.member_ids().len(), 3);
    assert!(config(&[cluster, "--initial-cluster-state=existing"]).joins_existing);
}

#[test]
fn what_is_not_there_yet_is_refused_with_a_reason_and_exit_code_2() {
    not_supported(
        &["--unsafe-no-fsync"],
        "--unsafe-no-fsync is not supported yet: an acknowledged write is durable here, \
        always; for throw-away data put --data-dir on a tmpfs",
    );
    not_supported(
        &["--config-file=a.yaml"],
        "--config-file is not supported yet: YAML files are not read yet; give flags or \
        ETCD_* variables",
    );
    not_supported(
        &["--cert-file=a"],
        "--cert-file is not supported yet: TLS is not there yet; use http URLs on a trusted network",
    );
    not_supported(
        &["--bcrypt-cost=5"],
        "--bcrypt-cost is not supported yet: users and tokens are not there yet",
    );
    not_supported(
        &["--log-outputs=stderr,systemd/journal"],
        "--log-outputs=stderr,systemd/journal is not supported yet: the journal takes what a unit writes to stderr",
    );
    not_supported(
        &["--enable-grpc-gateway"],
        "--enable-grpc-gateway is not supported yet: the JSON gateway is not there yet; \
        give --enable-grpc-gateway=false or remove this flag",
    );
    assert_eq!(
        refusal(&[], &[("ETCD_AUTO_TLS", "true")]),
        (2, "etcore: flag --auto-tls (set by ETCD_AUTO_TLS) is not supported yet: TLS is not there yet; use http URLs on a \
             trusted network".to_string())
    );
    not_supported(
        &["--experimental-memory-mlock"],
        "--experimental-memory-mlock is not supported yet: locking the database in \
        memory is not there yet",
    );
}

#[test]
fn asking_for_what_the_server_does_anyway_is_accepted() {
    let default = Config::defaults();
    for flag in FLAGS {
        if let Status::Only(value, _) = flag.status {
            assert_eq!(
                config(&[&format!("--{}={value}", flag.name)]),
                default,
                "--{}",
                flag.name
            );
            assert_eq!(
                config_with_env(&[], &[(&env_name(flag.name), value)]),
                default,
                "{}",
                env_name(flag.name)
            );
        }
    }
    config(&["--self-signed-cert-validity=01", "--unsafe-no-fsync=F"]);
}

#[test]
fn every_flag_of_etcd_is_obeyed_accepted_or_refused_and_none_is_unknown() {
    let names: BTreeSet<&str> = ETCD_FLAGS.lines().collect();
    assert_eq!(names.len(), 161, "etcd 3.5 and 3.6 together");
    let ours = [
        "cores",
        "resolv-conf",
        "snapshot-send-rate",
        "spin",
        "wal-segment-bytes",
    ];
    let table: BTreeSet<&str> = FLAGS.iter().map(|flag| flag.name).collect();
    assert_eq!(table.len(), FLAGS.len(), "a name stands twice");
    let extra: Vec<&&str> = table.difference(&names).collect();
    assert_eq!(extra, ours.iter().collect::<Vec<_>>(), "flags that etcd has not");
    assert_eq!(names.difference(&table).next(), None, "unknown flags");
}

#[test]
fn a_flag_that_is_not_obeyed_is_never_ignored_in_silence() {
    let default = Config::defaults();
    for flag in FLAGS.iter().filter(|flag| flag.name != "version") {
        let usual = match flag.status {
            Status::Only(value, _) => value,
            _ => flag.default,
        };
        let value = other_value(flag.kind, usual);
        let outcome = run(&[&format!("--{}={value}", flag.name)], &[]);
        match flag.status {
            Status::Legacy => assert_eq!(
                outcome,
                Ok(Outcome::Serve(Box::new(default.clone()))),
                "--{}",
                flag.name
            ),
            Status::Moot(_) => {
                let Ok(Outcome::Serve(config)) = outcome else {
                    panic!("--{}: {outcome:?}", flag.name)
                };
                assert_eq!(config.warnings.len(), default.warnings.len() + 1, "--{}", flag.name);
            }
            Status::Only(..) => assert_eq!(
                outcome.map_err(|error| error.exit_code),
                Err(2),
                "--{}={value}",
                flag.name
            ),
            Status::Effective | Status::Alias(_) | Status::Gate(_) => {
                if let Ok(Outcome::Serve(config)) = outcome {
                    assert_ne!(*config, default, "--{}={value} had no effect", flag.name);
                }
            }
        }
    }
}

/// A well-formed value that is not the usual one.
fn other_value(kind: Kind, usual: &str) -> String {
    match kind {
        Kind::Bool => (usual == "false").to_string(),
        Kind::Uint | Kind::Uint32 | Kind::Int => match usual {
            "0" => (1 << 20).to_string(),
            number => format!("{number}0"),
        },
        Kind::Duration => "90s".to_string(),
        Kind::Microseconds => "50us".to_string(),
        Kind::Urls => "http://127.0.0.1:9".to_string(),
        Kind::Choice(words) => words
            .iter()
            .find(|&&word| word != usual)
            .expect("a choice of two")
            .to_string(),
        Kind::Gates => "LeaseCheckpoint=true".to_string(),
        Kind::Text | Kind::Any => "console".to_string(),
    }
}

#[test]
fn the_defaults_in_the_table_are_well_formed() {
    for flag in FLAGS {
        if let Err(reason) = args::check_syntax(flag.kind, flag.default) {
            panic!("--{} {:?}: {reason}", flag.name, flag.default);
        }
        if let Status::Alias(other) = flag.status {
            let other = flags::find(other).expect("an alias names a flag");
            assert_eq!(
                (flag.kind, flag.default),
                (other.kind, other.default),
                "--{}",
                flag.name
            );
        }
    }
}

#[test]
fn variables_set_what_no_flag_sets() {
    let env = [
        ("ETCD_NAME", "from-env"),
        ("ETCD_HEARTBEAT_INTERVAL", "20"),
        ("ETCD_CORES", "3"),
        ("HOME", "x"),
    ];
    let config = config_with_env(&["--election-timeout=100"], &env);
    assert_eq!(
        (config.name.as_str(), config.heartbeat_interval_ms, config.cores),
        ("from-env", 20, Some(3))
    );
    assert_eq!(config.election_timeout_ms, 100);
    assert_eq!(config.warnings, Vec::<String>::new());
}

#[test]
fn a_variable_beside_its_flag_is_refused_as_etcd_refuses_it() {
    let text = "etcore: conflicting environment variable is shadowed by corresponding command-line flag (either unset \
                environment variable or disable flag): ETCD_NAME";
    assert_eq!(refusal(&["--name=a"], &[("ETCD_NAME", "b")]), (1, text.to_string()));
}

#[test]
fn odd_variables_are_told_or_refused() {
    let config = config_with_env(
        &["--name=a"],
        &[
            ("ETCD_PORT", "tcp://10.0.0.1:2379"),
            ("ETCD_VERSION", "3"),
            ("ETCD_NAME", ""),
            ("ETCD_VERIFY", "all"),
        ],
    );
    assert_eq!(
        config.warnings,
        [
            "unrecognized environment variable ETCD_PORT=tcp://10.0.0.1:2379",
            "cannot set special environment variable ETCD_VERSION",
        ]
    );
    assert_eq!(
        refusal(&[], &[("ETCD_HEARTBEAT_INTERVAL", "x")]),
        (
            1,
            "etcore: failed to verify flags: invalid value \"x\" for ETCD_HEARTBEAT_INTERVAL: parse error".to_string()
        )
    );
}

#[test]
fn an_old_name_sets_the_flag_and_is_told() {
    let config = config(&["--name=a", "--experimental-watch-progress-notify-interval=5s"]);
    assert_eq!(config.watch_progress_notify_interval, Duration::from_secs(5));
    assert_eq!(
        config.warnings,
        [
            "--experimental-watch-progress-notify-interval is deprecated in v3.6 and will be decommissioned in v3.7. Use \
             '--watch-progress-notify-interval' instead."
        ]
    );
}

#[test]
fn a_progress_interval_below_the_minimum_is_raised() {
    let config = config(&["--name=a", "--watch-progress-notify-interval=1ms"]);
    assert_eq!(config.watch_progress_notify_interval, Duration::from_millis(100));
    assert_eq!(config.warnings.len(), 1);
}

#[test]
fn retention_is_hours_a_duration_or_revisions() {
    let table = [
        ("periodic", "0", AutoCompaction::Off),
        ("periodic", "2", AutoCompaction::Periodic(Duration::from_secs(7200))),
        ("periodic", "5m", AutoCompaction::Periodic(Duration::from_secs(300))),
        ("periodic", "0s", AutoCompaction::Off),
        ("revision", "1000", AutoCompaction::Revision(1000)),
        ("revision", "0", AutoCompaction::Off),
    ];
    for (mode, retention, want) in table {
        let args = [
            format!("--auto-compaction-mode={mode}"),
            format!("--auto-compaction-retention={retention}"),
        ];
        let got = config(&[&args[0], &args[1]]).auto_compaction;
        assert_eq!(got, want, "{mode} {retention}");
    }
    broken_rule(
        &["--auto-compaction-mode=revision", "--auto-compaction-retention=5m"],
        "--auto-compaction-retention must be a number of revisions (set to \"5m\")",
    );
}

#[test]
fn gates_are_obeyed_or_change_nothing() {
    let default = Config::defaults();
    for gates in ["LeaseCheckpoint=false", "TxnModeWriteWithSharedBuffer=true", ""] {
        assert_eq!(config(&["--feature-gates", gates]), default, "{gates}");
    }
    let checked = config(&["--feature-gates=InitialCorruptCheck=true"]).features;
    assert!(checked.is_on(features::INITIAL_CORRUPT_CHECK) && !checked.is_on(features::COMPACT_HASH_CHECK));
    let by_flag = config(&["--experimental-compact-hash-check-enabled"]).features;
    assert!(by_flag.is_on(features::COMPACT_HASH_CHECK));
    broken_rule(
        &["--feature-gates=LeaseCheckpointPersist=true"],
        "enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint",
    );
    broken_rule(
        &["--compact-hash-check-time=0s"],
        "--compact-hash-check-time must be >0 (set to 0s)",
    );
    broken_rule(
        &[
            "--experimental-initial-corrupt-check",
            "--feature-gates=InitialCorruptCheck=true",
        ],
        "cannot specify both flags: --experimental-initial-corrupt-check=(true|false) and \
         --feature-gates=InitialCorruptCheck=(true|false) at the same time, please just use \
         --feature-gates=InitialCorruptCheck=(true|false)",
    );
}

#[test]
fn help_lists_every_flag_that_is_obeyed_with_its_variable() {
    for args in [&["--help"][..], &["-h"], &["--name=a", "-help", "--bogus"]] {
        let Ok(Outcome::Print(text)) = run(args, &[]) else {
            panic!("{args:?} printed nothing")
        };
        for flag in FLAGS.iter().filter(|flag| flag.name != "version") {
            let listed = text.contains(&format!(
                "  --{} '{}'  [{}]\n",
                flag.name,
                flag.default,
                env_name(flag.name)
            ));
            assert_eq!(listed, flag.status == Status::Effective, "--{}", flag.name);
        }
        assert!(
            text.lines().all(|line| line.chars().count() <= 120),
            "a line is too long"
        );
    }
}

#[test]
fn the_version_names_the_etcd_it_is_compatible_with_and_itself() {
    let of = |program| match Config::from_args_as(program, strings(&["--version"]), []) {
        Ok(Outcome::Print(text)) => text,
        other => panic!("{other:?}"),
    };
    let (etcd, etcore) = (of("etcd"), of("etcore"));
    assert_eq!(etcd.lines().next(), Some("etcd Version: 3.6.14"));
    assert!(
        etcd.lines().nth(1).is_some_and(|line| line.starts_with("Git SHA: ")),
        "{etcd}"
    );
    let starts = [
        "etcd Version: 3.6.14",
        "Git SHA: ",
        "Go Version: ",
        "Go OS/Arch: linux/",
        "etcore Version: ",
    ];
    for (line, start) in etcd.lines().zip(starts) {
        assert!(line.starts_with(start), "{line:?} begins with {start:?}");
    }
    assert!(etcd.ends_with(&format!("etcore Version: {ETCORE_VERSION}\n")), "{etcd}");
    assert!(
        etcore.starts_with(&format!("etcore Version: {ETCORE_VERSION}\netcd Version: 3.6.14\n")),
        "{etcore}"
    );
    assert!(matches!(run(&["--version=false"], &[]), Ok(Outcome::Serve(_))));
}

/// Read from etcd 3.5.30: the default member, and one with its own name, URLs and token (see `identity.rs` for the rule).
#[test]
fn ids_are_those_that_etcd_gives() {
    let ids = |config: Config| {
        let members = config.initial_cluster.member_ids();
        (
            format!("{:x}", members[0]),
            format!("{:x}", identity::cluster_id(&members)),
        )
    };
    let default = ids(Config::defaults());
    assert_eq!(default, ("8e9e05c52164694d".into(), "cdf818194e3a8c32".into()));
    let other = ids(config(&[
        "--name=m1",
        "--initial-advertise-peer-urls=http://127.0.0.1:45380,http://127.0.0.1:45390",
        "--initial-cluster-token=tkn",
    ]));
    assert_eq!(other, ("f6448b49147d87e3".into(), "396c23a7822be03b".into()));
}

/// Words that a command line may be made of: each flag, and values that are good for some of them.
fn any_word() -> impl Strategy<Value = String> {
    const VALUES: [&str; 14] = [
        "",
        "true",
        "0",
        "-1",
        "10",
        "5s",
        "1h",
        "http://127.0.0.1:1",
        "http://a:1,http://b:2",
        "new",
        "existing",
        "json",
        "a=http://localhost:2380",
        "LeaseCheckpoint=false",
    ];
    let value = prop_oneof![
        proptest::sample::select(VALUES.to_vec()).prop_map(str::to_string),
        "[ -~é]{0,12}"
    ];
    let flag = proptest::sample::select(FLAGS.iter().map(|flag| flag.name).collect::<Vec<_>>());
    prop_oneof![
        6 => (flag.clone(), value.clone()).prop_map(|(flag, value)| format!("--{flag}={value}")),
        2 => flag.prop_map(|flag| format!("-{flag}")),
        1 => value,
    ]
}

fn cases() -> u32 {
    let scale = std::env::var("ETCORE_TEST_SCALE")
        .ok()
        .and_then(|text| text.parse::<f64>().ok())
        .unwrap_or(1.0);
    (2000.0 * scale).max(1.0) as u32
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: cases(),
        rng_seed: RngSeed::Fixed(1),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_command_line_is_obeyed_or_refused_with_a_reason(
        args in proptest::collection::vec(any_word(), 0..4),
        variable in "ETCD_[A-Z_]{1,9}",
        value in ".{0,9}",
    ) {
        match Config::from_args(args, [(variable, value)]) {
            Ok(Outcome::Serve(config)) => {
                prop_assert!(config.election_ticks() >= 5);
                prop_assert!(config.listen_client_urls.iter().all(|url| url.bind_addr().is_some()));
            }
            Ok(Outcome::Print(text)) => prop_assert!(!text.is_empty()),
            Err(error) => prop_assert!(matches!(error.exit_code, 1 | 2) && error.text.lines().next().is_some()),
        }
    }
}

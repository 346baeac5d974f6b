use super::*;

fn text(result: Result<(), ProbeError>) -> String {
    result.expect_err("this must be refused").to_string()
}

#[test]
fn this_machine_passes() {
    check(1).unwrap();
    check_sysfs(Path::new(".")).unwrap();
    assert!(open_files_limit().is_none_or(|limit| limit > 0));
}

#[test]
fn an_old_kernel_is_named_with_the_one_needed() {
    assert_eq!(
        text(check_kernel("5.4.0-150-generic\n")),
        "this Linux kernel is too old: found 5.4.0-150-generic, need 5.8 or newer for io_uring; upgrade the kernel"
    );
    for release in ["5.8.0", "5.10", "6.18.44-fc", "10.0", "", "unreadable"] {
        check_kernel(release).unwrap();
    }
}

#[test]
fn a_low_memlock_limit_names_every_way_to_raise_it() {
    assert_eq!(
        text(check_memlock(Some(65536), 2)),
        "the limit on locked memory is too low: 65536 bytes, need 1048576 for 2 executor(s); raise it ('ulimit -l 1024', \
         LimitMEMLOCK= of the systemd unit, '--ulimit memlock=' of the container) or lower --cores"
    );
    check_memlock(Some(1 << 20), 2).unwrap();
    check_memlock(None, 64).unwrap();
}

#[test]
fn a_denied_io_uring_says_who_denies_it_and_what_to_do() {
    let denied = |errno, disabled| text(explain_setup(Err(io::Error::from_raw_os_error(errno)), disabled));
    assert_eq!(
        denied(libc::EPERM, 2),
        "io_uring is disabled on this host: kernel.io_uring_disabled is 2; run 'sysctl -w kernel.io_uring_disabled=0', or \
         with the value 1 add this user to the group named by kernel.io_uring_group"
    );
    let seccomp = "io_uring is denied to this process (EPERM): most likely the container's seccomp profile, since Docker 25 \
                   and containerd 2 deny io_uring by default; start the container with the shipped seccomp profile, or \
                   with '--security-opt seccomp=unconfined' to test";
    assert_eq!(denied(libc::EPERM, 0), seccomp);
    assert_eq!(denied(libc::ENOSYS, 0), seccomp.replace("EPERM", "ENOSYS"));
    assert_eq!(
        denied(libc::ENOMEM, 0),
        "io_uring cannot be set up: Cannot allocate memory (os error 12); check the limits on open files and locked memory \
         ('ulimit -n', 'ulimit -l')"
    );
}

#[test]
fn an_unreadable_sysfs_names_the_file() {
    let dir = tempfile::tempdir().unwrap();
    check_sysfs_device(&dir.path().join("absent")).unwrap();
    let missing = dir.path().canonicalize().unwrap().join("queue/rotational");
    assert_eq!(
        text(check_sysfs_device(dir.path())),
        format!(
            "cannot read {}, which describes the disk under the data directory: No such file or directory (os error 2); \
             mount /sys (read-only is enough) in the container",
            missing.display()
        )
    );
}

#[test]
fn the_limit_on_open_files_bounds_connections() {
    assert_eq!(connections_max(1024, OPEN_FILES_RESERVE).unwrap(), 874);
    assert_eq!(
        connections_max(150, OPEN_FILES_RESERVE).unwrap_err().to_string(),
        "the limit on open files is too low: 150, of which 150 are kept for files of the server; raise it ('ulimit -n \
         65536', LimitNOFILE= of the systemd unit, '--ulimit nofile=' of the container)"
    );
}

#[test]
fn soft_limits_are_read_from_proc() {
    let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                  Max open files            20000                30000                files     \n\
                  Max locked memory         unlimited            unlimited            bytes     \n";
    assert_eq!(parse_soft_limit(limits, "Max open files"), Some(20000));
    assert_eq!(parse_soft_limit(limits, "Max locked memory"), None);
    assert_eq!(parse_soft_limit(limits, "Max nothing"), None);
}

//! What the process uses, from `/proc`.

use std::fs;

use crate::metrics::Exposition;

/// Adds them to the page.
pub(super) fn families(page: &mut Exposition) {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat
        .rsplit_once(") ")
        .map_or(Vec::new(), |(_, rest)| rest.split(' ').collect());
    let number = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let limit = |name: &str| {
        let line = limits.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok())
    };
    // USER_HZ is 100 on every Linux that Rust runs on.
    page.counter(
        "process_cpu_seconds_total",
        "Total user and system CPU time spent in seconds.",
        (number(11) + number(12)) as f64 / 100.0,
    );
    page.gauge(
        "process_virtual_memory_bytes",
        "Virtual memory size in bytes.",
        number(20),
    );
    page.gauge(
        "process_virtual_memory_max_bytes",
        "Maximum amount of virtual memory available in bytes.",
        limit("Max address space").unwrap_or(u64::MAX),
    );
    page.gauge(
        "process_resident_memory_bytes",
        "Resident memory size in bytes.",
        number(21) * 4096,
    );
    let open = fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64);
    let max = limit("Max open files").unwrap_or(0);
    page.gauge("process_open_fds", "Number of open file descriptors.", open);
    page.gauge("process_max_fds", "Maximum number of open file descriptors.", max);
    page.gauge("os_fd_used", "The number of used file descriptors.", open);
    page.gauge("os_fd_limit", "The file descriptor limit.", max);
    let uptime = fs::read_to_string("/proc/stat").unwrap_or_default();
    let boot = uptime
        .lines()
        .find_map(|line| line.strip_prefix("btime ")?.trim().parse::<u64>().ok())
        .unwrap_or(0);
    page.gauge(
        "process_start_time_seconds",
        "Start time of the process since unix epoch in seconds.",
        boot as f64 + number(19) as f64 / 100.0,
    );
    let (received, sent) = network_bytes();
    page.counter(
        "process_network_receive_bytes_total",
        "Number of bytes received by the process over the network.",
        received,
    );
    page.counter(
        "process_network_transmit_bytes_total",
        "Number of bytes sent by the process over the network.",
        sent,
    );
}

/// Bytes in and out of the process's network namespace over IP, which is what etcd counts as the process's.
fn network_bytes() -> (u64, u64) {
    let text = fs::read_to_string("/proc/self/net/netstat").unwrap_or_default();
    let mut rows = text.lines().filter_map(|line| line.strip_prefix("IpExt: "));
    let (Some(names), Some(values)) = (rows.next(), rows.next()) else {
        return (0, 0);
    };
    let of = |wanted: &str| {
        let pair = names
            .split(' ')
            .zip(values.split(' '))
            .find(|(name, _)| *name == wanted);
        pair.and_then(|(_, value)| value.parse().ok()).unwrap_or(0)
    };
    (of("InOctets"), of("OutOctets"))
}

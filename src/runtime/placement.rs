//! How many executors to run: a pure function over what the machine grants, and the reader of those grants.

use std::fs;
use std::path::{Path, PathBuf};

/// The most executors that are started without being asked for.
pub const DEFAULT_CORES_MAX: usize = 8;

/// Units: bytes. Memory registered with io_uring per executor.
pub const IO_MEMORY_BYTES: usize = 1 << 20;

/// What the machine grants this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grants {
    /// CPUs in the affinity mask.
    pub affinity: usize,
    /// The tightest CPU quota of the cgroups that hold this process, if any has one.
    pub quota: Option<Quota>,
}

/// A cgroup's CPU quota: so much CPU time in each period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// CPU time per period.
    pub quota_us: u64,
    /// Length of the period.
    pub period_us: u64,
}

impl Quota {
    /// The quota as whole CPUs, rounded up, at least 1.
    pub fn cores(&self) -> usize {
        let cores = self.quota_us.div_ceil(self.period_us.max(1)).max(1);
        usize::try_from(cores).unwrap_or(usize::MAX)
    }
}

/// Up to so many CPUs one executor does everything (ADR 10).
const ALONE_CPUS_MAX: usize = 2;

/// How many executors to run when no flag says so: the affinity or the quota, whichever is less, from 1 to
/// [`DEFAULT_CORES_MAX`]; but one where there are two.
pub fn default_cores(grants: Grants) -> usize {
    let quota = grants.quota.map_or(usize::MAX, |quota| quota.cores());
    match grants.affinity.min(quota) {
        ..=ALONE_CPUS_MAX => 1,
        more => more.min(DEFAULT_CORES_MAX),
    }
}

/// Reads the grants of this process; what cannot be read does not limit.
pub fn read_grants() -> Grants {
    read_grants_under(Path::new("/"))
}

/// Reads the grants from the `proc` and `sys/fs/cgroup` trees under `root`, which tests replace.
fn read_grants_under(root: &Path) -> Grants {
    let status = fs::read_to_string(root.join("proc/self/status")).unwrap_or_default();
    let affinity = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
        .and_then(count_cpus);
    let cgroup = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let quota = cgroup
        .lines()
        .flat_map(|line| quotas_of(root, line))
        .min_by(|a, b| (a.quota_us * b.period_us.max(1)).cmp(&(b.quota_us * a.period_us.max(1))));
    let all = || std::thread::available_parallelism().map_or(1, usize::from);
    Grants {
        affinity: affinity.unwrap_or_else(all),
        quota,
    }
}

/// Counts a kernel CPU list such as `0-3,8`.
fn count_cpus(list: &str) -> Option<usize> {
    let mut count = 0;
    for part in list.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.parse::<usize>().ok()?, last.parse::<usize>().ok()?);
        count += last.checked_sub(first)? + 1;
    }
    Some(count)
}

/// The quotas of the cgroup that one line of /proc/self/cgroup names, and of all groups above it.
fn quotas_of(root: &Path, line: &str) -> Vec<Quota> {
    let mut fields = line.splitn(3, ':');
    let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
        return Vec::new();
    };
    let mounts = root.join("sys/fs/cgroup");
    if controllers.is_empty() {
        return groups_up(&mounts, path)
            .iter()
            .chain([&mounts.join("unified")])
            .filter_map(|g| quota_v2(g))
            .collect();
    }
    if !controllers.split(',').any(|controller| controller == "cpu") {
        return Vec::new();
    }
    let mount = [controllers, "cpu"]
        .iter()
        .map(|name| mounts.join(name))
        .find(|mount| mount.is_dir());
    mount.map_or_else(Vec::new, |mount| {
        groups_up(&mount, path).iter().filter_map(|g| quota_v1(g)).collect()
    })
}

/// The directory of a cgroup and of each group above it. In a container the path may be the host's and not exist here:
/// the mount itself, which is then the container's group, is always among them.
fn groups_up(mount: &Path, path: &str) -> Vec<PathBuf> {
    Path::new(path.trim_start_matches('/'))
        .ancestors()
        .map(|group| mount.join(group))
        .collect()
}

fn quota_v2(group: &Path) -> Option<Quota> {
    let text = fs::read_to_string(group.join("cpu.max")).ok()?;
    let (quota, period) = text.trim().split_once(' ')?;
    Some(Quota {
        quota_us: quota.parse().ok()?,
        period_us: period.parse().ok()?,
    })
}

fn quota_v1(group: &Path) -> Option<Quota> {
    let number = |name: &str| fs::read_to_string(group.join(name)).ok()?.trim().parse::<u64>().ok();
    // An unlimited quota is -1, which is no u64.
    Some(Quota {
        quota_us: number("cpu.cfs_quota_us")?,
        period_us: number("cpu.cfs_period_us")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        dir
    }

    fn grants(affinity: usize, quota_us: Option<u64>) -> Grants {
        Grants {
            affinity,
            quota: quota_us.map(|quota_us| Quota {
                quota_us,
                period_us: 100_000,
            }),
        }
    }

    #[test]
    fn the_default_is_the_least_of_affinity_quota_and_eight_but_one_up_to_two() {
        assert_eq!(default_cores(grants(4, None)), 4);
        assert_eq!(default_cores(grants(64, None)), 8);
        assert_eq!(default_cores(grants(64, Some(250_000))), 3, "a quota is rounded up");
        assert_eq!(default_cores(grants(3, Some(800_000))), 3);
        assert_eq!(default_cores(grants(2, Some(800_000))), 1);
        assert_eq!(
            default_cores(grants(2, Some(10_000))),
            1,
            "a tenth of a CPU still needs one executor"
        );
        assert_eq!(default_cores(grants(0, Some(0))), 1);
        assert_eq!(
            default_cores(Grants {
                affinity: 3,
                quota: Some(Quota {
                    quota_us: 5,
                    period_us: 0
                })
            }),
            3
        );
    }

    #[test]
    fn the_tightest_quota_from_the_own_group_up_to_the_root_counts_with_cgroup_v2() {
        let dir = machine(&[
            ("proc/self/status", "Name:\tx\nCpus_allowed_list:\t0-3,8,10-11\n"),
            ("proc/self/cgroup", "0::/kubepods/pod1/c1\n"),
            ("sys/fs/cgroup/kubepods/pod1/c1/cpu.max", "max 100000\n"),
            ("sys/fs/cgroup/kubepods/pod1/cpu.max", "150000 100000\n"),
            ("sys/fs/cgroup/kubepods/cpu.max", "400000 100000\n"),
        ]);
        let read = read_grants_under(dir.path());
        assert_eq!(read, grants(7, Some(150_000)));
        assert_eq!(default_cores(read), 1);
    }

    #[test]
    fn a_container_that_sees_the_host_path_reads_its_own_mount() {
        let dir = machine(&[
            ("proc/self/status", "Cpus_allowed_list:\t0-15\n"),
            ("proc/self/cgroup", "0::/../not/visible\n"),
            ("sys/fs/cgroup/cpu.max", "50000 100000\n"),
        ]);
        assert_eq!(default_cores(read_grants_under(dir.path())), 1);
    }

    #[test]
    fn cgroup_v1_quotas_are_read_and_minus_one_means_none() {
        let files = |quota| {
            [
                ("proc/self/status", "Cpus_allowed_list:\t0-15\n"),
                ("proc/self/cgroup", "5:memory:/m\n4:cpu,cpuacct:/docker/x\n"),
                ("sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.cfs_quota_us", quota),
                ("sys/fs/cgroup/cpu,cpuacct/docker/x/cpu.cfs_period_us", "100000\n"),
            ]
        };
        assert_eq!(
            read_grants_under(machine(&files("320000\n")).path()),
            grants(16, Some(320_000))
        );
        assert_eq!(read_grants_under(machine(&files("-1\n")).path()), grants(16, None));
    }

    #[test]
    fn this_machine_grants_at_least_one_core() {
        assert!((1..=DEFAULT_CORES_MAX).contains(&default_cores(read_grants())));
        assert!(
            read_grants_under(Path::new("/nonexistent")).affinity >= 1,
            "unreadable files do not limit"
        );
    }
}

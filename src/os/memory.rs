//! How much physical memory this process may still take, as the default of the KV budget.
//!
//! On Linux that is the smaller of `MemAvailable` and what every control group above the process leaves, versions 1
//! and 2, so that a container's limit counts and not the machine's. Elsewhere it is an estimate.

/// Bytes of memory that can be had without swapping; `None` when the system does not say.
pub fn available_bytes() -> Option<u64> {
    #[cfg(target_os = "linux")]
    {
        linux::available(std::path::Path::new("/proc"), std::path::Path::new("/sys/fs/cgroup"))
    }
    #[cfg(all(unix, not(target_os = "linux")))]
    {
        // What is free is not portable; half of what is built in is a fair guess.
        Some(physical_bytes()? / 2)
    }
    #[cfg(not(unix))]
    {
        None
    }
}

#[cfg(all(unix, not(target_os = "linux")))]
fn physical_bytes() -> Option<u64> {
    // SAFETY: `sysconf` reads no memory of ours and is thread-safe.
    let (pages, page_bytes) = unsafe { (libc::sysconf(libc::_SC_PHYS_PAGES), libc::sysconf(libc::_SC_PAGESIZE)) };
    u64::try_from(pages).ok()?.checked_mul(u64::try_from(page_bytes).ok()?)
}

#[cfg(any(target_os = "linux", test))]
mod linux {
    use std::fs;
    use std::path::Path;

    /// As [`super::available_bytes`], with the roots of the two file systems named so that tests can write their own.
    pub fn available(proc: &Path, cgroups: &Path) -> Option<u64> {
        let machine = fs::read_to_string(proc.join("meminfo")).ok().and_then(|text| mem_available(&text));
        let memberships = fs::read_to_string(proc.join("self/cgroup")).unwrap_or_default();
        let groups = memberships.lines().filter_map(|line| group_available(line, cgroups)).min();
        match (machine, groups) {
            (Some(machine), Some(groups)) => Some(machine.min(groups)),
            (machine, groups) => machine.or(groups),
        }
    }

    fn mem_available(meminfo: &str) -> Option<u64> {
        let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
    }

    /// What one membership line, `id:controllers:path`, leaves: the least of the group and all groups above it.
    /// Inside a container the path may be the host's and not there; the root of the mount is then the container's own.
    fn group_available(line: &str, cgroups: &Path) -> Option<u64> {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        let (root, files) = if controllers.is_empty() {
            // A version 2 hierarchy beside version 1 controllers is mounted one level down.
            let unified = cgroups.join("unified");
            (if unified.is_dir() { unified } else { cgroups.to_path_buf() }, V2)
        } else if controllers.split(',').any(|name| name == "memory") {
            (cgroups.join("memory"), V1)
        } else {
            return None;
        };
        let relative = Path::new(path.trim_start_matches('/'));
        relative.ancestors().filter_map(|group| files.available(&root.join(group))).min()
    }

    /// Names of a hierarchy version's files.
    struct Files {
        limit: &'static str,
        usage: &'static str,
        reclaimable: &'static str,
    }

    const V1: Files =
        Files { limit: "memory.limit_in_bytes", usage: "memory.usage_in_bytes", reclaimable: "total_inactive_file " };
    const V2: Files = Files { limit: "memory.max", usage: "memory.current", reclaimable: "inactive_file " };

    impl Files {
        /// Limit less usage of one group, page cache that can be dropped not counted as used; `None` without a limit.
        fn available(&self, group: &Path) -> Option<u64> {
            let number = |name: &str| fs::read_to_string(group.join(name)).ok()?.trim().parse::<u64>().ok();
            // "max" does not parse: no limit. Version 1 says "no limit" with a number no machine has.
            let limit = number(self.limit).filter(|&bytes| bytes < 1 << 60)?;
            let stat = fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
            let cached = stat.lines().find_map(|line| line.strip_prefix(self.reclaimable)?.trim().parse::<u64>().ok());
            let used = number(self.usage).unwrap_or(0).saturating_sub(cached.unwrap_or(0));
            Some(limit.saturating_sub(used))
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        fn write(root: &Path, files: &[(&str, &str)]) {
            for (name, text) in files {
                let path = root.join(name);
                fs::create_dir_all(path.parent().expect("has one")).expect("writable");
                fs::write(path, text).expect("writable");
            }
        }

        const MEMINFO: (&str, &str) = ("proc/meminfo", "MemTotal:  16 kB\nMemFree: 1 kB\nMemAvailable:    1000 kB\n");

        fn read(files: &[(&str, &str)]) -> Option<u64> {
            let root = tempfile::tempdir().expect("writable");
            write(root.path(), files);
            available(&root.path().join("proc"), &root.path().join("cg"))
        }

        #[test]
        fn without_groups_the_machine_counts() {
            assert_eq!(read(&[MEMINFO]), Some(1_024_000));
            assert_eq!(read(&[]), None);
            assert_eq!(read(&[("proc/meminfo", "MemAvailable: many kB\n")]), None);
        }

        #[test]
        fn the_tightest_group_of_version_2_counts() {
            let own = ("proc/self/cgroup", "0::/a/b\n");
            let a = ("cg/a/memory.max", "500000\n");
            let a_used = ("cg/a/memory.current", "300000\n");
            let a_stat = ("cg/a/memory.stat", "anon 1\ninactive_file 100000\n");
            let b = ("cg/a/b/memory.max", "max\n");
            assert_eq!(read(&[MEMINFO, own, a, a_used, b]), Some(200_000));
            assert_eq!(read(&[MEMINFO, own, a, a_used, a_stat, b]), Some(300_000));
            assert_eq!(read(&[MEMINFO, own, b]), Some(1_024_000));
        }

        #[test]
        fn version_1_counts_and_its_no_limit_does_not() {
            let own = ("proc/self/cgroup", "4:cpu,memory:/x\n1:cpu:/x\n0::/\n");
            let used = ("cg/memory/x/memory.usage_in_bytes", "400000\n");
            assert_eq!(
                read(&[MEMINFO, own, ("cg/memory/x/memory.limit_in_bytes", "9223372036854771712\n"), used]),
                Some(1_024_000)
            );
            assert_eq!(read(&[MEMINFO, own, ("cg/memory/x/memory.limit_in_bytes", "300000\n"), used]), Some(0));
        }

        #[test]
        fn a_path_of_the_host_falls_back_to_the_mounted_root() {
            let own = ("proc/self/cgroup", "0::/docker/4711\n");
            assert_eq!(read(&[MEMINFO, own, ("cg/memory.max", "777\n")]), Some(777));
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn this_machine_has_memory() {
        if cfg!(unix) {
            let bytes = super::available_bytes().expect("this system says");
            assert!(bytes > 1 << 20, "{bytes}");
        }
    }
}

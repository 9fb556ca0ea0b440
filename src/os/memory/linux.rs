//! Linux: the kernel's files that say what can be had.

use super::{Available, Bound};
use std::fs;
use std::path::{Path, PathBuf};

/// Where the kernel's file systems are; tests write their own.
pub struct Roots {
    /// Of `meminfo` and `self/`.
    pub proc: PathBuf,
    /// What mount points begin at.
    pub root: PathBuf,
    /// Limits of the process, in bytes.
    pub rlimits: Rlimits,
}

/// The process's own limits, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rlimits {
    pub address_space: Option<u64>,
    pub data: Option<u64>,
}

impl Default for Roots {
    fn default() -> Roots {
        Roots { proc: "/proc".into(), root: "/".into(), rlimits: Rlimits::current() }
    }
}

impl Rlimits {
    #[cfg(target_os = "linux")]
    fn current() -> Rlimits {
        let get = |resource| {
            // SAFETY: zeroed limits are storage for the call that fills them.
            let (code, limit) = unsafe {
                let mut limit: libc::rlimit = std::mem::zeroed();
                (libc::getrlimit(resource, &mut limit), limit)
            };
            (code == 0 && limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur)
        };
        Rlimits { address_space: get(libc::RLIMIT_AS), data: get(libc::RLIMIT_DATA) }
    }

    #[cfg(not(target_os = "linux"))]
    fn current() -> Rlimits {
        Rlimits::default()
    }
}

/// As [`super::available`].
pub fn available(roots: &Roots) -> Option<Available> {
    let read = |name: &str| fs::read_to_string(roots.proc.join(name)).unwrap_or_default();
    let machine = kilobytes(&read("meminfo"), "MemAvailable:");
    let groups = group_available(&read("self/cgroup"), &read("self/mountinfo"), &roots.root);
    let status = read("self/status");
    let left = |limit: Option<u64>, field| Some(limit?.saturating_sub(kilobytes(&status, field).unwrap_or(0)));
    let all = [
        (machine, Bound::Machine),
        (groups, Bound::ControlGroup),
        (left(roots.rlimits.address_space, "VmSize:"), Bound::AddressSpace),
        (left(roots.rlimits.data, "VmData:"), Bound::Data),
    ];
    all.into_iter().filter_map(|(bytes, bound)| Some(Available { bytes: bytes?, bound })).min_by_key(|a| a.bytes)
}

/// A line `field: n kB`, in bytes.
fn kilobytes(text: &str, field: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The least of what the groups leave that the process is in.
fn group_available(memberships: &str, mountinfo: &str, root: &Path) -> Option<u64> {
    let mounts: Vec<Mount> = mountinfo.lines().filter_map(Mount::parse).collect();
    let groups = memberships.lines().filter_map(Membership::parse);
    groups.filter_map(|group| group.available(&mounts, root)).min()
}

/// A mounted hierarchy of groups.
struct Mount {
    files: &'static Files,
    /// The group that is mounted, and where.
    group: String,
    at: String,
}

impl Mount {
    /// A line of `mountinfo` that says of a hierarchy that may bound memory:
    /// `id parent device root mount-point options… - type source super-options`.
    fn parse(line: &str) -> Option<Mount> {
        let (left, right) = line.split_once(" - ")?;
        let mut fields = left.split(' ').skip(3);
        let (group, at) = (fields.next()?, fields.next()?);
        let mut kind = right.split(' ');
        let files = match (kind.next()?, kind.nth(1).unwrap_or_default()) {
            ("cgroup2", _) => &V2,
            ("cgroup", options) if options.split(',').any(|option| option == "memory") => &V1,
            _ => return None,
        };
        Some(Mount { files, group: unescaped(group), at: unescaped(at) })
    }
}

/// Spaces and the like are octal there, as `\040`.
fn unescaped(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let octal = |digits: &[u8]| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok();
        match (first, after.get(..3).and_then(octal)) {
            (b'\\', Some(byte)) => {
                bytes.push(byte);
                rest = after.get(3..).unwrap_or_default();
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A group that the process is in.
struct Membership<'a> {
    files: &'static Files,
    path: &'a str,
}

impl<'a> Membership<'a> {
    /// A line `id:controllers:path` of a hierarchy that may bound memory.
    fn parse(line: &'a str) -> Option<Membership<'a>> {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        let files = if controllers.is_empty() {
            &V2
        } else if controllers.split(',').any(|name| name == "memory") {
            &V1
        } else {
            return None;
        };
        Some(Membership { files, path })
    }

    /// What it leaves: the least of the group and all groups above it that can be seen.
    fn available(&self, mounts: &[Mount], root: &Path) -> Option<u64> {
        let own: Vec<&Mount> = mounts.iter().filter(|mount| std::ptr::eq(mount.files, self.files)).collect();
        // The mount whose group is the process's own or one above it. In a container the path may be the host's, which
        // no mount has; the mounted group is then the container's own.
        let within = own.iter().find_map(|mount| Some((*mount, relative(self.path, &mount.group)?)));
        let (at, path) = match (within, own.first()) {
            (Some((mount, path)), _) => (mount.at.as_str(), path),
            (None, Some(mount)) => (mount.at.as_str(), ""),
            (None, None) => (self.files.usual_mount, self.path),
        };
        let mount = root.join(at.trim_start_matches('/'));
        let path = Path::new(path.trim_start_matches('/'));
        path.ancestors().filter_map(|group| self.files.available(&mount.join(group))).min()
    }
}

/// The path of a group below another one. Paths above the visible root begin with `/..`: not below anything.
fn relative<'a>(path: &'a str, above: &str) -> Option<&'a str> {
    if path.split('/').any(|part| part == "..") {
        return None;
    }
    let rest = path.strip_prefix(above.trim_end_matches('/'))?;
    (rest.is_empty() || rest.starts_with('/')).then_some(rest)
}

/// Names of a hierarchy version's files.
struct Files {
    usual_mount: &'static str,
    limits: &'static [&'static str],
    usage: &'static str,
    /// In `memory.stat`: limits of groups above, which a container does not see.
    limit_above: &'static str,
    /// In `memory.stat`: what the kernel takes back before it lets the limit be reached.
    reclaimable: &'static [&'static str],
}

static V1: Files = Files {
    usual_mount: "sys/fs/cgroup/memory",
    limits: &["memory.limit_in_bytes"],
    usage: "memory.usage_in_bytes",
    limit_above: "hierarchical_memory_limit ",
    reclaimable: &["total_inactive_file ", "total_active_file "],
};
/// Beyond `memory.high` a group is not killed but slowed down until it hardly moves.
static V2: Files = Files {
    usual_mount: "sys/fs/cgroup",
    limits: &["memory.max", "memory.high"],
    usage: "memory.current",
    limit_above: "\0",
    reclaimable: &["inactive_file ", "active_file ", "slab_reclaimable "],
};

/// Version 1 says "no limit" with a number that no machine has.
const NO_LIMIT: u64 = 1 << 60;

impl Files {
    /// Limit less usage of one group, what can be taken back not counted as used; `None` without a limit.
    fn available(&self, group: &Path) -> Option<u64> {
        // "max" does not parse: no limit.
        let number = |name: &str| fs::read_to_string(group.join(name)).ok()?.trim().parse::<u64>().ok();
        let stat = fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
        let in_stat = |name: &str| stat.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
        let limits = self.limits.iter().filter_map(|name| number(name)).chain(in_stat(self.limit_above));
        let limit = limits.filter(|&bytes| bytes < NO_LIMIT).min()?;
        let reclaimable = self.reclaimable.iter().filter_map(|name| in_stat(name)).fold(0, u64::saturating_add);
        let used = number(self.usage).unwrap_or(0).saturating_sub(reclaimable);
        Some(limit.saturating_sub(used))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMINFO: (&str, &str) = ("proc/meminfo", "MemTotal:  16 kB\nMemFree: 1 kB\nMemAvailable:    1000 kB\n");
    const MACHINE: Option<u64> = Some(1_024_000);

    fn see(files: &[(&str, &str)], rlimits: Rlimits) -> Option<Available> {
        let folder = tempfile::tempdir().expect("writable");
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().expect("has one")).expect("writable");
            fs::write(path, text).expect("writable");
        }
        let root = folder.path().join("root");
        available(&Roots { proc: folder.path().join("proc"), root, rlimits })
    }

    fn read(files: &[(&str, &str)]) -> Option<u64> {
        see(files, Rlimits::default()).map(|available| available.bytes)
    }

    #[test]
    fn without_groups_the_machine_counts() {
        assert_eq!(read(&[MEMINFO]), MACHINE);
        assert_eq!(read(&[]), None);
        assert_eq!(read(&[("proc/meminfo", "MemAvailable: many kB\n")]), None);
    }

    #[test]
    fn the_tightest_group_of_version_2_counts() {
        let own = ("proc/self/cgroup", "0::/a/b\n");
        let mount = ("proc/self/mountinfo", "41 31 0:38 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
        let a = ("root/sys/fs/cgroup/a/memory.max", "500000\n");
        let a_used = ("root/sys/fs/cgroup/a/memory.current", "300000\n");
        let stat = "anon 1\ninactive_file 60000\nactive_file 30000\nslab_reclaimable 10000\nslab 99999\n";
        let a_stat = ("root/sys/fs/cgroup/a/memory.stat", stat);
        let b = ("root/sys/fs/cgroup/a/b/memory.max", "max\n");
        assert_eq!(read(&[MEMINFO, own, mount, a, a_used, b]), Some(200_000));
        // The usual place, when nothing says where it is.
        assert_eq!(read(&[MEMINFO, own, a, a_used, b]), Some(200_000));
        assert_eq!(read(&[MEMINFO, own, mount, a, a_used, a_stat, b]), Some(300_000));
        assert_eq!(read(&[MEMINFO, own, mount, b]), MACHINE);
        // The limit of the group within, and one that slows down instead of killing.
        let b_used = ("root/sys/fs/cgroup/a/b/memory.current", "100000\n");
        let b_tight = ("root/sys/fs/cgroup/a/b/memory.max", "150000\n");
        let b_high = ("root/sys/fs/cgroup/a/b/memory.high", "120000\n");
        assert_eq!(read(&[MEMINFO, own, mount, a, a_used, b_tight, b_used]), Some(50_000));
        assert_eq!(read(&[MEMINFO, own, mount, a, a_used, b_tight, b_used, b_high]), Some(20_000));
        assert_eq!(read(&[own, mount, a]), Some(500_000), "nothing is known to be used");
        let seen = see(&[MEMINFO, own, mount, a, a_used], Rlimits::default()).map(|a| a.bound);
        assert_eq!(seen, Some(Bound::ControlGroup));
        // More used than allowed, as after the limit was lowered.
        let lowered = ("root/sys/fs/cgroup/a/memory.max", "1000\n");
        assert_eq!(read(&[MEMINFO, own, mount, lowered, a_used]), Some(0));
    }

    #[test]
    fn version_1_counts_and_its_no_limit_does_not() {
        let own = ("proc/self/cgroup", "4:cpu,memory:/x/y\n1:cpu:/x\n0::/\n");
        let mounts = "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory,cpu\n\
                      32 31 0:29 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let mount = ("proc/self/mountinfo", mounts);
        let used = ("root/sys/fs/cgroup/memory/x/memory.usage_in_bytes", "400000\n");
        let x = |limit| ("root/sys/fs/cgroup/memory/x/memory.limit_in_bytes", limit);
        for mount in [mount, ("proc/self/mountinfo", "")] {
            assert_eq!(read(&[MEMINFO, own, mount, x("9223372036854771712\n"), used]), MACHINE);
            assert_eq!(read(&[MEMINFO, own, mount, x("300000\n"), used]), Some(0));
            assert_eq!(read(&[MEMINFO, own, mount, x("500000\n"), used]), Some(100_000));
            let stat = "cache 9\ninactive_file 1\ntotal_inactive_file 20000\ntotal_active_file 30000\n";
            let stat = ("root/sys/fs/cgroup/memory/x/memory.stat", stat);
            assert_eq!(read(&[MEMINFO, own, mount, x("500000\n"), used, stat]), Some(150_000));
            // A group above the container's, of which only this line is seen.
            let above = ("root/sys/fs/cgroup/memory/x/memory.stat", "hierarchical_memory_limit 450000\n");
            assert_eq!(read(&[MEMINFO, own, mount, x("9223372036854771712\n"), used, above]), Some(50_000));
        }
    }

    #[test]
    fn a_path_of_the_host_falls_back_to_the_mounted_group() {
        let limit = ("root/sys/fs/cgroup/memory.max", "777\n");
        let inner = ("root/sys/fs/cgroup/job/memory.max", "555\n");
        let own = |path| ("proc/self/cgroup", path);
        let mounted = ("proc/self/mountinfo", "9 8 0:1 /docker/4711 /sys/fs/cgroup ro - cgroup2 cgroup rw\n");
        let everything = ("proc/self/mountinfo", "9 8 0:1 / /sys/fs/cgroup ro - cgroup2 cgroup rw\n");
        assert_eq!(read(&[MEMINFO, own("0::/docker/4711\n"), limit]), Some(777));
        assert_eq!(read(&[MEMINFO, own("0::/docker/4711\n"), mounted, limit, inner]), Some(777));
        assert_eq!(read(&[MEMINFO, own("0::/docker/4711/job\n"), mounted, limit, inner]), Some(555));
        assert_eq!(read(&[MEMINFO, own("0::/docker/47\n"), mounted, limit, inner]), Some(777));
        assert_eq!(read(&[MEMINFO, own("0::/../../job\n"), everything, limit, inner]), Some(777));
        assert_eq!(read(&[MEMINFO, own("0::/job\n"), everything, limit, inner]), Some(555));
        // A mount point with a space.
        let strange = ("proc/self/mountinfo", "9 8 0:1 / /my\\040groups\\x ro - cgroup2 cgroup rw\n");
        assert_eq!(read(&[MEMINFO, own("0::/\n"), strange, ("root/my groups\\x/memory.max", "333\n")]), Some(333));
    }

    #[test]
    fn the_processs_own_limits_count() {
        let status = ("proc/self/status", "VmPeak:\t 900 kB\nVmSize:\t     300 kB\nVmData:\t      100 kB\n");
        let limits = |address_space, data| Rlimits { address_space, data };
        let least = |limits| see(&[MEMINFO, status], limits).map(|a| (a.bytes, a.bound));
        assert_eq!(least(limits(None, None)), Some((1_024_000, Bound::Machine)));
        assert_eq!(least(limits(Some(400 << 10), None)), Some((100 << 10, Bound::AddressSpace)));
        assert_eq!(least(limits(Some(400 << 10), Some(150 << 10))), Some((50 << 10, Bound::Data)));
        assert_eq!(least(limits(Some(200 << 10), Some(1 << 40))), Some((0, Bound::AddressSpace)));
        assert_eq!(see(&[], limits(Some(5000), None)).map(|a| a.bytes), Some(5000));
    }
}

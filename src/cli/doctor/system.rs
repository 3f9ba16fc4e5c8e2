//! What the system reports about itself. Linux reports most of it; the rest is `None`.

use std::env::consts::{ARCH, OS};
use std::fs;
use std::path::Path;
use std::thread;

use crate::capacity::{self, MemoryLimits};

/// Facts about the machine and the program.
pub struct System {
    pub version: &'static str,
    /// Such as `x86_64 linux`.
    pub target: String,
    /// The system and its release.
    pub description: String,
    pub processor: String,
    /// Hardware threads that this process may use.
    pub n_processors: usize,
    pub memory: MemoryLimits,
    /// Whether anonymous memory gets huge pages: `always`, `madvise` or `never`.
    pub huge_pages: Option<String>,
    /// How the clock of the first processor is chosen.
    pub governor: Option<String>,
}

impl System {
    /// Looks at the machine.
    pub fn look() -> Self {
        Self::look_below(Path::new("/"))
    }

    fn look_below(root: &Path) -> Self {
        let read = |name: &str| fs::read_to_string(root.join(name)).ok();
        let line = |name: &str| read(name).map(|text| text.trim().to_owned());
        let release = line("proc/sys/kernel/osrelease");
        let processor = read("proc/cpuinfo").and_then(|text| processor(&text));
        let huge_pages = read("sys/kernel/mm/transparent_hugepage/enabled");
        System {
            version: env!("CARGO_PKG_VERSION"),
            target: format!("{ARCH} {OS}"),
            description: match release {
                Some(release) => format!("{OS} {release}"),
                None => OS.to_owned(),
            },
            processor: processor.unwrap_or_else(|| ARCH.to_owned()),
            n_processors: thread::available_parallelism().map_or(1, |n| n.get()),
            memory: capacity::memory_below(root),
            huge_pages: huge_pages.and_then(|text| chosen(&text)),
            governor: line("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        }
    }
}

/// The name of a processor in /proc/cpuinfo. ARM has numbers alone.
fn processor(cpuinfo: &str) -> Option<String> {
    let value = |name: &str| {
        let line = cpuinfo.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    value("model name").or_else(|| {
        let (implementer, part) = (value("CPU implementer")?, value("CPU part")?);
        Some(format!("implementer {implementer}, part {part}"))
    })
}

/// The word in brackets, as in `always [madvise] never`.
fn chosen(text: &str) -> Option<String> {
    let (_, rest) = text.split_once('[')?;
    Some(rest.split_once(']')?.0.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linux_is_read() {
        let root = tempfile::tempdir().unwrap();
        let unknown = System::look_below(root.path());
        assert_eq!((unknown.huge_pages, unknown.governor), (None, None));
        assert_eq!(unknown.processor, ARCH);
        for (name, text) in [
            ("proc/sys/kernel/osrelease", "6.1.0\n"),
            ("proc/cpuinfo", "processor\t: 0\nmodel name\t: Fast CPU\n"),
            (
                "proc/meminfo",
                "MemTotal: 4 kB\nMemAvailable: 2 kB\nCached: 1 kB\n",
            ),
            (
                "sys/kernel/mm/transparent_hugepage/enabled",
                "always [madvise] never\n",
            ),
        ] {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let system = System::look_below(root.path());
        assert_eq!(system.processor, "Fast CPU");
        assert_eq!(system.huge_pages.as_deref(), Some("madvise"));
        assert!(system.description.ends_with("6.1.0"));
        let memory = system.memory;
        assert_eq!(
            (memory.total, memory.available, memory.page_cache),
            (Some(4096), Some(2048), Some(1024))
        );
        assert_eq!((memory.control_group, memory.address_space), (None, None));
        let arm = "CPU implementer\t: 0x41\nCPU part\t: 0xd0b\n";
        assert_eq!(
            processor(arm).as_deref(),
            Some("implementer 0x41, part 0xd0b")
        );
        assert_eq!(processor(""), None);
    }
}

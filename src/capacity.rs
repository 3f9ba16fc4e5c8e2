//! How much memory there is, and whether a context fits. This is checked before work starts, because
//! a failing allocation would end the process.
//!
//! Linux reports the available memory, the limit of the control group and that of the address space;
//! macOS reports the available memory. On other systems only the allocator can refuse.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};
use crate::gguf::DType;
use crate::model::Model;
use crate::model::layout::{self, Component, TensorKind};
use crate::session::{Sequence, Session};
use crate::sysctl;
use crate::workspace::Workspace;

/// Fails where a session with room for `n_positions` would not fit the memory together with
/// `beside` bytes of the model's buffers for a picture, with the figures and what would. Of the
/// session, `held_bytes` are there already.
///
/// # Errors
/// [`Kind::Capacity`](crate::Kind::Capacity).
pub fn check(model: &Model, n_positions: usize, beside: u64, held_bytes: u64) -> Result<()> {
    check_beside(beside)?;
    let held_bytes = held_bytes.min(Workspace::bytes(model, n_positions));
    let bytes = Session::bytes(model, n_positions).saturating_add(beside) - held_bytes;
    let available = available(Path::new("/"));
    if is_granted(bytes) && available.is_none_or(|available| bytes <= available) {
        return Ok(());
    }
    let picture = match beside {
        0 => String::new(),
        n => format!(", {} of it for pictures,", human_bytes(n)),
    };
    let message = format!(
        "a context of {n_positions} positions takes {} of memory{picture} beside the model's {}, ",
        human_bytes(bytes),
        human_bytes(model.file_bytes()),
    );
    let files = smaller_files(model);
    let Some(available) = available else {
        let error = Error::capacity(message + "which the system refuses" + &files);
        return Err(error.advise("lower", "context", ""));
    };
    let error = Error::capacity(format!(
        "{message}but {} are available{files}",
        human_bytes(available)
    ));
    // Decoding, threads and the allocator need some too.
    let room = (available / 4 * 3).saturating_sub(beside) + held_bytes;
    Err(match longest_context(model, n_positions, room) {
        0 => error.advise(
            "close other programs; even the shortest",
            "context",
            "is too long",
        ),
        n => error.advise("set", "context", format!("to {n} or less")),
    })
}

/// Fails where `bytes` of a model's buffers for a picture do not fit the memory.
///
/// # Errors
/// [`Kind::Capacity`](crate::Kind::Capacity).
pub fn check_beside(bytes: u64) -> Result<()> {
    let available = available(Path::new("/"));
    match available {
        Some(available) if bytes > available => Err(Error::capacity(format!(
            "the model takes {} of memory for a picture, but {} are available; close other \
             programs, or ask without a picture",
            human_bytes(bytes),
            human_bytes(available)
        ))),
        None if !is_granted(bytes) => Err(Error::capacity(format!(
            "the model takes {} of memory for a picture, which the system refuses",
            human_bytes(bytes)
        ))),
        _ => Ok(()),
    }
}

/// Whether the allocator would give so much in one piece.
fn is_granted(bytes: u64) -> bool {
    usize::try_from(bytes).is_ok_and(|bytes| Vec::<u8>::new().try_reserve_exact(bytes).is_ok())
}

/// The context of a request that names none: what the model was trained with, or as much of it as
/// memory has room for beside the model.
///
/// What a model larger than the memory leaves is nothing, but it can be read again from the disk,
/// and keys and values cannot. So a quarter of the memory is theirs at any rate.
pub fn default_context(model: &Model) -> usize {
    default_context_on(Path::new("/"), model)
}

fn default_context_on(root: &Path, model: &Model) -> usize {
    /// What is left of a context that is cut short is a multiple of this, and no less.
    const STEP: usize = 256;

    let trained = model.config().decoder.max_position_embeddings;
    let Some(room) = room_on(root, model) else {
        return trained;
    };
    if Session::bytes(model, trained) <= room {
        return trained;
    }
    let fits = longest_context(model, trained, room) / STEP * STEP;
    fits.max(STEP).min(trained)
}

/// Bytes of memory for positions beside the model and its buffers for a picture, as things are now;
/// `None` where nobody tells. There is always room for one request of the default context.
pub(crate) fn room(model: &Model) -> Option<u64> {
    let least = || Sequence::bytes(model, default_context(model));
    room_on(Path::new("/"), model).map(|room| room.max(least()))
}

fn room_on(root: &Path, model: &Model) -> Option<u64> {
    let beside_model = |free: u64| free.saturating_sub(model.file_bytes()).max(free / 4);
    let limits = [physical(root).map(beside_model), address_space(root)];
    let room = limits.into_iter().flatten().min()?;
    Some(room.saturating_sub(model.picture_bytes()))
}

/// What to say of a context that [`default_context`] made shorter than the model was trained with.
pub fn context_notice(model: &Model, context: usize) -> Option<String> {
    let trained = model.config().decoder.max_position_embeddings;
    (context < trained).then(|| {
        format!(
            "using a context of {context} instead of {trained}: not enough memory ({trained} needs \
             {})",
            human_bytes(Session::bytes(model, trained))
        )
    })
}

/// A warning where the model file is larger than the memory that is there for it.
pub fn warning(model: &Model) -> Option<String> {
    let available = physical(Path::new("/"))?;
    let bytes = model.file_bytes();
    (bytes > available).then(|| {
        format!(
            "the model takes {}, but {} of memory are available: it will be read from the disk \
             again and again{}",
            human_bytes(bytes),
            human_bytes(available),
            smaller_files(model)
        )
    })
}

/// The sizes of smaller files of the same model, if there can be any.
fn smaller_files(model: &Model) -> String {
    let sizes = [("q8_0", DType::Q8_0), ("q4_k", DType::Q4_K)]
        .map(|(name, dtype)| (name, bytes_as(model, dtype)));
    let is_smaller = |&(_, bytes): &(&str, u64)| bytes < model.file_bytes() / 10 * 9;
    let smaller: Vec<_> = sizes
        .into_iter()
        .filter(is_smaller)
        .map(|(name, bytes)| format!("--quant {name} would take about {}", human_bytes(bytes)))
        .collect();
    match smaller.is_empty() {
        true => String::new(),
        false => format!("; a model file of owl2-convert {}", smaller.join(", ")),
    }
}

/// About the bytes of a file whose decoder is stored as `dtype`, and its picture branch as Q8_0.
fn bytes_as(model: &Model, dtype: DType) -> u64 {
    let tensors = layout::tensors(model.config());
    let bits = tensors.iter().map(|tensor| {
        let n_values: f64 = tensor.shape.iter().map(|&n| n as f64).product();
        let dtype = match (tensor.kind, tensor.part) {
            (TensorKind::Float, _) => DType::F32,
            (TensorKind::Matrix, Component::Vit | Component::Abstractor) => DType::Q8_0,
            (TensorKind::Matrix, _) => dtype,
        };
        n_values * dtype.bits_per_weight()
    });
    (bits.sum::<f64>() / 8.0) as u64
}

/// The most positions, up to `most`, whose session fits `available` bytes.
fn longest_context(model: &Model, most: usize, available: u64) -> usize {
    let (mut fits, mut too_many) = (0, most);
    while fits + 1 < too_many {
        let middle = fits + (too_many - fits) / 2;
        match Session::bytes(model, middle) <= available {
            true => fits = middle,
            false => too_many = middle,
        }
    }
    fits
}

/// Bytes that are promised to those who have not touched all of them yet, in the whole process.
static PROMISED: AtomicU64 = AtomicU64::new(0);

/// Memory that nobody else is promised, until this is dropped.
#[derive(Debug)]
pub(crate) struct Promise {
    bytes: u64,
    promised: &'static AtomicU64,
}

impl Promise {
    /// Of the bytes that are available, `promised` to others among them.
    fn of(available: Option<u64>, bytes: u64, promised: &'static AtomicU64) -> Option<Self> {
        let of_others = promised.fetch_add(bytes, Ordering::Relaxed);
        // Takes them back where there are too few.
        let promise = Promise { bytes, promised };
        let wanted = bytes.saturating_add(of_others);
        available
            .is_none_or(|available| wanted <= available)
            .then_some(promise)
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        self.promised.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Promises `bytes` more, beside what others are promised; if they cannot be had, how much that is and how
/// much there is. What of a promise is touched counts twice, so this errs on the safe side.
pub(crate) fn hold(bytes: u64) -> Result<Option<Promise>, String> {
    /// What needs no looking.
    const SMALL: u64 = 1 << 20;
    if bytes <= SMALL {
        return Ok(None);
    }
    let available = available(Path::new("/"));
    if is_granted(bytes)
        && let Some(promise) = Promise::of(available, bytes, &PROMISED)
    {
        return Ok(Some(promise));
    }
    let left = match available {
        Some(available) => format!("{} are available", human_bytes(available)),
        None => "the system refuses them".to_owned(),
    };
    Err(format!("{} of memory, but {left}", human_bytes(bytes)))
}

/// Bytes that this process can still get, as the system below `root` tells.
fn available(root: &Path) -> Option<u64> {
    let limits = [physical(root), address_space(root)];
    limits.into_iter().flatten().min()
}

/// How much memory the system has, and what limits a process, in bytes. What it does not tell, or
/// does not limit, is `None`.
#[cfg(feature = "cli")]
pub(crate) struct MemoryLimits {
    /// All of it.
    pub total: Option<u64>,
    /// Free, or holding what can be read again.
    pub available: Option<u64>,
    /// What the control groups still allow.
    pub control_group: Option<u64>,
    /// What the limit of the address space leaves.
    pub address_space: Option<u64>,
    /// Pages of files.
    pub page_cache: Option<u64>,
}

/// The memory of the system below `root`.
#[cfg(feature = "cli")]
pub(crate) fn memory_below(root: &Path) -> MemoryLimits {
    let meminfo = fs::read_to_string(root.join("proc/meminfo")).ok();
    let of_linux = |name: &str| Some(1024 * field(meminfo.as_deref()?, name)?);
    MemoryLimits {
        total: of_linux("MemTotal:").or_else(|| sysctl::number("hw.memsize")),
        available: of_linux("MemAvailable:").or_else(free_on_macos),
        control_group: control_groups(root),
        address_space: address_space(root),
        page_cache: of_linux("Cached:"),
    }
}

/// Bytes of memory that are free, or hold what can be read from the disk again.
fn physical(root: &Path) -> Option<u64> {
    let meminfo = fs::read_to_string(root.join("proc/meminfo")).ok();
    let free = meminfo.and_then(|text| Some(1024 * field(&text, "MemAvailable:")?));
    let free = free.or_else(free_on_macos);
    free.into_iter().chain(control_groups(root)).min()
}

/// The pages that macOS has free, or holds for files or at will, as its kernel counts them
/// (`bsd/vm/vm_unix.c`): what Linux calls available.
fn free_on_macos() -> Option<u64> {
    let names = [
        "vm.page_free_count",
        "vm.page_pageable_external_count",
        "vm.page_purgeable_count",
    ];
    let pages: Option<u64> = names.into_iter().map(sysctl::number).sum();
    let total = sysctl::number("hw.memsize")?;
    Some((pages? * sysctl::number("hw.pagesize")?).min(total))
}

/// What the control groups of this process, and those around them, still allow.
fn control_groups(root: &Path) -> Option<u64> {
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let of_line = |line: &str| {
        // Number, controllers, path (cgroups(7)).
        let mut parts = line.splitn(3, ':').skip(1);
        let version = match parts.next()? {
            "" => &VERSION_2,
            "memory" => &VERSION_1,
            _ => return None,
        };
        let mounted = root.join(version.mounted);
        let group = mounted.join(parts.next()?.trim_start_matches('/'));
        let around = group
            .ancestors()
            .take_while(|path| path.starts_with(&mounted));
        around.filter_map(|group| version.left(group)).min()
    };
    groups.lines().filter_map(of_line).min()
}

/// More bytes than any machine has.
const NO_LIMIT: u64 = 1 << 62;

/// How a version of control groups tells of memory.
struct ControlGroups {
    mounted: &'static str,
    limit: &'static str,
    used: &'static str,
    /// Of `memory.stat`: pages of files, which can be read again, in this group and those in it.
    cached: [&'static str; 2],
}

const VERSION_2: ControlGroups = ControlGroups {
    mounted: "sys/fs/cgroup",
    limit: "memory.max",
    used: "memory.current",
    cached: ["inactive_file ", "active_file "],
};
const VERSION_1: ControlGroups = ControlGroups {
    mounted: "sys/fs/cgroup/memory",
    limit: "memory.limit_in_bytes",
    used: "memory.usage_in_bytes",
    cached: ["total_inactive_file ", "total_active_file "],
};

impl ControlGroups {
    /// What one group still allows, if it has a limit.
    fn left(&self, group: &Path) -> Option<u64> {
        let read = |name: &str| fs::read_to_string(group.join(name)).ok();
        let number = |name: &str| read(name)?.trim().parse::<u64>().ok();
        let stat = read("memory.stat")?;
        let [inactive, active] = self.cached.map(|name| field(&stat, name));
        let used = number(self.used)?.saturating_sub(inactive? + active?);
        // Version 1 writes the largest number of whole pages where there is no limit.
        let limit = number(self.limit).filter(|&limit| limit < NO_LIMIT)?;
        Some(limit.saturating_sub(used))
    }
}

/// What the limit of the address space leaves.
fn address_space(root: &Path) -> Option<u64> {
    let limits = fs::read_to_string(root.join("proc/self/limits")).ok()?;
    let limit = field(&limits, "Max address space")?;
    let status = fs::read_to_string(root.join("proc/self/status")).ok()?;
    Some(limit.saturating_sub(1024 * field(&status, "VmSize:")?))
}

/// The number after `name` at the beginning of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

/// `bytes` in a unit that people read.
pub(crate) fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn promises_count_until_they_are_dropped() {
        static OF_TEST: AtomicU64 = AtomicU64::new(0);
        let promise = |bytes| Promise::of(Some(100), bytes, &OF_TEST);
        let first = promise(60).unwrap();
        assert!(promise(41).is_none());
        let second = promise(40).unwrap();
        assert!(promise(1).is_none());
        drop(first);
        assert!(promise(61).is_none());
        assert!(promise(60).is_some());
        drop(second);
        assert!(promise(100).is_some());
        assert!(promise(u64::MAX).is_none());
        assert!(Promise::of(None, u64::MAX, &OF_TEST).is_some());
        assert_eq!(OF_TEST.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn sizes_are_readable() {
        assert_eq!(human_bytes(1023), "1023 B");
        assert_eq!(human_bytes(1536), "1.5 KiB");
        assert_eq!(human_bytes(5 << 30), "5.0 GiB");
    }

    /// Writes a file of a made up system.
    fn write_below(root: &Path, name: &str, text: &str) {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn the_narrowest_limit_counts() {
        let root = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| write_below(root.path(), name, text);
        assert_eq!(available(root.path()), None);
        write(
            "proc/meminfo",
            "MemTotal: 9000 kB\nMemAvailable:    800 kB\n",
        );
        assert_eq!(available(root.path()), Some(800 << 10));
        let unlimited = "Limit  Soft\nMax address space         unlimited   unlimited  bytes\n";
        write("proc/self/limits", unlimited);
        write("proc/self/status", "Name: owl2\nVmSize:\t     400 kB\n");
        assert_eq!(available(root.path()), Some(800 << 10));
        write(
            "proc/self/limits",
            &unlimited.replacen("unlimited", "1000000", 1),
        );
        assert_eq!(available(root.path()), Some(1_000_000 - 409_600));

        write("proc/self/cgroup", "4:memory:/other\n0::/a/b\n");
        write("sys/fs/cgroup/a/b/memory.max", "max\n");
        write("sys/fs/cgroup/a/memory.max", "300000\n");
        write("sys/fs/cgroup/a/memory.current", "250000\n");
        write(
            "sys/fs/cgroup/a/memory.stat",
            "anon 1\ninactive_file 40000\nactive_file 10000\n",
        );
        assert_eq!(available(root.path()), Some(100_000));

        // Version 1 beside it, of which the group around this one has no limit to speak of.
        write(
            "sys/fs/cgroup/memory/other/memory.limit_in_bytes",
            "90000\n",
        );
        write(
            "sys/fs/cgroup/memory/other/memory.usage_in_bytes",
            "50000\n",
        );
        let stat = "inactive_file 1\ntotal_inactive_file 20000\ntotal_active_file 0\n";
        write("sys/fs/cgroup/memory/other/memory.stat", stat);
        write(
            "sys/fs/cgroup/memory/memory.limit_in_bytes",
            "9223372036854771712\n",
        );
        write("sys/fs/cgroup/memory/memory.usage_in_bytes", "90000\n");
        write("sys/fs/cgroup/memory/memory.stat", stat);
        assert_eq!(available(root.path()), Some(60_000));

        write("proc/self/cgroup", "4:memory:/\n");
        assert_eq!(control_groups(root.path()), None);
    }

    #[cfg(feature = "tiny")]
    #[test]
    fn a_context_that_nobody_chose_fits_beside_the_model() {
        use crate::ops::Compute;

        let gguf = crate::builtin::open().unwrap();
        let compute = Compute::new(std::num::NonZeroUsize::MIN).unwrap();
        let model = Model::new(&gguf, compute).unwrap();
        let trained = model.config().decoder.max_position_embeddings;
        let whole = Session::bytes(&model, trained);
        let context = |free: u64| {
            let root = tempfile::tempdir().unwrap();
            let meminfo = format!("MemAvailable: {} kB\n", free >> 10);
            write_below(root.path(), "proc/meminfo", &meminfo);
            default_context_on(root.path(), &model)
        };
        // What encoding a picture takes is kept free.
        let beside = model.file_bytes() + model.picture_bytes();
        assert_eq!(context(beside + whole + 1024), trained);
        assert!(context(model.file_bytes() + whole + 1024) < trained);
        assert_eq!(context_notice(&model, trained), None);
        let shorter = context(beside + whole * 3 / 4);
        assert!(shorter.is_multiple_of(256) && (256..trained).contains(&shorter));
        assert!(Session::bytes(&model, shorter) <= whole * 3 / 4);
        let notice = context_notice(&model, shorter).unwrap();
        assert!(
            notice.contains(&format!("{shorter} instead of {trained}")),
            "{notice}"
        );
        // A model that does not fit leaves a quarter; there is always some context.
        assert!(context(model.file_bytes() / 2) >= 256);
        assert_eq!(context(1 << 20), 256);
        assert_eq!(default_context_on(Path::new("/nowhere"), &model), trained);
        // Sizes that no integer holds are too large, not small ones.
        for positions in [1 << 30, usize::MAX / 2, usize::MAX] {
            let error = check(&model, positions, 0, 0).unwrap_err();
            assert_eq!(error.kind(), crate::Kind::Capacity, "{positions}");
        }
        assert!(check(&model, 1, u64::MAX, 0).is_err());
    }
}

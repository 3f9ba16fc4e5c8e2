//! What macOS tells about the machine, by the names of sysctl(3).
//!
//! The system's own program is asked: the call behind it would need `unsafe`, and this happens a
//! few times in a process's life.

use std::process::Command;

/// Where every macOS has it.
const PROGRAM: &str = "/usr/sbin/sysctl";

/// The number called `name`, or `None` where there is none, as on any other system.
pub(crate) fn number(name: &str) -> Option<u64> {
    if !cfg!(target_os = "macos") {
        return None;
    }
    let output = Command::new(PROGRAM).args(["-n", name]).output().ok()?;
    let text = output.status.success().then_some(output.stdout)?;
    std::str::from_utf8(&text).ok()?.trim().parse().ok()
}

//! Process 1: makes the machine usable, starts the suite, collects dead processes, ends the machine.
//!
//! In: nothing but the initramfs. Out: mounted file systems, loaded modules, the loopback device, the suite's result as
//! the machine's exit status. Never: a check of its own.

use std::{
    env,
    ffi::CString,
    fs::{self, File},
    os::{fd::AsRawFd, unix::process::CommandExt},
    path::Path,
    process::Command,
};

use anyhow::{Context, Result};
use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    sys::wait::{WaitStatus, wait},
    unistd::Pid,
};

use super::{SUITE, power, report};

/// What is mounted where: type, directory. /dev first, for everything that opens /dev/null; cgroup2 and bpffs where
/// every distribution has them.
const MOUNTS: [(&str, &str); 7] = [
    ("devtmpfs", "/dev"),
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("tmpfs", "/run"),
    ("tmpfs", "/tmp"),
    ("cgroup2", "/sys/fs/cgroup"),
    ("bpf", "/sys/fs/bpf"),
];

/// Does everything, and ends the machine.
pub fn run() -> ! {
    let passed = match boot().and_then(|()| suite()) {
        Ok(passed) => passed,
        Err(error) => {
            println!("margay-vm: init: {error:#}");
            false
        }
    };
    power::off(passed)
}

fn boot() -> Result<()> {
    for (kind, dir) in MOUNTS {
        fs::create_dir_all(dir).with_context(|| format!("making {dir}"))?;
        mount(Some(kind), dir, Some(kind), MsFlags::empty(), None::<&str>)
            .with_context(|| format!("mounting {kind} on {dir}"))?;
    }
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").context("reading the kernel's release")?;
    report::kernel(release.trim());
    load_modules(Path::new("/modules"))?;
    loopback_up().context("bringing lo up")
}

/// Loads every file of `dir`, in the order of their names.
fn load_modules(dir: &Path) -> Result<()> {
    let entries = fs::read_dir(dir).with_context(|| format!("listing {}", dir.display()))?;
    let mut files = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    files.sort_unstable();
    for file in files {
        load_module(&file).with_context(|| format!("loading the kernel module {}", file.display()))?;
    }
    Ok(())
}

fn load_module(file: &Path) -> Result<()> {
    let module = File::open(file)?;
    let no_parameters = CString::default();
    // SAFETY: finit_module(2) reads the open file and the zero-terminated string; both live until it returns.
    let result = unsafe { libc::syscall(libc::SYS_finit_module, module.as_raw_fd(), no_parameters.as_ptr(), 0) };
    match Errno::result(result) {
        Ok(_) | Err(Errno::EEXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// By ioctl(2): there is no namespace with a name yet, and nothing else to set.
fn loopback_up() -> Result<()> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    // SAFETY: all fields of an ifreq are numbers, for which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads an ifreq, which lives until it returns.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    Errno::result(result)?;
    Ok(())
}

/// Runs the suite in a process of its own; whether it ended well.
fn suite() -> Result<bool> {
    let me = env::current_exe().context("finding this executable")?;
    let child = Command::new(me).arg0(SUITE).env("PATH", "/bin").spawn().context("starting the suite")?;
    let suite = Pid::from_raw(i32::try_from(child.id())?);
    loop {
        // Orphans of the suite end up here as well.
        match wait().context("waiting for the suite")? {
            WaitStatus::Exited(pid, code) if pid == suite => return Ok(code == 0),
            WaitStatus::Signaled(pid, signal, _) if pid == suite => {
                println!("margay-vm: the suite was ended by {signal}");
                return Ok(false);
            }
            _ => {}
        }
    }
}

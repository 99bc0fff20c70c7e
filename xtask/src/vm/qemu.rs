//! One run of qemu: boots a kernel with an initramfs, listens to its serial line, and ends.
//!
//! In: the two files, an accelerator, a time limit. Out: what was heard. The machine has no disk and no network card:
//! all that is tested happens between network namespaces inside.

use super::serial::Heard;
use anyhow::{Context, Result};
use std::{
    fs::File,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

/// How the processor is emulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Accelerator {
    /// In software: works everywhere
    Tcg,
    /// By the processor (/dev/kvm): several times faster, where the machine really can; many that are virtual
    /// themselves only seem to
    Kvm,
}

/// One boot.
pub struct Boot<'a> {
    pub kernel: &'a Path,
    pub initramfs: &'a Path,
    pub accelerator: Accelerator,
    pub time_limit: Duration,
    /// Everything that the VM says is written there.
    pub log: &'a Path,
    /// What to do with each line as it comes; true for lines of the suite.
    pub on_line: &'a dyn Fn(&str, bool),
}

/// How a boot ended.
pub struct End {
    pub heard: Heard,
    /// Why it is not a success, when the suite did not run to its end.
    pub cut_short: Option<String>,
}

/// The init ends the VM by writing this to the exit device when all is well; qemu turns it into 2 × code + 1, so that
/// 0 (a panic, a power-off) is never a success. `tests/src/vm/` has the same number.
const EXIT_CODE_OK: i32 = 2 * 0x10 + 1;

// === impl Accelerator ===

impl Accelerator {
    fn arguments(self) -> [&'static str; 4] {
        match self {
            Self::Kvm => ["-accel", "kvm", "-cpu", "host"],
            // Some qemu versions corrupt flags when they emulate cmpxchg16b, which crashes kernels now and then: off.
            Self::Tcg => ["-accel", "tcg,thread=multi", "-cpu", "max,cx16=off"],
        }
    }
}

// === impl Boot ===

impl Boot<'_> {
    /// Boots, and waits until the VM ends or the time is over.
    pub fn run(&self) -> Result<End> {
        let mut log = File::create(self.log).with_context(|| format!("creating {}", self.log.display()))?;
        let mut qemu = self.command().spawn().context("starting qemu-system-x86_64")?;
        let lines = lines(&mut qemu)?;
        let deadline = Instant::now() + self.time_limit;
        let mut heard = Heard::default();
        let in_time = loop {
            match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    writeln!(log, "{line}").context("writing the VM's log")?;
                    (self.on_line)(&line, heard.line(&line));
                }
                Err(RecvTimeoutError::Disconnected) => break true,
                Err(RecvTimeoutError::Timeout) => break false,
            }
        };
        if !in_time {
            qemu.kill().context("ending qemu")?;
        }
        let status = qemu.wait().context("waiting for qemu")?;
        let cut_short = if !in_time {
            Some(format!("not done within {} s", self.time_limit.as_secs()))
        } else if !heard.complete {
            Some(format!("it ended before the suite did (qemu: {status}): a panic, or a suite that does not start"))
        } else {
            let failed = heard.checks.iter().any(|check| check.status == super::serial::Status::Failed);
            let ok = status.code() == Some(EXIT_CODE_OK);
            (!ok && !failed).then(|| format!("no check failed, but it did not end as a success (qemu: {status})"))
        };
        Ok(End { heard, cut_short })
    }

    fn command(&self) -> Command {
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args(self.accelerator.arguments()).args(["-smp", "2", "-m", "1024", "-nodefaults", "-no-user-config"]);
        qemu.arg("-kernel").arg(self.kernel).arg("-initrd").arg(self.initramfs);
        qemu.args(["-append", "console=ttyS0 quiet panic=-1 random.trust_cpu=on"]);
        qemu.args(["-display", "none", "-monitor", "none", "-serial", "stdio", "-no-reboot"]);
        qemu.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=1"]);
        qemu.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        qemu
    }
}

/// The serial line, read by a thread so that the reader can have a deadline.
fn lines(qemu: &mut Child) -> Result<Receiver<String>> {
    let output = qemu.stdout.take().context("qemu has no standard output")?;
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut reader = BufReader::new(output);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            if sender.send(text).is_err() {
                return;
            }
            line.clear();
        }
    });
    Ok(receiver)
}

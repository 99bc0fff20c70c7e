//! Process 1 of a node, once everything is mounted: starts the node's services and starts them again when they end, as
//! systemd would. In: the node's [`Spec`]. Out: containerd, kubelet and kube-proxy, each with a log. Never: the start of a
//! service that has a file `SERVICE.hold` in the node's directory, as kube-proxy has where it was not asked for.

use std::{
    fs::{self, File},
    io::Write,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::wait::{WaitPidFlag, WaitStatus, waitpid},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};

use super::{containerd, kubelet, spec::Spec};

/// A program that a node keeps running.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Service {
    /// Runs containers.
    Containerd,
    /// Runs pods.
    Kubelet,
    /// Makes Services work. It does not run on a node without it, until it is started there.
    KubeProxy,
}

/// How often process 1 looks around.
const PERIOD: Duration = Duration::from_millis(50);
/// The pause before a service that has ended is started again.
const RESTART: Duration = Duration::from_secs(1);
/// How long containerd may take until it listens.
const PATIENCE: Duration = Duration::from_secs(60);

/// A service, and its process.
struct Slot {
    service: Service,
    pid: Option<Pid>,
    earliest: Instant,
}

// === impl Service ===

impl Service {
    /// The name of the program, and of its files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Containerd => "containerd",
            Self::Kubelet => kubelet::KUBELET,
            Self::KubeProxy => kubelet::KUBE_PROXY,
        }
    }

    /// Its log in a node's directory.
    pub(super) fn log(self, dir: &Path) -> PathBuf {
        dir.join(format!("{}.log", self.name()))
    }

    /// While this file exists, the service is not started again.
    pub(super) fn hold(self, dir: &Path) -> PathBuf {
        dir.join(format!("{}.hold", self.name()))
    }

    fn command(self, spec: &Spec) -> Result<Command> {
        match self {
            Self::Containerd => containerd::command(&spec.dir()),
            Self::Kubelet => kubelet::command(spec),
            Self::KubeProxy => kubelet::proxy(spec),
        }
    }

    fn spawn(self, spec: &Spec) -> Result<Pid> {
        let mut command = self.command(spec)?;
        let path = self.log(&spec.dir());
        let log = File::options().create(true).append(true).open(&path);
        let log = log.with_context(|| format!("opening {}", path.display()))?;
        command.stdin(Stdio::null()).stderr(log.try_clone().context("sharing a log")?).stdout(log);
        let child = command.spawn().with_context(|| format!("starting {}", self.name()))?;
        Ok(Pid::from_raw(i32::try_from(child.id())?))
    }
}

/// Runs the node. Returns only when it cannot.
///
/// # Errors
/// containerd does not start, or an image cannot be imported.
pub(super) fn run(spec: &Spec) -> Result<()> {
    let mut slots = vec![Slot::new(Service::Containerd)];
    wait_for_containerd(spec, &mut slots)?;
    import(spec)?;
    slots.extend([Service::Kubelet, Service::KubeProxy].map(Slot::new));
    loop {
        look_after(spec, &mut slots);
        sleep(PERIOD);
    }
}

fn wait_for_containerd(spec: &Spec, slots: &mut [Slot]) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while UnixStream::connect(containerd::SOCKET).is_err() {
        if Instant::now() > deadline {
            bail!("containerd does not listen; see {}", Service::Containerd.log(&spec.dir()).display());
        }
        look_after(spec, slots);
        sleep(PERIOD);
    }
    Ok(())
}

/// Imports the images that the node has from the beginning. Process 1 waits for everybody's children, but nobody else's
/// are waited for meanwhile.
fn import(spec: &Spec) -> Result<()> {
    for archive in &spec.images {
        let output = containerd::import(archive)?.stdin(Stdio::null()).output().context("starting ctr")?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("importing the images in {} failed: {}", archive.display(), said.trim());
        }
    }
    Ok(())
}

/// Collects the dead, and starts what does not run but should.
fn look_after(spec: &Spec, slots: &mut [Slot]) {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) | Err(_) => break,
            Ok(status) => {
                if let Some(slot) = slots.iter_mut().find(|s| s.pid.is_some() && s.pid == status.pid()) {
                    note(slot.service, &format!("ended: {status:?}"));
                    slot.pid = None;
                    slot.earliest = Instant::now() + RESTART;
                }
            }
        }
    }
    for slot in slots.iter_mut().filter(|s| s.is_due(&spec.dir())) {
        match slot.service.spawn(spec) {
            Ok(pid) => slot.pid = Some(pid),
            Err(error) => {
                note(slot.service, &format!("{error:#}"));
                slot.earliest = Instant::now() + RESTART;
            }
        }
    }
}

/// Into process 1's own log.
fn note(service: Service, what: &str) {
    // A full disk is no reason to end the node.
    let _ = writeln!(std::io::stderr(), "{}: {what}", service.name());
}

// === impl Slot ===

impl Slot {
    fn new(service: Service) -> Self {
        Self { service, pid: None, earliest: Instant::now() }
    }

    fn is_due(&self, dir: &Path) -> bool {
        self.pid.is_none() && Instant::now() >= self.earliest && !fs::exists(self.service.hold(dir)).unwrap_or(false)
    }
}

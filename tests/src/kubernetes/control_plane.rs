//! A control plane: etcd and kube-apiserver, and in a whole cluster controller-manager and scheduler too.
//!
//! In: a name. Out: a running API server, a kubeconfig and clients. Never: a node; see [`KubeNode`](super::KubeNode).

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex, PoisonError, Weak},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use super::{
    api_server::{self, Keys},
    certificates::{Authority, TokenKeys},
    client::{self, Asker},
    cluster::Choices,
    daemon::{Daemon, Lifetime},
    dir::{KubeDir, State},
    etcd,
    kubeconfig::{self, Credential},
    network,
    port::Port,
    programs, teardown,
};
use crate::{agent::find_binary, lab::require_root, names::LabName, netns::Namespace, rundir::replace_file};

/// Addresses of Services.
pub const SERVICES: &str = "10.96.0.0/16";
/// How long an API server may take until it is ready: several times what it needs on two busy processors.
pub const READY: Duration = Duration::from_secs(120);

/// How much of a control plane runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Extent {
    /// etcd and kube-apiserver.
    Api,
    /// With controller-manager and scheduler.
    Complete,
}

/// Where and how a control plane runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Settings {
    /// The network namespace that it is in. `None`: that of the process that starts it.
    pub namespace: Option<String>,
    /// Where nodes reach the API server.
    pub address: Ipv4Addr,
    /// Where everybody on this machine reaches it.
    pub external: Ipv4Addr,
    /// The API server's port, at both addresses.
    pub port: u16,
    /// What runs.
    pub extent: Extent,
    /// More flags of kube-apiserver.
    pub flags: Vec<String>,
}

/// A running control plane. The process that made it takes it down when this is dropped; when it is killed, the kernel
/// kills the programs.
#[derive(Debug)]
pub struct ControlPlane {
    dir: KubeDir,
    state: State,
    keys: Keys,
    authority: Authority,
    lifetime: Lifetime,
    _port: Option<Port>,
}

/// What a control plane is to have. See [`ControlPlane::builder`].
#[derive(Clone, Debug)]
#[must_use = "`start` starts it"]
pub struct ControlPlaneBuilder {
    name: String,
    flags: Vec<String>,
}

// === impl ControlPlaneBuilder ===

impl ControlPlaneBuilder {
    /// One more flag for kube-apiserver: `--watch-cache=false`.
    pub fn api_server_flag(mut self, flag: &str) -> Self {
        self.flags.push(flag.to_owned());
        self
    }

    /// Starts etcd and kube-apiserver on 127.0.0.1, and waits until the API server is ready (about five seconds).
    ///
    /// # Errors
    /// Not root; the programs have not been built; one of this name is up; it does not become ready. Nothing is left then.
    pub fn start(self) -> Result<ControlPlane> {
        let port = Port::reserve()?;
        let settings = Settings {
            namespace: None,
            address: Ipv4Addr::LOCALHOST,
            external: Ipv4Addr::LOCALHOST,
            port: port.number(),
            extent: Extent::Api,
            flags: self.flags,
        };
        let control_plane = ControlPlane::launch(&self.name.parse()?, settings, None, Lifetime::Bound, Some(port))?;
        control_plane.wait_ready(READY)?;
        Ok(control_plane)
    }
}

// === impl ControlPlane ===

impl ControlPlane {
    /// Starts etcd and kube-apiserver and waits until they are ready. They live until this is dropped. The name is as a
    /// lab's: lower-case letters, digits and underscores.
    ///
    /// # Errors
    /// As for [`ControlPlaneBuilder::start`].
    pub fn start(name: &str) -> Result<Self> {
        Self::builder(name).start()
    }

    /// As [`ControlPlane::start`], with choices.
    pub fn builder(name: &str) -> ControlPlaneBuilder {
        ControlPlaneBuilder { name: name.to_owned(), flags: Vec::new() }
    }

    /// The one that all tests of this process share which need no API server to themselves: started for the first one,
    /// taken down after the last one that holds it. Tests tell their objects apart by name or namespace.
    ///
    /// # Errors
    /// As for [`ControlPlaneBuilder::start`].
    pub fn shared() -> Result<Arc<Self>> {
        static SHARED: Mutex<Weak<ControlPlane>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = shared.upgrade() {
            return Ok(running);
        }
        let started = Arc::new(Self::start(&format!("shared_{}", std::process::id()))?);
        *shared = Arc::downgrade(&started);
        Ok(started)
    }

    /// Makes keys and, where it is to have one, its namespace, and starts etcd and kube-apiserver without waiting for them.
    pub(super) fn launch(
        name: &LabName,
        settings: Settings,
        cluster: Option<Choices>,
        lifetime: Lifetime,
        port: Option<Port>,
    ) -> Result<Self> {
        require_root()?;
        teardown::take_down_orphans();
        let dir = KubeDir::of(name);
        dir.create()?;
        let state = State { name: name.clone(), owner: lifetime.owner()?, settings, cluster };
        let started = Self::prepare(dir, state, lifetime, port).and_then(|control_plane| {
            control_plane.start_etcd()?;
            control_plane.start_api_server()?;
            Ok(control_plane)
        });
        if started.is_err() {
            // The error is the one to report.
            let _ = teardown::take_down(name);
        }
        started
    }

    fn prepare(dir: KubeDir, state: State, lifetime: Lifetime, port: Option<Port>) -> Result<Self> {
        dir.save(&state)?;
        let authority = Authority::create(&dir.pki())?;
        let keys = Keys::create(&authority, &state.settings)?;
        if state.settings.namespace.is_some() {
            network::make_control(&state.name, state.settings.external)?;
        }
        let control_plane = Self { dir, state, keys, authority, lifetime, _port: port };
        let admin = control_plane.authority.client("admin", "margay-lab", Some("system:masters"))?;
        let (url, authority) = (control_plane.url(), control_plane.authority.certificate());
        kubeconfig::write(&control_plane.kubeconfig(), &url, &authority, Credential::Certificate(&admin))?;
        Ok(control_plane)
    }

    /// One that another process has made.
    pub(super) fn open(name: &LabName) -> Result<Self> {
        let dir = KubeDir::of(name);
        let (state, authority) = (dir.load()?, Authority::open(&dir.pki())?);
        let keys = Keys::open(&authority);
        Ok(Self { dir, state, keys, authority, lifetime: Lifetime::Kept, _port: None })
    }

    /// Its name.
    pub fn name(&self) -> &LabName {
        &self.state.name
    }

    /// Its directory.
    pub fn dir(&self) -> &KubeDir {
        &self.dir
    }

    /// Where and how it runs.
    pub fn settings(&self) -> &Settings {
        &self.state.settings
    }

    /// Signs certificates that the API server believes.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// The API server's URL, as seen from this process.
    pub fn url(&self) -> String {
        let Settings { external, port, .. } = self.settings();
        format!("https://{external}:{port}")
    }

    /// The API server's URL, as seen from nodes and from the control plane itself.
    pub(super) fn url_for_nodes(&self) -> String {
        let Settings { address, port, .. } = self.settings();
        format!("https://{address}:{port}")
    }

    /// Signs and checks service accounts' tokens.
    pub(super) fn token_keys(&self) -> TokenKeys {
        self.authority.token_keys()
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.kubeconfig()
    }

    /// A kubeconfig for anybody else: `user` and `group` as RBAC names them, such as `system:node:a` and `system:nodes`.
    ///
    /// # Errors
    /// The files cannot be written.
    pub fn kubeconfig_for(&self, user: &str, group: Option<&str>) -> Result<PathBuf> {
        self.kubeconfig_at(&self.url(), user, group)
    }

    /// As [`ControlPlane::kubeconfig_for`], for somebody who reaches the API server elsewhere.
    pub(super) fn kubeconfig_at(&self, url: &str, user: &str, group: Option<&str>) -> Result<PathBuf> {
        let file = user.replace([':', '/'], "_");
        let client = self.authority.client(&file, user, group)?;
        let path = self.dir.kubeconfigs().join(&file);
        kubeconfig::write(&path, url, &self.authority.certificate(), Credential::Certificate(&client))?;
        Ok(path)
    }

    /// A kubeconfig for a ServiceAccount that is there, with a token for an hour: what a pod of the account has.
    ///
    /// # Errors
    /// There is no such account, or the files cannot be written.
    pub fn kubeconfig_of_account(&self, namespace: &str, account: &str) -> Result<PathBuf> {
        let path = self.dir.kubeconfigs().join(account);
        let token = path.with_extension("token");
        replace_file(&token, &self.kubectl_output(["create", "token", account, "--namespace", namespace])?)?;
        kubeconfig::write(&path, &self.url(), &self.authority.certificate(), Credential::Token(&token))?;
        Ok(path)
    }

    /// The administrator's client. It belongs to the runtime that this is awaited in.
    ///
    /// # Errors
    /// The kubeconfig cannot be read.
    pub async fn client(&self) -> Result<kube::Client> {
        client::from_file(&self.kubeconfig()).await
    }

    /// kubectl, as administrator.
    ///
    /// # Errors
    /// It has not been built.
    pub fn kubectl<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<Command> {
        let mut command = Command::new(programs::path("kubectl")?);
        command.env("KUBECONFIG", self.kubeconfig()).args(args);
        Ok(command)
    }

    /// Calico's calicoctl, as administrator.
    ///
    /// # Errors
    /// It has not been built.
    pub fn calicoctl(&self, args: &[&str]) -> Result<Command> {
        let mut command = Command::new(programs::path("calicoctl")?);
        command.env("DATASTORE_TYPE", "kubernetes").env("KUBECONFIG", self.kubeconfig()).args(args);
        Ok(command)
    }

    /// What a command of margay answers to the administrator, and with which exit code.
    ///
    /// # Errors
    /// There is no such binary, or it says anything on standard error.
    pub fn margay(&self, args: &[&str]) -> Result<(i32, String)> {
        let output = Command::new(find_binary()?).args(args).env("KUBECONFIG", self.kubeconfig()).output()?;
        let code = output.status.code().context("it was killed")?;
        ensure!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok((code, String::from_utf8(output.stdout)?))
    }

    /// etcd: to be stopped, frozen (SIGSTOP, SIGCONT) or killed. [`ControlPlane::start_etcd`] starts it again.
    pub fn etcd(&self) -> Daemon {
        self.daemon("etcd")
    }

    /// kube-apiserver: to be stopped, frozen (SIGSTOP, SIGCONT) or killed. It takes a minute to end when it is asked to, so
    /// kill it. [`ControlPlane::start_api_server`] starts it again, at the same port.
    pub fn api_server(&self) -> Daemon {
        self.daemon("kube-apiserver")
    }

    /// One of its programs.
    pub(super) fn daemon(&self, name: &str) -> Daemon {
        Daemon::new(&self.dir.daemons(), name)
    }

    /// Starts etcd with the data that it had.
    ///
    /// # Errors
    /// It runs, or cannot be started.
    pub fn start_etcd(&self) -> Result<()> {
        self.start_daemon("etcd", etcd::command(&self.dir.etcd())?)
    }

    /// Starts kube-apiserver, without waiting for it.
    ///
    /// # Errors
    /// It runs, or cannot be started.
    pub fn start_api_server(&self) -> Result<()> {
        self.start_daemon("kube-apiserver", api_server::command(&self.dir, self.settings(), &self.keys)?)
    }

    /// Starts a program where the control plane is.
    pub(super) fn start_daemon(&self, name: &str, command: Command) -> Result<()> {
        // By name even where it is the caller's own: the thread that starts programs may be in another.
        let namespace = match &self.settings().namespace {
            Some(namespace) => Namespace::open(namespace)?,
            None => Namespace::current()?,
        };
        self.daemon(name).start(namespace.entering(command), self.lifetime)
    }

    /// Waits until the API server says that it is ready.
    ///
    /// # Errors
    /// It or etcd ends, or it is not ready within `limit`. The message has the end of the log.
    pub fn wait_ready(&self, limit: Duration) -> Result<()> {
        let deadline = Instant::now() + limit;
        let asker = Asker::new(&self.kubeconfig())?;
        while !asker.is_ready() {
            for daemon in [self.etcd(), self.api_server()] {
                if !daemon.runs() {
                    return Err(daemon.failure("has ended"));
                }
            }
            if Instant::now() > deadline {
                return Err(self.api_server().failure(&format!("was not ready within {} s", limit.as_secs())));
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Freezes the API server: connections stay open, and nobody answers. [`ControlPlane::thaw`] ends it.
    ///
    /// # Errors
    /// It does not run.
    pub fn freeze(&self) -> Result<()> {
        if !self.api_server().runs() {
            bail!("freezing kube-apiserver: it does not run");
        }
        self.api_server().signal(Signal::SIGSTOP)
    }

    /// Lets a frozen API server go on.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn thaw(&self) -> Result<()> {
        self.api_server().signal(Signal::SIGCONT)
    }

    /// Runs kubectl, as administrator, and returns what it printed.
    ///
    /// # Errors
    /// It fails; the message has what it said.
    pub fn kubectl_output<S: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<String> {
        let mut command = self.kubectl(args)?;
        let output = command.output().context("starting kubectl")?;
        if !output.status.success() {
            let words: Vec<_> = command.get_args().map(|a| a.to_string_lossy()).collect();
            bail!("kubectl {} failed: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Applies the manifests in a file or directory, as `kubectl apply -f` does, by the server.
    ///
    /// # Errors
    /// kubectl fails.
    pub fn apply(&self, manifests: &Path) -> Result<()> {
        let file = format!("--filename={}", manifests.display());
        self.kubectl_output(["apply", "--server-side", &file]).map(drop)
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        if self.lifetime == Lifetime::Bound
            && let Err(error) = teardown::take_down(self.name())
        {
            eprintln!("taking the control plane {} down: {error:#}", self.name());
        }
    }
}

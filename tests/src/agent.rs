//! The agents of a lab: one `margay agent` process for each node, in the node's namespace.
//!
//! In: a [`Lab`] and the binary. Out: processes with a log and a pid file each, and what the command line of `margay`
//! says about them. Never: a look at what the agent does; that is for `margay status`.

use std::{
    env,
    ffi::OsStr,
    fs::{self, File},
    io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread::{self, sleep},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    lab::Lab,
    process::Process,
    rundir::{read_json, write_json},
};

/// Names the binary, if it does not stand beside the running one.
pub const BINARY_VARIABLE: &str = "MARGAY_BIN";
/// The binary's name.
const BINARY: &str = "margay";
/// How much of a log an error shows, in lines.
const LOG_LINES: usize = 15;

/// How long an agent may take to end: it finishes the pass that it is in.
const STOP_PATIENCE: Duration = Duration::from_secs(20);

/// Who the agent of a node is, in `agent.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agent {
    /// Its process.
    pub process: Process,
    /// What was started.
    pub binary: PathBuf,
}

/// Finds `margay`: what `MARGAY_BIN` names, or beside this executable, or (tests stand in `target/debug/deps`) above it.
///
/// # Errors
/// It is in none of these places.
pub fn find_binary() -> Result<PathBuf> {
    if let Some(path) = env::var_os(BINARY_VARIABLE) {
        return fs::canonicalize(&path)
            .with_context(|| format!("opening {}, which {BINARY_VARIABLE} names", Path::new(&path).display()));
    }
    let me = env::current_exe().context("finding this executable")?;
    let places = me.ancestors().skip(1).take(2).map(|dir| dir.join(BINARY));
    let found = places.into_iter().find(|p| p.is_file());
    found.ok_or_else(|| {
        anyhow!("there is no {BINARY} beside {}: build it (cargo build), or name it in {BINARY_VARIABLE}", me.display())
    })
}

// === impl Lab: agents ===

impl Lab {
    /// Starts an agent on every node, without waiting for them.
    ///
    /// # Errors
    /// The binary is missing, or a process cannot be started.
    pub fn start_agents(&self) -> Result<()> {
        let binary = find_binary()?;
        self.cluster().nodes.keys().try_for_each(|node| self.start_agent(node, &binary))
    }

    /// Starts the agent of one node from `binary`.
    ///
    /// # Errors
    /// One runs there already, or the process cannot be started.
    pub fn start_agent(&self, node: &str, binary: &Path) -> Result<()> {
        self.start_agent_with(node, binary, &[])
    }

    /// As [`Lab::start_agent`], with further options of `margay agent`.
    ///
    /// # Errors
    /// As [`Lab::start_agent`].
    pub fn start_agent_with(&self, node: &str, binary: &Path, options: &[&str]) -> Result<()> {
        let place = self.node(node)?;
        if let Some(agent) = self.agent(node).filter(|a| a.process.runs()) {
            bail!("node {node} has an agent already, process {}", agent.process.pid);
        }
        for dir in [self.dir.bpf_of(node), self.dir.agent_state(node)] {
            fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
        }
        let log = self.dir.agent_log(node);
        let log = File::options().create(true).append(true).open(&log).context("opening the agent's log")?;
        let mut command = place.namespace.command(binary);
        command.arg("agent").args(["--node-name", node]).args(options);
        command.arg("--manifests").arg(self.manifests()).arg("--manifests").arg(self.dir.status());
        command
            .args(self.margay_dirs(node))
            .args(&self.state.agent_arguments)
            .stdin(Stdio::null())
            .stderr(log.try_clone()?)
            .stdout(log);
        own_session(&mut command);
        let child = command.spawn().with_context(|| format!("starting {} on node {node}", binary.display()))?;
        let process = Process::of(i32::try_from(child.id())?)?;
        write_json(&self.dir.agent_file(node), &Agent { process, binary: binary.to_owned() })
    }

    /// What agents that are started from now on get besides what they need.
    ///
    /// # Errors
    /// The lab's state cannot be written.
    pub fn set_agent_arguments(&mut self, arguments: Vec<String>) -> Result<()> {
        self.state.agent_arguments = arguments;
        self.dir.save(&self.state)
    }

    /// The agent that was last started on a node, running or not.
    pub fn agent(&self, node: &str) -> Option<Agent> {
        read_json(&self.dir.agent_file(node)).ok()
    }

    /// Ends the agent of a node by `signal`, and waits for its end.
    ///
    /// # Errors
    /// None was started, or it does not end.
    pub fn stop_agent(&self, node: &str, signal: Signal) -> Result<()> {
        let agent = self.agent(node).ok_or_else(|| anyhow!("no agent was started on node {node}"))?;
        agent.process.signal(signal)?;
        if !agent.process.wait(STOP_PATIENCE) {
            agent.process.end(Duration::ZERO)?;
            agent.process.reap();
            bail!("the agent of node {node} did not end within {STOP_PATIENCE:?} of {signal}; it was killed");
        }
        agent.process.reap();
        Ok(())
    }

    /// Replaces the agent of a node by another build, or by a new process of the same one. Does not wait until it is
    /// ready.
    ///
    /// # Errors
    /// The old one does not end, or the new one cannot be started.
    pub fn restart_agent(&self, node: &str, binary: Option<&Path>) -> Result<()> {
        self.stop_agent(node, Signal::SIGTERM)?;
        match binary {
            Some(binary) => self.start_agent(node, binary),
            None => self.start_agent(node, &find_binary()?),
        }
    }

    /// Waits until every agent has put its first plan into force and has nothing to complain about.
    ///
    /// # Errors
    /// One of them ends, finds problems, or is not ready within `limit`. The message has what it said last.
    pub fn wait_ready(&self, limit: Duration) -> Result<()> {
        let nodes = self.cluster().nodes.keys();
        let failures: Vec<_> = thread::scope(|scope| {
            let waits: Vec<_> = nodes.map(|node| scope.spawn(move || self.wait_node_ready(node, limit))).collect();
            let results = waits.into_iter().map(|w| w.join().unwrap_or_else(|_| Err(anyhow!("waiting panicked"))));
            results.filter_map(|r| r.err().map(|e| format!("{e:#}"))).collect()
        });
        if failures.is_empty() { Ok(()) } else { bail!("{}", failures.join("\n")) }
    }

    /// Waits until the agent of one node is ready.
    ///
    /// # Errors
    /// As [`Lab::wait_ready`].
    pub fn wait_node_ready(&self, node: &str, limit: Duration) -> Result<()> {
        let agent = self.agent(node).ok_or_else(|| anyhow!("no agent was started on node {node}"))?;
        let seconds = limit.as_secs().max(1).to_string();
        let mut status = self.margay_command(node, ["status", "--wait", &seconds])?;
        let mut status =
            status.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("running margay status")?;
        let deadline = Instant::now() + limit + Duration::from_secs(2);
        while status.try_wait()?.is_none() {
            if !agent.process.runs() || Instant::now() > deadline {
                status.kill()?;
                let what = if agent.process.runs() { "does not answer" } else { "has ended" };
                status.wait()?;
                bail!("the agent of node {node} {what}. Its log:\n{}", self.log_tail(node));
            }
            sleep(Duration::from_millis(5));
        }
        let output = status.wait_with_output()?;
        if output.status.success() {
            return Ok(());
        }
        bail!("the agent of node {node} is not ready:\n{}Its log:\n{}", text_of(&output), self.log_tail(node))
    }

    /// Runs the command line of `margay` for a node: in its namespace, with its directories.
    ///
    /// # Errors
    /// It cannot be started. A command that fails is no error: look at the exit code.
    pub fn margay<S: AsRef<OsStr>>(&self, node: &str, args: impl IntoIterator<Item = S>) -> Result<Output> {
        let mut command = self.margay_command(node, args)?;
        command.stdin(Stdio::null()).output().with_context(|| format!("running margay on node {node}"))
    }

    /// What a listing command of `margay` (`status`, `drops`, `endpoints`…) says, as JSON. A degraded agent answers too.
    ///
    /// # Errors
    /// The command prints no JSON.
    pub fn margay_json(&self, node: &str, command: &str) -> Result<Value> {
        let output = self.margay(node, ["-o", "json", command])?;
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("understanding `margay -o json {command}` on node {node}: {}", text_of(&output)))
    }

    /// The command that [`Lab::margay`] runs.
    ///
    /// # Errors
    /// The binary is missing.
    pub fn margay_command<S: AsRef<OsStr>>(&self, node: &str, args: impl IntoIterator<Item = S>) -> Result<Command> {
        // The agent's own build answers, if there is one.
        let binary = self.agent(node).map(|a| a.binary).filter(|b| b.exists()).map_or_else(find_binary, Ok)?;
        let mut command = self.node(node)?.namespace.command(binary);
        command.args(self.margay_dirs(node)).args(args);
        Ok(command)
    }

    /// The options that tell `margay` which node's it is.
    pub fn margay_dirs(&self, node: &str) -> [std::ffi::OsString; 4] {
        let (bpffs, state) = (self.dir.bpf_of(node), self.dir.agent_state(node));
        ["--bpffs".into(), bpffs.into(), "--state-dir".into(), state.into()]
    }

    /// The last lines of an agent's log.
    pub fn log_tail(&self, node: &str) -> String {
        let path = self.dir.agent_log(node);
        match fs::read_to_string(&path) {
            Ok(text) => {
                let lines: Vec<_> = text.lines().collect();
                lines[lines.len().saturating_sub(LOG_LINES)..].iter().map(|l| format!("  {l}\n")).collect()
            }
            Err(error) => format!("  {} cannot be read: {error}\n", path.display()),
        }
    }
}

/// Away from the terminal, so that Ctrl-C reaches the lab and not its agents.
fn own_session(command: &mut Command) {
    // SAFETY: setsid(2) is one system call; it allocates nothing.
    unsafe { command.pre_exec(|| nix::unistd::setsid().map(drop).map_err(io::Error::from)) };
}

/// What a command printed, both ways.
pub fn text_of(output: &Output) -> String {
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    text
}

//! The plugin: one call from beginning to end.

use std::{
    fs::File,
    io::Read as _,
    net::IpAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use margay_maps::Mac;
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};
use serde_json::Value;

use super::{
    SOCKET,
    call::{Call, Command},
    client::Agent,
    delegate,
    protocol::{Attached, HOST_MAC, Prepare, Prepared, Reply, Request},
    spec::{Added, AttachmentId, CniError, NetConf, VERSIONS, code, versions_json},
    wire::{self, Pair, Wire},
};
use crate::{names::workload_interface, state::DEFAULT_STATE_DIR};

/// The name under which `ipam.type` means Margay's own address manager.
const OWN_IPAM: &str = "margay";

/// How long one call waits for another that is about the same sandbox.
const ALONE_PATIENCE: Duration = Duration::from_secs(2);

/// The plugin's `main`.
pub fn main() -> ExitCode {
    let mut stdin = Vec::new();
    // What could not be read cannot be decoded either, and that error is the better one.
    drop(std::io::stdin().read_to_end(&mut stdin));
    let version = asked_version(&stdin);
    match run(&stdin) {
        Ok(Some(result)) => {
            println!("{result}");
            ExitCode::SUCCESS
        }
        Ok(None) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{}", error.to_json(&version));
            ExitCode::FAILURE
        }
    }
}

/// The version of the configuration, for errors that come before it has been understood.
fn asked_version(stdin: &[u8]) -> String {
    let config = serde_json::from_slice::<Value>(stdin).unwrap_or_default();
    config["cniVersion"].as_str().unwrap_or("1.0.0").to_owned()
}

fn run(stdin: &[u8]) -> Result<Option<Value>, CniError> {
    let call = Call::read(|name| std::env::var(name).ok())?;
    if call.command == Command::Version {
        return Ok(Some(versions_json(&asked_version(stdin))));
    }
    let conf: NetConf = serde_json::from_slice(stdin)
        .map_err(|e| CniError::new(code::DECODING, "reading the network configuration", e.to_string()))?;
    if !VERSIONS.contains(&conf.cni_version.as_str()) {
        let spoken = VERSIONS.join(", ");
        let details = format!("cniVersion {:?} is none of {spoken}", conf.cni_version);
        return Err(CniError::new(code::INCOMPATIBLE_VERSION, "reading the network configuration", details));
    }
    if let Some(since) = call.command.since().filter(|since| conf.cni_version.as_str() < *since) {
        let details = format!("cniVersion {:?} has no {:?}, which came with {since}", conf.cni_version, call.command);
        return Err(CniError::new(code::INCOMPATIBLE_VERSION, "reading the network configuration", details));
    }
    let plugin = Plugin { call, conf, stdin };
    match plugin.call.command {
        Command::Add => plugin.add().map(Some),
        Command::Del => plugin.del().map(|()| None),
        Command::Check => plugin.check().map(|()| None),
        Command::Gc => plugin.gc().map(|()| None),
        Command::Status => plugin.status().map(|()| None),
        Command::Version => Ok(None),
    }
}

/// One call.
struct Plugin<'a> {
    call: Call,
    conf: NetConf,
    stdin: &'a [u8],
}

// === impl Plugin ===

impl Plugin<'_> {
    fn attachment(&self) -> AttachmentId {
        AttachmentId { container_id: self.call.container_id.clone(), ifname: self.call.ifname.clone() }
    }

    fn agent(&self) -> Result<Agent, CniError> {
        let default = || Path::new(DEFAULT_STATE_DIR).join(SOCKET);
        let socket = self.conf.socket.as_ref().map_or_else(default, PathBuf::from);
        Agent::connect(&socket)
    }

    /// The IPAM plugin of the configuration, if it is not our own.
    fn delegate(&self) -> Option<&str> {
        self.conf.ipam.as_ref().map(|i| i.kind.as_str()).filter(|kind| !kind.is_empty() && *kind != OWN_IPAM)
    }

    fn add(&self) -> Result<Value, CniError> {
        let netns = open_netns(&self.call.netns)?;
        // Two calls for one sandbox would undo each other's work.
        let netns = alone(netns)?;
        // Before anything is given or made: without an agent there is nothing to undo.
        let mut agent = self.agent()?;
        let given = match self.delegate() {
            Some(plugin) => delegate::add(plugin, &self.call, self.stdin)?,
            None => Vec::new(),
        };
        let result = self.add_with(&mut agent, &netns, given);
        if result.is_err() {
            // What failed half-way is taken back; the runtime will call DEL as well, and the agent remembers.
            agent.undo(&self.release());
            if let Some(plugin) = self.delegate() {
                drop(delegate::run(plugin, "DEL", &self.call, self.stdin));
            }
        }
        result
    }

    /// The pair is made while addresses are looked for, and the agent attaches programs to it meanwhile.
    fn add_with(&self, agent: &mut Agent, netns: &File, given: Vec<IpAddr>) -> Result<Value, CniError> {
        let pod = self.call.pod.clone().unwrap_or_default();
        let host_interface = workload_interface(&pod.namespace, &pod.name);
        agent.begin(&Request::Prepare(Prepare {
            attachment: self.attachment(),
            pod,
            uid: self.call.uid.clone(),
            netns: self.call.netns.clone(),
            given,
            wanted: self.wanted()?,
        }))?;
        let pair = Pair::make(netns, &host_interface, &self.call.ifname).map_err(kernel)?;
        let added = self.put_in_force(agent, &pair, host_interface);
        if added.is_err() {
            // The error is the one to report; DEL, and the end of the namespace, try again.
            drop(pair.remove());
        }
        Ok(added?.to_json(&self.conf.cni_version, self.conf.prev_result.as_ref()))
    }

    fn put_in_force(&self, agent: &mut Agent, pair: &Pair, host_interface: String) -> Result<Added, CniError> {
        let Reply::Prepared(prepared) = agent.answer()? else { return Err(confused()) };
        let Prepared { addresses, mtu, mac } = prepared;
        let mtu = if self.conf.mtu == 0 { mtu } else { self.conf.mtu };
        let mac = self.mac(mac.as_deref())?;
        let interface = self.call.ifname.as_str();
        let wire = Wire { interface, mac, addresses: &addresses, mtu };
        let mac = pair.configure(&wire).map_err(kernel)?;
        let limited = self.conf.runtime_config.bandwidth.is_some();
        agent.ask(&Request::Commit { attachment: self.attachment(), limited })?;
        Ok(Added {
            host_interface,
            host_mac: HOST_MAC.to_string(),
            interface: interface.to_owned(),
            mac: mac.to_string(),
            netns: self.call.netns.clone(),
            addresses,
            mtu,
            gateway: wire::GATEWAY.into(),
        })
    }

    fn release(&self) -> Request {
        Request::Release { attachment: self.attachment(), own_addresses: self.delegate().is_none() }
    }

    fn wanted(&self) -> Result<Vec<IpAddr>, CniError> {
        let mut wanted = Vec::new();
        for text in &self.conf.runtime_config.ips {
            // With or without a length of prefix.
            let address = text.split('/').next().unwrap_or_default();
            wanted.push(address.parse().map_err(|e: std::net::AddrParseError| {
                CniError::new(code::INVALID_CONFIG, "reading runtimeConfig.ips", format!("{text:?}: {e}"))
            })?);
        }
        Ok(wanted)
    }

    /// The MAC that the runtime asks for, else that of the pod's annotation.
    fn mac(&self, annotated: Option<&str>) -> Result<Option<Mac>, CniError> {
        let Some(text) = self.conf.runtime_config.mac.as_deref().or(annotated) else { return Ok(None) };
        let invalid = |e| CniError::new(code::INVALID_CONFIG, "reading the wanted MAC", format!("{text:?}: {e}"));
        text.parse().map(Some).map_err(invalid)
    }

    /// Never fails for what is not there (any more). Without an agent nothing is done and the runtime is told to come
    /// again: only the agent knows whether the interface is still this container's.
    fn del(&self) -> Result<(), CniError> {
        let released = self.agent().and_then(|mut a| a.ask(&self.release()));
        let kernel = |e: anyhow::Error| CniError::new(code::KERNEL, "removing the pod's interface", format!("{e:#}"));
        match &released {
            Ok(Reply::Done(Some(Attached { superseded: false, host_interface, .. }))) => {
                wire::remove(host_interface).map_err(kernel)?;
            }
            // The agent has taken the attachment back by itself; what is in the sandbox is this container's for sure.
            Ok(Reply::Done(None)) => {
                if let Ok(netns) = open_netns(&self.call.netns) {
                    wire::remove_inside(&netns, &self.call.ifname).map_err(kernel)?;
                }
            }
            _ => {}
        }
        if let Some(plugin) = self.delegate() {
            delegate::run(plugin, "DEL", &self.call, self.stdin)?;
        }
        released.map(drop)
    }

    fn check(&self) -> Result<(), CniError> {
        let netns = open_netns(&self.call.netns)?;
        let reply = self.agent()?.ask(&Request::Check { attachment: self.attachment() })?;
        let Reply::Done(Some(attached)) = reply else {
            let details = format!("container {} has no interface {} of ours", self.call.container_id, self.call.ifname);
            return Err(CniError::new(code::UNKNOWN_CONTAINER, "checking the attachment", details));
        };
        let differs =
            |e: anyhow::Error| CniError::new(code::CHECK_FAILED, "checking the pod's interface", format!("{e:#}"));
        wire::check(&netns, &self.call.ifname, &attached.addresses).map_err(differs)?;
        self.delegated("CHECK")
    }

    /// The same of the IPAM plugin, if there is one.
    fn delegated(&self, command: &str) -> Result<(), CniError> {
        self.delegate().map_or(Ok(()), |plugin| delegate::run(plugin, command, &self.call, self.stdin).map(drop))
    }

    fn gc(&self) -> Result<(), CniError> {
        let valid = self.conf.valid_attachments.clone().ok_or_else(|| {
            let details = "cni.dev/valid-attachments is missing";
            CniError::new(code::INVALID_CONFIG, "reading the network configuration", details)
        })?;
        let Reply::Collected(gone) = self.agent()?.ask(&Request::Gc { valid })? else { return Err(confused()) };
        if let Some(plugin) = self.delegate() {
            // Not every plugin knows GC; DEL does no harm to those that do.
            for AttachmentId { container_id, ifname } in gone {
                let call = Call { container_id, ifname, netns: String::new(), ..self.call.clone() };
                delegate::run(plugin, "DEL", &call, self.stdin)?;
            }
        }
        self.delegated("GC")
    }

    fn status(&self) -> Result<(), CniError> {
        let unavailable = |e: CniError| CniError { code: code::NOT_AVAILABLE, ..e };
        self.agent().and_then(|mut a| a.ask(&Request::Status)).map(drop).map_err(unavailable)?;
        self.delegated("STATUS")
    }
}

fn kernel(error: anyhow::Error) -> CniError {
    CniError::new(code::KERNEL, "wiring the pod", format!("{error:#}"))
}

fn open_netns(path: &str) -> Result<File, CniError> {
    File::open(path).map_err(|e| {
        CniError::new(
            code::IO,
            "opening the pod's network namespace",
            format!("{path}: {e}; the container may be gone"),
        )
    })
}

/// Waits until no other call has the sandbox. Held until the file is closed, however this process ends.
fn alone(netns: File) -> Result<Flock<File>, CniError> {
    let mut netns = netns;
    let deadline = Instant::now() + ALONE_PATIENCE;
    loop {
        netns = match Flock::lock(netns, FlockArg::LockExclusiveNonblock) {
            Ok(locked) => return Ok(locked),
            Err((netns, Errno::EWOULDBLOCK)) if Instant::now() < deadline => netns,
            Err((_, e)) => {
                let details = format!("{e}; another call is busy with it");
                return Err(CniError::new(code::TRY_AGAIN, "waiting for the pod's network namespace", details));
            }
        };
        thread::sleep(Duration::from_millis(20));
    }
}

fn confused() -> CniError {
    CniError::new(
        code::TRY_AGAIN,
        "talking to Margay's agent",
        "it answered something else than was asked: is it another version?",
    )
}

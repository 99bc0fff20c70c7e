//! Another plugin as address manager (SPEC.md, "Delegated plugins"): found in `CNI_PATH`, given our environment and
//! configuration, and its addresses read.

use std::{
    io::Write as _,
    net::IpAddr,
    path::PathBuf,
    process::{Command, Stdio},
};

use ipnet::IpNet;
use serde::Deserialize;

use super::{
    call::Call,
    spec::{CniError, code},
};

/// The part of an IPAM plugin's result that counts.
#[derive(Deserialize)]
struct IpamResult {
    #[serde(default)]
    ips: Vec<IpamAddress>,
}

#[derive(Deserialize)]
struct IpamAddress {
    address: IpNet,
}

/// ADD: the addresses that the plugin gives.
///
/// # Errors
/// There is no such plugin, what it answered, or it gave none.
pub fn add(plugin: &str, call: &Call, config: &[u8]) -> Result<Vec<IpAddr>, CniError> {
    let result = run(plugin, "ADD", call, config)?;
    let result: Result<IpamResult, _> = serde_json::from_slice(&result);
    let addresses: Vec<IpAddr> =
        result.map_err(|e| failed(plugin, e.to_string()))?.ips.into_iter().map(|ip| ip.address.addr()).collect();
    if addresses.is_empty() { Err(failed(plugin, "it gave no address".to_owned())) } else { Ok(addresses) }
}

/// Runs the plugin with `command` in place of our own, for the container of `call`. Returns what it printed.
///
/// # Errors
/// There is no such plugin, or what it answered.
pub fn run(plugin: &str, command: &str, call: &Call, config: &[u8]) -> Result<Vec<u8>, CniError> {
    let failed = |details: String| failed(plugin, details);
    let path = find(plugin, &call.path).ok_or_else(|| failed("it is in no directory of CNI_PATH".to_owned()))?;
    let mut child = Command::new(&path)
        .env("CNI_COMMAND", command)
        .env("CNI_CONTAINERID", &call.container_id)
        .env("CNI_IFNAME", &call.ifname)
        .env("CNI_NETNS", &call.netns)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .map_err(|e| failed(format!("{}: {e}", path.display())))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A plugin that does not read its configuration answers that itself.
        drop(stdin.write_all(config));
    }
    let output = child.wait_with_output().map_err(|e| failed(e.to_string()))?;
    if !output.status.success() {
        let error = serde_json::from_slice::<CniError>(&output.stdout);
        return Err(error.unwrap_or_else(|_none| failed(String::from_utf8_lossy(&output.stdout).into_owned())));
    }
    Ok(output.stdout)
}

fn failed(plugin: &str, details: String) -> CniError {
    CniError::new(code::IO, format!("running the IPAM plugin {plugin}"), details)
}

/// The plugin's file. A name with a slash is no plugin's.
fn find(plugin: &str, path: &[PathBuf]) -> Option<PathBuf> {
    if plugin.is_empty() || plugin.contains('/') {
        return None;
    }
    path.iter().map(|dir| dir.join(plugin)).find(|file| file.is_file())
}

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

/// Runs the plugin with `command` in place of our own. Returns the addresses it gave (ADD).
///
/// # Errors
/// There is no such plugin, or what it answered.
pub fn run(plugin: &str, command: &str, call: &Call, config: &[u8]) -> Result<Vec<IpAddr>, CniError> {
    let failed = |details: String| CniError::new(code::IO, format!("running the IPAM plugin {plugin}"), details);
    let path = find(plugin, &call.path).ok_or_else(|| failed("it is in no directory of CNI_PATH".to_owned()))?;
    let mut child = Command::new(&path)
        .env("CNI_COMMAND", command)
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
    if command != "ADD" {
        return Ok(Vec::new());
    }
    let result: IpamResult = serde_json::from_slice(&output.stdout).map_err(|e| failed(e.to_string()))?;
    Ok(result.ips.into_iter().map(|ip| ip.address.addr()).collect())
}

/// The plugin's file. A name with a slash is no plugin's.
fn find(plugin: &str, path: &[PathBuf]) -> Option<PathBuf> {
    if plugin.is_empty() || plugin.contains('/') {
        return None;
    }
    path.iter().map(|dir| dir.join(plugin)).find(|file| file.is_file())
}

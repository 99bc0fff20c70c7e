//! The call itself: the `CNI_*` variables, checked before anything is done.

use std::path::PathBuf;

use super::spec::{CniError, code};
use crate::object::PodName;

/// What the runtime wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Give the pod an interface.
    Add,
    /// Take it away.
    Del,
    /// Say whether it is as it was made.
    Check,
    /// Forget all attachments but these.
    Gc,
    /// Say whether ADD would work.
    Status,
    /// Say which versions are spoken.
    Version,
}

// === impl Command ===

impl Command {
    /// The version of the specification that brought the command, where it was not always there.
    pub fn since(self) -> Option<&'static str> {
        match self {
            Self::Check => Some("0.4.0"),
            Self::Gc | Self::Status => Some("1.1.0"),
            Self::Add | Self::Del | Self::Version => None,
        }
    }
}

/// The variables of one call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// `CNI_COMMAND`.
    pub command: Command,
    /// `CNI_CONTAINERID`; empty where the command has none.
    pub container_id: String,
    /// `CNI_NETNS`; empty where there is none (any more).
    pub netns: String,
    /// `CNI_IFNAME`.
    pub ifname: String,
    /// `CNI_PATH`: where other plugins are.
    pub path: Vec<PathBuf>,
    /// `K8S_POD_NAMESPACE` and `K8S_POD_NAME` of `CNI_ARGS`.
    pub pod: Option<PodName>,
    /// `K8S_POD_UID` of `CNI_ARGS`.
    pub uid: Option<String>,
}

/// The kernel's limit for interface names, without the NUL (`IFNAMSIZ`).
const MAX_IFNAME: usize = 15;

// === impl Call ===

impl Call {
    /// From the environment, which `get` reads.
    ///
    /// # Errors
    /// [`code::INVALID_ENVIRONMENT`] names every variable that is missing or wrong.
    pub fn read(get: impl Fn(&str) -> Option<String>) -> Result<Self, CniError> {
        let value = |name: &str| get(name).unwrap_or_default();
        let invalid = |details: String| CniError::new(code::INVALID_ENVIRONMENT, "reading the environment", details);
        let command = match value("CNI_COMMAND").as_str() {
            "ADD" => Command::Add,
            "DEL" => Command::Del,
            "CHECK" => Command::Check,
            "GC" => Command::Gc,
            "STATUS" => Command::Status,
            "VERSION" => Command::Version,
            other => {
                return Err(invalid(format!(
                    "CNI_COMMAND is {other:?}, which is none of ADD, DEL, CHECK, GC, STATUS, VERSION"
                )));
            }
        };
        let call = Self {
            command,
            container_id: value("CNI_CONTAINERID"),
            netns: value("CNI_NETNS"),
            ifname: value("CNI_IFNAME"),
            path: std::env::split_paths(&value("CNI_PATH")).filter(|p| !p.as_os_str().is_empty()).collect(),
            pod: pod_name(&value("CNI_ARGS")),
            uid: argument(&value("CNI_ARGS"), "K8S_POD_UID").map(str::to_owned),
        };
        match call.faults() {
            faults if faults.is_empty() => Ok(call),
            faults => Err(invalid(faults.join("; "))),
        }
    }

    fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let concerns_one = matches!(self.command, Command::Add | Command::Del | Command::Check);
        if !concerns_one {
            return faults;
        }
        if self.container_id.is_empty() {
            faults.push("CNI_CONTAINERID is missing".to_owned());
        }
        let fine = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        if !self.container_id.chars().all(fine) || self.container_id.starts_with(['_', '.', '-']) {
            faults.push(format!("CNI_CONTAINERID {:?} has characters that it may not have", self.container_id));
        }
        if self.ifname.is_empty() || self.ifname.len() > MAX_IFNAME || self.ifname.contains(['/', ':', ' ']) {
            faults.push(format!("CNI_IFNAME {:?} is no interface's name", self.ifname));
        }
        if self.netns.is_empty() && self.command != Command::Del {
            faults.push("CNI_NETNS is missing".to_owned());
        }
        if self.pod.is_none() && self.command == Command::Add {
            faults.push("CNI_ARGS names no pod (K8S_POD_NAMESPACE and K8S_POD_NAME)".to_owned());
        }
        faults
    }
}

/// The pod in `K8S_POD_NAMESPACE=default;K8S_POD_NAME=web`.
fn pod_name(args: &str) -> Option<PodName> {
    Some(PodName::new(argument(args, "K8S_POD_NAMESPACE")?, argument(args, "K8S_POD_NAME")?))
}

/// The value of a key in `CNI_ARGS`; the last of several.
fn argument<'a>(args: &'a str, key: &str) -> Option<&'a str> {
    let mut pairs = args.split(';').rev().filter_map(|pair| pair.split_once('='));
    pairs.find(|(name, _)| *name == key).map(|(_, value)| value).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn read(overrides: &[(&str, &str)]) -> Result<Call, CniError> {
        let mut variables = BTreeMap::from([
            ("CNI_COMMAND", "ADD"),
            ("CNI_CONTAINERID", "abc123"),
            ("CNI_NETNS", "/run/netns/x"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_PATH", "/opt/cni/bin"),
            ("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;K8S_POD_UID=1"),
        ]);
        variables.extend(overrides.iter().copied());
        Call::read(|name| variables.get(name).map(|v| (*v).to_owned()))
    }

    #[test]
    fn what_the_kubelet_passes_is_understood() {
        let call = read(&[]).unwrap();
        assert_eq!((call.command, call.pod), (Command::Add, Some(PodName::new("default", "web-0"))));
        assert_eq!(call.uid.as_deref(), Some("1"));
        assert_eq!(call.path, [PathBuf::from("/opt/cni/bin")]);
    }

    #[test]
    fn every_fault_is_named() {
        let bad = [
            (&[("CNI_COMMAND", "ADDD")][..], "ADDD"),
            (&[("CNI_CONTAINERID", "")][..], "CNI_CONTAINERID"),
            (&[("CNI_CONTAINERID", "../x")][..], "CNI_CONTAINERID"),
            (&[("CNI_NETNS", "")][..], "CNI_NETNS"),
            (&[("CNI_IFNAME", "")][..], "CNI_IFNAME"),
            (&[("CNI_IFNAME", "a-name-that-is-too-long")][..], "CNI_IFNAME"),
            (&[("CNI_ARGS", "K8S_POD_NAME=web")][..], "K8S_POD_NAMESPACE"),
        ];
        for (overrides, named) in bad {
            let error = read(overrides).unwrap_err();
            assert_eq!(error.code, code::INVALID_ENVIRONMENT);
            assert!(error.details.contains(named), "{error}");
        }
    }

    #[test]
    fn del_needs_neither_namespace_nor_pod() {
        assert!(read(&[("CNI_COMMAND", "DEL"), ("CNI_NETNS", ""), ("CNI_ARGS", "")]).is_ok());
    }

    #[test]
    fn gc_status_and_version_are_about_no_container() {
        for command in ["GC", "STATUS", "VERSION"] {
            assert!(read(&[("CNI_COMMAND", command), ("CNI_CONTAINERID", ""), ("CNI_IFNAME", "")]).is_ok());
        }
    }
}

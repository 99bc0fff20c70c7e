//! The nftables table `inet margay`: what comes from a pod before its programs are there is dropped, and what leaves the
//! cluster gets the node's address.
//!
//! In: a plan's [`Nat`]. Out: a table that says just that, made anew in one transaction whenever it differs; connections that
//! are translated already go on meanwhile. Never: a table of another name.
//!
//! nft prints a table in its own words, which differ from version to version. So what is compared is not what was asked
//! for, but what nft said right after the table was made.

use std::{collections::BTreeSet, fmt::Write as _, io, process::Stdio, time::Duration};

use ipnet::IpNet;
use tokio::{io::AsyncWriteExt as _, process::Command, time::timeout};
use tracing::{info, warn};

use crate::{datapath::attach::Depth, names::WORKLOAD_PREFIX, plan::Nat};

/// The table, as nft names it.
pub const TABLE: &str = "inet margay";

/// How long nft may take. It waits for the kernel alone, and for nobody's lock.
const PATIENCE: Duration = Duration::from_secs(10);

/// nft could not do it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum NftError {
    /// There is no nft.
    #[error("there is no program nft here")]
    Missing,
    /// It did not end, or could not be started.
    #[error("running nft: {0}")]
    Run(String),
    /// It said no.
    #[error("{doing}: nft says: {said}")]
    Refused {
        /// What was being done.
        doing: &'static str,
        /// The first line of what it said.
        said: String,
    },
}

// === impl NftError ===

impl NftError {
    /// What to do.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Missing => {
                "install nftables on this node (the image of Margay has it); until then pods of pools with natOutgoing \
                 reach nobody outside of the cluster, and one whose interface the CNI plugin has not made can reach its node \
                 before its programs are attached"
            }
            Self::Run(_) => "see the agent's log; it tries again",
            Self::Refused { .. } => {
                "see whether this kernel has nf_tables, nft_chain_nat and nft_masq (modprobe); the agent tries again"
            }
        }
    }
}

/// The table, and what is known of it.
#[derive(Debug, Default)]
pub struct Table {
    seen: Seen,
}

#[derive(Debug, Default)]
enum Seen {
    /// Nothing is known: an earlier agent may have left a table.
    #[default]
    Nothing,
    /// It was made for this, and this is how nft lists it.
    Made { nat: Option<Nat>, listing: String },
    /// Making it for this failed.
    Failed { nat: Option<Nat>, error: NftError },
}

// === impl Table ===

impl Table {
    /// Makes the table say what is wanted. To be called when the pods' interfaces have their programs: from then on it drops what comes
    /// from those without. A look at what is there, and another try after one that failed, only at the depth of `Everything`.
    ///
    /// # Errors
    /// There is no nft, or it fails; what was in force stays in force.
    pub async fn ensure(&mut self, nat: Option<&Nat>, depth: Depth) -> Result<(), NftError> {
        match &self.seen {
            Seen::Made { nat: made, .. } if depth == Depth::Changes && made.as_ref() == nat => return Ok(()),
            Seen::Failed { nat: before, error } if depth == Depth::Changes && before.as_ref() == nat => {
                return Err(error.clone());
            }
            _ => {}
        }
        match mend(nat, &self.seen).await {
            Ok(None) => {}
            Ok(Some(seen)) => self.seen = seen,
            Err(error) => {
                self.seen = Seen::Failed { nat: nat.cloned(), error: error.clone() };
                return Err(error);
            }
        }
        Ok(())
    }
}

/// What is there afterwards; `None` if it is what it was.
async fn mend(nat: Option<&Nat>, seen: &Seen) -> Result<Option<Seen>, NftError> {
    if let Seen::Made { nat: made, listing } = seen
        && made.as_ref() == nat
    {
        if list().await?.as_ref() == Some(listing) {
            return Ok(None);
        }
        warn!("somebody has changed or deleted the nftables table {TABLE}: making it anew");
    }
    make(nat).await.map(Some)
}

async fn make(nat: Option<&Nat>) -> Result<Seen, NftError> {
    nft("making the table", &["-f", "-"], &script(nat)).await?;
    match nat {
        Some(Nat { sources, pools }) => {
            info!(table = TABLE, sources = list_of(sources), pools = list_of(pools), "made, with translation");
        }
        None => info!(table = TABLE, "made"),
    }
    // Gone again already: the next look finds that it differs.
    let listing = list().await?.unwrap_or_default();
    Ok(Seen::Made { nat: nat.cloned(), listing })
}

/// Deletes the table, if there is one. Says whether there was.
///
/// # Errors
/// There is no nft, or it fails. A kernel without nf_tables is no error: then there is no table.
pub async fn remove() -> Result<bool, NftError> {
    match list().await {
        Ok(Some(_)) => {}
        Ok(None) | Err(NftError::Refused { .. }) => return Ok(false),
        Err(error) => return Err(error),
    }
    nft("deleting the table", &["-f", "-"], &format!("delete table {TABLE}\n")).await?;
    info!(table = TABLE, "deleted");
    Ok(true)
}

/// The table as nft lists it, without counters; `None` where there is none.
async fn list() -> Result<Option<String>, NftError> {
    match nft("listing the table", &["--stateless", "list", "table", "inet", "margay"], "").await {
        Ok(listing) => Ok(Some(listing)),
        // strerror(ENOENT), in the language that `nft` is started with.
        Err(NftError::Refused { said, .. }) if said.contains("No such file or directory") => Ok(None),
        Err(error) => Err(error),
    }
}

async fn nft(doing: &'static str, arguments: &[&str], input: &str) -> Result<String, NftError> {
    let run = async {
        let mut command = Command::new("nft");
        command.args(arguments).env("LC_ALL", "C").kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // One that does not read says why on its way out.
            drop(stdin.write_all(input.as_bytes()).await);
        }
        child.wait_with_output().await
    };
    let output = match timeout(PATIENCE, run).await {
        Ok(Ok(output)) => output,
        Ok(Err(e)) if e.kind() == io::ErrorKind::NotFound => return Err(NftError::Missing),
        Ok(Err(e)) => return Err(NftError::Run(e.to_string())),
        Err(_elapsed) => return Err(NftError::Run(format!("it did not end within {PATIENCE:?}"))),
    };
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        let said = text.lines().next().unwrap_or("nothing").trim().to_owned();
        return Err(NftError::Refused { doing, said });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The transaction that puts the table in place of whatever is there. (Declaring it first keeps `delete` from failing where
/// there is none.)
///
/// What comes from a pod's interface without the mark of `from_workload` has met no program: none is attached yet. It is dropped
/// before anything else of the host's stack sees it, and counted.
fn script(nat: Option<&Nat>) -> String {
    let judged = margay_maps::mark::JUDGED;
    let mut text = format!(
        "table {TABLE}\ndelete table {TABLE}\ntable {TABLE} {{\n\
         \tchain unjudged {{\n\t\ttype filter hook prerouting priority raw; policy accept;\n\
         \t\tiifname \"{WORKLOAD_PREFIX}*\" meta mark & {judged:#010x} == 0 counter drop\n\t}}\n"
    );
    if let Some(nat) = nat {
        translation(&mut text, nat);
    }
    text += "}\n";
    text
}

/// Pods' packets to pods are no business of it, whatever address these have: what leaves by a pod's interface or the overlay
/// stays in the cluster. Ports are chosen at random, since two connections that choose the same one at the same moment
/// would lose a packet.
fn translation(text: &mut String, Nat { sources, pools }: &Nat) {
    for (name, ranges) in [("sources", sources), ("pools", pools)] {
        // Writing into a String does not fail.
        let _ = write!(
            text,
            "\tset {name} {{\n\t\ttype ipv4_addr\n\t\tflags interval\n\t\telements = {{ {} }}\n\t}}\n",
            list_of(ranges)
        );
    }
    let overlay = margay_maps::overlay::DEVICE;
    let _ = write!(
        text,
        "\tchain postrouting {{\n\t\ttype nat hook postrouting priority srcnat; policy accept;\n\
         \t\tip saddr @sources ip daddr != @pools oifname != \"{overlay}\" oifname != \"{WORKLOAD_PREFIX}*\" \
         masquerade fully-random\n\t}}\n"
    );
}

fn list_of(ranges: &BTreeSet<IpNet>) -> String {
    ranges.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_replaces_whatever_there_was_in_one_transaction() {
        let ranges = |ranges: &[&str]| ranges.iter().map(|range| range.parse().unwrap()).collect();
        let nat = Nat { sources: ranges(&["10.1.0.0/16"]), pools: ranges(&["10.1.0.0/16", "10.4.0.0/16"]) };
        let head = "\
table inet margay
delete table inet margay
table inet margay {
	chain unjudged {
		type filter hook prerouting priority raw; policy accept;
		iifname \"cali*\" meta mark & 0x01000000 == 0 counter drop
	}
";
        let translation = "	set sources {
		type ipv4_addr
		flags interval
		elements = { 10.1.0.0/16 }
	}
	set pools {
		type ipv4_addr
		flags interval
		elements = { 10.1.0.0/16, 10.4.0.0/16 }
	}
	chain postrouting {
		type nat hook postrouting priority srcnat; policy accept;
		ip saddr @sources ip daddr != @pools oifname != \"vxlan.calico\" oifname != \"cali*\" masquerade fully-random
	}
";
        assert_eq!(script(None), format!("{head}}}\n"));
        assert_eq!(script(Some(&nat)), format!("{head}{translation}}}\n"));
    }
}

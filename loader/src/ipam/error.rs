//! Why an address could not be given out or taken back, and what to do about it.

use std::net::IpAddr;

use ipnet::IpNet;

use super::cidr::Family;
use super::store::StoreError;

/// Why not. The text is one sentence without a full stop; [`IpamError::remedy`] is the one that follows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IpamError {
    /// No pool may be used for this.
    #[error("no address for this node: {why}")]
    NoPool {
        /// Why not.
        why: String,
    },
    /// All pools that may be used are full.
    #[error("no {family} address is free in {}{}", pools.join(", "), if *own_only { " in this node's blocks" } else { "" })]
    Exhausted {
        /// The family.
        family: Family,
        /// The names of the pools.
        pools: Vec<String>,
        /// Whether addresses in other nodes' blocks could not be used, or no new block could be taken.
        own_only: bool,
    },
    /// The node owns as many blocks as it may.
    #[error("this node's {limit} blocks are full, and it may not own more")]
    BlockLimit {
        /// How many it may own.
        limit: usize,
    },
    /// The address that was asked for is in no pool.
    #[error("{address} is in no enabled pool")]
    OutsidePools {
        /// The address.
        address: IpAddr,
    },
    /// The address that was asked for is somebody else's.
    #[error("{address} is taken{}", by.as_ref().map(|by| format!(" by {by}")).unwrap_or_default())]
    Taken {
        /// The address.
        address: IpAddr,
        /// The handle of who has it.
        by: Option<String>,
    },
    /// The address that was asked for is in another node's block, and `strictAffinity` is on.
    #[error("{address} is in a block of {}", owner.as_deref().unwrap_or("no node"))]
    NotOurs {
        /// The address.
        address: IpAddr,
        /// The node.
        owner: Option<String>,
    },
    /// There is no Node object of this node's name.
    #[error("there is no Node {node}")]
    NoNode {
        /// The name.
        node: String,
    },
    /// A block contradicts itself.
    #[error("IPAMBlock {block}: {what}")]
    Broken {
        /// The block.
        block: IpNet,
        /// How.
        what: String,
    },
    /// The API server cannot be reached, or cannot answer now.
    #[error("{0}")]
    Unreachable(String),
    /// The API server will not do it.
    #[error("{0}")]
    Refused(String),
    /// Too many others wrote to the same object at the same time.
    #[error("{what} {attempts} times in a row")]
    Contended {
        /// Which object.
        what: String,
        /// How often.
        attempts: u32,
    },
}

// === impl IpamError ===

impl IpamError {
    /// What to do, in one sentence without a full stop.
    pub fn remedy(&self) -> String {
        match self {
            Self::NoPool { .. } => "create or enable an IPPool that selects this node (kubectl get ippools -o yaml)".to_owned(),
            Self::Exhausted { own_only: true, .. } => {
                "create another IPPool, or set strictAffinity to false and autoAllocateBlocks to true in IPAMConfig default".to_owned()
            }
            Self::Exhausted { .. } => {
                "create another IPPool, and see with `margay ipam check` whether addresses leak".to_owned()
            }
            Self::BlockLimit { .. } => "raise maxBlocksPerHost in IPAMConfig default".to_owned(),
            Self::OutsidePools { .. } => "ask for an address of an enabled IPPool, or create one that holds it".to_owned(),
            Self::Taken { address, .. } => format!("ask for another address; `margay ipam show` says who has {address}"),
            Self::NotOurs { .. } => {
                "run the pod on that node, or set strictAffinity to false in IPAMConfig default".to_owned()
            }
            Self::NoNode { .. } => "start the agent with --node-name as kubectl get nodes has it".to_owned(),
            Self::Broken { .. } => "see `margay ipam check`; nothing is given out from the block until it is mended".to_owned(),
            Self::Unreachable(_) => "it is tried again; see that this node reaches the API server".to_owned(),
            Self::Refused(_) => "see that the agent's ClusterRole and the definitions in deploy/crds are applied".to_owned(),
            Self::Contended { .. } => "it is tried again".to_owned(),
        }
    }

    /// Whether the same may work a moment later without anybody doing anything.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Contended { .. })
    }
}

impl From<StoreError> for IpamError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unreachable { .. } => Self::Unreachable(error.to_string()),
            StoreError::Refused { .. } => Self::Refused(error.to_string()),
            StoreError::Exists(_) | StoreError::Conflict(_) => Self::Contended { what: error.to_string(), attempts: 1 },
        }
    }
}

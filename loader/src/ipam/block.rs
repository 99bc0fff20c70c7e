//! One block: who has which of its addresses, and what giving one out or taking one back makes of it.
//!
//! In: a block, and a [`Change`] to make. Out: the block with it made, and an [`Outcome`]. Never: an address with two owners, a
//! change to a block that contradicts itself, or anything done halfway: what is refused leaves the block as it was.
//!
//! Each change is idempotent: made again, because nobody knows whether it was written, it finds itself done.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::cidr;
use super::reserved::Reserved;
use crate::crd::{Allocation, IpamBlockSpec};

/// What begins a block's affinity to a node.
const HOST: &str = "host:";
/// The handle of addresses that Calico keeps back in blocks of Windows nodes; they do not make a block used.
const WINDOWS_RESERVED: &str = "windows-reserved-ipam-handle";

/// Who gets an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimant {
    /// The handle by which it is taken back.
    pub handle: String,
    /// What is known of the owner.
    pub attributes: BTreeMap<String, String>,
}

/// From whose block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whose {
    /// Only from one of this node's.
    Node(String),
    /// From anybody's.
    Anyones,
}

/// A change of one block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Give out one address, the one that has been free for longest.
    Any {
        /// To whom.
        to: Arc<Claimant>,
        /// From whose block.
        whose: Whose,
        /// Not these.
        reserved: Arc<Reserved>,
    },
    /// Give out this address.
    This {
        /// The address.
        address: IpAddr,
        /// To whom.
        to: Arc<Claimant>,
        /// From whose block.
        whose: Whose,
    },
    /// Take back all addresses of a handle. The block is written even if it has none, so that a write that gives it
    /// one and is still under way fails.
    TakeBack {
        /// The handle.
        handle: String,
    },
    /// Take back one address from who had it when it was looked at.
    TakeBackOne {
        /// The address.
        address: IpAddr,
        /// The handle it had, if it had one.
        handle: Option<String>,
        /// The block's sequence number when it was given out, if that is known.
        sequence: Option<u64>,
    },
}

/// What came of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The claimant has this address, perhaps since before.
    Has(IpAddr),
    /// No address is free.
    Full,
    /// The block belongs to another node, or to nobody.
    NotOurs(Option<String>),
    /// Somebody else has the address: the handle, if it has one.
    Taken(Option<String>),
    /// These are free again; none if none was taken.
    TakenBack(Vec<IpAddr>),
    /// The address went to somebody else in the meantime.
    Changed,
    /// There is no such block.
    NoBlock,
    /// The block contradicts itself, and how.
    Broken(String),
}

/// An outcome, and whether the block must be written for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// What came of it.
    pub outcome: Outcome,
    /// Whether the block changed.
    pub write: bool,
}

/// One address that is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken<'a> {
    /// The address.
    pub address: IpAddr,
    /// Who has it.
    pub by: &'a Allocation,
    /// The block's sequence number when it was given out; Calico's older blocks do not know.
    pub sequence: Option<u64>,
}

// === impl IpamBlockSpec ===

impl IpamBlockSpec {
    /// A new block of a node with all addresses free.
    ///
    /// `now_nanos`: nanoseconds since 1970 UTC, where its sequence numbers begin.
    pub fn empty_of(node: &str, block: IpNet, now_nanos: u64) -> Self {
        let size = cidr::size(block);
        Self {
            cidr: block.to_string(),
            affinity: Some(affinity(node)),
            allocations: vec![None; size],
            unallocated: (0..size).collect(),
            sequence_number: now_nanos,
            ..Self::default()
        }
    }

    /// The node that owns the block.
    pub fn node(&self) -> Option<&str> {
        self.affinity.as_deref()?.strip_prefix(HOST)
    }

    /// Whether a node owns the block.
    pub fn belongs_to(&self, node: &str) -> bool {
        self.node() == Some(node)
    }

    /// How many addresses can still be given out.
    pub fn free(&self, reserved: &Reserved) -> usize {
        let Ok(block) = self.checked() else { return 0 };
        let free = |ordinal: &&usize| cidr::nth(block, **ordinal).is_some_and(|ip| !reserved.holds(ip));
        self.unallocated.iter().filter(free).count()
    }

    /// Whether nobody has an address of it.
    pub fn is_unused(&self) -> bool {
        let owners = self.allocations.iter().flatten().map(|index| self.attributes.get(*index));
        let mut handles = owners.map(|owner| owner.and_then(|owner| owner.handle.as_deref()));
        handles.all(|handle| handle.is_some_and(|handle| handle.eq_ignore_ascii_case(WINDOWS_RESERVED)))
    }

    /// The addresses that are taken. Those of a block that contradicts itself are left out.
    pub fn taken(&self) -> impl Iterator<Item = Taken<'_>> {
        let block = self.cidr.parse::<IpNet>().ok();
        self.allocations.iter().enumerate().filter_map(move |(ordinal, index)| {
            Some(Taken {
                address: cidr::nth(block?, ordinal)?,
                by: self.attributes.get((*index)?)?,
                sequence: self.sequence_number_for_allocation.get(&ordinal.to_string()).copied(),
            })
        })
    }

    /// The addresses of a handle.
    pub fn of_handle(&self, handle: &str) -> Vec<IpAddr> {
        self.taken().filter(|taken| taken.by.has_handle(handle)).map(|taken| taken.address).collect()
    }

    /// The block, if what the object says is free of contradictions.
    ///
    /// # Errors
    /// It is not, and why, as part of a sentence.
    pub fn checked(&self) -> Result<IpNet, String> {
        let block: IpNet = self.cidr.parse().map_err(|_unreadable| format!("`{}` is not a CIDR block", self.cidr))?;
        let size = cidr::size(block);
        if block.trunc() != block || self.allocations.len() != size {
            return Err(format!("{} has {} allocations", self.cidr, self.allocations.len()));
        }
        if let Some(index) = self.allocations.iter().flatten().find(|index| **index >= self.attributes.len()) {
            return Err(format!("an address has the attributes {index} of {}", self.attributes.len()));
        }
        let mut free = vec![false; size];
        for ordinal in &self.unallocated {
            match free.get_mut(*ordinal) {
                None => return Err(format!("the ordinal {ordinal} is free and past the block's end")),
                Some(twice) if *twice => return Err(format!("the ordinal {ordinal} is free twice")),
                Some(seen) => *seen = true,
            }
            if self.allocations[*ordinal].is_some() {
                return Err(format!("the ordinal {ordinal} is free and taken"));
            }
        }
        Ok(block)
    }

    /// Makes a change.
    pub fn apply(&mut self, change: &Change) -> Applied {
        let block = match self.checked() {
            Ok(block) => block,
            Err(what) => return Applied { outcome: Outcome::Broken(what), write: false },
        };
        match change {
            Change::Any { to, whose, reserved } => self.give_any(block, to, whose, reserved),
            Change::This { address, to, whose } => self.give(block, *address, to, whose),
            Change::TakeBack { handle } => {
                let taken_back = self.take_back(|taken| taken.by.has_handle(handle));
                Applied { outcome: Outcome::TakenBack(taken_back), write: true }
            }
            Change::TakeBackOne { address, handle, sequence } => {
                self.take_back_one(*address, handle.as_deref(), *sequence)
            }
        }
    }

    fn give_any(&mut self, block: IpNet, to: &Claimant, whose: &Whose, reserved: &Reserved) -> Applied {
        if let Some(address) = self.of_handle(&to.handle).first() {
            return unchanged(Outcome::Has(*address));
        }
        if let Some(refusal) = self.refuse(whose) {
            return unchanged(refusal);
        }
        let free = |ordinal: &usize| cidr::nth(block, *ordinal).is_some_and(|ip| !reserved.holds(ip));
        let Some(place) = self.unallocated.iter().position(free) else { return unchanged(Outcome::Full) };
        let ordinal = self.unallocated[place];
        self.occupy(block, ordinal, to)
    }

    fn give(&mut self, block: IpNet, address: IpAddr, to: &Claimant, whose: &Whose) -> Applied {
        let Some(ordinal) = cidr::ordinal(block, address) else { return unchanged(Outcome::NoBlock) };
        if let Some(index) = self.allocations[ordinal] {
            let by = &self.attributes[index];
            let ours = by.has_handle(&to.handle);
            return unchanged(if ours { Outcome::Has(address) } else { Outcome::Taken(by.handle.clone()) });
        }
        if let Some(refusal) = self.refuse(whose) {
            return unchanged(refusal);
        }
        self.occupy(block, ordinal, to)
    }

    fn refuse(&self, whose: &Whose) -> Option<Outcome> {
        match whose {
            Whose::Node(node) if !self.belongs_to(node) => Some(Outcome::NotOurs(self.node().map(str::to_owned))),
            Whose::Node(_) | Whose::Anyones => None,
        }
    }

    fn occupy(&mut self, block: IpNet, ordinal: usize, to: &Claimant) -> Applied {
        let Some(address) = cidr::nth(block, ordinal) else { return unchanged(Outcome::NoBlock) };
        let owner =
            Allocation { handle: Some(to.handle.clone()), secondary: to.attributes.clone(), ..Allocation::default() };
        let index = self.attributes.iter().position(|known| *known == owner).unwrap_or_else(|| {
            self.attributes.push(owner);
            self.attributes.len() - 1
        });
        self.allocations[ordinal] = Some(index);
        self.unallocated.retain(|free| *free != ordinal);
        self.sequence_number_for_allocation.insert(ordinal.to_string(), self.sequence_number);
        Applied { outcome: Outcome::Has(address), write: true }
    }

    fn take_back_one(&mut self, address: IpAddr, handle: Option<&str>, sequence: Option<u64>) -> Applied {
        let Some(now) = self.taken().find(|taken| taken.address == address) else {
            return unchanged(Outcome::TakenBack(Vec::new()));
        };
        if now.by.clean_handle() != handle || (sequence.is_some() && now.sequence != sequence) {
            return unchanged(Outcome::Changed);
        }
        Applied { outcome: Outcome::TakenBack(self.take_back(|taken| taken.address == address)), write: true }
    }

    /// Frees the addresses for which `which` says so; each goes to the end of the queue.
    fn take_back(&mut self, which: impl Fn(&Taken<'_>) -> bool) -> Vec<IpAddr> {
        let Ok(block) = self.cidr.parse::<IpNet>() else { return Vec::new() };
        let addresses: Vec<IpAddr> = self.taken().filter(|taken| which(taken)).map(|taken| taken.address).collect();
        for ordinal in addresses.iter().filter_map(|ip| cidr::ordinal(block, *ip)) {
            self.allocations[ordinal] = None;
            self.unallocated.push(ordinal);
            self.sequence_number_for_allocation.remove(&ordinal.to_string());
        }
        self.drop_unused_attributes();
        addresses
    }

    fn drop_unused_attributes(&mut self) {
        let mut used = vec![false; self.attributes.len()];
        self.allocations.iter().flatten().for_each(|index| used[*index] = true);
        let new_index: Vec<usize> = used
            .iter()
            .scan(0, |next, used| {
                let index = *next;
                *next += usize::from(*used);
                Some(index)
            })
            .collect();
        self.allocations.iter_mut().flatten().for_each(|index| *index = new_index[*index]);
        let mut keep = used.into_iter();
        self.attributes.retain(|_| keep.next().unwrap_or_default());
    }
}

// === impl Allocation ===

impl Allocation {
    /// The handle, without what a carriage return once put behind some of Calico's
    /// (projectcalico/cni-plugin issue 821).
    pub fn clean_handle(&self) -> Option<&str> {
        self.handle.as_deref().and_then(|handle| handle.split('\r').next())
    }

    fn has_handle(&self, handle: &str) -> bool {
        self.clean_handle() == Some(handle)
    }
}

/// A block's affinity to a node, as the object has it.
pub fn affinity(node: &str) -> String {
    format!("{HOST}{node}")
}

fn unchanged(outcome: Outcome) -> Applied {
    Applied { outcome, write: false }
}

//! Typed handles of the pinned maps: values in, values out. A map is compared with the contract when it is opened,
//! and every value that is read is checked before it is believed.

use std::{
    collections::BTreeMap,
    fs, io,
    marker::PhantomData,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, TryFromBytes};

use super::sys;
use crate::{
    addr::{Addr, PrefixKey},
    config::Config,
    counters::{Counter, Hook, Outcome, traffic_slot},
    drops::DropReason,
    endpoint::Endpoint,
    event::{EventCounts, Readers},
    flow::{Clock, Flow, FlowKey, Fragment, FragmentKey},
    layout::{self, MapKind, MapSpec},
    node::Node,
    policy::{Enforcement, Id, Rule, RuleKey},
    route::Route,
    service::{Affinity, AffinityKey, Backend, BackendKey, Member, Service, ServiceKey},
};

/// A map could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum HandleError {
    /// The pin is missing or may not be opened.
    #[error("opening the map {name}: {source}")]
    Open {
        /// The map.
        name: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// What is pinned there is not what this build expects.
    #[error("the pinned map {name} is not the one that this build uses: {what} is {found}, expected {expected}")]
    Mismatch {
        /// The map.
        name: &'static str,
        /// What differs.
        what: &'static str,
        /// In the kernel.
        found: u32,
        /// In the contract.
        expected: u32,
    },
    /// The map is full.
    #[error("the map {name} is full: all of its {max_entries} entries are in use")]
    Full {
        /// The map.
        name: &'static str,
        /// What it can hold.
        max_entries: u32,
    },
    /// A look-up, update or deletion failed.
    #[error("{doing} the map {name}: {source}")]
    Access {
        /// `reading` or `writing`.
        doing: &'static str,
        /// The map.
        name: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// An entry holds bytes that are no value of its type.
    #[error("the map {name} holds an entry that is no value of its type: something else wrote to it")]
    Garbled {
        /// The map.
        name: &'static str,
    },
}

/// What may be a key or value: no padding, plain bytes, checked when read.
pub trait Plain: TryFromBytes + IntoBytes + Immutable + KnownLayout + Copy {}
impl<T: TryFromBytes + IntoBytes + Immutable + KnownLayout + Copy> Plain for T {}

/// `enum bpf_map_type` (include/uapi/linux/bpf.h).
const fn kernel_type(kind: MapKind) -> u32 {
    match kind {
        MapKind::Hash => 1,
        MapKind::Array => 2,
        MapKind::PerCpuArray => 6,
        MapKind::LruHash => 9,
        MapKind::LpmTrie => 11,
        MapKind::RingBuf => 27,
    }
}

/// Compares what is behind `fd` with the contract.
///
/// # Errors
/// [`HandleError::Mismatch`] names the first difference.
pub fn check(fd: &OwnedFd, spec: &MapSpec) -> Result<sys::MapFacts, HandleError> {
    let facts = check_types(fd, spec)?;
    let MapSpec { name, max_entries: expected, .. } = *spec;
    match facts.max_entries {
        found if found != expected => Err(HandleError::Mismatch { name, what: "its capacity", found, expected }),
        _ => Ok(facts),
    }
}

/// As [`check`], whatever the capacity: all that reading and writing rely on.
fn check_types(fd: &OwnedFd, spec: &MapSpec) -> Result<sys::MapFacts, HandleError> {
    let name = spec.name;
    let facts = sys::map_facts(fd.as_fd()).map_err(|source| HandleError::Open { name, source })?;
    let differs = [
        ("its type", facts.map_type, kernel_type(spec.kind)),
        ("its key size", facts.key_size, spec.key_size),
        ("its value size", facts.value_size, spec.value_size),
    ];
    match differs.into_iter().find(|(_, found, expected)| found != expected) {
        Some((what, found, expected)) => Err(HandleError::Mismatch { name, what, found, expected }),
        None => Ok(facts),
    }
}

/// How many entries to read at once: a kernel lock is held for one bucket at a time, not for all of them.
pub const BATCH: u32 = 4_096;

/// Some entries of a hash.
#[derive(Debug)]
pub struct Batch<K, V> {
    /// The entries.
    pub entries: Vec<(K, V)>,
    /// Where to go on; `None` at the end.
    pub next: Option<u32>,
}

/// The same, as bytes that nobody has looked at.
struct Raw {
    keys: Vec<u8>,
    values: Vec<u8>,
    got: usize,
    next: Option<u32>,
}

/// A hash, trie or array of `K` to `V`.
#[derive(Debug)]
pub struct MapHandle<K, V> {
    fd: OwnedFd,
    spec: &'static MapSpec,
    _types: PhantomData<(K, V)>,
}

// === impl MapHandle ===

impl<K: Plain, V: Plain> MapHandle<K, V> {
    fn new(fd: OwnedFd, spec: &'static MapSpec) -> Result<Self, HandleError> {
        // The sizes that every `unsafe` below relies on.
        assert_eq!((size_of::<K>(), size_of::<V>()), (spec.key_size as usize, spec.value_size as usize));
        check_types(&fd, spec)?;
        Ok(Self { fd, spec, _types: PhantomData })
    }

    /// Which map this is.
    pub fn spec(&self) -> &'static MapSpec {
        self.spec
    }

    /// The entry's value, if there is one.
    ///
    /// # Errors
    /// Reading failed, or the entry is garbled.
    pub fn get(&self, key: &K) -> Result<Option<V>, HandleError> {
        let mut value = vec![0_u8; size_of::<V>()];
        // SAFETY: key and value have the map's sizes, which `new` has compared.
        let found = unsafe { sys::lookup(self.fd.as_fd(), key.as_bytes(), &mut value) };
        match found.map_err(|source| self.access("reading", source))? {
            true => self.decode::<V>(&value).map(Some),
            false => Ok(None),
        }
    }

    /// All entries, each as it was when it was visited, and none twice.
    ///
    /// # Errors
    /// Reading failed, or an entry is garbled.
    pub fn entries(&self) -> Result<Vec<(K, V)>, HandleError> {
        let mut entries = Vec::new();
        self.walk(|entry| {
            entries.push(entry);
            true
        })?;
        Ok(entries)
    }

    /// Shows each entry to `visit`, until that wants no more.
    fn walk(&self, mut visit: impl FnMut((K, V)) -> bool) -> Result<(), HandleError> {
        if !self.is_read_in_batches() {
            for key in self.keys()? {
                if let Some(value) = self.get(&key)?
                    && !visit((key, value))
                {
                    break;
                }
            }
            return Ok(());
        }
        let mut from = None;
        loop {
            let batch = self.batch(from, BATCH)?;
            from = batch.next;
            if !batch.entries.into_iter().all(&mut visit) || from.is_none() {
                return Ok(());
            }
        }
    }

    /// All keys. A key that is deleted during the walk restarts it, so they are collected in a way that none comes twice.
    ///
    /// # Errors
    /// Reading failed.
    pub fn keys(&self) -> Result<Vec<K>, HandleError> {
        let mut seen = std::collections::HashSet::new();
        let mut keys = Vec::new();
        let mut current: Option<Vec<u8>> = None;
        loop {
            let mut next = vec![0_u8; size_of::<K>()];
            // SAFETY: both have the size of the map's keys, which `new` has compared.
            let more = unsafe { sys::next_key(self.fd.as_fd(), current.as_deref(), &mut next) };
            if !more.map_err(|source| self.access("reading", source))? {
                return Ok(keys);
            }
            if seen.insert(next.clone()) {
                keys.push(self.decode::<K>(&next)?);
            }
            // Whoever keeps adding and removing under us cannot keep us here for ever.
            if seen.len() > 2 * self.spec.max_entries as usize {
                return Ok(keys);
            }
            current = Some(next);
        }
    }

    /// Up to `count` entries of a hash at once, beginning where `from` says (`None`: at the beginning), and where to go on; `None`
    /// at the end. Entries that come or go meanwhile may be missed; none comes twice, because a key stays in its bucket, and each is
    /// visited once (kernel/bpf/hashtab.c).
    ///
    /// # Errors
    /// Reading failed, or an entry is garbled.
    pub fn batch(&self, from: Option<u32>, count: u32) -> Result<Batch<K, V>, HandleError> {
        let Raw { keys, values, got, next } = self.raw_batch(from, count)?;
        let pairs = keys.chunks_exact(size_of::<K>()).zip(values.chunks_exact(size_of::<V>())).take(got);
        let entries = pairs.map(|(k, v)| Ok((self.decode(k)?, self.decode(v)?))).collect::<Result<_, HandleError>>()?;
        Ok(Batch { entries, next })
    }

    fn raw_batch(&self, from: Option<u32>, count: u32) -> Result<Raw, HandleError> {
        let mut keys = vec![0_u8; size_of::<K>() * count as usize];
        let mut values = vec![0_u8; size_of::<V>() * count as usize];
        // SAFETY: key and value have the map's sizes, which `new` has compared, and there is room for `count` of each.
        let read = unsafe { sys::lookup_batch(self.fd.as_fd(), from, &mut keys, &mut values, count) };
        let (got, next) = read.map_err(|source| self.access("reading", source))?;
        Ok(Raw { keys, values, got: got as usize, next })
    }

    /// How many entries it has; of an array, how many it can have.
    ///
    /// # Errors
    /// Reading failed.
    pub fn count(&self) -> Result<usize, HandleError> {
        if !self.is_read_in_batches() {
            return Ok(self.keys()?.len());
        }
        let (mut count, mut from) = (0, None);
        loop {
            let batch = self.raw_batch(from, BATCH)?;
            count += batch.got;
            from = batch.next;
            if from.is_none() {
                return Ok(count);
            }
        }
    }

    /// Writes one entry, new or not.
    ///
    /// # Errors
    /// The map is full, or the kernel refused.
    pub fn insert(&self, key: &K, value: &V) -> Result<(), HandleError> {
        // SAFETY: key and value have the map's sizes, which `new` has compared.
        let done = unsafe { sys::update(self.fd.as_fd(), key.as_bytes(), value.as_bytes()) };
        done.map_err(|source| match source.raw_os_error() {
            // A hash says E2BIG (kernel/bpf/hashtab.c), a trie ENOSPC (kernel/bpf/lpm_trie.c).
            Some(libc::E2BIG | libc::ENOSPC) => {
                HandleError::Full { name: self.spec.name, max_entries: self.spec.max_entries }
            }
            _ => self.access("writing", source),
        })
    }

    /// Removes one entry; one that is not there is no error.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn remove(&self, key: &K) -> Result<(), HandleError> {
        // SAFETY: the key has the map's size, which `new` has compared.
        let done = unsafe { sys::delete(self.fd.as_fd(), key.as_bytes()) };
        done.map(drop).map_err(|source| self.access("writing", source))
    }

    /// Removes entries of a hash, many with one call; those that are not there are no error.
    ///
    /// # Errors
    /// The kernel refused; some are removed then.
    pub fn remove_all(&self, keys: &[K]) -> Result<(), HandleError> {
        let mut rest = keys;
        while !rest.is_empty() {
            let count = rest.len().min(BATCH as usize);
            // SAFETY: the keys have the map's size, which `new` has compared, and there are so many.
            let (removed, result) = unsafe { sys::delete_batch(self.fd.as_fd(), rest.as_bytes(), count as u32) };
            let done = match result {
                Ok(()) => count,
                Err(error) if error.kind() == io::ErrorKind::NotFound => removed as usize + 1,
                Err(source) => return Err(self.access("writing", source)),
            };
            rest = rest.get(done..).unwrap_or_default();
        }
        Ok(())
    }

    /// Whether it holds these entries and no others. Nothing is kept of it meanwhile, so this is what to ask of a large map that is
    /// likely to be as it was.
    ///
    /// # Errors
    /// Reading failed, or an entry is garbled.
    pub fn holds(&self, expected: &BTreeMap<K, V>) -> Result<bool, HandleError>
    where
        K: Ord,
        V: PartialEq,
    {
        let (mut found, mut same) = (0, true);
        self.walk(|(key, value)| {
            found += 1;
            same = expected.get(&key) == Some(&value);
            same
        })?;
        Ok(same && found == expected.len())
    }

    /// Only hashes are read in batches that begin at a number.
    fn is_read_in_batches(&self) -> bool {
        matches!(self.spec.kind, MapKind::Hash | MapKind::LruHash)
    }

    fn decode<T: Plain>(&self, bytes: &[u8]) -> Result<T, HandleError> {
        T::try_read_from_bytes(bytes).map_err(|_invalid| HandleError::Garbled { name: self.spec.name })
    }

    fn access(&self, doing: &'static str, source: io::Error) -> HandleError {
        HandleError::Access { doing, name: self.spec.name, source }
    }
}

/// A per-CPU array of `V`, whose size is a multiple of 8.
#[derive(Debug)]
pub struct PerCpuHandle<V> {
    fd: OwnedFd,
    spec: &'static MapSpec,
    cpus: usize,
    _type: PhantomData<V>,
}

// === impl PerCpuHandle ===

impl<V: Plain + FromBytes> PerCpuHandle<V> {
    fn new(fd: OwnedFd, spec: &'static MapSpec) -> Result<Self, HandleError> {
        assert_eq!(size_of::<V>(), spec.value_size as usize);
        // The kernel rounds each CPU's value up to 8 bytes.
        const { assert!(size_of::<V>().is_multiple_of(8)) };
        check_types(&fd, spec)?;
        let cpus = possible_cpus().map_err(|source| HandleError::Open { name: spec.name, source })?;
        Ok(Self { fd, spec, cpus, _type: PhantomData })
    }

    /// The values of all CPUs.
    ///
    /// # Errors
    /// Reading failed.
    pub fn values(&self, slot: u32) -> Result<Vec<V>, HandleError> {
        let mut values = vec![V::new_zeroed(); self.cpus];
        // SAFETY: the key is a u32, as `new` has compared; there is a value for every possible CPU.
        unsafe { sys::lookup(self.fd.as_fd(), slot.as_bytes(), values.as_mut_bytes()) }
            .map_err(|source| HandleError::Access { doing: "reading", name: self.spec.name, source })?;
        Ok(values)
    }
}

impl PerCpuHandle<Counter> {
    /// The sum over all CPUs.
    ///
    /// # Errors
    /// Reading failed.
    pub fn sum(&self, slot: u32) -> Result<Counter, HandleError> {
        Ok(self.values(slot)?.iter().fold(Counter::default(), |sum, Counter { packets, bytes }| Counter {
            packets: sum.packets.wrapping_add(*packets),
            bytes: sum.bytes.wrapping_add(*bytes),
        }))
    }
}

/// How many CPUs the kernel keeps a value for.
fn possible_cpus() -> io::Result<usize> {
    let text = fs::read_to_string("/sys/devices/system/cpu/possible")?;
    // `0-3` or `0,2-3`: the last number counts.
    let last = text.trim().rsplit([',', '-']).next().and_then(|n| n.parse::<usize>().ok());
    last.map(|n| n + 1).ok_or_else(|| io::Error::other(format!("/sys/devices/system/cpu/possible says {text:?}")))
}

/// All maps of one datapath.
#[derive(Debug)]
pub struct Maps {
    /// See [`layout::ENDPOINTS`].
    pub endpoints: MapHandle<Addr, Endpoint>,
    /// See [`layout::ROUTES`].
    pub routes: MapHandle<PrefixKey, Route>,
    /// See [`layout::NODES`].
    pub nodes: MapHandle<Addr, Node>,
    /// See [`layout::CONFIG`].
    pub config: MapHandle<u32, Config>,
    /// See [`layout::ENFORCEMENT`].
    pub enforcement: MapHandle<u32, Enforcement>,
    /// See [`layout::IDENTITIES`].
    pub identities: MapHandle<Addr, Id>,
    /// See [`layout::NETWORKS`].
    pub networks: MapHandle<PrefixKey, Id>,
    /// See [`layout::RULES`].
    pub rules: MapHandle<RuleKey, Rule>,
    /// See [`layout::SERVICES`].
    pub services: MapHandle<ServiceKey, Service>,
    /// See [`layout::BACKENDS`].
    pub backends: MapHandle<BackendKey, Backend>,
    /// See [`layout::MEMBERS`].
    pub members: MapHandle<Member, u32>,
    /// See [`layout::AFFINITY`].
    pub affinity: MapHandle<AffinityKey, Affinity>,
    /// See [`layout::FLOWS`].
    pub flows: MapHandle<FlowKey, Flow>,
    /// See [`layout::FRAGMENTS`].
    pub fragments: MapHandle<FragmentKey, Fragment>,
    /// See [`layout::CLOCK`].
    pub clock: MapHandle<u32, Clock>,
    /// See [`layout::READERS`].
    pub readers: MapHandle<u32, Readers>,
    traffic: PerCpuHandle<Counter>,
    drops: PerCpuHandle<Counter>,
    event_counts: PerCpuHandle<EventCounts>,
}

// === impl Maps ===

impl Maps {
    /// Opens all maps that are pinned in `dir`.
    ///
    /// # Errors
    /// One is missing or is not the contract's.
    pub fn open(dir: &Path) -> Result<Self, HandleError> {
        Self::from_fds(|spec| {
            let fd = sys::open_pin(&dir.join(spec.name));
            let fd = fd.map_err(|source| HandleError::Open { name: spec.name, source })?;
            check(&fd, spec)?;
            Ok(fd)
        })
    }

    /// From descriptors that `fd_of` finds, of maps of any capacity.
    ///
    /// # Errors
    /// `fd_of` failed, or a map is not the contract's.
    pub fn from_fds(fd_of: impl Fn(&'static MapSpec) -> Result<OwnedFd, HandleError>) -> Result<Self, HandleError> {
        Ok(Self {
            endpoints: MapHandle::new(fd_of(&layout::ENDPOINTS)?, &layout::ENDPOINTS)?,
            routes: MapHandle::new(fd_of(&layout::ROUTES)?, &layout::ROUTES)?,
            nodes: MapHandle::new(fd_of(&layout::NODES)?, &layout::NODES)?,
            config: MapHandle::new(fd_of(&layout::CONFIG)?, &layout::CONFIG)?,
            enforcement: MapHandle::new(fd_of(&layout::ENFORCEMENT)?, &layout::ENFORCEMENT)?,
            identities: MapHandle::new(fd_of(&layout::IDENTITIES)?, &layout::IDENTITIES)?,
            networks: MapHandle::new(fd_of(&layout::NETWORKS)?, &layout::NETWORKS)?,
            rules: MapHandle::new(fd_of(&layout::RULES)?, &layout::RULES)?,
            services: MapHandle::new(fd_of(&layout::SERVICES)?, &layout::SERVICES)?,
            backends: MapHandle::new(fd_of(&layout::BACKENDS)?, &layout::BACKENDS)?,
            members: MapHandle::new(fd_of(&layout::MEMBERS)?, &layout::MEMBERS)?,
            affinity: MapHandle::new(fd_of(&layout::AFFINITY)?, &layout::AFFINITY)?,
            flows: MapHandle::new(fd_of(&layout::FLOWS)?, &layout::FLOWS)?,
            fragments: MapHandle::new(fd_of(&layout::FRAGMENTS)?, &layout::FRAGMENTS)?,
            clock: MapHandle::new(fd_of(&layout::CLOCK)?, &layout::CLOCK)?,
            readers: MapHandle::new(fd_of(&layout::READERS)?, &layout::READERS)?,
            traffic: PerCpuHandle::new(fd_of(&layout::TRAFFIC)?, &layout::TRAFFIC)?,
            drops: PerCpuHandle::new(fd_of(&layout::DROPS)?, &layout::DROPS)?,
            event_counts: PerCpuHandle::new(fd_of(&layout::EVENT_COUNTS)?, &layout::EVENT_COUNTS)?,
        })
    }

    /// What passed a hook and became of it.
    ///
    /// # Errors
    /// Reading failed.
    pub fn traffic(&self, hook: Hook, outcome: Outcome) -> Result<Counter, HandleError> {
        self.traffic.sum(traffic_slot(hook, outcome))
    }

    /// What was dropped for this reason.
    ///
    /// # Errors
    /// Reading failed.
    pub fn drops(&self, reason: DropReason) -> Result<Counter, HandleError> {
        self.drops.sum(reason as u32)
    }

    /// How many events were lost since boot, on all CPUs: there was no room, or there were too many at once.
    ///
    /// # Errors
    /// Reading failed.
    pub fn lost_events(&self) -> Result<u64, HandleError> {
        let counts = self.event_counts.values(0)?;
        Ok(counts.iter().fold(0, |sum, cpu| sum.wrapping_add(cpu.suppressed).wrapping_add(cpu.no_room)))
    }

    /// How many entries of a map are in use; `None` for arrays, which are always full.
    ///
    /// # Errors
    /// Reading failed.
    pub fn used(&self, spec: &MapSpec) -> Result<Option<usize>, HandleError> {
        Ok(match spec.name {
            n if n == layout::ENDPOINTS.name => Some(self.endpoints.keys()?.len()),
            n if n == layout::ROUTES.name => Some(self.routes.keys()?.len()),
            n if n == layout::NODES.name => Some(self.nodes.keys()?.len()),
            n if n == layout::IDENTITIES.name => Some(self.identities.keys()?.len()),
            n if n == layout::NETWORKS.name => Some(self.networks.keys()?.len()),
            n if n == layout::RULES.name => Some(self.rules.keys()?.len()),
            n if n == layout::SERVICES.name => Some(self.services.keys()?.len()),
            n if n == layout::BACKENDS.name => Some(self.backends.keys()?.len()),
            n if n == layout::MEMBERS.name => Some(self.members.keys()?.len()),
            n if n == layout::AFFINITY.name => Some(self.affinity.keys()?.len()),
            n if n == layout::FLOWS.name => Some(self.flows.count()?),
            n if n == layout::FRAGMENTS.name => Some(self.fragments.keys()?.len()),
            _ => None,
        })
    }
}

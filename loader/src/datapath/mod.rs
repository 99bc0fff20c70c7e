//! The programs and maps in the kernel: loaded, pinned, attached, replaced.
//!
//! In: the embedded object, a directory on a bpffs, and which interface should have which programs. Out: open maps and
//! attached programs. Never: what stands in the maps; see [`crate::apply`].

pub mod attach;
mod links;
pub mod pins;

use std::path::Path;

use aya::{
    Ebpf, EbpfLoader, TestRun,
    programs::{SchedClassifier, TestRunOptions},
    util::KernelVersion,
};
use margay_maps::{Features, Hook, MAPS, user::Maps};
use serde::Serialize;
use tracing::{debug, info};

pub use self::attach::Backend;
use self::pins::{PinDir, PinsError};

/// The eBPF object, as `cargo xtask build-ebpf` made it.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("MARGAY_EBPF_OBJECT"));

/// The oldest kernel that has all the helpers (`bpf_redirect_peer`, `bpf_redirect_neigh`: 5.10).
const OLDEST_KERNEL: KernelVersion = KernelVersion::new(5, 10, 0);

/// Whether the running kernel is `version` or newer; one that does not say its version is taken for a new one, and
/// refuses itself what it does not know.
fn kernel_is_at_least(version: KernelVersion) -> bool {
    KernelVersion::current().map_or(true, |running| running >= version)
}

/// The datapath cannot be put into the kernel.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    /// The kernel is too old.
    #[error("this kernel is older than 5.10, the oldest that has the helpers the programs need: upgrade the kernel")]
    OldKernel,
    /// Not allowed.
    #[error("{doing}: the kernel does not permit it: run as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON")]
    NotPermitted {
        /// What was being done.
        doing: String,
    },
    /// The directory of pins is not usable.
    #[error(transparent)]
    Pins(#[from] PinsError),
    /// The object was refused.
    #[error("loading the eBPF object: {0}")]
    Load(#[from] aya::EbpfError),
    /// A program was refused.
    #[error("loading the program {program}: {source}")]
    Program {
        /// The program.
        program: &'static str,
        /// What the kernel's verifier said.
        source: aya::programs::ProgramError,
    },
    /// The object lacks a program: it is of another build.
    #[error("the embedded eBPF object has no program {0}: rebuild with `cargo xtask build-ebpf`")]
    MissingProgram(&'static str),
    /// A map could not be opened.
    #[error(transparent)]
    Map(#[from] margay_maps::user::HandleError),
    /// A program could not be attached or detached.
    #[error("attaching {program} to {interface} by {backend}: {source}")]
    Attach {
        /// The program.
        program: &'static str,
        /// The interface.
        interface: String,
        /// How.
        backend: Backend,
        /// What went wrong.
        source: anyhow::Error,
    },
}

/// What one loaded program weighs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct ProgramFacts {
    /// The program, which is its hook's name.
    pub name: String,
    /// The kernel's id, as bpftool has it.
    pub id: u32,
    /// How many instructions the verifier looked at. `None` on kernels before 5.16, which do not say.
    pub verified_instructions: Option<u32>,
    /// Bytes of the program after the verifier has rewritten it.
    pub translated_bytes: Option<u32>,
}

/// Loaded programs and open, pinned maps.
pub struct Datapath {
    /// The maps.
    pub maps: Maps,
    ebpf: Ebpf,
    pins: PinDir,
    backend: Backend,
    features: Features,
}

impl std::fmt::Debug for Datapath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { maps: _, ebpf: _, pins, backend, features } = self;
        f.debug_struct("Datapath").field("pins", pins).field("backend", backend).field("features", features).finish()
    }
}

// === impl Datapath ===

impl Datapath {
    /// Loads every program beside whatever is attached now, over the maps pinned below `bpffs`; maps that are missing
    /// are made, or taken over from another layout where they have not changed. Nothing is attached yet.
    ///
    /// # Errors
    /// No bpffs, no privileges, an old kernel, or the verifier.
    pub fn load(bpffs: &Path) -> Result<Self, DatapathError> {
        if !kernel_is_at_least(OLDEST_KERNEL) {
            return Err(DatapathError::OldKernel);
        }
        let pins = PinDir::prepare(bpffs)?;
        let mut loader = EbpfLoader::new();
        for spec in &MAPS {
            loader.map_pin_path(spec.name, pins.map(spec));
        }
        let mut ebpf = loader.load(OBJECT).map_err(|e| permitted("loading the eBPF object", e))?;
        let names = Hook::ALL.map(Hook::name);
        for program in names.into_iter().chain([PROBE]) {
            let classifier = classifier(&mut ebpf, program)?;
            classifier.load().map_err(|source| DatapathError::Program { program, source })?;
        }
        let features = probe_features(&mut ebpf)?;
        let maps = Maps::open(pins.dir())?;
        let backend = Backend::of_this_kernel();
        info!(layout = %pins.layout(), %backend, features = ?features.names().collect::<Vec<_>>(), "datapath loaded");
        Ok(Self { maps, ebpf, pins, backend, features })
    }

    /// What this kernel lets the programs do by hand.
    pub fn features(&self) -> Features {
        self.features
    }

    /// How programs are attached here.
    pub fn backend(&self) -> Backend {
        self.backend
    }

    /// Where everything is pinned.
    pub fn pins(&self) -> &PinDir {
        &self.pins
    }

    /// A loaded program, for BPF_PROG_TEST_RUN.
    ///
    /// # Errors
    /// The object has no such program.
    pub fn program(&mut self, hook: Hook) -> Result<&mut SchedClassifier, DatapathError> {
        classifier(&mut self.ebpf, hook.name())
    }

    /// What each program weighs.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn facts(&mut self) -> Result<Vec<ProgramFacts>, DatapathError> {
        Hook::ALL
            .into_iter()
            .map(|hook| {
                let program = hook.name();
                let info = classifier(&mut self.ebpf, program)?
                    .info()
                    .map_err(|source| DatapathError::Program { program, source })?;
                Ok(ProgramFacts {
                    name: program.to_owned(),
                    id: info.id(),
                    verified_instructions: info.verified_instruction_count(),
                    translated_bytes: info.size_translated(),
                })
            })
            .collect()
    }
}

/// The program that asks the kernel what it can do.
const PROBE: &str = "probe_encap";

/// "Go on" (include/uapi/linux/pkt_cls.h).
const TC_ACT_UNSPEC: i32 = -1;

fn classifier<'e>(ebpf: &'e mut Ebpf, name: &'static str) -> Result<&'e mut SchedClassifier, DatapathError> {
    let program = ebpf.program_mut(name).ok_or(DatapathError::MissingProgram(name))?;
    program.try_into().map_err(|source| DatapathError::Program { program: name, source })
}

/// EPERM with its remedy, everything else as it is.
fn permitted(doing: &str, error: aya::EbpfError) -> DatapathError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(e) = cause {
        let io = e.downcast_ref::<std::io::Error>();
        if io.is_some_and(|io| io.kind() == std::io::ErrorKind::PermissionDenied) {
            return DatapathError::NotPermitted { doing: doing.to_owned() };
        }
        cause = e.source();
    }
    error.into()
}

/// Writing and reading headers by hand works on every kernel that the programs load on; how much the kernel must be
/// told about them differs.
fn probe_features(ebpf: &mut Ebpf) -> Result<Features, DatapathError> {
    let mut bits = Features::OWN_ENCAP | Features::OWN_DECAP;
    if knows_encap_l2_eth(ebpf)? {
        bits |= Features::ENCAP_L2_ETH;
    }
    Ok(Features { bits })
}

/// Runs the probe on an IPv4 packet of zeroes.
fn knows_encap_l2_eth(ebpf: &mut Ebpf) -> Result<bool, DatapathError> {
    let mut packet = [0_u8; 128];
    packet[12] = 0x08;
    packet[14] = 0x45;
    let mut options = TestRunOptions::new();
    options.data_in = Some(&packet);
    let program = classifier(ebpf, PROBE)?;
    let result = program.test_run(options).map_err(|source| DatapathError::Program { program: PROBE, source })?;
    debug!(verdict = result.return_value, "asked for BPF_F_ADJ_ROOM_ENCAP_L2_ETH");
    Ok(result.return_value == TC_ACT_UNSPEC as u32)
}

//! Golden packets: each program is given a packet by BPF_PROG_TEST_RUN, and must give back the right verdict, the right
//! packet, the right counts and the right event. No interface and no traffic are needed, so this runs on any kernel.
//!
//! In: a loaded datapath, whose maps it fills with a small [`world`]. Out: one [`CaseResult`] for each of the [`cases`], and for
//! each of the [`conversations`] under policies. Never: an attached program.

mod cases;
mod choices;
mod conversations;
mod events;
mod expect;
pub mod packet;
pub mod policies;
pub mod services;
pub mod transport;
mod ways;
pub mod world;

use anyhow::{Context as _, Result, bail, ensure};
use aya::{TestRun as _, programs::TestRunOptions};
use margay_loader::datapath::Datapath;
use margay_maps::{Counter, DropReason, Hook, Outcome, mark};

pub use self::conversations::conversations;
pub use self::conversations::{Conversation, Step};
use self::events::Listener;
pub use self::{cases::cases, expect::first_difference, packet::udp_between};

/// A packet and what must become of it.
pub struct Case {
    /// What it shows, as a sentence.
    pub name: &'static str,
    /// The program.
    pub hook: Hook,
    /// The packet, from its Ethernet header on.
    pub packet: Vec<u8>,
    /// What must become of it.
    pub expect: Expect,
}

/// What must become of a packet.
pub enum Expect {
    /// Passed on, not one byte changed.
    Pass,
    /// Dropped for this reason.
    Drop(DropReason),
    /// Redirected, with this outcome; the function compares the packet that came out with the one that went in.
    Redirect(Outcome, fn(&[u8], &[u8]) -> Result<()>),
    /// Answered, because it could not go on for this reason; the function as above.
    Reject(DropReason, fn(&[u8], &[u8]) -> Result<()>),
    /// Passed on, changed; the function as above.
    Change(fn(&[u8], &[u8]) -> Result<()>),
}

/// How one case went.
pub struct CaseResult {
    /// The case's name.
    pub name: &'static str,
    /// The program.
    pub hook: Hook,
    /// What was wrong, if anything.
    pub error: Option<anyhow::Error>,
}

/// `enum tc_action` and TCX's verdicts (include/uapi/linux/pkt_cls.h, bpf.h): go on, drop, redirect.
const UNSPEC: i32 = -1;
const SHOT: i32 = 2;
const REDIRECT: i32 = 7;

/// `struct __sk_buff` (include/uapi/linux/bpf.h): its size as far as all kernels of the matrix have it, and where `mark` stands.
pub(crate) const CONTEXT: usize = 192;
const MARK: usize = 8;

/// Fills the maps with the world, and runs every case and every conversation.
///
/// # Errors
/// The maps cannot be written or read.
pub fn run(datapath: &mut Datapath) -> Result<Vec<CaseResult>> {
    world::fill(&datapath.maps, datapath.features()).context("filling the maps")?;
    let mut results = Vec::new();
    let error = choices::check(datapath).err();
    results.push(CaseResult {
        name: "backends are chosen by chance, and kept in time",
        hook: Hook::FromWorkload,
        error,
    });
    services::fill(&datapath.maps).context("filling the maps of Services")?;
    let error = ways::check(datapath).err();
    results.push(CaseResult { name: "a flow to another node names the neighbour", hook: Hook::FromWorkload, error });
    let mut listener = Listener::new(datapath)?;
    for case in cases() {
        let error = run_case(datapath, &mut listener, &case).err();
        results.push(CaseResult { name: case.name, hook: case.hook, error });
    }
    for conversation in conversations() {
        results.push(converse(datapath, &mut listener, &conversation)?);
    }
    let error = listener.finish(datapath).err();
    results.push(CaseResult { name: "a flood of drops is told of in part", hook: Hook::FromWorkload, error });
    Ok(results)
}

/// Runs a conversation up to the first step that goes wrong.
fn converse(datapath: &mut Datapath, listener: &mut Listener, conversation: &Conversation) -> Result<CaseResult> {
    let Conversation { name, steps } = conversation;
    policies::clear(&datapath.maps.flows)?;
    policies::clear(&datapath.maps.fragments)?;
    let mut hook = Hook::FromWorkload;
    for step in steps {
        match step {
            Step::Policies(pod, neighbour) => pod.put_in_force(neighbour, &datapath.maps)?,
            Step::Packet(case) => {
                hook = case.hook;
                if let Err(error) = run_case(datapath, listener, case) {
                    return Ok(CaseResult { name, hook, error: Some(error.context(case.name)) });
                }
            }
        }
    }
    Ok(CaseResult { name, hook, error: None })
}

fn run_case(datapath: &mut Datapath, listener: &mut Listener, case: &Case) -> Result<()> {
    let before = counts(datapath)?;
    let mut out = vec![0_u8; case.packet.len() + 256];
    let mut options = TestRunOptions::new();
    options.data_in = Some(&case.packet);
    options.data_out = Some(&mut out);
    let mut context = [0_u8; CONTEXT];
    options.ctx_out = Some(&mut context);
    let result = datapath.program(case.hook)?.test_run(options).context("running the program")?;
    out.truncate(result.data_size_out as usize);
    let after = counts(datapath)?;
    ensure_mark(case.hook, result.return_value as i32, &context)?;

    let (outcome, reason) = match &case.expect {
        Expect::Pass => {
            ensure_verdict(result.return_value, UNSPEC)?;
            ensure!(out == case.packet, "the packet was changed: {}", expect::first_difference(&case.packet, &out));
            (Outcome::Passed, None)
        }
        Expect::Drop(reason) => {
            ensure_verdict(result.return_value, SHOT)
                .with_context(|| format!("it should be dropped for the reason {reason}"))?;
            (Outcome::Dropped, Some(*reason))
        }
        Expect::Redirect(outcome, compare) => {
            ensure_verdict(result.return_value, REDIRECT)?;
            compare(&case.packet, &out)?;
            (*outcome, None)
        }
        Expect::Reject(reason, compare) => {
            ensure_verdict(result.return_value, REDIRECT)?;
            compare(&case.packet, &out)?;
            (Outcome::Answered, Some(*reason))
        }
        Expect::Change(compare) => {
            ensure_verdict(result.return_value, UNSPEC)?;
            compare(&case.packet, &out)?;
            (Outcome::Passed, None)
        }
    };
    let counted = after.since(&before);
    let expected = Counts::of(case.hook, outcome, reason, case.packet.len());
    ensure!(counted == expected, "counted {counted:?} instead of {expected:?}");
    listener.check(case, reason).context("what the programs told of it")
}

/// What `from_workload` leaves to the host's stack has its mark, and nothing else has any. `context`: the packet's `__sk_buff`
/// afterwards.
pub(crate) fn ensure_mark(hook: Hook, verdict: i32, context: &[u8; CONTEXT]) -> Result<()> {
    let mark = u32::from_ne_bytes(context[MARK..MARK + 4].try_into()?);
    let expected = if hook == Hook::FromWorkload && verdict == UNSPEC { mark::JUDGED } else { 0 };
    ensure!(mark == expected, "the packet's mark is {mark:#x} instead of {expected:#x}");
    Ok(())
}

fn ensure_verdict(found: u32, expected: i32) -> Result<()> {
    if found as i32 != expected {
        bail!("the verdict is {} instead of {expected} (-1 go on, 2 drop, 7 redirect)", found as i32);
    }
    Ok(())
}

/// All counters that are not zero.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    traffic: Vec<(Hook, Outcome, Counter)>,
    drops: Vec<(DropReason, Counter)>,
}

// === impl Counts ===

impl Counts {
    /// What one packet must have counted.
    fn of(hook: Hook, outcome: Outcome, reason: Option<DropReason>, bytes: usize) -> Self {
        let one = Counter { packets: 1, bytes: bytes as u64 };
        Self { traffic: vec![(hook, outcome, one)], drops: reason.map(|r| (r, one)).into_iter().collect() }
    }

    fn since(&self, before: &Self) -> Self {
        let less = |now: Counter, then: Counter| Counter {
            packets: now.packets - then.packets,
            bytes: now.bytes - then.bytes,
        };
        let traffic = self.traffic.iter().zip(&before.traffic).map(|(n, b)| (n.0, n.1, less(n.2, b.2)));
        let drops = self.drops.iter().zip(&before.drops).map(|(n, b)| (n.0, less(n.1, b.1)));
        let some = |c: &Counter| c.packets != 0;
        Self { traffic: traffic.filter(|(_, _, c)| some(c)).collect(), drops: drops.filter(|(_, c)| some(c)).collect() }
    }
}

fn counts(datapath: &Datapath) -> Result<Counts> {
    let maps = &datapath.maps;
    let mut counts = Counts::default();
    for hook in Hook::ALL {
        for outcome in Outcome::ALL {
            counts.traffic.push((hook, outcome, maps.traffic(hook, outcome)?));
        }
    }
    for &reason in DropReason::ALL {
        counts.drops.push((reason, maps.drops(reason)?));
    }
    Ok(counts)
}

//! What holds for every packet, whatever it is: one of three verdicts, counted once, and nothing changed but what had to be.
//!
//! In: a packet before and after, and the programs' counters. Out: what is wrong. Never: whether it should have passed; that is the
//! [`model`](super::model)'s.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail, ensure};
use margay_maps::{Counter, DropReason, Hook, Outcome, overlay, user::Maps};

use super::{
    model::Fate,
    mutate::Input,
    readdress::{Change, Kind},
};
use crate::golden::packet::checksum;

/// "Go on", "drop", "redirect" (include/uapi/linux/pkt_cls.h).
const UNSPEC: i32 = -1;
const SHOT: i32 = 2;
const REDIRECT: i32 = 7;
/// Where the IPv4 header of a plain frame begins.
const IP: usize = 14;
const OVERHEAD: usize = overlay::OVERHEAD_V4 as usize;

/// What a program said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Said {
    /// Go on.
    Passed,
    /// Drop, for this reason.
    Dropped(DropReason),
    /// Redirected.
    Redirected(Outcome),
    /// Turned into an answer that says that a Service has no endpoints.
    Rejected,
}

/// The counters as they were last seen.
#[derive(Debug, Default)]
pub struct Counters {
    traffic: BTreeMap<(Hook, Outcome), Counter>,
    drops: BTreeMap<DropReason, Counter>,
}

// === impl Counters ===

impl Counters {
    /// Reads all of them.
    ///
    /// # Errors
    /// A map cannot be read.
    pub fn read(maps: &Maps) -> Result<Self> {
        let mut counters = Self::default();
        for hook in Hook::ALL {
            for outcome in Outcome::ALL {
                counters.traffic.insert((hook, outcome), maps.traffic(hook, outcome)?);
            }
        }
        for reason in DropReason::ALL {
            counters.drops.insert(*reason, maps.drops(*reason)?);
        }
        Ok(counters)
    }

    /// What a packet of so many bytes has counted: one outcome of this program, and one reason if it was dropped.
    ///
    /// # Errors
    /// It has counted otherwise.
    pub fn one_more(&mut self, maps: &Maps, hook: Hook, bytes: usize) -> Result<(Outcome, Option<DropReason>)> {
        let mut outcomes = Vec::new();
        for outcome in Outcome::ALL {
            outcomes.extend(grown(&mut self.traffic, (hook, outcome), maps.traffic(hook, outcome)?, bytes)?);
        }
        let [(_, outcome)] = outcomes[..] else { bail!("one packet was counted as {outcomes:?}") };
        if !matches!(outcome, Outcome::Dropped | Outcome::Answered) {
            return Ok((outcome, None));
        }
        let mut reasons = Vec::new();
        for reason in DropReason::ALL {
            reasons.extend(grown(&mut self.drops, *reason, maps.drops(*reason)?, bytes)?);
        }
        match reasons[..] {
            [reason] => Ok((outcome, Some(reason))),
            // An answer to ARP takes nothing from anybody.
            [] if outcome == Outcome::Answered => Ok((outcome, None)),
            _ => bail!("one packet was dropped for {reasons:?}"),
        }
    }

    /// Whether nothing else has been counted.
    ///
    /// # Errors
    /// Something has.
    pub fn same(&self, maps: &Maps) -> Result<()> {
        let now = Self::read(maps)?;
        ensure!(now.traffic == self.traffic && now.drops == self.drops, "packets were counted that did not come");
        Ok(())
    }
}

/// The key, if its counter has grown, which it may by one packet.
fn grown<K: Ord + Copy + std::fmt::Debug>(
    known: &mut BTreeMap<K, Counter>,
    key: K,
    now: Counter,
    bytes: usize,
) -> Result<Option<K>> {
    let before = known.insert(key, now).unwrap_or_default();
    if before == now {
        return Ok(None);
    }
    let one = Counter { packets: before.packets + 1, bytes: before.bytes + bytes as u64 };
    ensure!(now == one, "{key:?} went from {before:?} to {now:?} for {bytes} bytes");
    Ok(Some(key))
}

/// Verdict and counters belong together.
///
/// # Errors
/// They do not, or the verdict is none that the programs give.
pub fn said(action: i32, outcome: Outcome, reason: Option<DropReason>) -> Result<Said> {
    match (action, outcome, reason) {
        (SHOT, Outcome::Dropped, Some(reason)) => Ok(Said::Dropped(reason)),
        (UNSPEC, Outcome::Passed | Outcome::Encapsulated, None) => Ok(Said::Passed),
        (REDIRECT, Outcome::Delivered | Outcome::Encapsulated | Outcome::Answered, None) => {
            Ok(Said::Redirected(outcome))
        }
        (REDIRECT, Outcome::Answered, Some(DropReason::ServiceWithoutEndpoints)) => Ok(Said::Rejected),
        _ => bail!("the verdict {action} was counted as {outcome:?}, {reason:?}"),
    }
}

/// What the model says must have become of it.
///
/// # Errors
/// Something else has.
pub fn fate(expected: Fate, said: Said) -> Result<()> {
    let right = matches!(
        (expected, said),
        (Fate::Any, _)
            | (Fate::Drop | Fate::DropOrLeave | Fate::Reject, Said::Dropped(_))
            | (Fate::Reject, Said::Rejected)
            | (Fate::Leave | Fate::DropOrLeave, Said::Passed)
            | (Fate::Pass, Said::Passed | Said::Redirected(_))
    );
    ensure!(right, "it must be {expected:?}, and the program said {said:?}");
    Ok(())
}

/// What comes out is what went in, but for what forwarding changes, and between whom it is to be: what of it was to be done.
///
/// # Errors
/// More has changed, or less.
pub fn bytes(input: &Input, said: Said, change: Option<Change>, after: &[u8]) -> Result<Option<Change>> {
    let at = if input.hook == Hook::FromUplink { IP + OVERHEAD } else { IP };
    let applies = match (change, said, input.hook) {
        (None, ..) => None,
        (Some(change), Said::Passed, Hook::FromWorkload | Hook::FromUplink) => {
            Some(change).filter(|change| change.kind == Kind::Question)
        }
        (Some(change), Said::Redirected(Outcome::Encapsulated), _) => {
            Some(change).filter(|change| change.kind == Kind::Question)
        }
        (Some(change), ..) => Some(change),
    };
    let before = match applies {
        Some(change) => &change.apply(&input.packet, at).context("it is cut short")?,
        None => &input.packet,
    };
    forwarded(input, before, said, after).with_context(|| format!("with {change:?}"))?;
    Ok(applies)
}

fn forwarded(input: &Input, before: &[u8], said: Said, after: &[u8]) -> Result<()> {
    match (said, input.hook) {
        (Said::Dropped(_), _) => Ok(()),
        // The overlay device is told by MACs.
        (Said::Passed, Hook::ToOverlay) => same(&before[12..], after.get(12..).unwrap_or_default()),
        (Said::Passed, _) => same(before, after),
        (Said::Redirected(Outcome::Answered), _) => {
            ensure!(after.len() == before.len() && after[20..22] == [0, 2], "no answer to ARP: {after:x?}");
            Ok(())
        }
        (Said::Rejected, _) => rejected(before, after),
        (Said::Redirected(Outcome::Delivered), Hook::FromUplink) => hopped(&before[IP + OVERHEAD..], &after[IP..]),
        (Said::Redirected(Outcome::Delivered), _) => hopped(&before[IP..], &after[IP..]),
        (Said::Redirected(_), _) => encapsulated(before, after),
    }
}

/// From the Service, to whoever asked it: a TCP reset, or ICMP "port unreachable".
fn rejected(before: &[u8], after: &[u8]) -> Result<()> {
    let ip = after.get(IP..IP + 28).context("it is too short")?;
    ensure!(checksum(&ip[..20]) == 0 && ip[12..16] == before[30..34] && ip[16..20] == before[26..30], "{ip:x?}");
    match before[IP + 9] {
        6 => ensure!(ip[9] == 6 && after.len() == IP + 40 && after[IP + 33] & 4 != 0, "no reset: {after:x?}"),
        _ => {
            let icmp = &after[IP + 20..];
            ensure!(ip[9] == 1 && icmp[..2] == [3, 3] && checksum(icmp) == 0, "no error: {after:x?}");
            ensure!(before[IP..].starts_with(&icmp[8..]), "what is quoted is not the packet: {after:x?}");
        }
    }
    Ok(())
}

fn same(before: &[u8], after: &[u8]) -> Result<()> {
    ensure!(before == after, "it was changed: {}", crate::golden::first_difference(before, after));
    Ok(())
}

/// One hop less to live. A checksum that was right is right, and one that was wrong is as wrong as before.
fn hopped(before: &[u8], after: &[u8]) -> Result<()> {
    ensure!(after.len() == before.len(), "{} bytes became {}", before.len(), after.len());
    let mut expected = before.to_vec();
    expected[8] = before[8].checked_sub(1).context("nothing was left to live")?;
    expected[10..12].copy_from_slice(&after[10..12]);
    same(&expected, after)?;
    let (was, is) = (checksum(&before[..20]), checksum(&after[..20]));
    // Of ones' complement's two zeros either will do.
    ensure!(
        was == is || was.wrapping_add(is) == u16::MAX && (was == 0 || is == 0),
        "the checksum went from {was:x} to {is:x}"
    );
    Ok(())
}

/// In an outer header that holds together.
fn encapsulated(before: &[u8], after: &[u8]) -> Result<()> {
    ensure!(after.len() == before.len() + OVERHEAD, "{} bytes became {}", before.len(), after.len());
    let outer = after.get(IP..IP + 28).context("it is too short")?;
    let length = u16::from_be_bytes([outer[2], outer[3]]);
    let udp = u16::from_be_bytes([outer[24], outer[25]]);
    ensure!(outer[0] == 0x45 && outer[9] == 17 && checksum(&outer[..20]) == 0, "outer header {outer:x?}");
    ensure!(
        usize::from(length) == after.len() - IP && usize::from(udp) + 20 == usize::from(length),
        "outer lengths {outer:x?}"
    );
    ensure!(outer[22..24] == overlay::PORT.to_be_bytes(), "outer port {outer:x?}");
    hopped(&before[IP..], &after[IP + OVERHEAD..])
}

//! Programs on interfaces: attached where they are missing, replaced in place where they are another build's, removed
//! where they do not belong. No packet is lost or passes without a program while that happens.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    path::Path,
};

use anyhow::Context as _;
use aya::{
    programs::{
        LinkOrder, SchedClassifier, TcAttach, TcAttachType,
        links::{FdLink, PinnedLink},
        tc::{self, NlOptions, SchedClassifierLink, TcHandle},
    },
    util::KernelVersion,
};
use margay_maps::Hook;
use serde::Serialize;
use tracing::{debug, info, warn};

use super::{Datapath, DatapathError, classifier, kernel_is_at_least, links, pins::PinDir};
use crate::plan::{Attachment, Role};

/// How programs are attached to interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// A TCX link, pinned (6.6).
    Tcx,
    /// A filter of the clsact qdisc.
    Clsact,
}

/// The first kernel with TCX links.
const FIRST_WITH_TCX: KernelVersion = KernelVersion::new(6, 6, 0);

/// The priority and handle of our filters on clsact: fixed, so that a later process finds them.
const CLSACT_PRIORITY: u16 = 77;
const CLSACT_HANDLE: TcHandle = TcHandle::new(0, 77);

// === impl Backend ===

impl Backend {
    /// The better one that this kernel has.
    pub fn of_this_kernel() -> Self {
        if kernel_is_at_least(FIRST_WITH_TCX) { Self::Tcx } else { Self::Clsact }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        })
    }
}

// === impl Role ===

impl Role {
    /// The programs of such an interface, and which way the packets go that they see.
    pub fn hooks(self) -> &'static [(Hook, TcAttachType)] {
        match self {
            Self::Workload => &[(Hook::FromWorkload, TcAttachType::Ingress), (Hook::ToWorkload, TcAttachType::Egress)],
            Self::Overlay => &[(Hook::FromOverlay, TcAttachType::Ingress), (Hook::ToOverlay, TcAttachType::Egress)],
            Self::Uplink => &[(Hook::FromUplink, TcAttachType::Ingress)],
        }
    }
}

/// How thoroughly to look at what is attached already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// What is known to be attached is taken to be so still.
    Changes,
    /// Every attachment is looked at (TCX) or made again in place (clsact): somebody may have removed one.
    Everything,
}

/// What this process has attached, and how.
///
/// Making a TCX link waits for an RCU grace period, 8 ms and more, under the lock that all of the kernel's network
/// configuration shares; adding a clsact filter does not. So a pod's new interface first gets filters, which are in
/// force at once, and links when nobody is waiting ([`Datapath::settle_one`]). For the moment in which an interface has
/// both, a program runs twice on packets that it passes on unchanged, which changes nothing but the counters.
pub type Known = BTreeMap<(u32, Hook), Backend>;

// === impl Datapath ===

impl Datapath {
    /// Makes the attachments exactly `wanted`. Every error is collected; the rest is done all the same.
    pub fn attach(&mut self, wanted: &BTreeSet<Attachment>, known: &mut Known, depth: Depth) -> Vec<DatapathError> {
        let mut errors = Vec::new();
        let mut attached = Known::new();
        for attachment in wanted {
            for &(hook, direction) in attachment.role.hooks() {
                let key = (attachment.ifindex, hook);
                let before = known.get(&key).copied();
                let result = match before {
                    Some(how) if depth == Depth::Changes => Ok(how),
                    _ => self.attach_one(attachment, hook, direction, before, Haste::of(attachment.role)),
                };
                match result {
                    Ok(how) => drop(attached.insert(key, how)),
                    Err(source) => errors.push(self.refused(attachment, hook, source)),
                }
            }
        }
        let gone = known.keys().filter(|k| !attached.contains_key(k) && !wanted.iter().any(|a| a.ifindex == k.0));
        for &(ifindex, hook) in gone {
            detach_clsact(ifindex, hook);
        }
        *known = attached;
        if let Err(e) = self.detach_others(wanted) {
            warn!("removing attachments that do not belong: {e:#}");
        }
        errors
    }

    /// Gives one interface's hook its TCX link in place of the filter it got in haste, if there is such a hook. Says
    /// whether there was.
    pub fn settle_one(&mut self, wanted: &BTreeSet<Attachment>, known: &mut Known) -> bool {
        if self.backend != Backend::Tcx {
            return false;
        }
        let hasty = known.iter().find(|(_, how)| **how == Backend::Clsact).map(|(key, _)| *key);
        let Some(hasty) = hasty else { return false };
        self.settle_hook(hasty, wanted, known);
        true
    }

    /// The same for all hooks of one interface.
    pub fn settle(&mut self, ifindex: u32, wanted: &BTreeSet<Attachment>, known: &mut Known) {
        if self.backend != Backend::Tcx {
            return;
        }
        let hasty = known.iter().filter(|(key, how)| key.0 == ifindex && **how == Backend::Clsact);
        for key in hasty.map(|(key, _)| *key).collect::<Vec<_>>() {
            self.settle_hook(key, wanted, known);
        }
    }

    fn settle_hook(&mut self, (ifindex, hook): (u32, Hook), wanted: &BTreeSet<Attachment>, known: &mut Known) {
        let to = wanted.iter().find(|a| a.ifindex == ifindex);
        let direction = to.and_then(|a| a.role.hooks().iter().find(|(h, _)| *h == hook)).map(|(_, d)| *d);
        if let (Some(to), Some(direction)) = (to, direction) {
            match self.attach_one(to, hook, direction, Some(Backend::Clsact), Haste::None) {
                Ok(how) => drop(known.insert((ifindex, hook), how)),
                Err(e) => {
                    debug!(interface = to.name, hook = hook.name(), "staying with the filter: {e:#}");
                    known.remove(&(ifindex, hook));
                }
            }
        } else {
            known.remove(&(ifindex, hook));
        }
    }

    fn refused(&self, attachment: &Attachment, hook: Hook, source: anyhow::Error) -> DatapathError {
        DatapathError::Attach {
            program: hook.name(),
            interface: attachment.name.clone(),
            backend: self.backend,
            source,
        }
    }

    fn attach_one(
        &mut self,
        to: &Attachment,
        hook: Hook,
        direction: TcAttachType,
        before: Option<Backend>,
        haste: Haste,
    ) -> anyhow::Result<Backend> {
        let path = self.pins.links().join(pin_name(&to.name, hook));
        let elsewhere = self.pins.clone();
        let backend = self.backend;
        let program = classifier(&mut self.ebpf, hook.name())?;
        if backend == Backend::Clsact {
            return attach_clsact(program, to, hook, direction);
        }
        if replace_tcx(program, to, hook, &path, &elsewhere)? {
            if before.is_none() {
                // Left by an agent that ended between link and filter.
                detach_clsact(to.ifindex, hook);
            }
            return Ok(Backend::Tcx);
        }
        if haste == Haste::Pod {
            return attach_clsact(program, to, hook, direction);
        }
        attach_tcx(program, to, hook, direction, &path)?;
        if to.role == Role::Workload {
            detach_clsact(to.ifindex, hook);
        }
        Ok(Backend::Tcx)
    }

    /// Unpins, and so detaches, the links that nothing wants: of interfaces that are gone, or have another role now.
    fn detach_others(&self, wanted: &BTreeSet<Attachment>) -> anyhow::Result<()> {
        let hooks =
            |a: &Attachment| a.role.hooks().iter().map(|(hook, _)| pin_name(&a.name, *hook)).collect::<Vec<_>>();
        let kept: BTreeSet<String> = wanted.iter().flat_map(hooks).collect();
        for entry in fs::read_dir(self.pins.links()).context("listing the links")? {
            let entry = entry.context("listing the links")?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if !kept.contains(&name) {
                info!(link = name, "detaching");
                fs::remove_file(entry.path()).with_context(|| format!("removing {name}"))?;
            }
        }
        Ok(())
    }
}

/// Whether somebody waits for an attachment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Haste {
    /// Nobody.
    None,
    /// A pod is about to start behind it.
    Pod,
}

// === impl Haste ===

impl Haste {
    fn of(role: Role) -> Self {
        if role == Role::Workload { Self::Pod } else { Self::None }
    }
}

/// Replaces in place what an earlier process attached, whatever layout it had. Says whether there was anything, or
/// ours is attached already.
fn replace_tcx(
    program: &mut SchedClassifier,
    to: &Attachment,
    hook: Hook,
    path: &Path,
    pins: &PinDir,
) -> anyhow::Result<bool> {
    let own_id = program.info().context("asking for the program's id")?.id();
    let others = pins.others()?.into_iter().map(|dir| dir.join("links").join(pin_name(&to.name, hook)));
    for pin in std::iter::once(path.to_owned()).chain(others) {
        let Some(found) = links::facts(&pin).with_context(|| format!("reading the link {}", pin.display()))? else {
            continue;
        };
        if found.ifindex != to.ifindex {
            // The interface of that name is another now, or somebody detached the link.
            fs::remove_file(&pin).with_context(|| format!("removing the dead link {}", pin.display()))?;
            continue;
        }
        if pin == path && found.program_id == own_id {
            return Ok(true);
        }
        info!(interface = to.name, hook = hook.name(), "replacing the program in place");
        let old = PinnedLink::from_pin(&pin).with_context(|| format!("opening the link {}", pin.display()))?;
        let link: SchedClassifierLink = FdLink::from(old).try_into().context("the pinned link is no TCX link")?;
        let id = program.attach_to_link(link).context("replacing the program of the link")?;
        let link: FdLink = program.take_link(id)?.try_into().context("the link is no TCX link")?;
        if pin != path {
            link.pin(path).with_context(|| format!("pinning {}", path.display()))?;
            fs::remove_file(&pin).with_context(|| format!("removing {}", pin.display()))?;
        }
        return Ok(true);
    }
    Ok(false)
}

/// Attaches by a new link, and pins it.
fn attach_tcx(
    program: &mut SchedClassifier,
    to: &Attachment,
    hook: Hook,
    direction: TcAttachType,
    path: &Path,
) -> anyhow::Result<()> {
    info!(interface = to.name, hook = hook.name(), "attaching by tcx");
    let attach = TcAttach::Tcx { attach_type: direction, order: LinkOrder::default() };
    let id = program.attach(to.ifindex, attach)?;
    let link: FdLink = program.take_link(id)?.try_into().context("the link is no TCX link")?;
    link.pin(path).with_context(|| format!("pinning {}", path.display())).map(drop)
}

/// Replaces our filter in place, or adds it where it is missing. The filter stays when the process ends.
fn attach_clsact(
    program: &mut SchedClassifier,
    to: &Attachment,
    hook: Hook,
    direction: TcAttachType,
) -> anyhow::Result<Backend> {
    // There already: EEXIST, which is no error, and any other shows when the filter is refused.
    let qdisc = tc::qdisc_add_clsact(to.ifindex);
    let parent = TcHandle::from(direction);
    let link = SchedClassifierLink::attached(to.ifindex, parent, CLSACT_PRIORITY, CLSACT_HANDLE, None)?;
    let id = match program.attach_to_link(link) {
        Ok(id) => id,
        Err(_no_such_filter) => {
            info!(interface = to.name, hook = hook.name(), "attaching by clsact");
            let options = NlOptions { priority: CLSACT_PRIORITY, handle: CLSACT_HANDLE, classid: None };
            let attached = program.attach(to.ifindex, TcAttach::Netlink { parent, options });
            attached.with_context(|| match &qdisc {
                Ok(()) => "adding the filter".to_owned(),
                Err(e) => format!("adding the filter (adding the clsact qdisc said: {e})"),
            })?
        }
    };
    // Dropping the link would take the filter away.
    std::mem::forget(program.take_link(id)?);
    Ok(Backend::Clsact)
}

/// Removes our filter from the interface. Says whether there was one; that it has gone already is no error.
fn detach_clsact(ifindex: u32, hook: Hook) -> bool {
    let roles = [Role::Workload, Role::Overlay, Role::Uplink];
    let directions = roles.into_iter().flat_map(Role::hooks).filter(|(h, _)| *h == hook).map(|(_, d)| *d);
    let parents = directions.map(TcHandle::from);
    parents.map(|parent| tc::qdisc_detach_program(ifindex, parent, hook.name()).is_ok()).fold(false, |a, b| a | b)
}

/// Removes every filter of ours from the interface. Says whether there was any.
pub fn detach_all_clsact(ifindex: u32) -> bool {
    Hook::ALL.into_iter().map(|hook| detach_clsact(ifindex, hook)).fold(false, |a, b| a | b)
}

/// The name of a link's pin. bpffs refuses names with a dot, and an interface's name may have one.
fn pin_name(interface: &str, hook: Hook) -> String {
    let escaped = interface.replace('%', "%25").replace('.', "%2e");
    format!("{escaped}-{}", hook.name())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_have_no_dots_and_do_not_collide() {
        assert_eq!(pin_name("vxlan.calico", Hook::ToOverlay), "vxlan%2ecalico-to_overlay");
        assert_ne!(pin_name("a.b", Hook::ToOverlay), pin_name("a%2eb", Hook::ToOverlay));
    }
}

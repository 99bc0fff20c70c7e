//! How a hook ends: one outcome or one reason, counted once, turned into the kernel's verdict.

use aya_ebpf::bindings::{__sk_buff, TC_ACT_SHOT, TC_ACT_UNSPEC};
use margay_maps::{Counter, DropReason, Hook, Outcome, counters::traffic_slot};

use crate::{
    events,
    lookup::{DROPS, TRAFFIC},
};

/// What a program decided, other than to drop.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// What became of the packet, for the counters.
    pub outcome: Outcome,
    /// What the kernel is to do (`TC_ACT_*`, or what a redirect helper returned).
    pub action: i32,
}

// === impl Verdict ===

impl Verdict {
    /// Go on as if we were not there: the next program, and then the host's stack or the device. `TC_ACT_UNSPEC` is
    /// `TCX_NEXT`, so that others' programs on the same hook still run.
    pub const PASS: Self = Self { outcome: Outcome::Passed, action: TC_ACT_UNSPEC };

    /// `outcome`, by a redirect helper that returned `action`.
    #[inline(always)]
    pub fn redirect(outcome: Outcome, action: i64) -> Self {
        Self { outcome, action: action as i32 }
    }
}

/// Counts the result and turns it into the kernel's verdict. `bytes`: the packet's length when it came.
#[inline(always)]
pub fn finish(skb: *mut __sk_buff, hook: Hook, bytes: u32, result: Result<Verdict, DropReason>) -> i32 {
    match result {
        Ok(Verdict { outcome, action }) => {
            add(TRAFFIC.get_ptr_mut(traffic_slot(hook, outcome)), bytes);
            action
        }
        Err(reason) => {
            add(TRAFFIC.get_ptr_mut(traffic_slot(hook, Outcome::Dropped)), bytes);
            count_drop(reason, bytes);
            events::dropped(skb, hook, reason, bytes);
            TC_ACT_SHOT
        }
    }
}

/// One packet more that does not get where it wanted to, for this reason.
#[inline(always)]
pub fn count_drop(reason: DropReason, bytes: u32) {
    add(DROPS.get_ptr_mut(reason as u32), bytes);
}

/// One packet more in this CPU's slot.
#[inline(always)]
fn add(slot: Option<*mut Counter>, bytes: u32) {
    if let Some(counter) = slot {
        // SAFETY: the pointer is this CPU's own element of the map, valid for the whole run of the program. Another
        // program on the same CPU may interrupt us between load and store: then one packet goes uncounted, no more.
        unsafe {
            (*counter).packets = (*counter).packets.wrapping_add(1);
            (*counter).bytes = (*counter).bytes.wrapping_add(bytes as u64);
        }
    }
}

//! Which slot of `enforcement` each pod of this node has.
//!
//! In: the planned endpoints, and those in force. Out: the planned ones with their slots. Never: a slot that two pods share, or
//! one that changes while its pod's interface stays.

use std::collections::{BTreeMap, BTreeSet};

use margay_maps::{Addr, Endpoint, EndpointKind, layout::MAX_SLOTS};

/// Slots by interface: those in use stay, new interfaces get the lowest free ones.
pub fn assign(planned: &BTreeMap<Addr, Endpoint>, current: &BTreeMap<Addr, Endpoint>) -> BTreeMap<u32, u32> {
    let workloads = |endpoints: &BTreeMap<Addr, Endpoint>| -> Vec<Endpoint> {
        endpoints.values().filter(|endpoint| endpoint.kind == EndpointKind::Workload).copied().collect()
    };
    let wanted: BTreeSet<u32> = workloads(planned).iter().map(|endpoint| endpoint.ifindex).collect();
    let mut slots = BTreeMap::new();
    let mut used = BTreeSet::from([0]);
    for Endpoint { ifindex, slot, .. } in workloads(current) {
        if wanted.contains(&ifindex) && slot < MAX_SLOTS && !slots.contains_key(&ifindex) && used.insert(slot) {
            slots.insert(ifindex, slot);
        }
    }
    // A slot is free only when nobody in force has it either: its flows are judged by it until they are gone.
    used.extend(workloads(current).iter().map(|endpoint| endpoint.slot));
    let mut free = (1..MAX_SLOTS).filter(|slot| !used.contains(slot));
    for ifindex in wanted {
        if !slots.contains_key(&ifindex)
            && let Some(slot) = free.next()
        {
            slots.insert(ifindex, slot);
        }
    }
    slots
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(ifindex: u32, slot: u32) -> Endpoint {
        Endpoint { kind: EndpointKind::Workload, ifindex, slot, ..Endpoint::default() }
    }

    fn endpoints(all: &[(u8, Endpoint)]) -> BTreeMap<Addr, Endpoint> {
        all.iter().map(|(last, endpoint)| (Addr::from_v4([10, 0, 0, *last]), *endpoint)).collect()
    }

    #[test]
    fn a_pod_keeps_its_slot_and_a_new_one_gets_a_free_one() {
        let current = endpoints(&[(1, pod(11, 1)), (2, pod(12, 2)), (3, pod(13, 3))]);
        let planned = endpoints(&[(1, pod(11, 0)), (3, pod(13, 0)), (4, pod(14, 0)), (9, Endpoint::default())]);
        // Slot 2 is not free before its pod's endpoint is gone.
        assert_eq!(assign(&planned, &current), BTreeMap::from([(11, 1), (13, 3), (14, 4)]));
        assert_eq!(assign(&planned, &BTreeMap::new()), BTreeMap::from([(11, 1), (13, 2), (14, 3)]));
    }

    #[test]
    fn addresses_of_one_pod_share_a_slot_and_two_pods_never_do() {
        let current = endpoints(&[(1, pod(11, 1)), (2, pod(12, 1)), (3, pod(13, 0))]);
        let planned = endpoints(&[(1, pod(11, 0)), (2, pod(12, 0)), (3, pod(13, 0)), (4, pod(13, 0))]);
        assert_eq!(assign(&planned, &current), BTreeMap::from([(11, 1), (12, 2), (13, 3)]));
    }
}

//! Whether what is planned fits into the maps.

use std::collections::BTreeSet;

use margay_maps::{MapSpec, layout};

use super::Plan;
use crate::problem::Problem;

/// The names of the maps that `plan` would overfill, and a [`Problem`] for each.
pub(super) fn overfull(plan: &Plan, problems: &mut Vec<Problem>) -> BTreeSet<&'static str> {
    let wanted = [
        (layout::ENDPOINTS, plan.endpoints.len()),
        (layout::ROUTES, plan.routes.len()),
        (layout::NODES, plan.nodes.len()),
    ];
    let mut overfull = BTreeSet::new();
    for (map, entries) in wanted {
        if let Some(problem) = check(&map, entries) {
            problems.push(problem);
            overfull.insert(map.name);
        }
    }
    overfull
}

fn check(map: &MapSpec, entries: usize) -> Option<Problem> {
    (entries > map.max_entries as usize).then(|| {
        Problem::new(
            format!("map {}", map.name),
            format!("it would need {entries} entries and can hold {}", map.max_entries),
            "make the cluster smaller, or raise the limit in maps/src/layout.rs and build again; until then its content stays as it was",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_map_is_named_with_its_numbers() {
        assert_eq!(check(&layout::NODES, layout::MAX_NODES as usize), None);
        let problem = check(&layout::NODES, layout::MAX_NODES as usize + 1).unwrap();
        assert_eq!(problem.object, "map nodes");
        assert!(problem.what.contains("16385") && problem.what.contains("16384"), "{problem}");
    }
}

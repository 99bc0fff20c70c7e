//! Label selectors. In: a selector and labels. Out: whether they match. Never: what a missing selector means; that depends
//! on the field it is missing from, and is for the caller.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

use super::cluster::Labels;

/// Whether all requirements hold. A selector without any matches everything.
pub fn matches(selector: &LabelSelector, labels: &Labels) -> bool {
    let has_labels = selector.match_labels.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    let holds = selector.match_expressions.iter().flatten().all(|requirement| holds(requirement, labels));
    has_labels && holds
}

/// The operators, as `LabelSelectorRequirement` documents them. `NotIn` also matches where there is no such label
/// (<https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#set-based-requirement>).
fn holds(requirement: &LabelSelectorRequirement, labels: &Labels) -> bool {
    let value = labels.get(&requirement.key);
    let listed = value.is_some_and(|value| requirement.values.iter().flatten().any(|v| v == value));
    match requirement.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        _ => false,
    }
}

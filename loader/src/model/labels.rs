//! Labels, and what selects by them.
//!
//! In: a LabelSelector as it is written. Out: a [`Selector`] that two equal meanings share as far as they are written alike, or
//! what is wrong with it. Never: a selector that selects more than what is written because part of it makes no sense.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::object::policy::{ExpressionSpec, SelectorSpec};

/// Labels by key.
pub type Labels = BTreeMap<String, String>;

/// What a selector asks of one label.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Test {
    /// It is there, with one of these values.
    In(BTreeSet<String>),
    /// It is not there, or has none of these values.
    NotIn(BTreeSet<String>),
    /// It is there.
    Exists,
    /// It is not there.
    Absent,
}

/// A LabelSelector: all tests must pass. Sorted and without repetitions, so that equal ones are equal. The default one, without any
/// test, selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Selector {
    tests: BTreeSet<(String, Test)>,
}

// === impl Selector ===

impl Selector {
    /// Reads a selector. The error names the field, and what is wrong with it.
    pub(super) fn read(spec: &SelectorSpec) -> Result<Self, String> {
        let labels = spec.match_labels.iter().flatten();
        let equal = labels.map(|(key, value)| (key.clone(), Test::In(BTreeSet::from([value.clone()]))));
        let mut tests: BTreeSet<_> = equal.collect();
        for (i, expression) in spec.match_expressions.iter().flatten().enumerate() {
            let test = read_test(expression).map_err(|what| format!("matchExpressions[{i}]: {what}"))?;
            tests.insert((expression.key.clone(), test));
        }
        match tests.iter().find(|(key, _)| key.is_empty()) {
            Some(_) => Err("a label without a key".to_owned()),
            None => Ok(Self { tests }),
        }
    }

    /// Whether something with these labels is selected.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.tests.iter().all(|(key, test)| test.passes(labels.get(key).map(String::as_str)))
    }

    /// Whether it selects whatever labels there are.
    pub fn is_everything(&self) -> bool {
        self.tests.is_empty()
    }

    /// Its tests with the keys of the labels that they are about.
    pub fn tests(&self) -> impl Iterator<Item = (&str, &Test)> {
        self.tests.iter().map(|(key, test)| (key.as_str(), test))
    }
}

/// As kubectl writes selectors: `app in (a,b),!canary`; nothing for the one that selects everything.
impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (key, test)) in self.tests.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            let list = |set: &BTreeSet<String>| set.iter().map(String::as_str).collect::<Vec<_>>().join(",");
            match test {
                Test::In(set) if set.len() == 1 => write!(f, "{comma}{key}={}", list(set))?,
                Test::In(set) => write!(f, "{comma}{key} in ({})", list(set))?,
                Test::NotIn(set) => write!(f, "{comma}{key} notin ({})", list(set))?,
                Test::Exists => write!(f, "{comma}{key}")?,
                Test::Absent => write!(f, "{comma}!{key}")?,
            }
        }
        Ok(())
    }
}

/// What `ValidateLabelSelectorRequirement` of apimachinery allows.
fn read_test(expression: &ExpressionSpec) -> Result<Test, String> {
    let ExpressionSpec { key: _, operator, values } = expression;
    let values: BTreeSet<String> = values.iter().flatten().cloned().collect();
    match (operator.as_str(), values.is_empty()) {
        ("In", false) => Ok(Test::In(values)),
        ("NotIn", false) => Ok(Test::NotIn(values)),
        ("Exists", true) => Ok(Test::Exists),
        ("DoesNotExist", true) => Ok(Test::Absent),
        ("In" | "NotIn", true) => Err(format!("the operator {operator} needs values")),
        ("Exists" | "DoesNotExist", false) => Err(format!("the operator {operator} takes no values")),
        _ => Err(format!("`{operator}` is none of the operators In, NotIn, Exists and DoesNotExist")),
    }
}

// === impl Test ===

impl Test {
    /// Whether a label with this value, or one that is not there, passes.
    pub fn passes(&self, value: Option<&str>) -> bool {
        match (self, value) {
            (Self::In(set), Some(value)) => set.contains(value),
            (Self::NotIn(set), Some(value)) => !set.contains(value),
            (Self::Exists, value) => value.is_some(),
            (Self::Absent, value) => value.is_none(),
            (Self::In(_), None) => false,
            (Self::NotIn(_), None) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::testing::labels;

    fn read(text: &str) -> Result<Selector, String> {
        let spec: SelectorSpec = serde_saphyr::from_str(text).unwrap();
        Selector::read(&spec)
    }

    #[test]
    fn selectors_select_as_kubernetes_says() {
        for (text, matches) in [
            ("{}", true),
            ("{matchLabels: {}}", true),
            ("{matchLabels: {app: web}}", true),
            ("{matchLabels: {app: api}}", false),
            ("{matchLabels: {app: web, tier: back}}", false),
            ("{matchLabels: {app: web}, matchExpressions: [{key: tier, operator: DoesNotExist}]}", false),
            ("{matchExpressions: [{key: app, operator: In, values: [api, web]}]}", true),
            ("{matchExpressions: [{key: app, operator: NotIn, values: [api]}]}", true),
            ("{matchExpressions: [{key: app, operator: NotIn, values: [api, web]}]}", false),
            ("{matchExpressions: [{key: zone, operator: NotIn, values: [a]}]}", true),
            ("{matchExpressions: [{key: zone, operator: In, values: [a]}]}", false),
            ("{matchExpressions: [{key: tier, operator: Exists}]}", true),
            ("{matchExpressions: [{key: zone, operator: Exists, values: []}]}", false),
            ("{matchExpressions: [{key: zone, operator: DoesNotExist}]}", true),
            ("{matchExpressions: [{key: app, operator: Exists}, {key: app, operator: NotIn, values: [web]}]}", false),
        ] {
            assert_eq!(read(text).unwrap().matches(&labels("app=web,tier=front")), matches, "{text}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (text, what) in [
            ("{matchExpressions: [{key: a, operator: in, values: [x]}]}", "matchExpressions[0]: `in` is none"),
            ("{matchExpressions: [{key: a, operator: In}]}", "needs values"),
            ("{matchExpressions: [{key: a, operator: NotIn, values: []}]}", "needs values"),
            ("{matchExpressions: [{key: a, operator: Exists, values: [x]}]}", "takes no values"),
            ("{matchExpressions: [{operator: Exists}]}", "without a key"),
            ("{matchLabels: {'': x}}", "without a key"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(what), "{text}: {error}");
        }
    }

    #[test]
    fn the_same_said_otherwise_is_the_same() {
        let one = read("{matchLabels: {app: web}}").unwrap();
        assert_eq!(one, read("{matchExpressions: [{key: app, operator: In, values: [web, web]}]}").unwrap());
        assert_eq!(one.to_string(), "app=web");
        let text = "{matchExpressions: [{key: b, operator: NotIn, values: [y, x]}, {key: a, operator: DoesNotExist}]}";
        assert_eq!(read(text).unwrap().to_string(), "!a,b notin (x,y)");
    }
}

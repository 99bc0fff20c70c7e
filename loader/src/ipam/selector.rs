//! Calico's label selectors: `has(zone) && role in {"edge", "core"}`.
//!
//! In: the text of a selector, and labels. Out: whether they match, or where the text goes wrong. Never: a panic or a
//! deep recursion, whatever the text; nesting has a limit.
//!
//! The grammar is that of libcalico-go, lib/selector:
//!
//! ```text
//! or   = and { "||" and }
//! and  = not { "&&" not }
//! not  = { "!" } ( "(" or ")" | "all()" | "global()" | "has(" label ")" | label test )
//! test = ( "==" | "!=" | "contains" | "starts with" | "ends with" ) text | ( "in" | "not in" ) "{" text { "," text } "}"
//! ```

use std::collections::{BTreeMap, BTreeSet};

/// How deep parentheses may nest.
const MAX_DEPTH: usize = 64;
/// How long a label's name can be (libcalico-go, `LabelKeyMatcher`).
const MAX_LABEL: usize = 512;

/// A selector. The default one selects everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector(Node);

/// Where a selector goes wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at character {at} of the selector `{text}`: {what}")]
pub struct SelectorError {
    /// The selector.
    pub text: String,
    /// The place, from 1.
    pub at: usize,
    /// What is wrong there.
    pub what: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Node {
    All,
    Global,
    Any(Vec<Node>),
    Every(Vec<Node>),
    Not(Box<Node>),
    Has(String),
    Label(String, Test),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    Equals(String),
    Differs(String),
    Contains(String),
    StartsWith(String),
    EndsWith(String),
    In(BTreeSet<String>),
    NotIn(BTreeSet<String>),
}

// === impl Selector ===

impl Selector {
    /// Reads a selector; an empty one selects everything.
    ///
    /// # Errors
    /// The text is no selector.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut parser = Parser { text, rest: text, depth: 0 };
        parser.skip_blanks();
        if parser.rest.is_empty() {
            return Ok(Self::default());
        }
        let node = parser.any()?;
        if parser.rest.is_empty() { Ok(Self(node)) } else { Err(parser.error("expected `&&`, `||` or the end")) }
    }

    /// Whether it selects something with these labels.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.matches(labels)
    }
}

impl Default for Selector {
    fn default() -> Self {
        Self(Node::All)
    }
}

// === impl Node ===

impl Node {
    fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        match self {
            Self::All => true,
            // It selects what has no namespace and is for network sets; Calico's evaluation of labels answers no.
            Self::Global => false,
            Self::Any(nodes) => nodes.iter().any(|node| node.matches(labels)),
            Self::Every(nodes) => nodes.iter().all(|node| node.matches(labels)),
            Self::Not(node) => !node.matches(labels),
            Self::Has(label) => labels.contains_key(label),
            Self::Label(label, test) => test.passes(labels.get(label).map(String::as_str)),
        }
    }
}

// === impl Test ===

impl Test {
    /// What is missing differs from everything and equals nothing.
    fn passes(&self, value: Option<&str>) -> bool {
        match (self, value) {
            (Self::Differs(_) | Self::NotIn(_), None) => true,
            (_, None) => false,
            (Self::Equals(wanted), Some(value)) => value == wanted,
            (Self::Differs(other), Some(value)) => value != other,
            (Self::Contains(part), Some(value)) => value.contains(part.as_str()),
            (Self::StartsWith(part), Some(value)) => value.starts_with(part.as_str()),
            (Self::EndsWith(part), Some(value)) => value.ends_with(part.as_str()),
            (Self::In(set), Some(value)) => set.contains(value),
            (Self::NotIn(set), Some(value)) => !set.contains(value),
        }
    }
}

struct Parser<'a> {
    text: &'a str,
    rest: &'a str,
    depth: usize,
}

type Parsed<T> = Result<T, SelectorError>;

// === impl Parser ===

impl<'a> Parser<'a> {
    fn any(&mut self) -> Parsed<Node> {
        self.list("||", Self::every, Node::Any)
    }

    fn every(&mut self) -> Parsed<Node> {
        self.list("&&", Self::negated, Node::Every)
    }

    fn list(
        &mut self,
        operator: &str,
        part: impl Fn(&mut Self) -> Parsed<Node>,
        join: impl Fn(Vec<Node>) -> Node,
    ) -> Parsed<Node> {
        let first = part(self)?;
        let mut nodes = vec![first];
        while self.take(operator) {
            nodes.push(part(self)?);
        }
        Ok(if nodes.len() == 1 { nodes.swap_remove(0) } else { join(nodes) })
    }

    fn negated(&mut self) -> Parsed<Node> {
        let mut negated = false;
        while !self.rest.starts_with("!=") && self.take("!") {
            negated = !negated;
        }
        let node = self.operation()?;
        Ok(if negated { Node::Not(Box::new(node)) } else { node })
    }

    fn operation(&mut self) -> Parsed<Node> {
        if self.take("(") {
            self.depth += 1;
            if self.depth > MAX_DEPTH {
                return Err(self.error("too many parentheses in each other"));
            }
            let node = self.any()?;
            self.expect(")", "expected `)`")?;
            self.depth -= 1;
            return Ok(node);
        }
        for (name, node) in [("all(", Node::All), ("global(", Node::Global)] {
            if self.take(name) {
                self.expect(")", "expected `)`")?;
                return Ok(node);
            }
        }
        if self.take("has(") {
            let label = self.label()?;
            self.expect(")", "expected `)`")?;
            return Ok(Node::Has(label));
        }
        let label = self.label()?;
        Ok(Node::Label(label, self.test()?))
    }

    fn test(&mut self) -> Parsed<Test> {
        if self.take("==") {
            return self.literal().map(Test::Equals);
        }
        if self.take("!=") {
            return self.literal().map(Test::Differs);
        }
        if self.take("contains") {
            return self.literal().map(Test::Contains);
        }
        if self.take("starts") {
            self.expect("with", "expected `starts with`")?;
            return self.literal().map(Test::StartsWith);
        }
        if self.take("ends") {
            self.expect("with", "expected `ends with`")?;
            return self.literal().map(Test::EndsWith);
        }
        if self.take("not") {
            self.expect("in", "expected `not in`")?;
            return self.set().map(Test::NotIn);
        }
        if self.take("in") {
            return self.set().map(Test::In);
        }
        Err(self.error("expected `==`, `!=`, `in`, `not in`, `contains`, `starts with` or `ends with`"))
    }

    fn set(&mut self) -> Parsed<BTreeSet<String>> {
        self.expect("{", "expected `{`")?;
        let mut set = BTreeSet::new();
        while self.rest.starts_with(['"', '\'']) {
            set.insert(self.literal()?);
            if !self.take(",") {
                break;
            }
        }
        self.expect("}", "expected `}`")?;
        Ok(set)
    }

    /// Text in quotation marks. There is no escape: what begins with one kind of mark may hold the other.
    fn literal(&mut self) -> Parsed<String> {
        let Some(mark) = self.rest.chars().next().filter(|c| matches!(c, '"' | '\'')) else {
            return Err(self.error("expected text in quotation marks"));
        };
        let Some((value, rest)) = self.rest[1..].split_once(mark) else {
            return Err(self.error("the quotation mark is never closed"));
        };
        self.rest = rest;
        self.skip_blanks();
        Ok(value.to_owned())
    }

    fn label(&mut self) -> Parsed<String> {
        let part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '/' | '-');
        let end = self.rest.find(|c| !part(c)).unwrap_or(self.rest.len());
        if end == 0 || end > MAX_LABEL {
            return Err(self.error("expected the name of a label"));
        }
        let (label, rest) = self.rest.split_at(end);
        self.rest = rest;
        self.skip_blanks();
        Ok(label.to_owned())
    }

    fn take(&mut self, token: &str) -> bool {
        let Some(rest) = self.rest.strip_prefix(token) else { return false };
        self.rest = rest;
        self.skip_blanks();
        true
    }

    fn expect(&mut self, token: &str, what: &'static str) -> Parsed<()> {
        if self.take(token) { Ok(()) } else { Err(self.error(what)) }
    }

    fn skip_blanks(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t']);
    }

    fn error(&self, what: &'static str) -> SelectorError {
        let before = &self.text[..self.text.len() - self.rest.len()];
        SelectorError { text: self.text.to_owned(), at: before.chars().count() + 1, what }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn labels() -> BTreeMap<String, String> {
        [("zone", "west-1"), ("kubernetes.io/os", "linux"), ("edge", ""), ("in", "x")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into()
    }

    #[test]
    fn selectors_select() {
        for (text, matches) in [
            ("", true),
            (" \t", true),
            ("all()", true),
            ("all( )", true),
            ("!all()", false),
            ("global()", false),
            ("has(zone)", true),
            ("has( edge )", true),
            ("has(rack)", false),
            ("!has(rack)", true),
            ("!!has(zone)", true),
            ("zone == 'west-1'", true),
            ("zone=='west-1'", true),
            ("zone == \"west-2\"", false),
            ("zone != \"west-2\"", true),
            ("rack != 'r1'", true),
            ("rack == ''", false),
            ("edge == ''", true),
            ("kubernetes.io/os == 'linux'", true),
            ("zone in {'west-1', 'west-2'}", true),
            ("zone in {}", false),
            ("zone in {'a',}", false),
            ("zone not in {'west-1'}", false),
            ("rack not in {'r1'}", true),
            ("rack in {'r1'}", false),
            ("zone contains 'st-'", true),
            ("zone starts with 'west'", true),
            ("zone  starts\twith 'est'", false),
            ("zone ends with '-1'", true),
            ("in == 'x'", true),
            ("has(zone) && has(rack)", false),
            ("has(zone) || has(rack)", true),
            ("has(rack) && has(rack) || has(zone)", true),
            ("has(zone) || has(rack) && has(rack)", true),
            ("(has(zone) || has(rack)) && has(rack)", false),
            ("!(has(rack) || zone == 'west-2')", true),
            ("! ( has(zone) )", false),
        ] {
            let selector = Selector::parse(text).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(selector.matches(&labels()), matches, "{text}");
        }
    }

    #[test]
    fn errors_say_where() {
        for (text, at) in [
            ("zone", 5),
            ("zone =", 6),
            ("zone = 'x'", 6),
            ("zone == x", 9),
            ("zone == 'x", 9),
            ("zone in 'x'", 9),
            ("zone in {'x' 'y'}", 14),
            ("zone not 'x'", 10),
            ("has(", 5),
            ("has()", 5),
            ("(has(a)", 8),
            ("has(a) has(b)", 8),
            ("has(a) && ", 11),
            ("&& has(a)", 1),
            ("has(ä)", 5),
            ("zone == 'ä' x", 13),
        ] {
            let error = Selector::parse(text).unwrap_err();
            assert_eq!(error.at, at, "{error}");
        }
        Selector::parse(&"(".repeat(100_000)).unwrap_err();
        assert!(Selector::parse(&"!".repeat(100_000)).is_err());
        assert!(Selector::parse(&format!("{}all()", "!".repeat(100_000))).unwrap().matches(&labels()));
    }

    proptest! {
        #[test]
        fn nothing_panics(text in r#"[ a-c!&|()={}'",ä]{0,24}"#) {
            let _ = Selector::parse(&text);
        }
    }
}

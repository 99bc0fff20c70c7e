//! Manifests: text with one or many Kubernetes objects in YAML or JSON.
//!
//! In: the text of one file. Out: the objects of the kinds that Margay knows and a count of all others, or the first
//! error. Never: half a file: one document that cannot be read makes the whole file unreadable, so that an object
//! is not taken for deleted because somebody mistyped the one above it.

use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::block::BlockAffinity;
use super::policy::PolicyManifest;
use super::{
    BlockObject, NamespaceObject, NodeObject, Object, PodObject, PolicyObject, PoolObject, ServiceObject, SliceObject,
};
use crate::crd::IpPool;

/// How a manifest is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// YAML, any number of documents.
    Yaml,
    /// JSON, one document.
    Json,
}

/// The objects of a manifest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    /// Those of known kinds, in order.
    pub objects: Vec<Object>,
    /// How many there were of other kinds.
    pub ignored: usize,
}

/// Why a manifest cannot be read, as part of a sentence: `document 2 (Pod default/web): …`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("document {document}{}: {what}", object.as_ref().map(|o| format!(" ({o})")).unwrap_or_default())]
pub struct ManifestError {
    /// Which document of the file, from 1; empty ones do not count.
    pub document: usize,
    /// Kind and name of the object, as far as they are known.
    pub object: Option<String>,
    /// What is wrong, with the line of the file where that is known.
    pub what: String,
}

/// What every object says about itself.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Header {
    api_version: Option<String>,
    kind: Option<String>,
    metadata: Option<HeaderMeta>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct HeaderMeta {
    name: Option<String>,
    namespace: Option<String>,
}

/// A list of objects: `kind: List`, or `PodList` and the like, whose items need not name their kind.
#[derive(Debug, Deserialize)]
struct List {
    #[serde(default)]
    items: Vec<Value>,
}

/// Reads all objects of a manifest.
pub fn manifest(text: &str, format: Format) -> Result<Manifest, ManifestError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let documents = match format {
        Format::Yaml => yaml_documents(text),
        Format::Json => vec![Document { format, text, lines_before: 0 }],
    };
    let mut manifest = Manifest::default();
    for (i, document) in documents.iter().enumerate() {
        document.read_into(&mut manifest).map_err(|(object, what)| ManifestError { document: i + 1, object, what })?;
    }
    Ok(manifest)
}

/// An object's kind and name, as far as they are known, and what is wrong with it.
type Fault = (Option<String>, String);

/// One document of a manifest.
#[derive(Clone, Copy)]
struct Document<'a> {
    format: Format,
    text: &'a str,
    /// How many lines of the file stand before it.
    lines_before: u64,
}

/// One object, not read yet.
trait Encoded {
    /// As a value of Rust; `None` where there is nothing at all.
    fn decode<T: DeserializeOwned>(&self) -> Result<Option<T>, String>;
}

impl Encoded for Document<'_> {
    fn decode<T: DeserializeOwned>(&self) -> Result<Option<T>, String> {
        let Self { format, text, lines_before } = *self;
        match format {
            Format::Json => serde_json::from_str(text).map(Some).map_err(|error| error.to_string()),
            Format::Yaml => {
                let mut found = serde_saphyr::from_multiple_with_options::<T>(text, yaml_options())
                    .map_err(|error| with_line_of_file(&error, lines_before))?
                    .into_iter();
                let first = found.next();
                match found.next() {
                    None => Ok(first),
                    Some(_) => Err("a second document without a line `---` before it".to_owned()),
                }
            }
        }
    }
}

impl Encoded for Value {
    fn decode<T: DeserializeOwned>(&self) -> Result<Option<T>, String> {
        T::deserialize(self).map(Some).map_err(|error| error.to_string())
    }
}

// === impl Document ===

impl Document<'_> {
    fn read_into(self, manifest: &mut Manifest) -> Result<(), Fault> {
        // An empty document, or one with nothing but comments, has no header.
        let Some(header) = self.decode::<Header>().map_err(|what| (None, what))? else { return Ok(()) };
        let blame = |what| (header.title(), what);
        let Some(item_kind) = header.list_of().map_err(blame)? else {
            manifest.add(header.object(&self).map_err(blame)?);
            return Ok(());
        };
        let list: Option<List> = self.decode().map_err(blame)?;
        for (i, item) in list.into_iter().flat_map(|list| list.items).enumerate() {
            let object = item_object(&header.complete(item, item_kind)).map_err(|(title, what)| {
                let title = title.map(|title| format!(" ({title})")).unwrap_or_default();
                (header.title(), format!("item {}{title}: {what}", i + 1))
            })?;
            manifest.add(object);
        }
        Ok(())
    }
}

fn item_object(item: &Value) -> Result<Option<Object>, Fault> {
    let header = item.decode::<Header>().map_err(|what| (None, what))?.unwrap_or_default();
    header.object(item).map_err(|what| (header.title(), what))
}

// === impl Header ===

impl Header {
    /// `Pod default/web`, as far as it is known.
    fn title(&self) -> Option<String> {
        let kind = self.kind.as_deref()?;
        let Some(HeaderMeta { name: Some(name), namespace }) = &self.metadata else { return Some(kind.to_owned()) };
        Some(match namespace {
            Some(namespace) => format!("{kind} {namespace}/{name}"),
            None if matches!(kind, "Pod" | "NetworkPolicy" | "Service" | "EndpointSlice") => {
                format!("{kind} default/{name}")
            }
            None => format!("{kind} {name}"),
        })
    }

    fn kind(&self) -> Result<(&str, &str), String> {
        match (&self.api_version, &self.kind) {
            (Some(api), Some(kind)) => Ok((api, kind)),
            (None, _) => Err("it has no `apiVersion`".to_owned()),
            (_, None) => Err("it has no `kind`".to_owned()),
        }
    }

    /// For a list, the kind of those items that do not name theirs: empty for `kind: List`.
    fn list_of(&self) -> Result<Option<&str>, String> {
        let (_, kind) = self.kind()?;
        let ours = |item: &&str| {
            matches!(
                *item,
                "" | "Node"
                    | "Pod"
                    | "BlockAffinity"
                    | "IPPool"
                    | "Namespace"
                    | "NetworkPolicy"
                    | "Service"
                    | "EndpointSlice"
            )
        };
        Ok(kind.strip_suffix("List").filter(ours))
    }

    /// A list's item, with the kind that the list implies.
    fn complete(&self, mut item: Value, kind: &str) -> Value {
        if let (Value::Object(fields), false) = (&mut item, kind.is_empty()) {
            fields.entry("kind").or_insert_with(|| kind.into());
            fields.entry("apiVersion").or_insert_with(|| self.api_version.clone().into());
        }
        item
    }

    /// The object behind this header; `None` if it is of no known kind.
    fn object(&self, encoded: &impl Encoded) -> Result<Option<Object>, String> {
        let object = match self.kind()? {
            ("v1", "Node") => encoded.decode::<Node>()?.map(NodeObject::from).map(Object::from),
            ("v1", "Pod") => encoded.decode::<Pod>()?.map(PodObject::from).map(Object::from),
            ("v1", "Namespace") => encoded.decode::<Namespace>()?.map(NamespaceObject::from).map(Object::from),
            ("v1", "Service") => encoded.decode::<Service>()?.map(ServiceObject::from).map(Object::from),
            ("discovery.k8s.io/v1", "EndpointSlice") => {
                encoded.decode::<EndpointSlice>()?.map(SliceObject::from).map(Object::from)
            }
            ("networking.k8s.io/v1", "NetworkPolicy") => {
                encoded.decode::<PolicyManifest>()?.map(PolicyObject::from).map(Object::from)
            }
            ("crd.projectcalico.org/v1" | "projectcalico.org/v3", "BlockAffinity") => {
                encoded.decode::<BlockAffinity>()?.map(BlockObject::from).map(Object::from)
            }
            ("crd.projectcalico.org/v1" | "projectcalico.org/v3", "IPPool") => {
                encoded.decode::<IpPool>()?.map(PoolObject::from).map(Object::from)
            }
            _ => return Ok(None),
        };
        match self.metadata.as_ref().and_then(|meta| meta.name.as_deref()) {
            None | Some("") => Err("it has no `metadata.name`".to_owned()),
            Some(_) => Ok(object),
        }
    }
}

// === impl Manifest ===

impl Manifest {
    fn add(&mut self, object: Option<Object>) {
        match object {
            Some(object) => self.objects.push(object),
            None => self.ignored += 1,
        }
    }
}

/// What the parser says, with lines counted from the start of the file rather than of the document.
fn with_line_of_file(error: &serde_saphyr::Error, lines_before: u64) -> String {
    let mut options = serde_saphyr::RenderOptions::default();
    options.line_offset = lines_before;
    error.render_with_options(options)
}

/// How much of a document may come from anchors and aliases, in parser events: enough for any manifest, and not for one
/// that doubles itself until the memory is full.
const ALIAS_EVENTS: usize = 100_000;

/// `yes` and `on` are text and not booleans, as in YAML 1.2. There is no limit on size, since the files are the operator's own
/// and a whole cluster may stand in one of them; there are limits on aliases and on nesting.
fn yaml_options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        strict_booleans: true,
        with_snippet: false,
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: ALIAS_EVENTS },
        budget: serde_saphyr::budget! {
            max_events: usize::MAX,
            max_nodes: usize::MAX,
            max_total_scalar_bytes: usize::MAX,
            max_total_comment_bytes: usize::MAX,
            max_recorded_anchor_events: ALIAS_EVENTS,
        },
    }
}

/// Cuts a YAML stream at the lines that begin a document: `---`, alone or followed by a blank. No text inside a document
/// can look like that (YAML 1.2.2, rule 206, `c-forbidden`), so that no parser is needed to find them.
///
/// What stands before the first one and holds only directives and comments belongs to that document.
fn yaml_documents(text: &str) -> Vec<Document<'_>> {
    let mut documents = Vec::new();
    let (mut start, mut start_line, mut empty, mut offset) = (0, 0, true, 0);
    for (line_number, line) in (0..).zip(text.split_inclusive('\n')) {
        let rest = line.strip_prefix("---").filter(|rest| rest.trim_start().len() < rest.len() || rest.is_empty());
        if rest.is_some() && !empty {
            documents.push(Document { format: Format::Yaml, text: &text[start..offset], lines_before: start_line });
            (start, start_line) = (offset, line_number);
        }
        let said = rest.unwrap_or(line).trim();
        empty = (empty || rest.is_some()) && (said.is_empty() || said.starts_with(['#', '%']));
        offset += line.len();
    }
    if !empty {
        documents.push(Document { format: Format::Yaml, text: &text[start..], lines_before: start_line });
    }
    documents
}

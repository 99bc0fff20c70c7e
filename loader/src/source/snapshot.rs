//! What directories of manifests say, and what they last said where they say nothing readable now.
//!
//! In: the last [`Snapshot`] and the files as they are. Out: the next [`Snapshot`] and a [`Problem`] for each fault. Never: a
//! file, a clock. The next is a function of the two, so that "last good" is tested without a disk.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use sha1::{Digest, Sha1};

use crate::object::parse::{self, Format};
use crate::object::{Object, ObjectName, Objects};
use crate::problem::Problem;

/// A directory as it is: what its files say by their names, or why it cannot be listed.
#[derive(Clone, Debug)]
pub struct DirectoryReading {
    /// Its path.
    pub path: String,
    /// Each file's content, or why that cannot be read.
    pub files: Result<BTreeMap<String, Result<Vec<u8>, String>>, String>,
}

/// The last good state of all directories, in the order in which the operator named them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    directories: Vec<Directory>,
}

/// The last good state of a directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Directory {
    path: String,
    files: BTreeMap<String, File>,
}

/// The last good state of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct File {
    /// Of the content that the rest was read from, so that it is not read again as long as it is the same. Not kept beyond
    /// the process: a newer build may find more in it.
    #[serde(skip)]
    digest: Option<[u8; 20]>,
    /// The objects that are in force.
    objects: Vec<Object>,
    /// Objects that stand elsewhere as well, and are in force from there.
    shadowed: Vec<Object>,
    /// How many objects of other kinds it holds.
    ignored: usize,
}

// === impl Snapshot ===

impl Snapshot {
    /// What follows from reading the directories again.
    ///
    /// * A file that cannot be understood or is all at once empty, or a directory that cannot be listed, keeps what it had.
    /// * A file that is no longer there takes its objects away.
    /// * Where several files of one directory hold one object, that of the file stays in force that had it before; when
    ///   all are new, that of the first file by name.
    /// * A directory that the operator does not name any more is forgotten.
    pub fn next(&self, readings: &[DirectoryReading]) -> (Self, Vec<Problem>) {
        let mut problems = Vec::new();
        let directories = readings.iter().filter_map(|reading| {
            let before = self.directories.iter().find(|directory| directory.path == reading.path);
            Directory::next(before, reading, &mut problems)
        });
        (Self { directories: directories.collect() }, problems)
    }

    /// All objects. What a later directory says about an object of an earlier one amends it ([`Objects::add`]); an object that
    /// only a later one has counts like any other.
    pub fn objects(&self) -> Objects {
        let files = self.directories.iter().flat_map(|directory| directory.files.values());
        files.flat_map(|file| file.objects.iter().cloned()).collect()
    }

    /// Whether this directory could be listed at least once.
    pub fn knows(&self, path: &str) -> bool {
        self.directories.iter().any(|directory| directory.path == path)
    }

    /// How many objects of kinds that Margay does not know stand in the files.
    pub fn ignored(&self) -> usize {
        self.directories.iter().flat_map(|directory| directory.files.values()).map(|file| file.ignored).sum()
    }
}

// === impl Directory ===

impl Directory {
    /// `None` for a directory that could never be listed.
    fn next(before: Option<&Self>, reading: &DirectoryReading, problems: &mut Vec<Problem>) -> Option<Self> {
        let DirectoryReading { path, files } = reading;
        let contents = match files {
            Ok(contents) => contents,
            Err(error) => {
                problems.push(unlisted(path, error, before));
                return before.cloned();
            }
        };
        let mut files = BTreeMap::new();
        for (name, content) in contents {
            let before = before.and_then(|directory| directory.files.get(name));
            match File::next(before, name, content) {
                Ok(file) => drop(files.insert(name.clone(), file)),
                Err(error) => {
                    problems.push(unread(&format!("{path}/{name}"), &error, before));
                    files.extend(before.map(|file| (name.clone(), file.clone())));
                }
            }
        }
        let mut directory = Self { path: path.clone(), files };
        directory.shadow(&before.map(Self::owners).unwrap_or_default(), problems);
        Some(directory)
    }

    /// The file from which each object is in force.
    fn owners(&self) -> BTreeMap<ObjectName, &str> {
        self.files
            .iter()
            .flat_map(|(name, file)| file.objects.iter().map(move |object| (object.name(), name.as_str())))
            .collect()
    }

    /// Puts each object in force from one file alone: the one in `before` if it still has it, or else the first.
    fn shadow(&mut self, before: &BTreeMap<ObjectName, &str>, problems: &mut Vec<Problem>) {
        let mut holders: BTreeMap<ObjectName, BTreeSet<&str>> = BTreeMap::new();
        for (name, file) in &self.files {
            for object in file.all() {
                holders.entry(object.name()).or_default().insert(name);
            }
        }
        let owners: BTreeMap<ObjectName, String> = holders
            .into_iter()
            .filter_map(|(object, files)| {
                let incumbent = before.get(&object).filter(|file| files.contains(*file));
                let owner = incumbent.or(files.first())?.to_string();
                Some((object, owner))
            })
            .collect();
        let mut in_force = BTreeSet::new();
        for (name, file) in &mut self.files {
            let all = std::mem::take(&mut file.objects).into_iter().chain(std::mem::take(&mut file.shadowed));
            let (objects, shadowed) = all.partition(|object| {
                let object = object.name();
                owners.get(&object) == Some(name) && in_force.insert(object)
            });
            (file.objects, file.shadowed) = (objects, shadowed);
            for object in file.shadowed.iter().map(Object::name) {
                let owner = owners.get(&object).unwrap_or(name);
                problems.push(twice(&object, &self.path, owner, name));
            }
        }
    }
}

// === impl File ===

impl File {
    fn next(before: Option<&Self>, name: &str, content: &Result<Vec<u8>, String>) -> Result<Self, String> {
        let content = content.as_ref().map_err(Clone::clone)?;
        let digest = Some(<[u8; 20]>::from(Sha1::digest(content)));
        if let Some(before) = before.filter(|before| before.digest == digest) {
            return Ok(before.clone());
        }
        let text = str::from_utf8(content).map_err(|error| format!("it is not UTF-8: {error}"))?;
        // Whoever writes a file in place empties it first. Who means to delete objects deletes the file, or says nothing in a comment.
        if text.trim().is_empty() && before.is_some_and(|before| before.all().next().is_some()) {
            return Err("it is empty now".to_owned());
        }
        let format = if name.ends_with(".json") { Format::Json } else { Format::Yaml };
        let manifest = parse::manifest(text, format).map_err(|error| error.to_string())?;
        Ok(Self { digest, objects: manifest.objects, shadowed: Vec::new(), ignored: manifest.ignored })
    }

    fn all(&self) -> impl Iterator<Item = &Object> {
        self.objects.iter().chain(&self.shadowed)
    }
}

fn unlisted(path: &str, error: &str, before: Option<&Directory>) -> Problem {
    let remedy = match before {
        Some(before) => {
            format!("create it again; until then what its {} files last said stays in force", before.files.len())
        }
        None => "create it, or name another with --manifests; until then nothing of the cluster's state is applied"
            .to_owned(),
    };
    Problem::new(format!("directory {path}"), format!("it cannot be listed: {error}"), remedy)
}

fn unread(path: &str, error: &str, before: Option<&File>) -> Problem {
    let stays = match before.map(|file| file.all().count()) {
        Some(1) => "the object that it last held stays in force".to_owned(),
        Some(count) => format!("the {count} objects that it last held stay in force"),
        None => "it counts for nothing".to_owned(),
    };
    Problem::new(format!("file {path}"), error, format!("correct or delete it; until then {stays}"))
}

fn twice(object: &ObjectName, path: &str, owner: &str, other: &str) -> Problem {
    let what = if owner == other {
        format!("it stands twice in {path}/{owner}")
    } else {
        format!("it stands in {path}/{owner} and again in {path}/{other}")
    };
    let in_force = if owner == other { "the first" } else { owner };
    Problem::new(object.to_string(), what, format!("remove one of the two; until then {in_force} is in force"))
}

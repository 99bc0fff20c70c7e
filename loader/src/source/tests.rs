//! Last good state, duplicates, amendments; and, on a real disk, directories that change, vanish and come back.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;
use tokio::time::timeout;

use super::dir::DirSource;
use super::snapshot::{DirectoryReading, Snapshot};
use crate::object::{Objects, PodName};
use crate::problem::Problem;

/// Pods in YAML; `name=address` for one with an address.
fn pods(pods: &[&str]) -> String {
    let one = |pod: &&str| {
        let (name, ip) = pod.split_once('=').unwrap_or((pod, ""));
        format!("apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\nstatus:\n  podIP: '{ip}'\n")
    };
    pods.iter().map(one).collect::<Vec<_>>().join("---\n")
}

/// A directory with these files; `None` for one that cannot be read.
fn reading(path: &str, files: &[(&str, Option<&str>)]) -> DirectoryReading {
    let content = |text: &Option<&str>| text.map(|text| text.as_bytes().to_vec()).ok_or("permission denied".to_owned());
    let files = files.iter().map(|(name, text)| ((*name).to_owned(), content(text)));
    DirectoryReading { path: path.to_owned(), files: Ok(files.collect()) }
}

fn vanished(path: &str) -> DirectoryReading {
    DirectoryReading { path: path.to_owned(), files: Err("No such file or directory".to_owned()) }
}

/// `name=address` of all pods, in order.
fn listed(objects: &Objects) -> Vec<String> {
    let pods = objects.pods.values();
    pods.map(|pod| format!("{}={}", pod.name.name, pod.addresses().join(","))).collect()
}

fn step(before: &Snapshot, readings: &[DirectoryReading]) -> (Snapshot, Vec<String>, Vec<String>) {
    let (next, problems) = before.next(readings);
    let objects = listed(&next.objects());
    (next, objects, problems.iter().map(Problem::to_string).collect())
}

#[test]
fn a_file_that_breaks_keeps_its_objects_and_one_that_is_deleted_does_not() {
    let (web, db) = (pods(&["web=10.0.0.1", "web-2=10.0.0.2"]), pods(&["db=10.0.0.3"]));
    let all = ["db=10.0.0.3", "web=10.0.0.1", "web-2=10.0.0.2"];
    let (good, objects, problems) =
        step(&Snapshot::default(), &[reading("/m", &[("web.yaml", Some(&web)), ("db.yaml", Some(&db))])]);
    assert_eq!((objects.as_slice(), problems.len()), (&all.map(String::from)[..], 0));

    for (broken, why) in [
        (Some("kind: ["), "document 1: "),
        (Some("kind: Pod\n"), "it has no `apiVersion`"),
        (Some(""), "it is empty now"),
        (Some("\n \n"), "it is empty now"),
        (None, "permission denied"),
    ] {
        let (bad, objects, problems) = step(&good, &[reading("/m", &[("web.yaml", broken), ("db.yaml", Some(&db))])]);
        assert_eq!(objects, all, "{broken:?}");
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].starts_with("file /m/web.yaml: ") && problems[0].contains(why), "{problems:?}");
        assert!(problems[0].contains("the 2 objects that it last held stay in force"), "{problems:?}");
        let (_, objects, problems) = step(&bad, &[reading("/m", &[("web.yaml", broken), ("db.yaml", Some(&db))])]);
        assert_eq!((objects.as_slice(), problems.len()), (&all.map(String::from)[..], 1), "and again");
        let (_, objects, problems) = step(&bad, &[reading("/m", &[("db.yaml", Some(&db))])]);
        assert_eq!((objects, problems.len()), (vec!["db=10.0.0.3".to_owned()], 0), "until it is deleted");
    }
    let (_, objects, problems) =
        step(&good, &[reading("/m", &[("web.yaml", Some("# nothing any more")), ("db.yaml", Some(&db))])]);
    assert_eq!((objects, problems.len()), (vec!["db=10.0.0.3".to_owned()], 0), "a comment is content");
}

#[test]
fn a_file_that_was_never_good_counts_for_nothing() {
    let (_, objects, problems) =
        step(&Snapshot::default(), &[reading("/m", &[("x.yaml", Some("]")), ("y.yaml", Some(""))])]);
    assert!(objects.is_empty());
    assert_eq!(problems.len(), 1, "an empty file is no fault: {problems:?}");
    assert!(problems[0].ends_with("correct or delete it; until then it counts for nothing"), "{problems:?}");
}

#[test]
fn a_directory_that_vanishes_keeps_everything() {
    let files = [("a.yaml", Some(pods(&["a"]))), ("b.yaml", Some(pods(&["b"])))];
    let files: Vec<_> = files.iter().map(|(name, text)| (*name, text.as_deref())).collect();
    let (good, before, _) = step(&Snapshot::default(), &[reading("/m", &files)]);
    let (gone, objects, problems) = step(&good, &[vanished("/m")]);
    assert_eq!(objects, before);
    assert!(gone.knows("/m"));
    assert!(problems[0].starts_with("directory /m: it cannot be listed: No such file"), "{problems:?}");
    let (never, _, problems) = step(&Snapshot::default(), &[vanished("/m")]);
    assert!(!never.knows("/m"));
    assert!(problems[0].contains("nothing of the cluster's state is applied"), "{problems:?}");
}

#[test]
fn last_good_survives_being_written_down() {
    let text = pods(&["a=10.0.0.1"]);
    let (good, before, _) = step(&Snapshot::default(), &[reading("/m", &[("a.yaml", Some(&text))])]);
    let kept: Snapshot = serde_json::from_str(&serde_json::to_string(&good).unwrap()).unwrap();
    for now in [vanished("/m"), reading("/m", &[("a.yaml", Some("broken: ["))])] {
        assert_eq!(step(&kept, &[now]).1, before);
    }
    let (_, objects, _) = step(&kept, &[reading("/other", &[])]);
    assert!(objects.is_empty(), "what the operator no longer names is forgotten");
}

#[test]
fn of_two_files_with_one_object_the_one_that_had_it_keeps_it() {
    let (one, two) = (pods(&["web=10.0.0.1"]), pods(&["web=10.0.0.2", "other=10.0.0.3"]));
    let both = [reading("/m", &[("a.yaml", Some(&one)), ("b.yaml", Some(&two))])];
    let (first, objects, problems) = step(&Snapshot::default(), &both);
    assert_eq!(objects, ["other=10.0.0.3", "web=10.0.0.1"]);
    assert_eq!(
        problems,
        [
            "Pod default/web: it stands in /m/a.yaml and again in /m/b.yaml; remove one of the two; until then a.yaml is in force"
        ]
    );
    let (_, objects, problems) = step(&first, &[reading("/m", &[("b.yaml", Some(&two))])]);
    assert_eq!((objects.as_slice(), problems.len()), (&["other=10.0.0.3", "web=10.0.0.2"].map(String::from)[..], 0));

    let (alone, _, _) = step(&Snapshot::default(), &[reading("/m", &[("b.yaml", Some(&two))])]);
    let (next, objects, problems) = step(&alone, &both);
    assert_eq!(objects, ["other=10.0.0.3", "web=10.0.0.2"]);
    assert!(problems[0].contains("/m/b.yaml and again in /m/a.yaml"), "{problems:?}");
    let kept: Snapshot = serde_json::from_str(&serde_json::to_string(&next).unwrap()).unwrap();
    assert_eq!(step(&kept, &both).1, objects, "in the next process as well");

    let twice = pods(&["web=10.0.0.1", "web=10.0.0.2"]);
    let (_, objects, problems) = step(&Snapshot::default(), &[reading("/m", &[("a.yaml", Some(&twice))])]);
    assert_eq!(objects, ["web=10.0.0.1"]);
    assert!(problems[0].contains("it stands twice in /m/a.yaml"), "{problems:?}");
}

#[test]
fn a_later_directory_amends_an_earlier_one() {
    let (spec, status) = (pods(&["web", "db"]), pods(&["web=10.0.0.1", "only-here=10.0.0.9"]));
    let readings = [reading("/spec", &[("a.yaml", Some(&spec))]), reading("/status", &[("a.yaml", Some(&status))])];
    let (_, objects, problems) = step(&Snapshot::default(), &readings);
    assert_eq!(objects, ["db=", "only-here=10.0.0.9", "web=10.0.0.1"]);
    assert_eq!(problems, [""; 0], "the same object in two directories is no fault");
}

#[test]
fn other_kinds_are_counted() {
    let text = "{apiVersion: v1, kind: Secret, metadata: {name: s}}";
    let (snapshot, _, problems) = step(&Snapshot::default(), &[reading("/m", &[("s.yaml", Some(text))])]);
    assert_eq!((snapshot.ignored(), problems.len()), (1, 0));
}

/// What happens to a file between two readings.
#[derive(Clone, Debug)]
enum Fate {
    Good(u8),
    Broken,
    Emptied,
    Unreadable,
    Deleted,
}

fn any_fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        (0..9_u8).prop_map(Fate::Good),
        Just(Fate::Broken),
        Just(Fate::Emptied),
        Just(Fate::Unreadable),
        Just(Fate::Deleted)
    ]
}

proptest! {
    /// Whatever happens, and through restarts of the process, each file's objects are those of its last good content.
    #[test]
    fn last_good_is_what_was_last_good(
        history in prop::collection::vec((prop::collection::vec(any_fate(), 3), any::<bool>(), any::<bool>()), 1..12),
    ) {
        let mut snapshot = Snapshot::default();
        let mut expected: BTreeMap<usize, u8> = BTreeMap::new();
        for (fates, vanish, restart) in history {
            let mut files = Vec::new();
            for (i, fate) in fates.iter().enumerate() {
                let name = format!("{i}.yaml");
                match fate {
                    Fate::Good(n) => files.push((name, Some(pods(&[&format!("pod-{i}=10.0.{i}.{n}")])))),
                    Fate::Broken => files.push((name, Some("kind: [".to_owned()))),
                    Fate::Emptied => files.push((name, Some(String::new()))),
                    Fate::Unreadable => files.push((name, None)),
                    Fate::Deleted => {}
                }
                match fate {
                    _ if vanish => {}
                    Fate::Good(n) => drop(expected.insert(i, *n)),
                    Fate::Deleted => drop(expected.remove(&i)),
                    Fate::Broken | Fate::Emptied | Fate::Unreadable => {}
                }
            }
            let files: Vec<_> = files.iter().map(|(name, text)| (name.as_str(), text.as_deref())).collect();
            let now = if vanish { vanished("/m") } else { reading("/m", &files) };
            snapshot = snapshot.next(&[now]).0;
            if restart {
                snapshot = serde_json::from_str(&serde_json::to_string(&snapshot).unwrap()).unwrap();
            }
            let wanted: Vec<_> = expected.iter().map(|(i, n)| format!("pod-{i}=10.0.{i}.{n}")).collect();
            prop_assert_eq!(listed(&snapshot.objects()), wanted);
        }
    }
}

// On a disk.

fn write(dir: &Path, name: &str, names: &[&str]) {
    fs::write(dir.join(name), pods(names)).unwrap();
}

fn read(source: &mut DirSource) -> Vec<String> {
    source.read();
    source.objects().map(|objects| listed(&objects)).unwrap_or_default()
}

#[test]
fn a_directory_is_read_and_what_is_no_manifest_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    write(dir, "a.yaml", &["a"]);
    write(dir, "b.yml", &["b"]);
    fs::write(dir.join("c.json"), r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "c"}}"#).unwrap();
    for name in [".hidden.yaml", "a.yaml~", "notes.txt", "a.yaml.swp"] {
        write(dir, name, &["no"]);
    }
    fs::create_dir(dir.join("folder.yaml")).unwrap();
    write(&dir.join("folder.yaml"), "d.yaml", &["no"]);
    nix::unistd::mkfifo(&dir.join("pipe.yaml"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    std::os::unix::fs::symlink("nowhere", dir.join("link.yaml")).unwrap();

    let mut source = DirSource::new(vec![dir.to_owned()], None);
    assert!(source.objects().is_none(), "not read yet");
    assert_eq!(read(&mut source), ["a=", "b=", "c="]);
    assert!(!source.read(), "nothing is different");
    let problems: Vec<_> = source.problems().iter().map(Problem::to_string).collect();
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(problems.iter().any(|p| p.contains("link.yaml: No such file")), "{problems:?}");
    assert!(problems.iter().any(|p| p.contains("pipe.yaml: it is neither a file nor a link")), "{problems:?}");
}

#[test]
fn a_directory_that_was_never_there_withholds_all_objects() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "a.yaml", &["a"]);
    let missing = dir.path().join("status");
    let mut source = DirSource::new(vec![dir.path().to_owned(), missing.clone()], None);
    source.read();
    assert!(source.objects().is_none());
    assert!(source.problems()[0].object.ends_with("/status"), "{:?}", source.problems());
    fs::create_dir(&missing).unwrap();
    write(&missing, "a.yaml", &["a=10.0.0.1"]);
    assert_eq!(read(&mut source), ["a=10.0.0.1"]);

    fs::remove_dir_all(dir.path()).unwrap();
    assert_eq!(read(&mut source), ["a=10.0.0.1"]);
    let mut next = DirSource::new(vec![dir.path().to_owned(), missing], Some(source.snapshot().clone()));
    assert_eq!(next.objects().unwrap().pods[&PodName::new("default", "a")].addresses(), ["10.0.0.1".into()]);
    assert_eq!(read(&mut next), ["a=10.0.0.1"], "in the next process as well");
}

#[test]
fn a_config_map_volume_is_followed_through_its_links() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let version = |name: &str, pod: &str| {
        fs::create_dir(dir.join(name)).unwrap();
        write(&dir.join(name), "a.yaml", &[pod]);
        std::os::unix::fs::symlink(name, dir.join("..data_tmp")).unwrap();
        fs::rename(dir.join("..data_tmp"), dir.join("..data")).unwrap();
    };
    version("..1", "one");
    std::os::unix::fs::symlink("..data/a.yaml", dir.join("a.yaml")).unwrap();
    let mut source = DirSource::new(vec![dir.to_owned()], None);
    assert_eq!(read(&mut source), ["one="]);
    version("..2", "two");
    assert_eq!(read(&mut source), ["two="]);
}

/// Long enough on any machine; the tests end as soon as the hint is there.
const SOON: Duration = Duration::from_secs(20);

#[tokio::test]
async fn changes_are_heard_also_after_the_directory_was_made_anew() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("manifests");
    fs::create_dir(&dir).unwrap();
    let mut source = DirSource::new(vec![dir.clone()], None);
    let mut hints = source.watch();
    let mut wait_for = async |what: &str, wanted: &[&str]| loop {
        timeout(SOON, hints.recv()).await.unwrap_or_else(|_| panic!("no hint: {what}")).unwrap();
        if read(&mut source) == wanted {
            break;
        }
    };
    write(&dir, "a.yaml", &["a"]);
    wait_for("a new file", &["a="]).await;
    write(&dir, "a.yaml", &["b"]);
    wait_for("a file written in place", &["b="]).await;
    write(&dir, ".tmp", &["c"]);
    fs::rename(dir.join(".tmp"), dir.join("a.yaml")).unwrap();
    wait_for("a file put in place", &["c="]).await;
    fs::rename(&dir, parent.path().join("away")).unwrap();
    wait_for("the directory moved away", &["c="]).await;
    fs::create_dir(&dir).unwrap();
    write(&dir, "a.yaml", &["d"]);
    wait_for("another in its place", &["d="]).await;
    fs::remove_dir_all(&dir).unwrap();
    fs::create_dir(&dir).unwrap();
    write(&dir, "a.yaml", &["e"]);
    wait_for("deleted and made again", &["e="]).await;
    write(&dir, "a.yaml", &["f"]);
    wait_for("and listened to", &["f="]).await;
    fs::remove_file(dir.join("a.yaml")).unwrap();
    wait_for("a deleted file", &[]).await;
}

#[tokio::test]
async fn reading_is_no_change_and_a_burst_is_not_one_change_for_each_file() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "a.yaml", &["a"]);
    let mut source = DirSource::new(vec![dir.path().to_owned()], None);
    let mut hints = source.watch();
    for _ in 0..3 {
        source.read();
    }
    assert!(timeout(Duration::from_millis(400), hints.recv()).await.is_err(), "reading made a hint");
    for i in 0..50 {
        write(dir.path(), &format!("{i}.yaml"), &[&format!("p-{i}")]);
    }
    // A slow machine may make several bursts of it, but not one of each file.
    let mut heard = 0;
    while source.objects().is_none_or(|objects| objects.pods.len() < 51) {
        timeout(SOON, hints.recv()).await.unwrap().unwrap();
        heard += 1;
        source.read();
    }
    assert!(heard < 25, "{heard} hints for one burst");
}

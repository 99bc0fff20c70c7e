//! The programs of a Kubernetes cluster, built from Go modules: what `tests/kubernetes/` pins.
//!
//! In: how much of a cluster is wanted. Out: programs in `<cache>/kubernetes/GROUP-VERSION/bin/`, built when they are
//! missing or their pins have changed, and never otherwise. Nothing is installed on the machine but what Debian has
//! (libseccomp's header for runc); a Go of the right version is found, or fetched into the cache.

mod busybox;
mod go;
mod group;
#[path = "../../../tests/kubernetes/programs.rs"]
mod programs;

pub use busybox::Busybox;

use crate::{
    paths,
    run::{cargo, run, say},
    setup::{Prerequisite, State},
};
use anyhow::{Context, Result};
use group::Recipe;
pub use programs::Part;
use programs::{ASSETS_VARIABLE, GROUPS, Program};
use std::{
    env,
    fs::{self, File},
    path::{Path, PathBuf},
    time::Instant,
};

/// Names the directory of all groups, instead of the one in the cache. The lab, which may run as somebody else, is told so.
pub const DIRECTORY_VARIABLE: &str = "MARGAY_KUBERNETES";

/// The directory of all groups.
pub fn directory() -> Result<PathBuf> {
    if let Some(given) = env::var_os(DIRECTORY_VARIABLE).filter(|dir| !dir.is_empty()) {
        return Ok(given.into());
    }
    Ok(paths::cache()?.join("kubernetes"))
}

/// The prerequisite: all programs up to a part of the cluster.
pub struct Programs(pub Part);

// === impl Programs ===

impl Programs {
    /// What has to be built, group by group, in the order of building.
    fn missing(&self) -> Result<Vec<(Recipe, Vec<&'static Program>)>> {
        let directory = directory()?;
        let mut missing = Vec::new();
        for group in GROUPS {
            let recipe = Recipe::of(group, &directory)?;
            let wanted = group.programs.iter().filter(|p| p.part <= self.0 && !is_given(p));
            let lacking: Vec<_> = wanted.filter(|p| !recipe.has_built(p)).collect();
            if !lacking.is_empty() {
                missing.push((recipe, lacking));
            }
        }
        Ok(missing)
    }
}

impl Prerequisite for Programs {
    fn name(&self) -> String {
        match self.0 {
            Part::Api => "etcd, kube-apiserver, kubectl and CNI plugins".into(),
            Part::Nodes => "programs of a Kubernetes cluster".into(),
        }
    }

    fn check(&self) -> Result<State> {
        let missing = self.missing()?;
        if missing.is_empty() {
            let versions: Vec<_> = GROUPS.iter().map(|g| format!("{} {}", g.name, g.version)).collect();
            return Ok(State::Present(versions.join(", ")));
        }
        let names: Vec<_> = missing.iter().flat_map(|(_, programs)| programs).map(|p| p.name).collect();
        Ok(State::Missing(format!("not built yet: {}", names.join(", "))))
    }

    fn install(&self) -> Result<String> {
        let directory = directory()?;
        fs::create_dir_all(&directory).with_context(|| format!("creating {}", directory.display()))?;
        let _lock = lock(&directory.join("lock"))?;
        let started = Instant::now();
        let go = go::find_or_fetch()?;
        // Somebody else may have built them while this process waited for the lock.
        let missing = self.missing()?;
        let total: usize = missing.iter().map(|(_, programs)| programs.len()).sum();
        say(format!(
            "building {total} programs with {}; on two processors all of them take ten minutes, once",
            go.name()
        ));
        let mut done = 0;
        for (recipe, programs) in missing {
            recipe.prepare()?;
            for program in programs {
                let began = Instant::now();
                done += 1;
                say(format!("building {} ({done} of {total})", program.name));
                recipe.build(program, &go)?;
                say(format!("built {} in {} s", program.name, began.elapsed().as_secs()));
            }
        }
        Ok(format!("built {total} programs in {} s", started.elapsed().as_secs()))
    }
}

/// Builds the static programs of the tests' images, `tests/images/`, which the lab finds in cargo's target directory.
pub fn build_images() -> Result<()> {
    let target = format!("{}-unknown-linux-musl", env::consts::ARCH);
    say("building the programs of the tests' images");
    let mut build = cargo();
    build.args(["build", "--quiet", "--package", "margay-test-images", "--release", "--target", &target]);
    run(&mut build, "building the programs of the tests' images")
}

/// Whether the environment has the program already.
fn is_given(program: &Program) -> bool {
    let assets = env::var_os(ASSETS_VARIABLE).filter(|dir| !dir.is_empty());
    program.part == Part::Api && assets.is_some_and(|dir| Path::new(&dir).join(program.name).is_file())
}

/// Held until it is dropped: two builds of the same would only be in each other's way.
fn lock(file: &Path) -> Result<File> {
    let lock = File::create(file).with_context(|| format!("creating {}", file.display()))?;
    lock.lock().with_context(|| format!("locking {}", file.display()))?;
    Ok(lock)
}

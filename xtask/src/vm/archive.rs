//! Debian's archive: fetches and unpacks the packages of a kernel, without touching the machine's own apt sources.
//!
//! In: pins. Out: a directory for each, with the unpacked packages, kept in the cache (`kernels/<name>/<version>`), so
//! that the network is needed once. apt checks signatures (debian-archive-keyring) and checksums. Nothing is installed.

use super::pins::{Package, Pin};
use crate::{
    paths,
    run::{output, run, say, succeeds},
};
use anyhow::{Context, Result, bail};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Written last into an unpacked kernel's directory: without it, the unpacking was cut short.
const COMPLETE: &str = ".complete";

/// The directory with `pin`'s packages unpacked, fetched if it is not in the cache.
pub fn kernel(pin: &Pin) -> Result<PathBuf> {
    let all = paths::cache()?.join("kernels").join(&pin.name);
    let wanted = all.join(pin.version());
    if wanted.join(COMPLETE).exists() {
        return Ok(wanted);
    }
    // What stood in for this pin before, because the archive no longer had it.
    let stand_in = all.join(format!("instead-of-{}", pin.version()));
    if let Ok(version) = fs::read_to_string(&stand_in)
        && all.join(&version).join(COMPLETE).exists()
    {
        notice(pin, &version);
        return Ok(all.join(version));
    }
    let apt = Apt::new(&all.join("apt"), &pin.suite)?;
    apt.update()?;
    let found = apt.resolve(pin)?;
    let dir = all.join(found.version());
    if !dir.join(COMPLETE).exists() {
        apt.fetch(&found, &dir)?;
    }
    if found.version() != pin.version() {
        notice(pin, found.version());
        fs::write(&stand_in, found.version()).with_context(|| format!("writing {}", stand_in.display()))?;
    }
    Ok(dir)
}

fn notice(pin: &Pin, version: &str) {
    say(format!(
        "NOTICE kernel {}: {} is no longer in Debian's archive; testing {version} instead. Update xtask/kernels.pins",
        pin.name, pin.packages[0],
    ));
}

/// apt with a configuration, lists and cache of its own.
pub struct Apt {
    dir: PathBuf,
}

impl Apt {
    /// One that knows a single suite, with its files in `dir`.
    pub fn new(dir: &Path, suite: &str) -> Result<Self> {
        fs::create_dir_all(dir.join("lists/partial")).with_context(|| format!("creating {}", dir.display()))?;
        fs::create_dir_all(dir.join("cache/archives/partial"))?;
        let archive = if suite.ends_with("-security") { "debian-security" } else { "debian" };
        let source = format!("deb [arch=amd64 signed-by={KEYRING}] http://deb.debian.org/{archive} {suite} main\n");
        fs::write(dir.join("sources.list"), source).context("writing apt's sources")?;
        fs::write(dir.join("apt.conf"), configuration(dir)).context("writing apt's configuration")?;
        Ok(Self { dir: dir.to_owned() })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", self.dir.join("apt.conf")).env("LC_ALL", "C").current_dir(&self.dir);
        command
    }

    /// Reads the suite's list of packages.
    pub fn update(&self) -> Result<()> {
        run(self.command("apt-get").args(["-qq", "update"]), "reading a list of Debian's packages")
            .context("the archive must be reachable the first time that they are needed; later runs use the cache")
    }

    /// The pinned packages, or the newest patch level of the same kernel when the archive has them no longer.
    fn resolve(&self, pin: &Pin) -> Result<Pin> {
        let versions = self.versions(&[pin.packages[0].name.as_str()])?;
        if versions.contains(&pin.packages[0]) {
            return Ok(pin.clone());
        }
        let names = output(self.command("apt-cache").args(["pkgnames", "linux-"]), "listing kernels")?;
        let names: Vec<&str> = names.lines().filter(|name| pin.is_image(name)).collect();
        let newest = newest(self.versions(&names)?, |a, b| {
            succeeds(Command::new("dpkg").args(["--compare-versions", &a.version, "gt", &b.version]))
        });
        newest.and_then(|image| pin.at(&image)).with_context(|| {
            format!(
                "Debian's suite {} has no kernel {} any more: remove its line from kernels.pins",
                pin.suite, pin.name
            )
        })
    }

    /// All versions of the packages that the archive has.
    fn versions(&self, names: &[&str]) -> Result<Vec<Package>> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let text = output(self.command("apt-cache").arg("madison").args(names), "asking for a kernel's versions")?;
        Ok(parse_madison(&text))
    }

    /// Downloads and unpacks into `dir`.
    fn fetch(&self, pin: &Pin, dir: &Path) -> Result<()> {
        let names: Vec<String> = pin.packages.iter().map(Package::to_string).collect();
        say(format!("fetching kernel {} ({})", pin.name, names.join(", ")));
        recreate(dir)?;
        self.unpack(&names, dir)?;
        fs::write(dir.join(COMPLETE), "").with_context(|| format!("writing into {}", dir.display()))
    }

    /// Downloads packages (`name` or `name=version`) and unpacks them into `dir`, beside what is there.
    pub fn unpack(&self, packages: &[String], dir: &Path) -> Result<()> {
        let debs = self.dir.join("debs");
        recreate(&debs)?;
        let mut download = self.command("apt-get");
        download.args(["-qq", "download"]).args(packages).current_dir(&debs);
        run(&mut download, "downloading Debian packages")?;
        for deb in fs::read_dir(&debs)? {
            let deb = deb?.path();
            run(Command::new("dpkg-deb").arg("--extract").arg(&deb).arg(dir), "unpacking a Debian package")?;
        }
        fs::remove_dir_all(&debs).with_context(|| format!("removing {}", debs.display()))
    }
}

fn recreate(dir: &Path) -> Result<()> {
    if dir.exists() {
        fs::remove_dir_all(dir).with_context(|| format!("removing {}", dir.display()))?;
    }
    fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))
}

/// The machine's own settings (proxies, for instance) stay in force below this.
fn configuration(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        r#"Dir::Etc::sourcelist "{dir}/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::State "{dir}";
Dir::State::lists "{dir}/lists";
Dir::State::status "/dev/null";
Dir::Cache "{dir}/cache";
APT::Architecture "amd64";
APT::Sandbox::User "";
Acquire::Languages "none";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
"#
    )
}

/// `apt-cache madison`: `package | version | where`.
fn parse_madison(text: &str) -> Vec<Package> {
    let line = |line: &str| {
        let mut columns = line.split('|').map(str::trim);
        Some(Package { name: columns.next()?.to_owned(), version: columns.next()?.to_owned() })
    };
    text.lines().filter_map(line).collect()
}

fn newest(packages: Vec<Package>, newer: impl Fn(&Package, &Package) -> bool) -> Option<Package> {
    packages.into_iter().reduce(|best, next| if newer(&next, &best) { next } else { best })
}

/// The only file below `dir` whose name begins with `vmlinuz`.
pub fn image(dir: &Path) -> Result<PathBuf> {
    let found = super::files(dir)?
        .into_iter()
        .find(|file| file.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("vmlinuz")));
    let Some(found) = found else { bail!("{} holds no vmlinuz: remove it, and it is fetched again", dir.display()) };
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn madison_names_package_and_version() {
        let text = "linux-image-6.1.0-50-cloud-amd64 |  6.1.176-1 | http://deb.debian.org/debian bookworm/main amd64\n";
        let package = Package { name: "linux-image-6.1.0-50-cloud-amd64".into(), version: "6.1.176-1".into() };
        assert_eq!(parse_madison(text), [package]);
    }

    #[test]
    fn the_newest_wins_wherever_it_stands() {
        let package = |version: &str| Package { name: "x".into(), version: version.into() };
        let packages = ["2", "3", "1"].map(package).to_vec();
        assert_eq!(newest(packages, |a, b| a.version > b.version), Some(package("3")));
        assert_eq!(newest(Vec::new(), |_, _| true), None);
    }
}

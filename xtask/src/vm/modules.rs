//! Kernel modules: which files a list of names needs, in the order in which they can be loaded.
//!
//! In: the directory of a kernel's modules. Out: the modules' bytes, unpacked, each after those that it depends on.
//! Debian's packages have no modules.dep (it is made at installation), so each module is asked itself (.modinfo).

use crate::run::output_bytes;
use anyhow::{Context, Result, bail};
use object::{Object, ObjectSection, read::elf::ElfFile64};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// A module that is ready to be loaded.
#[derive(Debug, PartialEq, Eq)]
pub struct Module {
    /// `udp_tunnel`
    pub name: String,
    /// The ELF file.
    pub bytes: Vec<u8>,
}

/// Reads `wanted` and all that they depend on from the modules below `dir`. A module that is built into the kernel is
/// left out. `parts`: names that are modules of their own in some kernels, and parts of another one in the rest.
pub fn load(dir: &Path, wanted: &[&str], parts: &[&str]) -> Result<Vec<Module>> {
    let files = super::files(dir)?;
    let by_name: BTreeMap<String, PathBuf> =
        files.iter().filter_map(|file| Some((module_name(file)?, file.clone()))).collect();
    let built_in = built_in(&files)?;
    let parts = parts.iter().filter(|name| by_name.contains_key(**name));
    let wanted: Vec<&str> = wanted.iter().chain(parts).copied().collect();
    let mut modules: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let order = order(&wanted, |name| {
        let Some(file) = by_name.get(name) else {
            // Packages since 7.x have no list; a driver that is really absent shows when a check uses it.
            if built_in.as_ref().is_none_or(|list| list.contains(name)) {
                return Ok(None);
            }
            bail!("the kernel in {} has no module {name}, and it is not built in", dir.display());
        };
        let bytes = unpack(file)?;
        let needs = depends(&bytes).with_context(|| format!("reading what {} depends on", file.display()))?;
        modules.insert(name.to_owned(), bytes);
        Ok(Some(needs))
    })?;
    let take = |name: String| modules.remove(&name).map(|bytes| Module { name, bytes });
    Ok(order.into_iter().filter_map(take).collect())
}

/// Depth first: what a module needs comes before it. `needs` is asked once for each name, and answers None for what is
/// not a module.
fn order(wanted: &[&str], mut needs: impl FnMut(&str) -> Result<Option<Vec<String>>>) -> Result<Vec<String>> {
    fn visit(
        name: &str,
        seen: &mut BTreeSet<String>,
        order: &mut Vec<String>,
        needs: &mut impl FnMut(&str) -> Result<Option<Vec<String>>>,
    ) -> Result<()> {
        if !seen.insert(name.to_owned()) {
            return Ok(());
        }
        let Some(below) = needs(name)? else { return Ok(()) };
        for name in below {
            visit(&name, seen, order, needs)?;
        }
        order.push(name.to_owned());
        Ok(())
    }
    let (mut seen, mut order) = (BTreeSet::new(), Vec::new());
    for name in wanted {
        visit(name, &mut seen, &mut order, &mut needs)?;
    }
    Ok(order)
}

/// `veth` for `…/veth.ko.xz`; dashes count as underscores, as everywhere in module names.
fn module_name(file: &Path) -> Option<String> {
    let (name, ending) = file.file_name()?.to_str()?.split_once('.')?;
    matches!(ending, "ko" | "ko.xz" | "ko.zst" | "ko.gz").then(|| name.replace('-', "_"))
}

/// Names in the file `modules.builtin`, one path on each line, if there is one.
fn built_in(files: &[PathBuf]) -> Result<Option<BTreeSet<String>>> {
    let Some(list) = files.iter().find(|file| file.ends_with("modules.builtin")) else { return Ok(None) };
    let text = fs::read_to_string(list).with_context(|| format!("reading {}", list.display()))?;
    Ok(Some(text.lines().filter_map(|line| module_name(Path::new(line))).collect()))
}

/// A module's bytes, unpacked by the program for its ending.
fn unpack(file: &Path) -> Result<Vec<u8>> {
    let unpacker = match file.extension().and_then(|ending| ending.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("gz") => "gzip",
        _ => return fs::read(file).with_context(|| format!("reading {}", file.display())),
    };
    output_bytes(Command::new(unpacker).arg("-dc").arg(file), "unpacking a kernel module")
}

/// The names in `depends=` of a module's .modinfo section, which holds zero-terminated `key=value` strings.
fn depends(module: &[u8]) -> Result<Vec<String>> {
    let file: ElfFile64 = ElfFile64::parse(module).context("not an ELF file")?;
    let section = file.section_by_name(".modinfo").context("no section .modinfo")?;
    let data = section.data().context("reading .modinfo")?;
    Ok(parse_depends(data))
}

fn parse_depends(modinfo: &[u8]) -> Vec<String> {
    let value = modinfo.split(|byte| *byte == 0).find_map(|entry| entry.strip_prefix(b"depends="));
    let value = String::from_utf8_lossy(value.unwrap_or_default());
    value.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_module_needs_comes_first_and_once() {
        let needs = |name: &str| {
            Ok(match name {
                "vxlan" => Some(vec!["udp_tunnel".to_owned(), "ip6_udp_tunnel".to_owned()]),
                "ip6_udp_tunnel" => Some(vec!["udp_tunnel".to_owned(), "ipv6".to_owned()]),
                "ipv6" => None,
                _ => Some(Vec::new()),
            })
        };
        let order = order(&["veth", "vxlan", "veth"], needs).unwrap();
        assert_eq!(order, ["veth", "udp_tunnel", "ip6_udp_tunnel", "vxlan"]);
    }

    #[test]
    fn a_module_that_is_nowhere_is_an_error() {
        assert!(order(&["x"], |name| bail!("no {name}")).is_err());
    }

    #[test]
    fn modinfo_lists_its_dependencies() {
        assert_eq!(
            parse_depends(b"license=GPL\0depends=udp_tunnel,ip6-udp-tunnel\0name=vxlan\0"),
            ["udp_tunnel", "ip6_udp_tunnel"]
        );
        assert!(parse_depends(b"depends=\0").is_empty());
        assert!(parse_depends(b"").is_empty());
    }

    #[test]
    fn names_come_from_files_of_every_packing() {
        for file in ["a/sch-ingress.ko", "a/sch_ingress.ko.xz", "sch_ingress.ko.zst"] {
            assert_eq!(module_name(Path::new(file)).as_deref(), Some("sch_ingress"));
        }
        assert_eq!(module_name(Path::new("modules.order")), None);
    }
}

//! Which kernels `vm-test` boots: the file `xtask/kernels.pins`.
//!
//! In: its text. Out: one [`Pin`] for each kernel. It knows nothing of the archive.

use anyhow::{Context, Result, bail};

/// One kernel of the matrix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    /// `6.12`: how one asks for it.
    pub name: String,
    /// Suite of Debian's archive: `trixie-backports`.
    pub suite: String,
    /// The image first, then the modules where they are in a package of their own. Never empty.
    pub packages: Vec<Package>,
}

/// A Debian package in one version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    /// `linux-image-6.1.0-50-cloud-amd64`
    pub name: String,
    /// `6.1.176-1`
    pub version: String,
}

/// Reads the whole file.
pub fn parse(text: &str) -> Result<Vec<Pin>> {
    let mut pins = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if !line.is_empty() && !line.starts_with('#') {
            pins.push(parse_line(line).with_context(|| format!("line {} of kernels.pins: {line}", index + 1))?);
        }
    }
    Ok(pins)
}

fn parse_line(line: &str) -> Result<Pin> {
    let mut words = line.split_whitespace();
    let (Some(name), Some(suite)) = (words.next(), words.next()) else {
        bail!("it needs a name, a suite and at least one package=version");
    };
    let packages = words.map(Package::parse).collect::<Result<Vec<_>>>()?;
    if packages.is_empty() {
        bail!("it needs at least one package=version");
    }
    Ok(Pin { name: name.to_owned(), suite: suite.to_owned(), packages })
}

// === impl Package ===

impl Package {
    fn parse(word: &str) -> Result<Self> {
        let (name, version) = word.split_once('=').with_context(|| format!("`{word}` is not package=version"))?;
        Ok(Self { name: name.to_owned(), version: version.to_owned() })
    }
}

impl std::fmt::Display for Package {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}={}", self.name, self.version)
    }
}

// === impl Pin ===

impl Pin {
    /// What tells this package apart from those of other patch levels: `linux-image-`, `6.1.0-50`, `-cloud-amd64`.
    /// The middle begins with the kernel's name.
    fn split<'a>(&self, package: &'a str) -> Option<(&'a str, &'a str, &'a str)> {
        let start = package.find(&format!("-{}.", self.name))? + 1;
        let end = start + package[start..].find("-cloud-")?;
        Some((&package[..start], &package[start..end], &package[end..]))
    }

    /// Whether a package of the archive is this kernel's image in any patch level.
    pub fn is_image(&self, candidate: &str) -> bool {
        let Some((prefix, _, suffix)) = self.split(&self.packages[0].name) else { return false };
        candidate.starts_with(&format!("{prefix}{}.", self.name)) && candidate.ends_with(suffix)
    }

    /// The same kernel at the patch level of `image`, which is one for which `is_image` holds.
    pub fn at(&self, image: &Package) -> Option<Self> {
        let (_, level, _) = self.split(&image.name)?;
        let other = |package: &Package| {
            let (prefix, _, suffix) = self.split(&package.name)?;
            Some(Package { name: format!("{prefix}{level}{suffix}"), version: image.version.clone() })
        };
        let packages = self.packages.iter().map(other).collect::<Option<Vec<_>>>()?;
        Some(Self { packages, ..self.clone() })
    }

    /// The version of the image's package, as the name of a directory: `6.18.15-1~bpo13+1`.
    pub fn version(&self) -> &str {
        &self.packages[0].version
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, version: &str) -> Package {
        Package { name: name.into(), version: version.into() }
    }

    #[test]
    fn the_file_in_the_repository_is_good() {
        let pins = parse(include_str!("../../kernels.pins")).unwrap();
        let names: Vec<&str> = pins.iter().map(|pin| pin.name.as_str()).collect();
        assert_eq!(names, ["5.10", "6.1", "6.12", "6.18", "7.2"]);
        for pin in &pins {
            assert!(pin.is_image(&pin.packages[0].name), "{pin:?}");
            assert_eq!(pin.at(&pin.packages[0]).as_ref(), Some(pin));
        }
    }

    #[test]
    fn mistakes_name_their_line() {
        for text in ["# x\n6.1", "# x\n6.1 bookworm", "# x\n6.1 bookworm linux"] {
            assert!(format!("{:#}", parse(text).unwrap_err()).contains("line 2"), "{text}");
        }
    }

    #[test]
    fn another_patch_level_of_the_same_kernel_is_recognised() {
        let pin = parse("6.1 bookworm linux-image-6.1.0-50-cloud-amd64=6.1.176-1").unwrap().remove(0);
        assert!(pin.is_image("linux-image-6.1.0-51-cloud-amd64"));
        assert!(!pin.is_image("linux-image-6.1.0-51-cloud-amd64-unsigned"));
        assert!(!pin.is_image("linux-image-6.12.107+deb13-cloud-amd64"));
        assert!(!pin.is_image("linux-image-6.1.0-51-amd64"));
    }

    #[test]
    fn all_packages_follow_the_image_to_its_patch_level() {
        let text = "7.2 s linux-binary-7.2.9+deb13-cloud-amd64=7.2.9-1 linux-modules-7.2.9+deb13-cloud-amd64=7.2.9-1";
        let pin = parse(text).unwrap().remove(0);
        let moved = pin.at(&package("linux-binary-7.2.12+deb13-cloud-amd64", "7.2.12-1")).unwrap();
        assert_eq!(moved.packages[1], package("linux-modules-7.2.12+deb13-cloud-amd64", "7.2.12-1"));
        assert_eq!(moved.version(), "7.2.12-1");
    }
}

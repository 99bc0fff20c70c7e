//! The CNI plugin, put where the container runtime looks for it, and taken away again.
//!
//! In: the running binary, the runtime's two directories, perhaps a configuration. Out: the binary in the one and the
//! network configuration in the other, each whole or not at all; the configuration last, because as soon as it is there
//! the runtime calls the plugin. Done twice, the second time changes nothing. Never: a file that is not Margay's.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use serde::Serialize;
use serde_json::{Value, json};

use crate::cni::COMMAND_VARIABLE;

/// The plugin's file, and its `type` in a network configuration.
pub const PLUGIN: &str = "margay";

/// Where container runtimes look for plugins unless told otherwise.
pub const DEFAULT_BIN_DIR: &str = "/opt/cni/bin";
/// Where container runtimes look for network configurations unless told otherwise.
pub const DEFAULT_CONF_DIR: &str = "/etc/cni/net.d";
/// The configuration's file. Runtimes take the first by name.
pub const DEFAULT_CONF_NAME: &str = "10-margay.conflist";

/// Calico's name for the network. It is part of the names of the handles under which addresses are kept
/// (`k8s-pod-network.<container>`), so both find each other's.
const NETWORK: &str = "k8s-pod-network";

/// The version that every runtime in use speaks.
const VERSION: &str = "1.0.0";
/// The version with STATUS and GC. A runtime takes the highest of `cniVersions` that it knows, and older ones overlook it.
const VERSION_WITH_STATUS: &str = "1.1.0";

/// The reference plugins that follow ours where they are installed, with what each of them needs in the configuration.
const CHAINED: [(&str, &str); 2] = [("portmap", r#"{"portMappings":true}"#), ("bandwidth", r#"{"bandwidth":true}"#)];

/// What a runtime takes for a configuration (containerd and CRI-O, by the file's extension).
const CONFIGURATIONS: [&str; 3] = ["conf", "conflist", "json"];

/// What to install, and where.
#[derive(Clone, Debug)]
pub struct Install {
    /// The directory for the plugin.
    pub bin_dir: PathBuf,
    /// The directory for the network configuration.
    pub conf_dir: PathBuf,
    /// The configuration's file name.
    pub conf_name: String,
    /// A configuration to use in place of the built-in one.
    pub template: Option<PathBuf>,
    /// The agent's socket, if it is not at its usual place.
    pub socket: Option<PathBuf>,
}

/// What `install` found and did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Installed {
    /// The files, in the order in which they were put there.
    pub files: Vec<Put>,
    /// What keeps them from being used, or may.
    pub notes: Vec<String>,
}

/// A file that is in its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Put {
    /// Where.
    pub path: PathBuf,
    /// Whether it had to be written; otherwise the same was there already.
    pub written: bool,
}

/// A plugin that follows ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Chained {
    name: &'static str,
    capabilities: &'static str,
    /// Whether it speaks [`VERSION_WITH_STATUS`].
    with_status: bool,
}

// === impl Install ===

impl Install {
    /// Installs the running binary as the plugin, then the configuration.
    ///
    /// # Errors
    /// The template is no configuration with our plugin in it, or a directory cannot be written; what was there before is
    /// then still whole.
    pub fn run(&self) -> Result<Installed> {
        check_name(&self.conf_name)?;
        // Before anything is written: a template that makes no sense changes nothing.
        let template = self.template.as_deref().map(read_template).transpose()?;
        let own = std::env::current_exe().context("finding the running binary")?;
        let binary = fs::read(&own).with_context(|| format!("reading {}", own.display()))?;
        let plugin = put(&self.bin_dir, PLUGIN, &binary, 0o755)?;

        let mut configuration = template.unwrap_or_else(|| built_in(&self.chained()));
        if let Some(socket) = &self.socket {
            set_socket(&mut configuration, socket);
        }
        let mut notes = self.missing_plugins(&configuration);
        let text = format!("{configuration:#}\n");
        let conf = put(&self.conf_dir, &self.conf_name, text.as_bytes(), 0o644)?;
        notes.extend(self.earlier_configurations());
        Ok(Installed { files: vec![plugin, conf], notes })
    }

    fn chained(&self) -> Vec<Chained> {
        let installed = CHAINED.into_iter().filter(|(name, _)| is_executable(&self.bin_dir.join(name)));
        let chained = |(name, capabilities)| {
            let with_status = speaks(&self.bin_dir.join(name), VERSION_WITH_STATUS);
            Chained { name, capabilities, with_status }
        };
        installed.map(chained).collect()
    }

    /// A template is the operator's word and stays as it is; but a chain with a missing link fails for every pod.
    fn missing_plugins(&self, configuration: &Value) -> Vec<String> {
        let missing = types(configuration).filter(|name| !is_executable(&self.bin_dir.join(name)));
        let note = |name| {
            let dir = self.bin_dir.display();
            format!(
                "the configuration names the plugin {name}, which is not in {dir}: install it, or no pod will start"
            )
        };
        missing.map(note).collect()
    }

    fn earlier_configurations(&self) -> Option<String> {
        let earlier = configurations(&self.conf_dir).into_iter().find(|name| *name < self.conf_name)?;
        let (dir, own) = (self.conf_dir.display(), &self.conf_name);
        Some(format!(
            "{dir}/{earlier} comes before {own}, so the runtime uses that one: remove it, or choose --conf-name"
        ))
    }
}

/// Takes the configuration away, then the plugin, where a directory is given. Says what there was. Neither is touched if it is
/// somebody else's.
///
/// # Errors
/// A file cannot be removed.
pub fn remove(bin_dir: Option<&Path>, conf_dir: Option<&Path>, conf_name: &str) -> Result<Vec<String>> {
    check_name(conf_name)?;
    let configuration = conf_dir.map(|dir| dir.join(conf_name)).filter(|path| is_ours(path));
    let plugin = bin_dir.map(|dir| dir.join(PLUGIN));
    let mut removed = Vec::new();
    for (what, path) in [("the network configuration", configuration), ("the plugin", plugin)] {
        let Some(path) = path else { continue };
        match fs::remove_file(&path) {
            Ok(()) => removed.push(format!("{what} {}", path.display())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e).with_context(|| format!("removing {what} {}", path.display())),
        }
    }
    Ok(removed)
}

fn check_name(name: &str) -> Result<()> {
    let extension = Path::new(name).extension().and_then(|e| e.to_str()).unwrap_or_default();
    if name.contains('/') || !CONFIGURATIONS.contains(&extension) {
        bail!("{name:?} is no name for a network configuration: it must end in .conflist, without a directory");
    }
    Ok(())
}

/// Margay, then whatever follows it.
fn built_in(chained: &[Chained]) -> Value {
    // Limits are set by the plugin after ours; ours makes room for it.
    let mut plugins = vec![json!({ "type": PLUGIN, "capabilities": { "ips": true, "mac": true, "bandwidth": true } })];
    for Chained { name, capabilities, .. } in chained {
        let capabilities: Value = serde_json::from_str(capabilities).unwrap_or_default();
        let mut plugin = json!({ "type": name, "capabilities": capabilities });
        if *name == "portmap" {
            // Answers to what came in by a host port leave by it again.
            plugin["snat"] = true.into();
        }
        plugins.push(plugin);
    }
    let mut configuration = json!({ "name": NETWORK, "cniVersion": VERSION, "plugins": plugins });
    if chained.iter().all(|plugin| plugin.with_status) {
        configuration["cniVersions"] = json!([VERSION, VERSION_WITH_STATUS]);
    }
    configuration
}

fn read_template(path: &Path) -> Result<Value> {
    let text = fs::read_to_string(path).with_context(|| format!("reading the template {}", path.display()))?;
    template(&text).with_context(|| format!("understanding the template {}", path.display()))
}

fn template(text: &str) -> Result<Value> {
    let configuration: Value = serde_json::from_str(text)?;
    if configuration["name"].as_str().is_none_or(str::is_empty) || !configuration["cniVersion"].is_string() {
        bail!("it has no name or no cniVersion: it must be a CNI network configuration list");
    }
    if !types(&configuration).any(|name| name == PLUGIN) {
        bail!("none of its plugins is of type {PLUGIN}");
    }
    Ok(configuration)
}

/// The types of a configuration's plugins.
fn types(configuration: &Value) -> impl Iterator<Item = &str> {
    configuration["plugins"].as_array().into_iter().flatten().filter_map(|plugin| plugin["type"].as_str())
}

fn set_socket(configuration: &mut Value, socket: &Path) {
    let plugins = configuration["plugins"].as_array_mut().into_iter().flatten();
    for plugin in plugins.filter(|plugin| plugin["type"] == PLUGIN) {
        plugin["socket"] = socket.to_string_lossy().into();
    }
}

/// Whether a configuration is one of our plugin's; one that cannot be read is not.
fn is_ours(path: &Path) -> bool {
    let configuration = fs::read(path).ok().and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
    configuration.is_some_and(|configuration| types(&configuration).any(|name| name == PLUGIN))
}

/// The names of the configurations in a directory, in the order in which runtimes look at them.
fn configurations(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let extension = |name: &str| Path::new(name).extension().and_then(|e| e.to_str()).map(str::to_owned);
    let mut names: Vec<_> =
        names.filter(|name| extension(name).is_some_and(|e| CONFIGURATIONS.contains(&e.as_str()))).collect();
    names.sort();
    names
}

fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// Whether a plugin says that it speaks `version`; one that cannot be run here (a dynamically linked one in a container) does
/// not say so.
fn speaks(plugin: &Path, version: &str) -> bool {
    let mut command = Command::new(plugin);
    let command = command.env_clear().env(COMMAND_VARIABLE, "VERSION").stdin(Stdio::null());
    let said = command.output().ok().and_then(|out| serde_json::from_slice::<Value>(&out.stdout).ok());
    let versions = said.as_ref().and_then(|said| said["supportedVersions"].as_array());
    versions.is_some_and(|versions| versions.iter().any(|spoken| spoken == version))
}

/// Puts a file into a directory: written beside it, brought to the disk, then renamed, so that whoever looks sees the old or
/// the new. The directory is locked meanwhile, for two of us would write to the same file beside it.
fn put(dir: &Path, name: &str, bytes: &[u8], mode: u32) -> Result<Put> {
    let path = dir.join(name);
    let new = dir.join(format!(".{name}.new"));
    fs::create_dir_all(dir).with_context(|| format!("making the directory {}", dir.display()))?;
    let write = || -> io::Result<bool> {
        let lock = Flock::lock(File::open(dir)?, FlockArg::LockExclusive).map_err(|(_, e)| io::Error::from(e))?;
        let same_mode = |path: &Path| path.metadata().is_ok_and(|meta| meta.permissions().mode() & 0o777 == mode);
        if same_mode(&path) && fs::read(&path).is_ok_and(|old| old == bytes) {
            return Ok(false);
        }
        let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(mode).open(&new)?;
        // Whatever the umask took away, or an earlier attempt left.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, &path)?;
        lock.sync_all()?;
        Ok(true)
    };
    let written = write().with_context(|| format!("installing {}", path.display()))?;
    Ok(Put { path, written })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn into(dir: &Path) -> Install {
        Install {
            bin_dir: dir.join("bin"),
            conf_dir: dir.join("net.d"),
            conf_name: DEFAULT_CONF_NAME.to_owned(),
            template: None,
            socket: None,
        }
    }

    fn plugin(dir: &Path, name: &str, versions: &str) {
        fs::create_dir_all(dir).unwrap();
        let script = format!("#!/bin/sh\necho '{{\"supportedVersions\": {versions}}}'\n");
        let mut file =
            OpenOptions::new().create(true).write(true).truncate(true).mode(0o755).open(dir.join(name)).unwrap();
        file.write_all(script.as_bytes()).unwrap();
    }

    fn configuration(install: &Install) -> Value {
        serde_json::from_slice(&fs::read(install.conf_dir.join(&install.conf_name)).unwrap()).unwrap()
    }

    #[test]
    fn the_plugin_is_installed_whole_and_once() {
        let dir = tempfile::tempdir().unwrap();
        let install = into(dir.path());
        let first = install.run().unwrap();
        let paths = [install.bin_dir.join("margay"), install.conf_dir.join("10-margay.conflist")];
        assert_eq!(first.files, paths.map(|path| Put { path, written: true }));
        assert_eq!(first.notes, [""; 0]);
        let own = fs::read(std::env::current_exe().unwrap()).unwrap();
        assert_eq!(fs::read(&first.files[0].path).unwrap(), own);
        assert_eq!(first.files[0].path.metadata().unwrap().permissions().mode() & 0o777, 0o755);

        assert!(install.run().unwrap().files.iter().all(|file| !file.written), "the second time nothing is to be done");
        fs::write(&first.files[0].path, "half").unwrap();
        let again: Vec<_> = install.run().unwrap().files.iter().map(|file| file.written).collect();
        assert_eq!(again, [true, false]);
        for dir in [&install.bin_dir, &install.conf_dir] {
            assert_eq!(fs::read_dir(dir).unwrap().count(), 1, "nothing is left beside it");
        }
    }

    #[test]
    fn what_follows_is_what_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let install = into(dir.path());
        install.run().unwrap();
        let alone = configuration(&install);
        assert_eq!(types(&alone).collect::<Vec<_>>(), ["margay"]);
        assert_eq!(alone["cniVersions"], json!(["1.0.0", "1.1.0"]));
        assert_eq!(
            alone["plugins"][0],
            json!({ "type": "margay", "capabilities": { "ips": true, "mac": true, "bandwidth": true } })
        );

        plugin(&install.bin_dir, "portmap", r#"["1.0.0", "1.1.0"]"#);
        plugin(&install.bin_dir, "bandwidth", r#"["1.0.0"]"#);
        assert!(install.run().unwrap().files[1].written);
        let chained = configuration(&install);
        assert_eq!(types(&chained).collect::<Vec<_>>(), ["margay", "portmap", "bandwidth"]);
        assert_eq!(chained["plugins"][1]["capabilities"], json!({ "portMappings": true }));
        assert!(chained.get("cniVersions").is_none(), "one of them does not speak 1.1.0");
    }

    #[test]
    fn the_built_in_configuration_is_one_that_the_plugin_understands() {
        for version in ["0.3.1", VERSION, VERSION_WITH_STATUS] {
            // As a runtime does: the list's name and version go into each plugin's part.
            let mut conf = built_in(&[])["plugins"][0].clone();
            conf["cniVersion"] = version.into();
            conf["name"] = NETWORK.into();
            serde_json::from_value::<crate::cni::spec::NetConf>(conf).unwrap();
        }
    }

    #[test]
    fn a_template_is_taken_as_it_is_but_for_the_socket() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("template");
        let text =
            r#"{"name": "mine", "cniVersion": "0.4.0", "plugins": [{"type": "margay", "mtu": 1400}, {"type": "x"}]}"#;
        fs::write(&file, text).unwrap();
        let install = Install { template: Some(file), socket: Some("/s".into()), ..into(dir.path()) };
        let installed = install.run().unwrap();
        assert_eq!(configuration(&install)["plugins"][0], json!({ "type": "margay", "mtu": 1400, "socket": "/s" }));
        assert!(matches!(&installed.notes[..], [note] if note.contains("the plugin x")), "{:?}", installed.notes);
    }

    #[test]
    fn a_template_that_makes_no_sense_changes_nothing() {
        let no_plugin = r#"{"name": "n", "cniVersion": "1.0.0", "plugins": [{"type": "calico"}]}"#;
        for (text, part) in [("{", "EOF"), ("{}", "no name"), (no_plugin, "none of its plugins")] {
            let dir = tempfile::tempdir().unwrap();
            let file = dir.path().join("template");
            fs::write(&file, text).unwrap();
            let install = Install { template: Some(file), ..into(dir.path()) };
            let error = format!("{:#}", install.run().unwrap_err());
            assert!(error.contains(part), "{error}");
            assert!(!install.bin_dir.exists() && !install.conf_dir.exists());
        }
    }

    #[test]
    fn a_configuration_that_hides_ours_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let install = into(dir.path());
        fs::create_dir_all(&install.conf_dir).unwrap();
        for name in ["05-other.conflist", "00-notes.txt", "99-late.conf"] {
            fs::write(install.conf_dir.join(name), "{}").unwrap();
        }
        let notes = install.run().unwrap().notes;
        assert!(matches!(&notes[..], [note] if note.contains("05-other.conflist")), "{notes:?}");
    }

    #[test]
    fn only_what_is_ours_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let install = into(dir.path());
        install.run().unwrap();
        plugin(&install.bin_dir, "portmap", "[]");
        let (bin, conf) = (Some(install.bin_dir.as_path()), Some(install.conf_dir.as_path()));
        assert_eq!(remove(None, None, DEFAULT_CONF_NAME).unwrap(), [""; 0]);
        assert_eq!(remove(bin, conf, DEFAULT_CONF_NAME).unwrap().len(), 2);
        assert_eq!(remove(bin, conf, DEFAULT_CONF_NAME).unwrap(), [""; 0]);
        assert!(install.bin_dir.join("portmap").exists());
        fs::write(install.conf_dir.join(DEFAULT_CONF_NAME), r#"{"plugins": [{"type": "calico"}]}"#).unwrap();
        assert_eq!(remove(bin, conf, DEFAULT_CONF_NAME).unwrap(), [""; 0]);
        assert!(remove(bin, conf, "../x.conflist").is_err());
    }
}

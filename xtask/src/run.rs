//! Running other programs: cargo, apt-get, qemu.
//!
//! In: a command and what it is for. Out: its output or its success; the error of a failure names the command line.
//! Everything said to the user on the way goes to standard error, so that `-o json` stays clean.

use anyhow::{Context, Result, bail};
use std::{
    env,
    ffi::OsStr,
    process::{Command, Stdio},
};

/// Tells the user what is going on.
pub fn say(what: impl AsRef<str>) {
    eprintln!("margay: {}", what.as_ref());
}

/// A command that is started in the repository.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(crate::paths::root());
    command
}

/// The cargo that started us (or the one on `PATH`), without the variables that `cargo run` adds for the program it
/// runs: build scripts that watch them would run again for nothing.
pub fn cargo() -> Command {
    let mut cargo = command(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in env::vars_os() {
        let added =
            name.to_str().is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_"));
        if added {
            cargo.env_remove(name);
        }
    }
    cargo
}

/// Runs a command with its output on the terminal; an error unless it succeeds.
pub fn run(command: &mut Command, doing: &str) -> Result<()> {
    let status = command.status().with_context(|| format!("{doing}: cannot start {}", line(command)))?;
    if !status.success() {
        bail!("{doing}: `{}` failed ({status})", line(command));
    }
    Ok(())
}

/// Runs a command and returns what it printed; an error with its error output unless it succeeds.
pub fn output(command: &mut Command, doing: &str) -> Result<String> {
    let bytes = output_bytes(command, doing)?;
    String::from_utf8(bytes).with_context(|| format!("{doing}: the output of {} is not UTF-8", line(command)))
}

/// The same for output that is not text.
pub fn output_bytes(command: &mut Command, doing: &str) -> Result<Vec<u8>> {
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("{doing}: cannot start {}", line(command)))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{doing}: `{}` failed ({}): {}", line(command), output.status, said.trim());
    }
    Ok(output.stdout)
}

/// Whether a command can be started and succeeds; what it prints is dropped.
pub fn succeeds(command: &mut Command) -> bool {
    command.stdin(Stdio::null()).output().is_ok_and(|output| output.status.success())
}

/// The command as one would type it.
pub fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

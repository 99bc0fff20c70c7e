//! The shared libraries and the ELF loader that a dynamically linked program needs to run somewhere else.
//!
//! In: a program. Out: paths of files, which must be at the same paths there. Asked of `ldd`, which follows the
//! program's own search path. Programs are taken as they are: no second compilation for a static libc.

use crate::run::output;
use anyhow::Result;
use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// Every library of `program`, and the loader.
pub fn of(program: &Path) -> Result<Vec<PathBuf>> {
    let text = output(Command::new("ldd").arg(program), "listing the libraries of a program")?;
    parse(&text)
}

/// `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)`, `/lib64/ld-linux-x86-64.so.2 (0x…)`, `linux-vdso.so.1 (0x…)`.
fn parse(text: &str) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for line in text.lines().map(str::trim) {
        let file = line.split_once(" => ").map_or(line, |(_, file)| file);
        if file == "not found" {
            anyhow::bail!("a library is missing on this machine: {line}");
        }
        let file = file.split(' ').next().unwrap_or_default();
        if file.starts_with('/') {
            paths.push(PathBuf::from(file));
        }
    }
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ldd_names_libraries_and_loader() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibgcc_s.so.1 => /lib/x86_64-linux-gnu/libgcc_s.so.1 (0x01)\n\
                    \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x02)\n\t/lib64/ld-linux-x86-64.so.2 (0x03)\n";
        let files =
            ["/lib/x86_64-linux-gnu/libgcc_s.so.1", "/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"];
        assert_eq!(parse(text).unwrap(), files.map(PathBuf::from));
        assert!(parse("\tstatically linked\n").unwrap().is_empty());
        assert!(parse("\tlibx.so => not found\n").is_err());
    }
}

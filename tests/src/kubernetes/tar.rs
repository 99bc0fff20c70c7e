//! tar archives, as far as images need them. In: files, directories and links. Out: bytes in the format of POSIX.1-1988
//! (ustar). Never: an owner, a time, or a name of more than 100 bytes; the same input gives the same bytes.

/// An archive that grows.
#[derive(Clone, Debug, Default)]
pub(super) struct Tar {
    bytes: Vec<u8>,
}

/// Everything in a tar archive comes in blocks of this many bytes.
const BLOCK: usize = 512;

// === impl Tar ===

impl Tar {
    /// Adds a file.
    pub(super) fn file(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.header(path, mode, content.len(), b'0', "");
        self.bytes.extend_from_slice(content);
        self.bytes.resize(self.bytes.len().next_multiple_of(BLOCK), 0);
    }

    /// Adds a directory.
    pub(super) fn directory(&mut self, path: &str, mode: u32) {
        self.header(&format!("{path}/"), mode, 0, b'5', "");
    }

    /// Adds a symbolic link.
    pub(super) fn link(&mut self, path: &str, target: &str) {
        self.header(path, 0o777, 0, b'2', target);
    }

    /// The whole archive.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.bytes.resize(self.bytes.len() + 2 * BLOCK, 0);
        self.bytes
    }

    /// Fields, each at its place in the block: name, mode, uid, gid, size, mtime, checksum, type, target, magic, version.
    fn header(&mut self, path: &str, mode: u32, size: usize, kind: u8, target: &str) {
        let mut block = [0; BLOCK];
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        assert!(path.len() <= 100 && target.len() <= 100, "{path}: too long a name for a tar archive");
        put(0, path.as_bytes());
        put(100, format!("{mode:07o}\0").as_bytes());
        put(108, b"0000000\x000000000\0");
        put(124, format!("{size:011o}\0").as_bytes());
        put(136, b"00000000000\0");
        // The checksum is computed with spaces in its place.
        put(148, b"        ");
        put(156, &[kind]);
        put(157, target.as_bytes());
        put(257, b"ustar\x0000");
        let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.bytes.extend_from_slice(&block);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, process::Command};

    #[test]
    fn tar_reads_what_was_written() {
        let mut tar = Tar::default();
        tar.directory("bin", 0o755);
        tar.file("bin/a", 0o755, b"content");
        tar.link("bin/b", "a");
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("x.tar");
        fs::write(&file, tar.finish()).unwrap();
        assert!(Command::new("tar").arg("-xf").arg(&file).arg("-C").arg(directory.path()).status().unwrap().success());
        assert_eq!(fs::read(directory.path().join("bin/b")).unwrap(), b"content");
    }
}

//! Tar files (POSIX.1-2001, "ustar"), as far as images need them: everything root's, from 1970.
//!
//! In: paths and their content, in the order in which they are to stand. Out: the bytes.

/// The size of a block; everything is padded to it.
const BLOCK: usize = 512;
/// Bytes for a name, and for the directories before it where it is longer.
const NAME: usize = 100;
const PREFIX: usize = 155;

/// A tar file in the making.
#[derive(Clone, Debug, Default)]
pub struct Tar {
    bytes: Vec<u8>,
}

// === impl Tar ===

impl Tar {
    /// Adds a file.
    ///
    /// # Panics
    /// A path or a link's target is longer than the format has room for; all of them are ours.
    pub fn file(&mut self, path: &str, mode: u32, bytes: &[u8]) {
        self.header(path, mode, bytes.len(), b'0', "");
        self.bytes.extend_from_slice(bytes);
        self.pad();
    }

    /// Adds a directory.
    ///
    /// # Panics
    /// See [`Tar::file`].
    pub fn directory(&mut self, path: &str) {
        self.header(&format!("{path}/"), 0o755, 0, b'5', "");
    }

    /// Adds a symbolic link.
    ///
    /// # Panics
    /// See [`Tar::file`].
    pub fn link(&mut self, path: &str, to: &str) {
        self.header(path, 0o777, 0, b'2', to);
    }

    /// The whole file.
    pub fn finish(mut self) -> Vec<u8> {
        self.bytes.extend([0; 2 * BLOCK]);
        self.bytes
    }

    fn header(&mut self, path: &str, mode: u32, size: usize, kind: u8, link: &str) {
        let (prefix, name) = split(path);
        assert!(
            prefix.len() <= PREFIX && name.len() <= NAME && link.len() <= NAME,
            "{path} is too long for a tar file"
        );
        let mut header = [0; BLOCK];
        let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, name.as_bytes());
        put(100, format!("{mode:07o}").as_bytes());
        put(108, b"0000000\x000000000\0");
        put(124, format!("{size:011o}\x00{:011o}", 0).as_bytes());
        // The sum is taken with blanks in its own place.
        put(148, b"        ");
        put(156, &[kind]);
        put(157, link.as_bytes());
        put(257, b"ustar\x0000");
        put(345, prefix.as_bytes());
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.bytes.extend(header);
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(BLOCK), 0);
    }
}

/// A long path is cut at the last slash that leaves a short enough name.
fn split(path: &str) -> (&str, &str) {
    if path.len() <= NAME {
        return ("", path);
    }
    let cut = path.match_indices('/').map(|(at, _)| at).find(|at| path.len() - at - 1 <= NAME);
    cut.map_or(("", path), |at| (&path[..at], &path[at + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        io::Write as _,
        process::{Command, Stdio},
    };

    #[test]
    fn tar_reads_it() {
        let long = format!("{}/{}", "d".repeat(90), "f".repeat(60));
        let mut tar = Tar::default();
        tar.directory("bin");
        tar.file("bin/x", 0o755, &[7; 700]);
        tar.link("y", "/bin/x");
        tar.file(&long, 0o600, b"");
        let bytes = tar.finish();
        assert_eq!(bytes.len() % BLOCK, 0);
        let mut list = Command::new("tar")
            .args(["--utc", "-tvf", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        list.stdin.take().unwrap().write_all(&bytes).unwrap();
        let output = list.wait_with_output().unwrap();
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).unwrap();
        let words: Vec<String> =
            text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(
            words,
            [
                "drwxr-xr-x 0/0 0 1970-01-01 00:00 bin/".to_owned(),
                "-rwxr-xr-x 0/0 700 1970-01-01 00:00 bin/x".to_owned(),
                "lrwxrwxrwx 0/0 0 1970-01-01 00:00 y -> /bin/x".to_owned(),
                format!("-rw------- 0/0 0 1970-01-01 00:00 {long}"),
            ]
        );
    }
}

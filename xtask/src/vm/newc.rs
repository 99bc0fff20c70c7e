//! The cpio format that kernels unpack as their first file system ("newc", Documentation/driver-api/early-userspace/
//! buffer-format.rst).
//!
//! In: directories, files, links and device nodes, each with its path. Out: the archive's bytes. It needs neither root
//! nor the program cpio, and writes the same bytes for the same input.

/// An archive that grows entry by entry.
#[derive(Clone, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    inode: u32,
}

/// stat(2)'s file types.
mod kind {
    pub const DIRECTORY: u32 = 0o040_000;
    pub const CHARACTER_DEVICE: u32 = 0o020_000;
    pub const FILE: u32 = 0o100_000;
    pub const LINK: u32 = 0o120_000;
}

/// Major and minor number of a device.
type Device = (u32, u32);

impl Archive {
    /// Adds a directory; the parents must have been added before.
    pub fn directory(&mut self, path: &str) {
        self.entry(path, kind::DIRECTORY | 0o755, (0, 0), &[]);
    }

    /// Adds a file that everyone may read and run.
    pub fn file(&mut self, path: &str, content: &[u8]) {
        self.entry(path, kind::FILE | 0o755, (0, 0), content);
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, path: &str, target: &str) {
        self.entry(path, kind::LINK | 0o777, (0, 0), target.as_bytes());
    }

    /// Adds a character device.
    pub fn device(&mut self, path: &str, device: Device) {
        self.entry(path, kind::CHARACTER_DEVICE | 0o600, device, &[]);
    }

    /// Ends the archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    /// A header of 13 eight-digit hexadecimal fields, the name with its zero byte, the content; each padded to 4 bytes.
    fn entry(&mut self, path: &str, mode: u32, device: Device, content: &[u8]) {
        let path = path.trim_start_matches('/');
        self.inode += 1;
        let links = 1;
        let (owner, group, modified, on_device) = (0, 0, 0, (0, 0));
        let name_size = len(path.as_bytes()) + 1;
        let fields = [
            self.inode,
            mode,
            owner,
            group,
            links,
            modified,
            len(content),
            on_device.0,
            on_device.1,
            device.0,
            device.1,
            name_size,
            0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// The format's sizes have 32 bits; a file of 4 GiB has no business in an initramfs.
fn len(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_header_name_content_each_padded() {
        let mut archive = Archive::default();
        archive.file("/bin/x", b"hello");
        let bytes = archive.finish();
        assert_eq!(&bytes[..6], b"070701");
        // Mode, size and length of the name, at their places.
        assert_eq!(&bytes[14..22], b"000081ED");
        assert_eq!(&bytes[54..62], b"00000005");
        assert_eq!(&bytes[94..102], b"00000006");
        assert_eq!(&bytes[110..116], b"bin/x\0");
        // 110 + 6 = 116 is a multiple of 4, so the content follows at once.
        assert_eq!(&bytes[116..124], b"hello\0\0\0");
        assert_eq!(&bytes[124..130], b"070701");
        assert!(bytes.len().is_multiple_of(4));
        assert!(bytes.windows(11).any(|window| window == b"TRAILER!!!\0"));
    }

    #[test]
    fn a_device_has_its_numbers_and_a_link_its_target() {
        let mut archive = Archive::default();
        archive.device("dev/console", (5, 1));
        archive.link("init", "bin/margay-lab");
        let bytes = archive.finish();
        assert_eq!(&bytes[14..22], b"00002180");
        assert_eq!(&bytes[78..94], b"0000000500000001");
        assert!(bytes.windows(14).any(|window| window == b"bin/margay-lab"));
    }
}

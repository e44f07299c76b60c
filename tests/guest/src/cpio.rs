//! A writer of cpio archives in the "newc" format, which the kernel unpacks as its initramfs.
//!
//! The idea: the few lines that the format takes, without root (device nodes are only entries) and without clocks (all
//! times are 0, so the same content gives the same bytes). Format: Linux Documentation/driver-api/early-userspace/
//! buffer-format.rst.

/// What an entry is.
#[derive(Debug, Clone, Copy)]
pub enum Kind<'a> {
    /// A directory.
    Folder,
    /// A regular file with its content, less than 4 GiB.
    File(&'a [u8]),
    /// A symbolic link with its target.
    Link(&'a str),
    /// A character device.
    CharacterDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
}

/// An archive in the making.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

// File types in the mode field.
const FOLDER: u32 = 0o040000;
const FILE: u32 = 0o100000;
const LINK: u32 = 0o120000;
const CHARACTER_DEVICE: u32 = 0o020000;

impl Archive {
    /// An empty archive.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an entry; folders must come before what is in them. `permissions` are the lower twelve bits of the mode.
    pub fn add(&mut self, name: &str, permissions: u32, kind: Kind<'_>) {
        let (file_type, data, device) = match kind {
            Kind::Folder => (FOLDER, &[][..], (0, 0)),
            Kind::File(content) => (FILE, content, (0, 0)),
            Kind::Link(target) => (LINK, target.as_bytes(), (0, 0)),
            Kind::CharacterDevice { major, minor } => (CHARACTER_DEVICE, &[][..], (major, minor)),
        };
        self.entries += 1;
        self.entry(self.entries, name, file_type | permissions, data, device);
    }

    /// Closes the archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry(0, "TRAILER!!!", 0, &[], (0, 0));
        self.bytes
    }

    fn entry(&mut self, inode: u32, name: &str, mode: u32, data: &[u8], device: (u32, u32)) {
        // The field has 32 bits. A larger file does not fit the format and is cut there rather than written wrong.
        let size = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let data = &data[..size as usize];
        let fields = [
            inode,
            mode,
            0, // owner
            0, // group
            1, // links
            0, // time
            size,
            0, // device of the archive: major
            0, // and minor
            device.0,
            device.1,
            name.len() as u32 + 1,
            0, // checksum, not used in this format
        ];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(data);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An entry as read back.
    pub struct Entry {
        pub name: String,
        pub mode: u32,
        pub data: Vec<u8>,
        pub device: (u32, u32),
    }

    /// Reads an archive by the format's description.
    pub fn read(bytes: &[u8]) -> Vec<Entry> {
        let (mut at, mut entries) = (0, Vec::new());
        loop {
            assert_eq!(&bytes[at..at + 6], b"070701");
            let field = |index: usize| {
                let digits = &bytes[at + 6 + index * 8..at + 14 + index * 8];
                u32::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap()
            };
            let name_end = at + 110 + field(11) as usize;
            let name = String::from_utf8(bytes[at + 110..name_end - 1].to_vec()).unwrap();
            assert_eq!(bytes[name_end - 1], 0);
            let start = name_end.next_multiple_of(4);
            let end = start + field(6) as usize;
            if name == "TRAILER!!!" {
                assert_eq!(end, bytes.len());
                return entries;
            }
            let entry = Entry { name, mode: field(1), data: bytes[start..end].to_vec(), device: (field(9), field(10)) };
            entries.push(entry);
            at = end.next_multiple_of(4);
        }
    }

    #[test]
    fn names_and_data_of_every_length_are_padded() {
        let mut archive = Archive::new();
        for len in 0..9 {
            archive.add(&"n".repeat(len + 1), 0o644, Kind::File(&vec![len as u8; len]));
        }
        let entries = read(&archive.finish());
        assert_eq!(entries.len(), 9);
        for (len, entry) in entries.iter().enumerate() {
            assert_eq!((entry.name.len(), &entry.data), (len + 1, &vec![len as u8; len]));
        }
    }

    #[test]
    fn the_first_header_is_as_the_format_says() {
        let mut archive = Archive::new();
        archive.add("a", 0o755, Kind::Folder);
        let text = String::from_utf8(archive.finish()[..110].to_vec()).unwrap();
        let fields = "00000001 000041ED 00000000 00000000 00000001 00000000 00000000 00000000 00000000 00000000 00000000 \
                      00000002 00000000";
        assert_eq!(text, format!("070701{}", fields.replace(' ', "")));
    }
}

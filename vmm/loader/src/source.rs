//! Files to load, and how their fields are read: always by offset, always bounded by the file's length.
//!
//! The idea: a file is hostile. No code of the loader sees a slice that it could index past; it asks a [`Header`] for a
//! named field and gets the value or an error that names the field.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::error::LoadError;

/// A kernel or an initrd: bytes of a known length that can be read at any offset.
pub trait Source {
    /// What error messages call it, such as "kernel image".
    fn name(&self) -> &str;
    /// Its length in bytes, fixed when it was opened.
    fn size(&self) -> u64;
    /// Fills `buf` from `offset`; anything less is an error.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;
}

/// A source behind a descriptor: a sealed memfd or a regular file, read by pread.
#[derive(Debug)]
pub struct FileSource {
    name: String,
    file: File,
    size: u64,
}

impl FileSource {
    /// Takes a descriptor and asks it for its length, once.
    ///
    /// Fails if the length cannot be had or if it is no regular file or memfd (a pipe cannot be read twice).
    pub fn new(name: &str, file: File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{name}: not a regular file; copy it into one first"),
            ));
        }
        Ok(Self { name: name.to_owned(), file, size: metadata.len() })
    }
}

impl Source for FileSource {
    fn name(&self) -> &str {
        &self.name
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }
}

/// A source in memory.
#[derive(Debug, Clone)]
pub struct BytesSource<'a> {
    name: &'a str,
    bytes: &'a [u8],
}

impl<'a> BytesSource<'a> {
    /// `bytes` under the name that errors shall use.
    pub const fn new(name: &'a str, bytes: &'a [u8]) -> Self {
        Self { name, bytes }
    }
}

impl Source for BytesSource<'_> {
    fn name(&self) -> &str {
        self.name
    }

    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(|_| io::Error::from(io::ErrorKind::UnexpectedEof))?;
        let end = start.checked_add(buf.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        let part = self.bytes.get(start..end).ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(part);
        Ok(())
    }
}

/// Checks that `len` bytes at `offset` are in the file; `what` names them in the error.
pub(crate) fn require(source: &dyn Source, offset: u64, len: u64, what: &str) -> Result<(), LoadError> {
    let needed = offset.saturating_add(len);
    if offset.checked_add(len).is_none() || needed > source.size() {
        let (file, what) = (source.name().to_owned(), what.to_owned());
        return Err(LoadError::Truncated { file, what, needed, len: source.size() });
    }
    Ok(())
}

/// Fills `buf` from `offset`, with both kinds of failure told apart.
pub(crate) fn read(source: &dyn Source, offset: u64, buf: &mut [u8], what: &str) -> Result<(), LoadError> {
    require(source, offset, buf.len() as u64, what)?;
    source.read_at(offset, buf).map_err(|cause| LoadError::Read {
        file: source.name().to_owned(),
        offset,
        len: buf.len(),
        cause,
    })
}

/// A named little-endian field of a header; `offset` counts from the header's start.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Field {
    pub name: &'static str,
    pub offset: u16,
    pub width: u8,
}

/// A table row: name, offset and width in bytes (1, 2, 4 or 8).
pub(crate) const fn field(name: &'static str, offset: u16, width: u8) -> Field {
    Field { name, offset, width }
}

/// A piece of a file that is read once and then asked for its fields.
pub(crate) struct Header<'a> {
    source: &'a dyn Source,
    base: u64,
    bytes: Vec<u8>,
}

impl<'a> Header<'a> {
    /// Reads `len` bytes at `base`, or fewer where the file ends before; a field past that end is reported as such.
    pub fn read(source: &'a dyn Source, base: u64, len: usize, what: &str) -> Result<Self, LoadError> {
        let available = source.size().saturating_sub(base);
        let len = usize::try_from(available).unwrap_or(usize::MAX).min(len);
        let mut bytes = vec![0; len];
        read(source, base, &mut bytes, what)?;
        Ok(Self { source, base, bytes })
    }

    /// A field's value, widened.
    pub fn get(&self, field: Field) -> Result<u64, LoadError> {
        let (start, width) = (usize::from(field.offset), usize::from(field.width));
        let Some(part) = self.bytes.get(start..start + width) else {
            return Err(LoadError::Truncated {
                file: self.source.name().to_owned(),
                what: format!("the field {}", field.name),
                needed: self.base.saturating_add((start + width) as u64),
                len: self.source.size(),
            });
        };
        let mut value = [0; 8];
        value[..width].copy_from_slice(part);
        Ok(u64::from_le_bytes(value))
    }

    /// A field of at most four bytes.
    pub fn get32(&self, field: Field) -> Result<u32, LoadError> {
        // The table says at most four bytes, so nothing is cut off.
        Ok(self.get(field)? as u32)
    }

    /// The bytes themselves.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// An error about a field: what it says is read again, so that message and file agree.
    pub fn bad(&self, field: Field, problem: impl Into<String>, remedy: &'static str) -> LoadError {
        LoadError::Field {
            file: self.source.name().to_owned(),
            field: field.name,
            offset: self.base.saturating_add(u64::from(field.offset)),
            value: self.get(field).unwrap_or_default(),
            problem: problem.into(),
            remedy,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_past_the_end_is_named() {
        let source = BytesSource::new("kernel image", &[1, 2, 3]);
        let header = Header::read(&source, 1, 100, "header").unwrap();
        assert_eq!(header.get(field("two", 0, 2)).unwrap(), 0x0302);
        let error = header.get(field("four", 0, 4)).unwrap_err().to_string();
        assert!(error.contains("the field four needs the bytes up to offset 0x5"), "{error}");
    }

    #[test]
    fn overflowing_offsets_are_outside() {
        let source = BytesSource::new("initrd", &[0; 16]);
        assert!(require(&source, u64::MAX, 2, "x").is_err());
        assert!(read(&source, u64::MAX - 1, &mut [0; 2], "x").is_err());
        assert!(require(&source, 16, 0, "x").is_ok());
    }

    #[test]
    fn a_pipe_is_refused_with_a_remedy() {
        let file = File::open("/dev/null").unwrap();
        let error = FileSource::new("initrd", file).unwrap_err().to_string();
        assert!(error.contains("initrd: not a regular file"), "{error}");
    }
}

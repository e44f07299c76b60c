//! Names of descriptors and processes: 32 bytes in a message, 1 to 31 of them used.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of a name in a message; the last is always zero.
pub const NAME_BYTES: usize = 32;

/// A checked name: 1 to 31 printable ASCII characters other than space, such as `bin:serial` or `ram`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    bytes: [u8; NAME_BYTES],
}

/// A text that cannot be a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a name has 1 to 31 printable ASCII characters without spaces")]
pub struct NameError;

impl Name {
    /// Checks a name.
    ///
    /// # Errors
    /// [`NameError`].
    pub fn new(text: &str) -> Result<Self, NameError> {
        let mut bytes = [0; NAME_BYTES];
        bytes.get_mut(..text.len()).ok_or(NameError)?.copy_from_slice(text.as_bytes());
        RawName { bytes }.check()
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let length = self.bytes.iter().position(|byte| *byte == 0).unwrap_or(NAME_BYTES);
        // Checked at construction; an empty name is what is left where that were wrong.
        self.bytes.get(..length).and_then(|used| std::str::from_utf8(used).ok()).unwrap_or_default()
    }
}

impl std::str::FromStr for Name {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::new(text)
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

impl std::fmt::Debug for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}

/// A name in a message, before it is checked. 32 bytes.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct RawName {
    bytes: [u8; NAME_BYTES],
}

impl RawName {
    pub(crate) fn check(self) -> Result<Name, NameError> {
        let length = self.bytes.iter().position(|byte| *byte == 0).ok_or(NameError)?;
        let (used, rest) = self.bytes.split_at_checked(length).ok_or(NameError)?;
        let good = !used.is_empty() && used.iter().all(u8::is_ascii_graphic) && rest.iter().all(|byte| *byte == 0);
        if good { Ok(Name { bytes: self.bytes }) } else { Err(NameError) }
    }
}

impl From<Name> for RawName {
    fn from(name: Name) -> Self {
        Self { bytes: name.bytes }
    }
}

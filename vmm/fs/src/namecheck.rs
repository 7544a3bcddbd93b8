//! Names as the guest sends them, checked once and carried as types afterwards.
//!
//! A [`Name`] is one path component: the file server never hands the host's kernel a path that the
//! guest chose, only a checked component beside a directory descriptor. That is the first half of
//! the wall; the second half is that no open of it follows a symbolic link.

use std::ffi::CStr;

use rustix::io::Errno;
use thiserror::Error;

/// Longest component that Linux file systems take (`NAME_MAX`).
pub const NAME_MAX: usize = 255;
/// Longest name of an extended attribute (`XATTR_NAME_MAX`).
pub const XATTR_NAME_MAX: usize = 255;
/// Longest target of a symbolic link: `PATH_MAX` less its NUL.
pub const TARGET_MAX: usize = 4095;

/// Why a name was refused.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
pub enum NameError {
    /// No NUL byte ends the name.
    #[error("a name is not ended by a NUL byte")]
    Unterminated,
    /// The name has no byte.
    #[error("a name is empty")]
    Empty,
    /// The name is longer than its kind allows.
    #[error("a name has {len} bytes, the limit is {max}")]
    TooLong {
        /// Bytes in the name.
        len: usize,
        /// The limit for this kind of name.
        max: usize,
    },
    /// The name holds a `/`, so that it would be a path.
    #[error("a name holds a slash")]
    Slash,
    /// The name is `.` or `..`, which lead to another directory.
    #[error("a name is . or ..")]
    Dots,
}

impl NameError {
    /// The error number that a program in the guest sees.
    #[must_use]
    pub fn errno(self) -> Errno {
        match self {
            Self::TooLong { .. } => Errno::NAMETOOLONG,
            Self::Empty => Errno::NOENT,
            Self::Unterminated | Self::Slash | Self::Dots => Errno::INVAL,
        }
    }
}

/// One path component: 1 to 255 bytes, no `/`, neither `.` nor `..`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Name<'a>(&'a CStr);

impl<'a> Name<'a> {
    /// Checks a component.
    ///
    /// # Errors
    /// [`NameError`] says which rule the name breaks.
    pub fn new(name: &'a CStr) -> Result<Self, NameError> {
        let bytes = name.to_bytes();
        check_length(bytes, NAME_MAX)?;
        if bytes == b"." || bytes == b".." {
            return Err(NameError::Dots);
        }
        if bytes.contains(&b'/') {
            return Err(NameError::Slash);
        }
        Ok(Self(name))
    }

    /// Takes a component and its NUL from the front of `bytes`; gives it and what follows.
    ///
    /// # Errors
    /// [`NameError`] says which rule the name breaks.
    pub fn split(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), NameError> {
        let (name, rest) = split_c_string(bytes)?;
        Ok((Self::new(name)?, rest))
    }

    /// The component for a system call.
    #[must_use]
    pub fn as_c_str(self) -> &'a CStr {
        self.0
    }

    /// The component without its NUL.
    #[must_use]
    pub fn to_bytes(self) -> &'a [u8] {
        self.0.to_bytes()
    }
}

/// Takes the name of an extended attribute and its NUL from the front of `bytes`.
///
/// # Errors
/// [`NameError`] says which rule the name breaks.
pub fn split_xattr_name(bytes: &[u8]) -> Result<(&CStr, &[u8]), NameError> {
    let (name, rest) = split_c_string(bytes)?;
    check_length(name.to_bytes(), XATTR_NAME_MAX)?;
    Ok((name, rest))
}

/// Takes the target of a symbolic link and its NUL from the front of `bytes`. It is data, not a
/// path that the server would follow; hence any bytes are allowed.
///
/// # Errors
/// [`NameError`] says which rule the target breaks.
pub fn split_target(bytes: &[u8]) -> Result<(&CStr, &[u8]), NameError> {
    let (target, rest) = split_c_string(bytes)?;
    check_length(target.to_bytes(), TARGET_MAX)?;
    Ok((target, rest))
}

fn check_length(bytes: &[u8], max: usize) -> Result<(), NameError> {
    match bytes.len() {
        0 => Err(NameError::Empty),
        len if len > max => Err(NameError::TooLong { len, max }),
        _ => Ok(()),
    }
}

fn split_c_string(bytes: &[u8]) -> Result<(&CStr, &[u8]), NameError> {
    let name = CStr::from_bytes_until_nul(bytes).map_err(|_| NameError::Unterminated)?;
    let rest = bytes.get(name.to_bytes_with_nul().len()..).unwrap_or_default();
    Ok((name, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bytes: &[u8]) -> Result<&[u8], NameError> {
        Name::split(bytes).map(|(name, _)| name.to_bytes())
    }

    #[test]
    fn takes_ordinary_names_and_gives_the_rest() {
        assert_eq!(check(b"a\0"), Ok(&b"a"[..]));
        assert_eq!(check(b"...\0"), Ok(&b"..."[..]));
        assert_eq!(check(b".hidden\0"), Ok(&b".hidden"[..]));
        assert_eq!(check(b"\xff\x01 \n\0"), Ok(&b"\xff\x01 \n"[..]));
        let (name, rest) = Name::split(b"one\0two\0").unwrap();
        assert_eq!((name.to_bytes(), rest), (&b"one"[..], &b"two\0"[..]));
    }

    #[test]
    fn refuses_names_that_are_paths() {
        assert_eq!(check(b"\0"), Err(NameError::Empty));
        assert_eq!(check(b""), Err(NameError::Unterminated));
        assert_eq!(check(b"abc"), Err(NameError::Unterminated));
        assert_eq!(check(b".\0"), Err(NameError::Dots));
        assert_eq!(check(b"..\0"), Err(NameError::Dots));
        for path in [&b"/\0"[..], b"/etc\0", b"a/b\0", b"a/\0", b"../x\0"] {
            assert_eq!(check(path), Err(NameError::Slash));
        }
    }

    #[test]
    fn holds_names_to_255_bytes() {
        let mut longest = vec![b'n'; NAME_MAX];
        longest.push(0);
        assert_eq!(check(&longest).map(<[u8]>::len), Ok(NAME_MAX));
        longest.insert(0, b'n');
        assert_eq!(check(&longest), Err(NameError::TooLong { len: 256, max: 255 }));
        assert_eq!(check(&longest).unwrap_err().errno(), Errno::NAMETOOLONG);
    }

    #[test]
    fn link_targets_are_any_bytes_up_to_4095() {
        let mut target = vec![b'/'; TARGET_MAX];
        target.push(0);
        assert!(split_target(&target).is_ok());
        target.insert(0, b'/');
        assert_eq!(split_target(&target), Err(NameError::TooLong { len: 4096, max: 4095 }));
        assert_eq!(split_target(b"\0"), Err(NameError::Empty));
    }
}

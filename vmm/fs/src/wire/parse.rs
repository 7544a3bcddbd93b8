//! From the bytes of a request to an [`Operation`]: pure, total, and the only reader of guest
//! bytes. Whatever the bytes are, the answer is an operation or a [`ParseError`].

use std::ffi::CStr;

use rustix::io::Errno;
use thiserror::Error;
use zerocopy::{FromBytes, Immutable, KnownLayout};

use super::number::{init_flag, opcode};
use super::structs::{
    BatchForgetIn, CopyFileRangeIn, CreateIn, FallocateIn, FlushIn, ForgetIn, ForgetOne, FsyncIn,
    GetattrIn, GetxattrIn, InHeader, InitIn, InitInExt, InterruptIn, LinkIn, LkIn, LseekIn,
    MkdirIn, MknodIn, OpenIn, ReadIn, ReleaseIn, Rename2In, RenameIn, SetattrIn, SetxattrIn,
    SetxattrInExt, StatxIn, WriteIn,
};
use crate::namecheck::{Name, NameError, split_target, split_xattr_name};

/// Why a request has no meaning.
#[derive(Debug, Error, Clone, Copy, PartialEq, Eq)]
pub enum ParseError {
    /// The request is shorter than its opcode demands.
    #[error("a request with opcode {opcode} has {len} bytes of arguments, too few")]
    Truncated {
        /// The request's opcode.
        opcode: u32,
        /// Bytes after the header.
        len: usize,
    },
    /// Bytes follow where the request must end.
    #[error("a request with opcode {opcode} has {excess} bytes too many")]
    Excess {
        /// The request's opcode.
        opcode: u32,
        /// Bytes after the last argument.
        excess: usize,
    },
    /// Extensions were sent although none was negotiated.
    #[error("a request with opcode {opcode} carries extensions, none was negotiated")]
    Extensions {
        /// The request's opcode.
        opcode: u32,
    },
    /// A name in the request is refused.
    #[error("a request with opcode {opcode} holds a bad name")]
    Name {
        /// The request's opcode.
        opcode: u32,
        /// The rule that the name breaks.
        #[source]
        source: NameError,
    },
}

impl ParseError {
    /// The error number that a program in the guest sees.
    #[must_use]
    pub fn errno(self) -> Errno {
        match self {
            Self::Name { source, .. } => source.errno(),
            Self::Truncated { .. } | Self::Excess { .. } | Self::Extensions { .. } => Errno::INVAL,
        }
    }
}

/// The entries of a BATCH_FORGET.
#[derive(Debug, Clone, Copy)]
pub struct Forgets<'a>(&'a [u8]);

impl Iterator for Forgets<'_> {
    type Item = ForgetOne;

    fn next(&mut self) -> Option<ForgetOne> {
        let (one, rest) = ForgetOne::read_from_prefix(self.0).ok()?;
        self.0 = rest;
        Some(one)
    }
}

/// A request with its arguments; the node it is about is in the header.
#[expect(missing_docs, reason = "variants and fields are the protocol's own")]
#[derive(Debug, Clone, Copy)]
pub enum Operation<'a> {
    Init {
        args: InitIn,
        flags2: u32,
    },
    Destroy,
    Interrupt {
        unique: u64,
    },
    Forget {
        nlookup: u64,
    },
    BatchForget {
        entries: Forgets<'a>,
    },
    Lookup {
        name: Name<'a>,
    },
    Getattr(GetattrIn),
    Statx(StatxIn),
    Setattr(SetattrIn),
    Readlink,
    Symlink {
        name: Name<'a>,
        target: &'a CStr,
    },
    Mknod {
        args: MknodIn,
        name: Name<'a>,
    },
    Mkdir {
        args: MkdirIn,
        name: Name<'a>,
    },
    Unlink {
        name: Name<'a>,
    },
    Rmdir {
        name: Name<'a>,
    },
    Rename {
        newdir: u64,
        flags: u32,
        from: Name<'a>,
        to: Name<'a>,
    },
    Link {
        oldnodeid: u64,
        name: Name<'a>,
    },
    Open(OpenIn),
    Create {
        args: CreateIn,
        name: Name<'a>,
    },
    Tmpfile(CreateIn),
    Read(ReadIn),
    Write(WriteIn),
    Release(ReleaseIn),
    Flush(FlushIn),
    Fsync(FsyncIn),
    Fallocate(FallocateIn),
    Lseek(LseekIn),
    Getlk(LkIn),
    Setlk {
        args: LkIn,
        wait: bool,
    },
    CopyFileRange(CopyFileRangeIn),
    Opendir(OpenIn),
    Readdir(ReadIn),
    Readdirplus(ReadIn),
    Releasedir(ReleaseIn),
    Fsyncdir(FsyncIn),
    Statfs,
    Syncfs,
    Setxattr {
        name: &'a CStr,
        value: &'a [u8],
        flags: u32,
        setxattr_flags: u32,
    },
    Getxattr {
        name: &'a CStr,
        size: u32,
    },
    Listxattr {
        size: u32,
    },
    Removexattr {
        name: &'a CStr,
    },
    Ioctl,
    /// An opcode that this server does not serve; the guest hears ENOSYS and does not ask again.
    Unsupported {
        opcode: u32,
    },
}

/// The bytes after the header, taken from the front.
struct Args<'a> {
    opcode: u32,
    len: usize,
    rest: &'a [u8],
}

impl<'a> Args<'a> {
    fn truncated(&self) -> ParseError {
        ParseError::Truncated { opcode: self.opcode, len: self.len }
    }

    fn name_error(&self) -> impl Fn(NameError) -> ParseError + use<> {
        let opcode = self.opcode;
        move |source| ParseError::Name { opcode, source }
    }

    fn take<T: FromBytes + KnownLayout + Immutable>(&mut self) -> Result<T, ParseError> {
        let (value, rest) = T::read_from_prefix(self.rest).map_err(|_| self.truncated())?;
        self.rest = rest;
        Ok(value)
    }

    fn name(&mut self) -> Result<Name<'a>, ParseError> {
        let (name, rest) = Name::split(self.rest).map_err(self.name_error())?;
        self.rest = rest;
        Ok(name)
    }

    fn xattr_name(&mut self) -> Result<&'a CStr, ParseError> {
        let (name, rest) = split_xattr_name(self.rest).map_err(self.name_error())?;
        self.rest = rest;
        Ok(name)
    }

    fn target(&mut self) -> Result<&'a CStr, ParseError> {
        let (target, rest) = split_target(self.rest).map_err(self.name_error())?;
        self.rest = rest;
        Ok(target)
    }

    fn bytes(&mut self, len: u32) -> Result<&'a [u8], ParseError> {
        let len = usize::try_from(len).map_err(|_| self.truncated())?;
        let (bytes, rest) = self.rest.split_at_checked(len).ok_or_else(|| self.truncated())?;
        self.rest = rest;
        Ok(bytes)
    }
}

/// Parses the arguments of one request.
///
/// `args` are the bytes after the header; of a WRITE only those before the data. `negotiated` are
/// the feature bits of FUSE_INIT, which decide the shape of SETXATTR.
///
/// # Errors
/// [`ParseError`], whose [`errno`](ParseError::errno) is the answer to the guest.
pub fn parse<'a>(
    header: &InHeader,
    args: &'a [u8],
    negotiated: u64,
) -> Result<Operation<'a>, ParseError> {
    if header.total_extlen != 0 {
        return Err(ParseError::Extensions { opcode: header.opcode });
    }
    let mut args = Args { opcode: header.opcode, len: args.len(), rest: args };
    let operation = match header.opcode {
        opcode::LOOKUP..=opcode::LINK
        | opcode::CREATE
        | opcode::TMPFILE
        | opcode::RENAME2
        | opcode::STATX => parse_tree(&mut args)?,
        opcode::SETXATTR..=opcode::REMOVEXATTR => parse_xattr(&mut args, negotiated)?,
        _ => parse_session(&mut args)?.map_or_else(|| parse_data(&mut args), Ok)?,
    };
    // Structures may grow at their end in later versions of the protocol; what ends in a name or
    // in bytes has nothing after it.
    let ends_in_bytes = matches!(
        operation,
        Operation::Lookup { .. }
            | Operation::Symlink { .. }
            | Operation::Mknod { .. }
            | Operation::Mkdir { .. }
            | Operation::Unlink { .. }
            | Operation::Rmdir { .. }
            | Operation::Rename { .. }
            | Operation::Link { .. }
            | Operation::Create { .. }
            | Operation::Setxattr { .. }
            | Operation::Getxattr { .. }
            | Operation::Removexattr { .. }
    );
    if ends_in_bytes && !args.rest.is_empty() {
        return Err(ParseError::Excess { opcode: header.opcode, excess: args.rest.len() });
    }
    Ok(operation)
}

/// Requests about the session rather than a file.
fn parse_session<'a>(args: &mut Args<'a>) -> Result<Option<Operation<'a>>, ParseError> {
    Ok(Some(match args.opcode {
        opcode::INIT => {
            let init: InitIn = args.take()?;
            let extended = u64::from(init.flags) & init_flag::INIT_EXT != 0;
            let flags2 = if extended { args.take::<InitInExt>()?.flags2 } else { 0 };
            Operation::Init { args: init, flags2 }
        }
        opcode::DESTROY => Operation::Destroy,
        opcode::INTERRUPT => Operation::Interrupt { unique: args.take::<InterruptIn>()?.unique },
        opcode::BATCH_FORGET => {
            let batch: BatchForgetIn = args.take()?;
            let size = u32::try_from(size_of::<ForgetOne>()).ok();
            let bytes = size.and_then(|size| batch.count.checked_mul(size));
            let entries = args.bytes(bytes.ok_or_else(|| args.truncated())?)?;
            Operation::BatchForget { entries: Forgets(entries) }
        }
        _ => return Ok(None),
    }))
}

/// Requests about a node and names in it.
fn parse_tree<'a>(args: &mut Args<'a>) -> Result<Operation<'a>, ParseError> {
    Ok(match args.opcode {
        opcode::LOOKUP => Operation::Lookup { name: args.name()? },
        opcode::FORGET => Operation::Forget { nlookup: args.take::<ForgetIn>()?.nlookup },
        opcode::GETATTR => Operation::Getattr(args.take()?),
        opcode::STATX => Operation::Statx(args.take()?),
        opcode::SETATTR => Operation::Setattr(args.take()?),
        opcode::READLINK => Operation::Readlink,
        opcode::SYMLINK => Operation::Symlink { name: args.name()?, target: args.target()? },
        opcode::MKNOD => Operation::Mknod { args: args.take()?, name: args.name()? },
        opcode::MKDIR => Operation::Mkdir { args: args.take()?, name: args.name()? },
        opcode::UNLINK => Operation::Unlink { name: args.name()? },
        opcode::RMDIR => Operation::Rmdir { name: args.name()? },
        opcode::RENAME => {
            let rename: RenameIn = args.take()?;
            let (from, to) = (args.name()?, args.name()?);
            Operation::Rename { newdir: rename.newdir, flags: 0, from, to }
        }
        opcode::RENAME2 => {
            let rename: Rename2In = args.take()?;
            let (from, to) = (args.name()?, args.name()?);
            Operation::Rename { newdir: rename.newdir, flags: rename.flags, from, to }
        }
        opcode::LINK => {
            let link: LinkIn = args.take()?;
            Operation::Link { oldnodeid: link.oldnodeid, name: args.name()? }
        }
        opcode::CREATE => Operation::Create { args: args.take()?, name: args.name()? },
        // The guest sends the name "/", which is not used.
        opcode::TMPFILE => Operation::Tmpfile(args.take()?),
        opcode => Operation::Unsupported { opcode },
    })
}

/// Requests about extended attributes.
fn parse_xattr<'a>(args: &mut Args<'a>, negotiated: u64) -> Result<Operation<'a>, ParseError> {
    Ok(match args.opcode {
        opcode::SETXATTR => {
            let set: SetxattrIn = args.take()?;
            let setxattr_flags = if negotiated & init_flag::SETXATTR_EXT == 0 {
                0
            } else {
                args.take::<SetxattrInExt>()?.setxattr_flags
            };
            let name = args.xattr_name()?;
            let value = args.bytes(set.size)?;
            Operation::Setxattr { name, value, flags: set.flags, setxattr_flags }
        }
        opcode::GETXATTR => {
            let get: GetxattrIn = args.take()?;
            Operation::Getxattr { name: args.xattr_name()?, size: get.size }
        }
        opcode::LISTXATTR => Operation::Listxattr { size: args.take::<GetxattrIn>()?.size },
        opcode::REMOVEXATTR => Operation::Removexattr { name: args.xattr_name()? },
        opcode => Operation::Unsupported { opcode },
    })
}

/// Requests about open files and directories.
fn parse_data<'a>(args: &mut Args<'a>) -> Result<Operation<'a>, ParseError> {
    Ok(match args.opcode {
        opcode::OPEN => Operation::Open(args.take()?),
        opcode::READ => Operation::Read(args.take()?),
        opcode::WRITE => Operation::Write(args.take()?),
        opcode::RELEASE => Operation::Release(args.take()?),
        opcode::FLUSH => Operation::Flush(args.take()?),
        opcode::FSYNC => Operation::Fsync(args.take()?),
        opcode::FALLOCATE => Operation::Fallocate(args.take()?),
        opcode::LSEEK => Operation::Lseek(args.take()?),
        opcode::GETLK => Operation::Getlk(args.take()?),
        opcode::SETLK => Operation::Setlk { args: args.take()?, wait: false },
        opcode::SETLKW => Operation::Setlk { args: args.take()?, wait: true },
        opcode::COPY_FILE_RANGE => Operation::CopyFileRange(args.take()?),
        opcode::OPENDIR => Operation::Opendir(args.take()?),
        opcode::READDIR => Operation::Readdir(args.take()?),
        opcode::READDIRPLUS => Operation::Readdirplus(args.take()?),
        opcode::RELEASEDIR => Operation::Releasedir(args.take()?),
        opcode::FSYNCDIR => Operation::Fsyncdir(args.take()?),
        opcode::STATFS => Operation::Statfs,
        opcode::SYNCFS => Operation::Syncfs,
        opcode::IOCTL => Operation::Ioctl,
        opcode => Operation::Unsupported { opcode },
    })
}

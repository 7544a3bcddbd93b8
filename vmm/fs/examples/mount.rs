//! Serves a directory to this machine's own kernel through /dev/fuse, so that the file server can
//! be tried with real programs where no VM runs. Needs root.
//!
//! `mount DIRECTORY MOUNTPOINT none|auto|always` serves until it is unmounted (`umount
//! MOUNTPOINT`); the directory is `MOUNTPOINT/share`.

use std::error::Error;
use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use file_server::{
    CachePolicy, IdMap, Limits, LockPolicy, Request, Served, Server, ServerConfig, Share,
    ShareKind, Worker,
};
use rustix::mount::{MountFlags, mount};
use vm_memory::VolatileSlice;

/// The largest request or reply: a megabyte of data with its headers.
const BUFFER: usize = (1 << 20) + 4096;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [directory, mountpoint, policy] = args.as_slice() else {
        return Err("usage: mount DIRECTORY MOUNTPOINT none|auto|always".into());
    };
    let cache = match policy.as_str() {
        "none" => CachePolicy::None,
        "auto" => CachePolicy::Auto,
        "always" => CachePolicy::Always,
        other => return Err(format!("{other} is no cache policy").into()),
    };
    let server = Server::new(ServerConfig {
        proc_self_fd: File::open("/proc/self/fd")?.into(),
        limits: Limits::default(),
        uid_map: IdMap::identity(),
        gid_map: IdMap::identity(),
        locks: LockPolicy::Host,
        shares: vec![Share {
            name: "share".to_owned(),
            root: File::open(directory)?.into(),
            kind: ShareKind::Directory,
            read_only: false,
            cache,
            whiteouts: false,
        }],
    })?;
    let device = Arc::new(OpenOptions::new().read(true).write(true).open("/dev/fuse")?);
    let options = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions",
        device.as_raw_fd()
    );
    let options = CString::new(options)?;
    let flags = MountFlags::empty();
    mount("ringfence", Path::new(mountpoint), "fuse.ringfence", flags, Some(options.as_c_str()))?;
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let (server, device) = (Arc::clone(&server), Arc::clone(&device));
            thread::spawn(move || serve(server, &device).map_err(|error| error.to_string()))
        })
        .collect();
    for thread in threads {
        thread.join().map_err(|_| "a worker panicked")??;
    }
    Ok(())
}

/// Answers requests until the file system is unmounted.
fn serve(server: Arc<Server>, mut device: &File) -> Result<(), Box<dyn Error>> {
    let mut worker = Worker::new(server)?;
    let (mut request, mut reply) = (vec![0; BUFFER], vec![0; BUFFER]);
    loop {
        let len = match device.read(&mut request) {
            Ok(len) => len,
            // The request was withdrawn, or a signal came.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Interrupted) => {
                continue;
            }
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let request = request.get_mut(..len).unwrap_or_default();
        let readable = [VolatileSlice::from(request)];
        let writable = [VolatileSlice::from(reply.as_mut_slice())];
        let request = Request { readable: &readable, writable: &writable };
        let len = loop {
            match worker.handle(&request)? {
                Served::Done(len) => break len,
                // Holds this thread, of which there are few; a device does better.
                Served::Waiting => thread::sleep(Duration::from_millis(5)),
            }
        };
        if len != 0
            && let Err(error) = device.write_all(reply.get(..len).unwrap_or_default())
            && error.kind() != ErrorKind::NotFound
        {
            return Err(error.into());
        }
    }
}

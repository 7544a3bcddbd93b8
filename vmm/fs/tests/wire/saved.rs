//! A server that is saved and goes on elsewhere.

use file_server::state::{RestoreError, ServerState};
use file_server::{Server, Session};
use rustix::io::Errno;

use crate::client::{Client, Fixture, c_string, config, share};
use file_server::wire::{init_flag, opcode};

/// A fixture with a nested file open, and its state.
fn saved() -> (Fixture, ServerState, [u64; 4]) {
    let mut f = Fixture::new();
    std::fs::create_dir_all(f.path.join("a/b")).unwrap();
    f.put("a/b/c", b"content");
    let dir = f.client.walk(f.root, "a/b").unwrap();
    let file = f.client.lookup(dir, "c").unwrap().nodeid;
    let fh = f.client.open(file, libc::O_RDWR | libc::O_TRUNC).unwrap().fh;
    f.client.write(file, fh, 0, b"content").unwrap();
    let dh = f.client.opendir(dir).unwrap();
    let state = f.client.server.save();
    (f, state, [dir, file, fh, dh])
}

fn restore(f: &Fixture, state: &ServerState) -> Result<(Client, usize, usize), RestoreError> {
    let (server, lost) = Server::restore(config(vec![share("s", &f.path)]), state)?;
    Ok((Client::raw(&server), lost.inodes, lost.handles))
}

#[test]
fn goes_on_with_the_same_nodes_and_handles() {
    let (mut f, state, [dir, file, fh, dh]) = saved();
    let (mut client, inodes, handles) = restore(&f, &state).unwrap();
    assert_eq!((inodes, handles), (0, 0));
    assert_eq!(client.server.save(), state);
    assert_eq!(client.read(file, fh, 0, 20).unwrap(), b"content");
    client.write(file, fh, 0, b"C").unwrap();
    assert_eq!(f.client.read(file, fh, 0, 20).unwrap(), b"Content");
    assert_eq!(client.lookup(dir, "c").unwrap().nodeid, file);
    assert_eq!(client.readdir(dir, dh, 0, 4096, false).unwrap().len(), 3);
    // New ids do not collide with old ones, and lookups are counted on.
    f.put("new", b"");
    let new = client.lookup(f.root, "new").unwrap().nodeid;
    assert!(state.inodes.iter().all(|inode| inode.id != new));
    client.forget(file, 1);
    assert!(client.getattr(file).is_ok());
    client.forget(file, 1);
    assert_eq!(client.getattr(file), Err(Errno::STALE));
}

#[test]
fn loses_only_what_is_not_there_any_more() {
    let (mut f, _, [dir, file, fh, _]) = saved();
    let (gone, open) = f.client.create(f.root, "gone", libc::O_RDWR, 0o644).unwrap();
    f.client.done(opcode::UNLINK, f.root, &[&c_string("gone")]).unwrap();
    let state = f.client.server.save();
    let unlinked = state.inodes.iter().find(|inode| inode.id == gone.nodeid).unwrap();
    assert_eq!(unlinked.path, None);
    // And one that the host replaces by another kind of file.
    std::fs::remove_file(f.path.join("a/b/c")).unwrap();
    std::fs::create_dir(f.path.join("a/b/c")).unwrap();
    let (mut client, inodes, handles) = restore(&f, &state).unwrap();
    assert_eq!((inodes, handles), (2, 2));
    assert_eq!(client.getattr(gone.nodeid), Err(Errno::STALE));
    assert_eq!(client.getattr(file), Err(Errno::STALE));
    for fh in [open.fh, fh] {
        assert_eq!(client.read(file, fh, 0, 1), Err(Errno::BADF));
    }
    assert!(client.getattr(dir).is_ok());
}

#[test]
fn opens_saved_paths_beneath_their_share_only() {
    let (f, state, [_, file, ..]) = saved();
    std::fs::write(f.outside().join("secret"), "secret").unwrap();
    std::os::unix::fs::symlink("../secret", f.path.join("link")).unwrap();
    std::os::unix::fs::symlink("a", f.path.join("dir")).unwrap();
    for path in ["../secret", "a/../../secret", "/etc/passwd", "link", "dir/b/c", "a\0b"] {
        let mut state = state.clone();
        let saved = state.inodes.iter_mut().find(|inode| inode.id == file).unwrap();
        saved.path = Some(path.as_bytes().to_vec());
        let (mut client, inodes, handles) = restore(&f, &state).unwrap();
        assert_eq!((inodes, handles), (1, 1), "{path}");
        assert_eq!(client.getattr(file), Err(Errno::STALE));
    }
}

#[test]
fn refuses_states_that_contradict_themselves() {
    let (f, state, _) = saved();
    let refused = |change: &dyn Fn(&mut ServerState)| {
        let mut state = state.clone();
        change(&mut state);
        restore(&f, &state).err().expect("the state is refused")
    };
    let id = |error| matches!(error, RestoreError::Id { .. });
    assert!(matches!(refused(&|s| s.version = 1), RestoreError::Version { found: 1 }));
    let session = |minor, features| Some(Session { minor, features });
    let features = state.session.unwrap().features;
    let without_locks = features & !init_flag::POSIX_LOCKS;
    for bad in
        [session(41, u64::MAX), session(41, 0), session(1, features), session(41, without_locks)]
    {
        assert!(matches!(refused(&|s| s.session = bad), RestoreError::Session(_)));
    }
    assert!(id(refused(&|s| s.inodes[0].id = 1)));
    assert!(id(refused(&|s| s.inodes[0].id = s.inodes[1].id)));
    assert!(id(refused(&|s| s.next_inode = s.inodes[1].id)));
    assert!(id(refused(&|s| s.handles[0].id = 0)));
    assert!(id(refused(&|s| s.handles[0].id = s.handles[1].id)));
    assert!(id(refused(&|s| s.next_handle = 1)));
    assert!(matches!(refused(&|s| s.handles[0].inode = 999), RestoreError::NoInode { .. }));
    let mut config = config(vec![share("s", &f.path)]);
    config.limits.max_inodes = 1;
    let limits = Server::restore(config, &state).err();
    assert!(matches!(limits, Some(RestoreError::Limits { .. })));
}

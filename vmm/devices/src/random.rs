//! The host kernel's random bytes, straight into guest memory.
#![expect(unsafe_code, reason = "getrandom writes to guest memory through a raw pointer")]

use std::io;

use vm_memory::VolatileSlice;

/// Fills `slice`.
///
/// # Errors
/// The kernel refused; part of the slice may have been written.
pub(crate) fn fill(slice: &VolatileSlice<'_>) -> io::Result<()> {
    let mut done = 0;
    while done < slice.len() {
        let rest = slice.offset(done).map_err(io::Error::other)?;
        let guard = rest.ptr_guard_mut();
        // SAFETY: `guard` keeps `rest.len()` bytes of guest memory mapped and writable while it
        // lives; vm-memory vouches for that, and that nothing in Rust borrows them. The kernel
        // writes no more than that.
        let count = unsafe { libc::getrandom(guard.as_ptr().cast(), rest.len(), 0) };
        match usize::try_from(count) {
            Ok(count) => done = done.saturating_add(count),
            // Before the pool is ready a signal can interrupt the wait; afterwards large requests.
            Err(_) if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => (),
            Err(_) => return Err(io::Error::last_os_error()),
        }
    }
    Ok(())
}

//! FIFOs, as a caller of a shim has them.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat, open};

use crate::shim::wait_for;

/// Makes a FIFO.
pub(crate) fn fifo(path: &Path) {
    mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("it can be made");
}

/// Opens a FIFO for writing, with nobody at its other end.
pub(crate) fn writer(path: &Path) -> File {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    File::from(open(path, flags, Mode::empty()).expect("it can be opened"))
}

#[derive(Default)]
struct Taken {
    bytes: Vec<u8>,
    ended: bool,
}

/// Takes all that is written to a FIFO.
pub(crate) struct Reader {
    pub(crate) path: PathBuf,
    taken: Arc<Mutex<Taken>>,
}

impl Reader {
    /// Makes the FIFO.
    pub(crate) fn new(path: PathBuf) -> Self {
        fifo(&path);
        let taken = Arc::new(Mutex::new(Taken::default()));
        let (shared, from) = (Arc::clone(&taken), path.clone());
        // It waits for a writer, and may do so to the end of the test.
        std::thread::spawn(move || take(&from, &shared));
        Self { path, taken }
    }

    fn look<T>(&self, look: impl FnOnce(&Taken) -> T) -> T {
        look(&self.taken.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What has come so far.
    pub(crate) fn so_far(&self) -> String {
        self.look(|taken| String::from_utf8_lossy(&taken.bytes).into_owned())
    }

    /// Waits for this text.
    #[track_caller]
    pub(crate) fn wait_for(&self, text: &str) -> String {
        wait_for(&format!("{text:?} from {}", self.path.display()), || {
            self.so_far().contains(text)
        });
        self.so_far()
    }

    /// Waits until all writers have gone; returns everything.
    #[track_caller]
    pub(crate) fn whole(&self) -> Vec<u8> {
        wait_for(&format!("the end of {}", self.path.display()), || self.look(|taken| taken.ended));
        self.look(|taken| taken.bytes.clone())
    }
}

fn take(from: &Path, shared: &Mutex<Taken>) {
    let Ok(mut fifo) = File::open(from) else { return };
    let mut piece = vec![0; 64 << 10];
    loop {
        let count = fifo.read(&mut piece).unwrap_or(0);
        let mut taken = shared.lock().unwrap_or_else(PoisonError::into_inner);
        taken.bytes.extend_from_slice(&piece[..count]);
        if count == 0 {
            taken.ended = true;
            return;
        }
    }
}

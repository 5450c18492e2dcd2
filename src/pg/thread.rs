//! A thread beside the one thread of a server process, for input and output that may hang. It must touch nothing of the
//! server's: no memory context, no setting, no report, nothing that is local to the process. Called by background processes.

use std::thread::{Builder, JoinHandle};

/// Starts it. Signals go on to the server's thread, whose handlers expect to run there.
pub fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> std::io::Result<JoinHandle<()>> {
    // SAFETY: both sets are initialised before they are read; a new thread begins with the mask of the one that starts it,
    // which gets its own back.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        let mut before: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
        let started = Builder::new().name(name.to_owned()).spawn(body);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut());
        started
    }
}

//! CPU time of this process. Locks nothing.

/// CPU time that the calling thread has used, in microseconds; 0 where the system does not say.
pub fn used_us() -> i64 {
    let mut time = std::mem::MaybeUninit::<libc::timespec>::uninit();
    // SAFETY: `time` has room for the result and is read only where the call says it was filled.
    let time = unsafe {
        if libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, time.as_mut_ptr()) != 0 {
            return 0;
        }
        time.assume_init()
    };
    time.tv_sec.saturating_mul(1_000_000).saturating_add(time.tv_nsec / 1_000)
}

//! State that belongs to one process. A backend is single-threaded, so what `static mut` would be elsewhere is a
//! [`ProcessLocal`] here, handed out as a raw pointer so that hooks that nest never hold two references to it.

use core::cell::UnsafeCell;
use pgrx::guc::{GucSetting, GucValue};

/// A value private to this process; forked children start with the parent's value.
pub struct ProcessLocal<T>(UnsafeCell<T>);

// SAFETY: server processes run one thread; perf_opt starts none.
unsafe impl<T> Sync for ProcessLocal<T> {}

impl<T> ProcessLocal<T> {
    pub const fn new(value: T) -> Self {
        ProcessLocal(UnsafeCell::new(value))
    }

    /// A pointer that is valid for the life of the process.
    #[inline(always)]
    pub const fn as_ptr(&self) -> *mut T {
        self.0.get()
    }
}

impl<T: Copy> ProcessLocal<T> {
    #[inline(always)]
    pub fn get(&self) -> T {
        // SAFETY: the pointer is valid and no other thread exists that could write meanwhile.
        unsafe { *self.0.get() }
    }

    #[inline(always)]
    pub fn set(&self, value: T) {
        // SAFETY: as in `get`.
        unsafe { *self.0.get() = value }
    }
}

/// A setting's value, for hooks: `GucSetting::get` checks first which thread it is on.
#[inline(always)]
pub fn setting_now<T: GucValue>(setting: &GucSetting<T>) -> T::Raw {
    // SAFETY: the pointer is to the setting's own cell, and server processes run one thread.
    unsafe { *setting.as_ptr() }
}

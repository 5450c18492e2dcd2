//! A ring of fixed slots in shared memory: the newest records are kept. Owned by whoever keeps records in it.
//!
//! No lock: a writer takes a ticket and with it a slot, and marks the slot's sequence word odd while it writes. Should
//! the ring have come round to a slot still being written, the newcomer is dropped. A reader copies a slot and keeps the
//! copy only if the sequence word did not change meanwhile.

use core::mem::MaybeUninit;
use core::sync::atomic::{fence, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long a reader waits for a slot that is being written.
const PATIENCE: Duration = Duration::from_millis(20);
const HEAD: usize = 64;

#[repr(C)]
struct Slot<T> {
    /// 0 never written; 2 * ticket + 1 being written; 2 * ticket + 2 written; one more ticket's: forgotten.
    sequence: AtomicU64,
    record: T,
}

/// Where a ring is. Records are plain numbers and bytes.
pub struct Ring<T> {
    tickets: *const AtomicU64,
    slots: *mut Slot<T>,
    /// At least 2.
    count: usize,
}

impl<T> Clone for Ring<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Ring<T> {}

impl<T: Copy> Ring<T> {
    pub fn bytes(count: usize) -> usize {
        (HEAD + count * size_of::<Slot<T>>()).next_multiple_of(64)
    }

    /// # Safety
    /// `base` has [`bytes`](Self::bytes) bytes, aligned to 64 and zero before the first use; `count` is at least 2.
    pub unsafe fn at(base: *mut u8, count: usize) -> Ring<T> {
        // SAFETY: the slots follow the head inside the area.
        Ring { tickets: base.cast(), slots: unsafe { base.add(HEAD) }.cast(), count }
    }

    fn tickets(&self) -> &AtomicU64 {
        // SAFETY: shared memory lives for ever; only accessed as an atomic.
        unsafe { &*self.tickets }
    }

    fn slot(&self, ticket: u64) -> *mut Slot<T> {
        // SAFETY: below the number of slots.
        unsafe { self.slots.add((ticket % self.count as u64) as usize) }
    }

    /// Keeps a record; false when it had to be dropped.
    pub fn push(&self, record: &T) -> bool {
        let ticket = self.tickets().fetch_add(1, Ordering::Relaxed);
        let slot = self.slot(ticket);
        // SAFETY: an atomic in shared memory.
        let sequence = unsafe { &(*slot).sequence };
        let before = sequence.load(Ordering::Relaxed);
        let free = before % 2 == 0 && before < 2 * ticket + 1;
        if !free || sequence.compare_exchange(before, 2 * ticket + 1, Ordering::Acquire, Ordering::Relaxed).is_err() {
            return false;
        }
        fence(Ordering::Release);
        // SAFETY: the odd sequence word makes this process the only writer; readers notice and discard what they copied.
        unsafe { core::ptr::copy_nonoverlapping(record, &raw mut (*slot).record, 1) };
        sequence.store(2 * ticket + 2, Ordering::Release);
        true
    }

    /// Records pushed since the server started, dropped ones included.
    pub fn pushed(&self) -> u64 {
        self.tickets().load(Ordering::Acquire)
    }

    /// Shows `each` the records that came after number `after`, with their numbers from 1, and returns the newest number
    /// given out. Numbers left out are lost: pushed out, dropped, forgotten, or still being written.
    pub fn read(&self, after: u64, mut each: impl FnMut(u64, &T)) -> u64 {
        let newest = self.pushed();
        let first = after.max(newest.saturating_sub(self.count as u64)).min(newest);
        let mut copy: Box<MaybeUninit<T>> = Box::new(MaybeUninit::uninit());
        for ticket in first..newest {
            if self.copy(ticket, &mut copy) {
                // SAFETY: just copied in full.
                each(ticket + 1, unsafe { copy.assume_init_ref() });
            }
        }
        newest
    }

    /// Copies a ticket's record; false when it is not there (any more).
    fn copy(&self, ticket: u64, to: &mut MaybeUninit<T>) -> bool {
        let slot = self.slot(ticket);
        // SAFETY: an atomic in shared memory.
        let sequence = unsafe { &(*slot).sequence };
        let before = written(sequence, ticket);
        // SAFETY: the slot may be overwritten while it is copied; a record is plain numbers and bytes, and the copy is
        // used only if the sequence word shows that it was not.
        unsafe { core::ptr::copy_nonoverlapping(&raw const (*slot).record, to.as_mut_ptr(), 1) };
        fence(Ordering::Acquire);
        before == 2 * ticket + 2 && sequence.load(Ordering::Relaxed) == before
    }

    /// Forgets the records that `unwanted` picks of those that are there.
    pub fn forget(&self, unwanted: impl Fn(&T) -> bool) {
        self.read(0, |number, record| {
            if unwanted(record) {
                // SAFETY: an atomic in shared memory. Should the slot have been taken again, nothing is done.
                let sequence = unsafe { &(*self.slot(number - 1)).sequence };
                let _ = sequence.compare_exchange(2 * number, 2 * number + 2, Ordering::AcqRel, Ordering::Relaxed);
            }
        });
    }
}

/// The sequence word of a slot once the ticket's writer is through. Writers copy a few kilobytes and cannot be held up
/// but by the scheduler: a ticket that is not through after a moment was dropped.
fn written(sequence: &AtomicU64, ticket: u64) -> u64 {
    let give_up = Instant::now() + PATIENCE;
    loop {
        let now = sequence.load(Ordering::Acquire);
        if now >= 2 * ticket + 2 || Instant::now() >= give_up {
            return now;
        }
        std::thread::yield_now();
    }
}

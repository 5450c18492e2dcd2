//! The arena for query texts and samples: blocks of 256 bytes in chains. No chain is ever compacted or moved, and one
//! block is as good as another, so there is nothing to fragment. Free blocks are a lock-free list; a chain in use is
//! guarded by the lock of the partition whose entry it belongs to.

use super::{FreeList, Header, Memory, NONE};
use core::sync::atomic::{AtomicU32, Ordering};

const PAYLOAD: usize = 252;
/// Blocks a statement has on average: one for a text of usual length, the rest for its samples.
const BLOCKS_PER_STATEMENT: usize = 6;

#[repr(C)]
pub struct Block {
    next: AtomicU32,
    bytes: [u8; PAYLOAD],
}

/// Where the blocks are.
#[derive(Clone, Copy)]
pub struct Arena {
    base: *mut Block,
    pub blocks: usize,
}

/// Bytes in the arena: first block (number + 1, or NONE) and length.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Chain {
    head: u32,
    pub len: u32,
}

impl Arena {
    fn count(statements: usize) -> usize {
        statements * BLOCKS_PER_STATEMENT
    }

    pub fn bytes(statements: usize) -> usize {
        Self::count(statements) * size_of::<Block>()
    }

    /// # Safety
    /// `base` has [`bytes`](Self::bytes) bytes, aligned for `Block`.
    pub unsafe fn at(base: *mut u8, statements: usize) -> Arena {
        Arena { base: base.cast(), blocks: Self::count(statements) }
    }

    pub fn init(&self, header: &Header) {
        for block in (0..self.blocks as u32).rev() {
            self.list(header).push(block);
        }
        header.blocks_free.store(self.blocks as u32, Ordering::Relaxed);
    }

    fn list<'a>(&'a self, header: &'a Header) -> FreeList<'a, impl Fn(u32) -> &'a AtomicU32> {
        FreeList { head: &header.free_blocks, next: move |block| &self.block(block).next }
    }

    fn block(&self, number: u32) -> &'static Block {
        // SAFETY: block numbers come from the free list or a chain, both of which hold only numbers below `blocks`.
        unsafe { &*self.base.add(number as usize) }
    }
}

/// Stores `bytes`; when the arena runs out, what fitted (perhaps nothing) is stored.
pub fn store(memory: &Memory, bytes: &[u8]) -> Chain {
    let header = memory.header();
    let list = memory.text.list(header);
    let mut chain = Chain::default();
    let mut last: Option<u32> = None;
    for piece in bytes.chunks(PAYLOAD) {
        let Some(block) = list.pop() else {
            header.texts_cut.fetch_add(1, Ordering::Relaxed);
            break;
        };
        header.blocks_free.fetch_sub(1, Ordering::Relaxed);
        let target = memory.text.block(block);
        target.next.store(NONE, Ordering::Relaxed);
        // SAFETY: the block was just taken from the free list, so no other process reads or writes its bytes.
        unsafe {
            core::ptr::copy_nonoverlapping(piece.as_ptr(), target.bytes.as_ptr().cast_mut(), piece.len());
        }
        match last {
            None => chain.head = block + 1,
            Some(last) => memory.text.block(last).next.store(block + 1, Ordering::Relaxed),
        }
        last = Some(block);
        chain.len += piece.len() as u32;
    }
    chain
}

/// Gives the blocks of a chain back. The caller holds the lock of the chain's partition exclusively.
pub fn free(memory: &Memory, chain: &mut Chain) {
    let header = memory.header();
    let list = memory.text.list(header);
    let mut link = chain.head;
    while let Some(block) = link.checked_sub(1) {
        link = memory.text.block(block).next.load(Ordering::Relaxed);
        list.push(block);
        header.blocks_free.fetch_add(1, Ordering::Relaxed);
    }
    *chain = Chain::default();
}

/// Appends a chain's bytes to `out`. The caller holds the lock of the chain's partition.
pub fn read(memory: &Memory, chain: Chain, out: &mut Vec<u8>) {
    let mut left = chain.len as usize;
    let mut link = chain.head;
    while let Some(block) = link.checked_sub(1) {
        let block = memory.text.block(block);
        let take = left.min(PAYLOAD);
        out.extend_from_slice(&block.bytes[..take]);
        left -= take;
        if left == 0 {
            return;
        }
        link = block.next.load(Ordering::Relaxed);
    }
}

/// Samples are taken only while a good part of the arena is free: texts go first.
pub fn has_room_for_samples(memory: &Memory) -> bool {
    memory.header().blocks_free.load(Ordering::Relaxed) as usize * 4 > memory.text.blocks
}

//! The advisors: from what was measured to what should change.

pub mod index;

//! What runs by itself: the launcher.

pub mod launcher;

//! What runs by itself: the launcher, and the jobs: a scheduler where there are some, a worker for each run.

pub mod board;
pub mod change;
pub mod define;
pub mod executor;
pub mod jobs;
pub mod launcher;
pub mod requests;
pub mod runner;
pub mod runs;
pub mod scheduler;
pub mod tasks;

//! A pipe whose other end is compressed into a file by a thread of its own: what the server writes to the pipe, as if
//! it were a file of its own, never takes more memory than the pipe. Called by the job that archives partitions. The
//! thread calls nothing of the server's, and gets none of its signals. Locks nothing.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use sha2::{Digest, Sha256};

/// Bytes read at once.
const CHUNK: usize = 1 << 16;
/// What zstd itself takes for the best trade.
const LEVEL: i32 = 3;

/// What was written, or read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// Records of CSV, the header among them.
    pub records: u64,
    /// Before compression.
    pub bytes: u64,
    /// Of them, in hexadecimal digits.
    pub sha256: String,
}

/// Counts and hashes what comes along.
#[derive(Default)]
struct Meter {
    records: u64,
    bytes: u64,
    is_quoted: bool,
    hash: Sha256,
}

impl Meter {
    fn add(&mut self, chunk: &[u8]) {
        self.bytes += chunk.len() as u64;
        self.hash.update(chunk);
        for byte in chunk {
            match byte {
                // A doubled quote ends and begins.
                b'"' => self.is_quoted = !self.is_quoted,
                b'\n' if !self.is_quoted => self.records += 1,
                _ => {}
            }
        }
    }

    fn content(self) -> Content {
        let sha256 = self.hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Content { records: self.records, bytes: self.bytes, sha256 }
    }
}

/// A pipe into a file.
pub struct Sink {
    path: PathBuf,
    writer: io::PipeWriter,
    thread: JoinHandle<io::Result<Content>>,
}

impl Sink {
    /// Makes the file, in place of one that has its name, for the server's user alone.
    pub fn start(path: &Path) -> io::Result<Sink> {
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        let (reader, writer) = io::pipe()?;
        let thread = without_signals(|| {
            std::thread::Builder::new().name("perf_opt archive".to_owned()).spawn(move || compress(reader, file))
        })?;
        Ok(Sink { path: path.to_owned(), writer, thread })
    }

    /// What this process opens to write to it.
    pub fn target(&self) -> String {
        format!("/dev/fd/{}", self.writer.as_raw_fd())
    }

    /// Waits until all is on the disk. To be called when nobody has the target open any more.
    pub fn finish(self) -> io::Result<Content> {
        drop(self.writer);
        let ended = self.thread.join().map_err(|_| io::Error::other("the thread that compresses has failed"))?;
        if ended.is_err() {
            // What there is of it is of no use to anybody.
            let _ = std::fs::remove_file(&self.path);
        }
        ended
    }
}

fn compress(mut from: io::PipeReader, file: File) -> io::Result<Content> {
    let mut encoder = zstd::Encoder::new(file, LEVEL)?;
    encoder.include_checksum(true)?;
    let mut meter = Meter::default();
    let mut chunk = vec![0u8; CHUNK];
    loop {
        let read = match from.read(&mut chunk) {
            Ok(0) => break,
            Ok(read) => &chunk[..read],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        meter.add(read);
        encoder.write_all(read)?;
    }
    encoder.finish()?.sync_all()?;
    Ok(meter.content())
}

/// Reads a file back. `each` is called again and again in between.
pub fn read_back(path: &Path, mut each: impl FnMut()) -> io::Result<Content> {
    let mut decoder = zstd::Decoder::with_buffer(BufReader::with_capacity(CHUNK, File::open(path)?))?;
    let mut meter = Meter::default();
    let mut chunk = vec![0u8; CHUNK];
    loop {
        each();
        match decoder.read(&mut chunk)? {
            0 => return Ok(meter.content()),
            read => meter.add(&chunk[..read]),
        }
    }
}

/// Makes a rename in a directory last.
pub fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Runs `body`, whose threads inherit that they get no signal: the server's handlers are for its own thread.
fn without_signals<T>(body: impl FnOnce() -> T) -> T {
    // SAFETY: both sets live through the calls, and the mask of this thread is put back as it was.
    unsafe {
        let (mut all, mut before) = (std::mem::zeroed::<libc::sigset_t>(), std::mem::zeroed::<libc::sigset_t>());
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
        let value = body();
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut());
        value
    }
}

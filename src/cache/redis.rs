//! Invalidation in Redis. Owns the connection, in a thread of its own that touches nothing of the server's, so that a Redis
//! that does not answer keeps nobody waiting. Called by the invalidator, which gives it one order at a time and is woken by
//! the answer. Locks nothing.
//!
//! Clients keep a value under its key, a lease under `key:lease` while they compute it, and in the set `tag:name` the keys
//! that are to go with a tag. An invalidation removes value and lease at once, so that what was computed before is not put.

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{channel, Receiver, Sender, TryRecvError};
use std::time::Duration;

use perf_core::cache::invalid::{glob, Invalid};
use redis::{Client, Connection, ConnectionLike, RedisError, Value};

use crate::pg::thread;

/// To connect, and for each answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// Keys in one command.
const KEYS_AT_ONCE: usize = 500;
/// Keys that Redis looks at between two other commands while it searches.
const SCAN_COUNT: usize = 1_000;
const LEASE: &str = ":lease";
const TAG: &str = "tag:";

/// Removes the members of a tag with their leases, and the tag: nobody can add a key in between that would be lost.
const REMOVE_TAG: &str = "local keys = redis.call('SMEMBERS', KEYS[1])
for i = 1, #keys do redis.call(ARGV[1], keys[i], keys[i] .. ARGV[2]) end
redis.call(ARGV[1], KEYS[1])
return #keys";

/// Where Redis is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Address {
    /// redis:// or rediss://, with user, password and number of the database.
    pub url: String,
    /// File with the certificates to trust; empty: those of the machine.
    pub ca_file: String,
}

struct Order {
    address: Address,
    invalid: Invalid,
    counts: bool,
}

/// What came of an order.
pub struct Answer {
    /// What went wrong.
    pub problem: Option<String>,
    /// What Redis refuses to do for one thing, whatever else it does: how many things, and why.
    pub refused: (u64, String),
    /// Hits and misses of the whole Redis since it was started, if they were asked for.
    pub counts: Option<(u64, u64)>,
}

/// The thread, as the invalidator sees it.
pub struct Redis {
    orders: Sender<Order>,
    answers: Receiver<Answer>,
    /// Can be read when there is an answer.
    bell: UnixStream,
}

impl Redis {
    /// Starts the thread.
    pub fn start() -> Result<Redis, String> {
        let (orders, received) = channel();
        let (answer, answers) = channel();
        let (bell, ringer) = UnixStream::pair().map_err(|problem| problem.to_string())?;
        bell.set_nonblocking(true).map_err(|problem| problem.to_string())?;
        ringer.set_nonblocking(true).map_err(|problem| problem.to_string())?;
        thread::spawn("perf_opt redis", move || work(&received, &answer, ringer))
            .map_err(|problem| problem.to_string())?;
        Ok(Redis { orders, answers, bell })
    }

    /// What to wait for.
    pub fn descriptor(&self) -> i32 {
        self.bell.as_raw_fd()
    }

    /// Has it done; the answer comes later. False when the thread is gone.
    pub fn order(&self, address: &Address, invalid: Invalid, counts: bool) -> bool {
        self.orders.send(Order { address: address.clone(), invalid, counts }).is_ok()
    }

    /// The answer to the latest order, if there is one: `Err` when none will ever come.
    pub fn answer(&mut self) -> Result<Option<Answer>, ()> {
        let mut rung = [0; 16];
        while matches!(self.bell.read(&mut rung), Ok(1..)) {}
        match self.answers.try_recv() {
            Ok(answer) => Ok(Some(answer)),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(()),
        }
    }
}

fn work(orders: &Receiver<Order>, answers: &Sender<Answer>, mut ringer: UnixStream) {
    // Fails only when it was done before.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut server: Option<(Address, Server)> = None;
    while let Ok(order) = orders.recv() {
        let connected = match server.take() {
            Some((address, server)) if address == order.address => Ok(server),
            _ => Server::connect(&order.address),
        };
        let outcome = connected.and_then(|mut server| {
            server.refused = (0, String::new());
            server.carry_out(&order.invalid)?;
            let counts = if order.counts { Some(server.counts()?) } else { None };
            let refused = std::mem::take(&mut server.refused);
            Ok((server, counts, refused))
        });
        let answer = match outcome {
            Ok((kept, counts, refused)) => {
                server = Some((order.address, kept));
                Answer { problem: None, refused, counts }
            }
            Err(problem) => Answer { problem: Some(describe(&problem)), refused: (0, String::new()), counts: None },
        };
        if answers.send(answer).is_err() {
            return;
        }
        // Full: it has not been heard, and will be.
        let _ = ringer.write(&[1]);
    }
}

/// What went wrong; never with what the address says of a password.
fn describe(problem: &RedisError) -> String {
    if problem.is_timeout() {
        return "no answer within a second".to_owned();
    }
    problem.to_string().chars().filter(|char| !char.is_control()).take(200).collect()
}

struct Server {
    connection: Connection,
    /// UNLINK, or DEL for a Redis before 4.0.
    remove: &'static str,
    /// As in [`Answer`].
    refused: (u64, String),
}

/// Whether Redis says no to one thing and may do the next: what it was asked for has another type there, or is not allowed.
/// A Redis that cannot do anything now is tried again.
fn is_refusal(problem: &RedisError) -> bool {
    const NOT_NOW: [&str; 13] = [
        "LOADING",
        "BUSY",
        "READONLY",
        "MASTERDOWN",
        "MISCONF",
        "NOAUTH",
        "WRONGPASS",
        "NOREPLICAS",
        "OOM",
        "CLUSTERDOWN",
        "TRYAGAIN",
        "MOVED",
        "ASK",
    ];
    problem.code().is_some_and(|code| !NOT_NOW.contains(&code))
}

impl Server {
    fn connect(address: &Address) -> Result<Server, RedisError> {
        let client = if address.ca_file.is_empty() {
            Client::open(address.url.as_str())?
        } else {
            let root_cert = Some(std::fs::read(&address.ca_file)?);
            Client::build_with_tls(address.url.as_str(), redis::TlsCertificates { client_tls: None, root_cert })?
        };
        let mut connection = client.get_connection_with_timeout(PATIENCE)?;
        connection.set_read_timeout(Some(PATIENCE))?;
        connection.set_write_timeout(Some(PATIENCE))?;
        let unlink: Value =
            redis::cmd("COMMAND").arg("INFO").arg("UNLINK").query(&mut connection).unwrap_or(Value::Nil);
        let knows = matches!(&unlink, Value::Array(found) if found.iter().any(|one| matches!(one, Value::Array(_))));
        // One that may not be asked is not an old one.
        let remove = if knows || unlink == Value::Nil { "UNLINK" } else { "DEL" };
        Ok(Server { connection, remove, refused: (0, String::new()) })
    }

    fn carry_out(&mut self, invalid: &Invalid) -> Result<(), RedisError> {
        let keys: Vec<&String> = invalid.keys.iter().collect();
        for some in keys.chunks(KEYS_AT_ONCE) {
            self.unlink(
                some.iter().flat_map(|key| [key.as_bytes().to_vec(), format!("{key}{LEASE}").into_bytes()]).collect(),
            )?;
        }
        // Twice: a value that a lease has let in behind the first search, before the search came to the lease, is found by the
        // second, and there is no lease of before any more.
        for prefix in invalid.prefixes.iter().chain(&invalid.prefixes) {
            self.for_all(&glob(prefix), Server::unlink)?;
        }
        for tag in &invalid.tags {
            self.remove_tag(format!("{TAG}{tag}").as_bytes())?;
        }
        for prefix in invalid.tag_prefixes.iter().chain(&invalid.tag_prefixes) {
            self.for_all(&glob(&format!("{TAG}{prefix}")), |server, tags| {
                tags.iter().try_for_each(|tag| server.remove_tag(tag))
            })?;
        }
        if !self.connection.check_connection() {
            return Err(std::io::Error::other("the connection was lost").into());
        }
        Ok(())
    }

    /// Does something to all keys that match a pattern, in portions; those that are there from the beginning to the end are
    /// all among them.
    fn for_all(
        &mut self,
        pattern: &str,
        act: impl Fn(&mut Server, Vec<Vec<u8>>) -> Result<(), RedisError>,
    ) -> Result<(), RedisError> {
        let mut cursor: u64 = 0;
        loop {
            let mut command = redis::cmd("SCAN");
            command.arg(cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(SCAN_COUNT);
            let (next, keys): (u64, Vec<Vec<u8>>) = match command.query(&mut self.connection) {
                Ok(found) => found,
                Err(problem) => return self.settle(Err(problem)),
            };
            if !keys.is_empty() {
                act(self, keys)?;
            }
            if next == 0 {
                return Ok(());
            }
            cursor = next;
        }
    }

    /// Goes on after a refusal, and remembers it.
    fn settle(&mut self, outcome: Result<Value, RedisError>) -> Result<(), RedisError> {
        match outcome {
            Err(problem) if is_refusal(&problem) => {
                self.refused = (self.refused.0 + 1, describe(&problem));
                Ok(())
            }
            outcome => outcome.map(|_| ()),
        }
    }

    /// Removes keys: one by one where all of them together are refused.
    fn unlink(&mut self, keys: Vec<Vec<u8>>) -> Result<(), RedisError> {
        match redis::cmd(self.remove).arg(&keys).query::<Value>(&mut self.connection) {
            Err(problem) if keys.len() > 1 && is_refusal(&problem) => keys.into_iter().try_for_each(|key| {
                let outcome = redis::cmd(self.remove).arg(key).query(&mut self.connection);
                self.settle(outcome)
            }),
            outcome => self.settle(outcome),
        }
    }

    fn remove_tag(&mut self, tag: &[u8]) -> Result<(), RedisError> {
        let mut command = redis::cmd("EVAL");
        command.arg(REMOVE_TAG).arg(1).arg(tag).arg(self.remove).arg(LEASE);
        let outcome = command.query(&mut self.connection);
        self.settle(outcome)
    }

    fn counts(&mut self) -> Result<(u64, u64), RedisError> {
        let info: String = redis::cmd("INFO").arg("stats").query(&mut self.connection)?;
        let number = |name: &str| {
            let found = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            found.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
        };
        Ok((number("keyspace_hits"), number("keyspace_misses")))
    }
}

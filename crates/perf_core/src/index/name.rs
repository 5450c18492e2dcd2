//! Names and ids of recommended indexes: deterministic, so that the same advice has the same id tomorrow.

/// Longest identifier that the server keeps (`NAMEDATALEN - 1` bytes).
pub const NAME_BYTES_MAX: usize = 63;

/// `relation_column_column_idx`, shortened at a character boundary with a hash of what was cut, and numbered until
/// `is_used` says no. Always under 63 bytes, whatever the names are.
pub fn index_name(relation: &str, columns: &[String], is_used: impl Fn(&str) -> bool) -> String {
    let mut base = relation.to_owned();
    for column in columns {
        base.push('_');
        base.push_str(column);
    }
    for attempt in 1u32.. {
        let suffix = if attempt == 1 { "_idx".to_owned() } else { format!("_idx{attempt}") };
        let name = format!("{}{suffix}", shortened(&base, NAME_BYTES_MAX - 1 - suffix.len()));
        if !is_used(&name) {
            return name;
        }
    }
    unreachable_name()
}

/// Only reached after 2^32 collisions.
fn unreachable_name() -> String {
    "perf_opt_idx".to_owned()
}

fn shortened(base: &str, bytes_max: usize) -> String {
    if base.len() <= bytes_max {
        return base.to_owned();
    }
    let hash = format!("_{:08x}", fnv1a(base.as_bytes()) as u32);
    let mut end = bytes_max - hash.len();
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{hash}", &base[..end])
}

/// A stable id of one piece of advice: hash of its parts, separated so that ("a", "bc") differs from ("ab", "c").
pub fn stable_id(parts: &[&str]) -> String {
    let mut bytes = Vec::new();
    for part in parts {
        bytes.extend_from_slice(&(part.len() as u64).to_le_bytes());
        bytes.extend_from_slice(part.as_bytes());
    }
    format!("idx-{:016x}", fnv1a(&bytes))
}

fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn plain_name() {
        let columns = ["user_id".to_owned(), "created_at".to_owned()];
        assert_eq!(index_name("transactions", &columns, |_| false), "transactions_user_id_created_at_idx");
        assert_eq!(
            index_name("transactions", &columns, |name| name == "transactions_user_id_created_at_idx"),
            "transactions_user_id_created_at_idx2"
        );
    }

    #[test]
    fn ids_tell_parts_apart() {
        assert_ne!(stable_id(&["a", "bc"]), stable_id(&["ab", "c"]));
        assert_eq!(stable_id(&["public.t", "a"]), stable_id(&["public.t", "a"]));
    }

    proptest! {
        #[test]
        fn under_63_bytes_and_unused(relation in "\\PC{1,40}", columns in prop::collection::vec("\\PC{1,40}", 1..5), used in 0usize..20) {
            let taken = std::cell::RefCell::new(Vec::new());
            let name = index_name(&relation, &columns, |name| {
                let refuse = taken.borrow().len() < used;
                if refuse { taken.borrow_mut().push(name.to_owned()); }
                refuse
            });
            prop_assert!(name.len() < NAME_BYTES_MAX);
            prop_assert!(!taken.borrow().contains(&name));
        }
    }
}

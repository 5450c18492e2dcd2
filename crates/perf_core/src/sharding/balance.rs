//! How evenly values spread over nodes by their hash.

use super::candidates::amount;

/// Values of a kind that are followed one by one; more are taken to spread evenly.
const FOLLOWED_MAX: usize = 4096;
/// Ways to hash that are tried: which node a value goes to is luck, and the mean over luck is what can be said
/// beforehand.
const ROUNDS: u64 = 32;

/// Expected load of the busiest node over the mean, 1 at best, when the given shares belong to one value each and what
/// they leave of 1 is spread over `others` values.
pub(super) fn imbalance(shares: &[f64], others: f64, nodes: f64) -> f64 {
    let nodes = (nodes.clamp(1.0, 4096.0)) as usize;
    let mut followed: Vec<f64> = shares.iter().copied().map(amount).filter(|s| *s > 0.0).collect();
    let known: f64 = followed.iter().sum();
    if known > 1.0 {
        followed.iter_mut().for_each(|s| *s /= known);
    }
    let rest = (1.0 - known).max(0.0);
    followed.sort_by(|a, b| b.total_cmp(a));
    followed.truncate(FOLLOWED_MAX);
    let dropped = (1.0 - rest - followed.iter().sum::<f64>()).max(0.0);
    let mut even = dropped;
    let others = amount(others).round();
    if others >= 1.0 && others <= FOLLOWED_MAX as f64 {
        followed.extend((0..others as usize).map(|_| rest / others));
    } else {
        even += rest;
    }
    let whole: f64 = followed.iter().sum::<f64>() + even;
    if whole <= 0.0 {
        return 1.0;
    }
    let mean = whole / nodes as f64;
    let busiest = (0..ROUNDS).map(|round| {
        let mut loads = vec![even / nodes as f64; nodes];
        for (value, share) in followed.iter().enumerate() {
            loads[(mix(round << 32 | value as u64) % nodes as u64) as usize] += share;
        }
        loads.into_iter().fold(0.0, f64::max) / mean
    });
    (busiest.sum::<f64>() / ROUNDS as f64).max(1.0)
}

/// The finaliser of SplitMix64: every bit of the result depends on every bit of the number.
fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_spreads() {
        assert!((imbalance(&[], 1e9, 4.0) - 1.0).abs() < 1e-9, "many values spread evenly");
        // Half of everything on one value: its node has 0.5 + 0.125, over a mean of 0.25.
        assert!((imbalance(&[0.5], 1e9, 4.0) - 2.5).abs() < 0.01);
        assert!(imbalance(&[1.0], 0.0, 4.0) > 3.99);
        let few = imbalance(&[], 8.0, 4.0);
        assert!(few > 1.5, "eight values seldom lie two by two: {few}");
        assert!(imbalance(&[], 2000.0, 4.0) < 1.1);
    }

    proptest! {
        #[test]
        fn between_one_and_the_nodes(shares in proptest::collection::vec(-0.5f64..1.5, 0..40), others in any::<f64>(),
                                     nodes in 1.0f64..64.0) {
            let got = imbalance(&shares, others, nodes);
            prop_assert!(got >= 1.0 && got <= nodes.floor() + 1e-6, "{}", got);
        }
    }
}

//! What resources cost a month: quantities times a table of prices, and the sum of the parts. Pure.
//!
//! What has no price has no cost: None, not zero; and a sum with such a part is not known either. Amounts of different
//! currencies are never added.

use std::collections::BTreeMap;

/// An amount of a resource.
#[derive(Debug, Clone, PartialEq)]
pub struct Resource {
    /// What it is, as the price table calls it.
    pub item: String,
    /// How much. None: not known.
    pub quantity: Option<f64>,
    /// Of what: GiB, instance, ...
    pub unit: String,
    /// Where the quantity comes from: measured, forecast, policy.
    pub basis: String,
}

/// A row of the price table.
#[derive(Debug, Clone, PartialEq)]
pub struct Price {
    /// What it is for.
    pub item: String,
    /// Price of one of these, a month.
    pub unit: String,
    /// From. None: not known.
    pub low: Option<f64>,
    /// To. None: the same as `low`.
    pub high: Option<f64>,
    /// Three letters.
    pub currency: String,
}

/// One part of the costs.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// What it is.
    pub item: String,
    /// How much.
    pub quantity: Option<f64>,
    /// Of what.
    pub unit: String,
    /// Price of one, a month, from and to.
    pub unit_price: Option<(f64, f64)>,
    /// Cost a month, from and to.
    pub monthly: Option<(f64, f64)>,
    /// Of the price.
    pub currency: Option<String>,
    /// Where the quantity comes from.
    pub basis: String,
    /// Why there is no cost.
    pub note: Option<String>,
}

/// A sum over the parts of one currency.
#[derive(Debug, Clone, PartialEq)]
pub struct Total {
    /// Its currency. None: no part has a price.
    pub currency: Option<String>,
    /// All parts. None where a part has no cost.
    pub monthly: Option<(f64, f64)>,
    /// The parts that have one.
    pub priced: Option<(f64, f64)>,
    /// Names of the parts that have none.
    pub missing: Vec<String>,
}

/// A number that can be an amount or a price.
fn sound(value: Option<f64>) -> Option<f64> {
    value.filter(|v| v.is_finite() && *v >= 0.0)
}

fn finite(range: (f64, f64)) -> Option<(f64, f64)> {
    (range.0.is_finite() && range.1.is_finite()).then_some(range)
}

/// Prices every resource, in order.
pub fn lines(resources: &[Resource], prices: &[Price]) -> Vec<Line> {
    resources.iter().map(|r| line(r, prices)).collect()
}

/// Prices one resource.
pub fn line(resource: &Resource, prices: &[Price]) -> Line {
    let quantity = sound(resource.quantity);
    let found = prices.iter().find(|p| p.item == resource.item && p.unit == resource.unit);
    let unit_price = found.and_then(|p| {
        let low = sound(p.low)?;
        let high = if p.high.is_some() { sound(p.high)? } else { low };
        (low <= high).then_some((low, high))
    });
    let monthly = quantity.zip(unit_price).and_then(|(q, (low, high))| finite((q * low, q * high)));
    let note = match (quantity, found, unit_price, monthly) {
        (.., Some(_)) => None,
        (_, None, ..) => match prices.iter().find(|p| p.item == resource.item) {
            Some(p) => Some(format!("the price is for {}, the quantity is in {}", p.unit, resource.unit)),
            None => Some("no price".to_owned()),
        },
        (_, _, None, _) => Some("no price".to_owned()),
        (None, ..) => Some("the quantity is not known".to_owned()),
        _ => Some("too large".to_owned()),
    };
    Line {
        item: resource.item.clone(),
        quantity,
        unit: resource.unit.clone(),
        unit_price,
        monthly,
        currency: found.filter(|_| unit_price.is_some()).map(|p| p.currency.clone()),
        basis: resource.basis.clone(),
        note,
    }
}

/// The sum of the parts, by currency. A part without a cost could be of any currency: no sum is whole without it.
pub fn totals(lines: &[Line]) -> Vec<Total> {
    let mut sums: BTreeMap<&str, Option<(f64, f64)>> = BTreeMap::new();
    for line in lines {
        if let (Some(currency), Some((low, high))) = (&line.currency, line.monthly) {
            let sum = sums.entry(currency).or_insert(Some((0.0, 0.0)));
            *sum = sum.and_then(|s| finite((s.0 + low, s.1 + high)));
        }
    }
    let missing: Vec<String> = lines.iter().filter(|l| l.monthly.is_none()).map(|l| l.item.clone()).collect();
    if sums.is_empty() && !missing.is_empty() {
        return vec![Total { currency: None, monthly: None, priced: None, missing }];
    }
    (sums.into_iter())
        .map(|(currency, priced)| Total {
            currency: Some(currency.to_owned()),
            monthly: priced.filter(|_| missing.is_empty()),
            priced,
            missing: missing.clone(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn resource(item: &str, quantity: impl Into<Option<f64>>, unit: &str) -> Resource {
        Resource {
            item: item.to_owned(),
            quantity: quantity.into(),
            unit: unit.to_owned(),
            basis: "measured".to_owned(),
        }
    }

    fn price(
        item: &str,
        unit: &str,
        low: impl Into<Option<f64>>,
        high: impl Into<Option<f64>>,
        currency: &str,
    ) -> Price {
        Price {
            item: item.to_owned(),
            unit: unit.to_owned(),
            low: low.into(),
            high: high.into(),
            currency: currency.to_owned(),
        }
    }

    #[test]
    fn the_sum_is_that_of_the_parts() {
        let prices = [
            price("now", "month", 2500.0, 3500.0, "USD"),
            price("replica", "instance", 500.0, None, "USD"),
            price("storage", "GiB", 0.1, 0.2, "USD"),
        ];
        let resources =
            [resource("now", 1.0, "month"), resource("replica", 2.0, "instance"), resource("storage", 100.0, "GiB")];
        let lines = lines(&resources, &prices);
        assert_eq!(lines[1].monthly, Some((1000.0, 1000.0)));
        let total = &totals(&lines)[0];
        assert_eq!((total.monthly, total.priced), (Some((3510.0, 4520.0)), Some((3510.0, 4520.0))));
        assert!(total.missing.is_empty() && total.currency.as_deref() == Some("USD"));
    }

    #[test]
    fn what_has_no_price_is_unknown_and_not_free() {
        let prices = [
            price("a", "GiB", 1.0, None, "USD"),
            price("b", "GiB", None, 5.0, "USD"),
            price("c", "GiB", 1.0, f64::NAN, "USD"),
            price("d", "GiB", 2.0, 1.0, "USD"),
            price("f", "GiB", 1e308, None, "USD"),
        ];
        let resources = [
            resource("a", 3.0, "GiB"),
            resource("b", 3.0, "GiB"),
            resource("c", 3.0, "GiB"),
            resource("d", 3.0, "GiB"),
            resource("e", 3.0, "GiB"),
            resource("a", None, "GiB"),
            resource("a", 3.0, "vCPU"),
            resource("f", 10.0, "GiB"),
        ];
        let lines = lines(&resources, &prices);
        let notes: Vec<Option<&str>> = lines.iter().map(|l| l.note.as_deref()).collect();
        let no_price = Some("no price");
        let units = Some("the price is for GiB, the quantity is in vCPU");
        let unknown = Some("the quantity is not known");
        assert_eq!(notes, [None, no_price, no_price, no_price, no_price, unknown, units, Some("too large")]);
        let total = &totals(&lines)[0];
        assert_eq!((total.monthly, total.priced, total.missing.len()), (None, Some((3.0, 3.0)), 7));
    }

    #[test]
    fn an_empty_table_of_prices_gives_no_money() {
        let total = totals(&lines(&[resource("a", 1.0, "GiB")], &[]));
        assert_eq!((total.len(), total[0].monthly, total[0].priced), (1, None, None));
        assert!(totals(&[]).is_empty());
    }

    #[test]
    fn currencies_are_not_added() {
        let prices = [price("a", "x", 1.0, None, "USD"), price("b", "x", 2.0, None, "EUR")];
        let totals = totals(&lines(&[resource("a", 1.0, "x"), resource("b", 1.0, "x")], &prices));
        let found: Vec<_> = totals.iter().map(|t| (t.currency.as_deref(), t.monthly)).collect();
        assert_eq!(found, [(Some("EUR"), Some((2.0, 2.0))), (Some("USD"), Some((1.0, 1.0)))]);
    }

    proptest! {
        #[test]
        fn a_sum_is_whole_or_none(
            resources in proptest::collection::vec(("[a-d]", proptest::option::of(any::<f64>())), 0..8),
            prices in proptest::collection::vec(
                ("[a-d]", proptest::option::of(any::<f64>()), proptest::option::of(any::<f64>())), 0..6)
        ) {
            let resources: Vec<Resource> = resources.into_iter().map(|(i, q)| resource(&i, q, "x")).collect();
            let prices: Vec<Price> =
                prices.into_iter().map(|(i, low, high)| price(&i, "x", low, high, "USD")).collect();
            let lines = lines(&resources, &prices);
            prop_assert_eq!(lines.len(), resources.len());
            for line in &lines {
                prop_assert_eq!(line.monthly.is_none(), line.note.is_some());
                if let Some((low, high)) = line.monthly {
                    prop_assert!(0.0 <= low && low <= high && high.is_finite());
                }
            }
            for total in totals(&lines) {
                prop_assert!(total.monthly.is_none() || total.missing.is_empty());
            }
        }
    }
}

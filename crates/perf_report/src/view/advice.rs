//! Recommendations, those that promise most first.

use super::{finite, words, Advice, Block, Section, Tone};
use crate::clean::{self, Sql};
use crate::document::{Document, Recommendation};
use crate::format;

/// The most recommendations that are told in full.
const SHOWN: usize = 40;

/// Whether it is still to be done.
pub(super) fn open(recommendation: &Recommendation) -> bool {
    !matches!(
        recommendation.status.as_str(),
        "exists" | "not_needed" | "not_applicable" | "applied" | "verified" | "no_gain" | "active"
    )
}

/// What is to be done first: by priority, then by gain.
pub(super) fn best(document: &Document) -> Option<&Recommendation> {
    document.recommendations.iter().filter(|r| open(r)).min_by(|a, b| order(a).total_cmp(&order(b)))
}

/// A smaller number is told earlier: what is open, by priority, and within it by gain.
fn order(recommendation: &Recommendation) -> f64 {
    let priority = match recommendation.priority.as_str() {
        "critical" => 0.0,
        "high" => 1.0,
        "medium" => 2.0,
        "low" => 3.0,
        _ => 4.0,
    };
    let gain = finite(recommendation.predicted_gain_pct).unwrap_or(0.0).clamp(0.0, 100.0);
    priority * 1000.0 - gain + if open(recommendation) { 0.0 } else { 10_000.0 }
}

/// What to change.
pub(super) fn section(document: &Document) -> Section {
    let mut all: Vec<_> = document.recommendations.iter().collect();
    all.sort_by(|a, b| order(a).total_cmp(&order(b)));
    let open_count = all.iter().filter(|r| open(r)).count();
    let takeaway = if all.is_empty() {
        if document.statements.is_empty() {
            "No statement has been captured to reason about. Recommendations come with the first hour of work."
                .to_owned()
        } else {
            "Nothing to change: no rule found a gain worth its cost in what was captured.".to_owned()
        }
    } else {
        let mut text = match open_count {
            0 => "Everything that was recommended has been dealt with.".to_owned(),
            count => format!("{} open, what promises most first.", format::plural(count, "change is", "changes are")),
        };
        if open_count > 0 {
            text.push_str(
                " Gains are of the workload's whole time and do not add up: two changes may save the same time.",
            );
        }
        if all.len() > SHOWN {
            text.push_str(&format!(" {} more are in the report as JSON.", all.len() - SHOWN));
        }
        text
    };
    let shown: Vec<Advice> = all.into_iter().take(SHOWN).map(advice).collect();
    let blocks = if shown.is_empty() { Vec::new() } else { vec![Block::Advice(shown)] };
    Section { id: "recommendations", title: "Recommendations", takeaway, blocks }
}

fn advice(recommendation: &Recommendation) -> Advice {
    let r = recommendation;
    let title = match clean::line(&r.title, clean::NAME) {
        title if title.is_empty() => words(&r.kind),
        title => title,
    };
    let mut chips = Vec::new();
    let mut chip = |word: &str, text: String| {
        if !word.is_empty() {
            chips.push((text, Tone::of(word)));
        }
    };
    chip(&r.priority, format!("{} priority", words(&r.priority)));
    chip(&r.status, words(&r.status));
    let (gain, gain_basis) = match (finite(r.achieved_gain_pct), finite(r.predicted_gain_pct)) {
        (Some(achieved), Some(predicted)) => {
            (format::percent(Some(achieved)), format!("achieved, {} predicted", format::percent(Some(predicted))))
        }
        (Some(achieved), None) => (format::percent(Some(achieved)), "achieved".to_owned()),
        (None, Some(predicted)) => (format::percent(Some(predicted)), "predicted".to_owned()),
        (None, None) => (String::new(), String::new()),
    };
    let mut facts = Vec::new();
    let mut fact = |what, value: String| {
        if !value.is_empty() && value != format::MISSING {
            facts.push((what, value));
        }
    };
    fact("Kind", words(&r.kind));
    fact("On", clean::line(&r.relation, clean::NAME));
    fact("Size", format::bytes(r.size_bytes));
    fact("Cost to writes", format::percent(r.write_cost_pct));
    fact(
        "Known by",
        match r.basis.as_str() {
            "what_if" => "planning with it".to_owned(),
            "measured" => "measuring".to_owned(),
            "policy" => "the policy, not measured".to_owned(),
            other => words(other),
        },
    );
    fact("Confidence", words(&r.confidence));
    fact("The policy hopes for", clean::line(&r.policy_gain, clean::NAME));
    Advice {
        id: clean::line(&r.id, clean::NAME),
        title,
        chips,
        gain,
        gain_basis,
        reason: clean::line(&r.reason, clean::SENTENCE),
        facts,
        sql: Sql::of(&r.sql, clean::SQL),
        undo: Sql::of(&r.undo_sql, clean::SQL),
    }
}

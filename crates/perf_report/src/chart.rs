//! Charts as SVG, drawn by plotters. Called by the page's renderer.
//!
//! Colours are the page's: everything is drawn in colours that stand for a class of the style sheet and are replaced by
//! that class ([`themed`]), so a chart follows the theme and print. A chart is drawn twice, for a wide and for a narrow
//! screen, because text that shrinks with the drawing cannot be read on a phone.

use std::ops::Range;

use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::clean;
use crate::format::{self, Unit};
use crate::series::{self, Point};
use crate::time;

/// A chart over time.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Chart {
    /// What it shows.
    pub title: String,
    /// What a reader who cannot see it is told.
    pub summary: String,
    /// The unit of its values.
    pub unit: String,
    /// Its measures.
    pub lines: Vec<Line>,
    /// What is expected: time, low, most likely, high.
    pub fan: Vec<(f64, f64, f64, f64)>,
    /// Limits: what they are called, and where they are.
    pub limits: Vec<(String, f64)>,
}

/// A measure in a chart.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Line {
    /// What it is called.
    pub name: String,
    /// What was measured.
    pub points: Vec<Point>,
    /// How it is drawn.
    pub style: Style,
}

/// How a measure is drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) enum Style {
    /// As a line.
    #[default]
    Line,
    /// As a line with the area below it: for amounts.
    Area,
    /// As a bar for each sample: for counts of a stretch of time.
    Bars,
}

/// A screen to draw for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Screen {
    /// The class of the drawing.
    pub name: &'static str,
    width: u32,
    height: u32,
    /// The most bars.
    pub bars: usize,
    x_ticks: usize,
    y_ticks: usize,
    font: u32,
}

/// A desk's.
pub(crate) const WIDE: Screen =
    Screen { name: "wide", width: 520, height: 208, bars: 120, x_ticks: 6, y_ticks: 4, font: 12 };
/// A phone's.
pub(crate) const NARROW: Screen =
    Screen { name: "narrow", width: 340, height: 190, bars: 60, x_ticks: 4, y_ticks: 4, font: 12 };

/// The most points of a line; a longer series is told by a quarter as many stretches of time.
const LINE_POINTS: usize = 480;

/// Coordinates of plotters are whole pixels: four of them make one, so that lines are smooth.
const SUB: u32 = 4;

// The numbers of the classes in the style sheet: 1 to 4 are measures.
const FAN: u8 = 5;
const GRID: u8 = 7;
const LIMIT: u8 = 8;
const LABEL: u8 = 9;

/// The colour that stands for a class.
fn class(number: u8) -> RGBColor {
    RGBColor(1, 2, number)
}

/// The class of a chart's measure.
pub(crate) fn line_class(index: usize) -> u8 {
    (index % 4) as u8 + 1
}

/// An axis whose ticks are given.
struct Axis {
    range: Range<f64>,
    ticks: Vec<(f64, String)>,
}

impl Axis {
    fn label(&self, value: f64) -> String {
        self.ticks.iter().find(|(at, _)| *at == value).map_or_else(String::new, |(_, label)| label.clone())
    }
}

impl Ranged for Axis {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let share = ((value - self.range.start) / (self.range.end - self.range.start)).clamp(0.0, 1.0);
        limit.0 + (f64::from(limit.1 - limit.0) * share).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        if hint.weight().allow_light_points() {
            return Vec::new();
        }
        self.ticks.iter().map(|(at, _)| *at).collect()
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

impl Chart {
    /// Whether there is anything to draw.
    pub(crate) fn is_empty(&self) -> bool {
        self.fan.is_empty() && self.lines.iter().all(|line| line.points.iter().all(|p| p.1.is_none()))
    }

    /// Whether the first of its fan is the last that was measured, where the fan opens.
    pub(crate) fn opens_at_the_last_sample(&self) -> bool {
        self.lines.iter().flat_map(|line| &line.points).any(|p| p.1.is_some())
    }

    /// The drawing, without the element around it; empty where there is nothing to draw.
    pub(crate) fn svg(&self, screen: Screen) -> String {
        let mut out = String::new();
        if self.is_empty() {
            return out;
        }
        let drawn = self.draw(&mut out, screen);
        // Drawing into a string fails only where a coordinate system has no extent, which `axes` rules out.
        if drawn.is_err() {
            return String::new();
        }
        themed(&out)
    }

    /// Whether it has more samples than a line can show, so that means are drawn, in bands from lowest to highest.
    pub(crate) fn is_banded(&self) -> bool {
        self.lines.iter().any(|line| line.style != Style::Bars && line.points.len() > LINE_POINTS)
    }

    /// The box that the drawing fills.
    pub(crate) fn view_box(screen: Screen) -> String {
        format!("0 0 {} {}", screen.width * SUB, screen.height * SUB)
    }

    /// The limits that are near enough to what was measured to be drawn without flattening it.
    fn near_limits(&self, highest: f64) -> impl Iterator<Item = &(String, f64)> {
        self.limits.iter().filter(move |(_, value)| value.is_finite() && *value > 0.0 && *value <= highest * 4.0)
    }

    /// The axes that hold everything that is drawn.
    fn axes(&self, measures: &[Vec<Point>], screen: Screen) -> Option<(Axis, Axis)> {
        let points = || measures.iter().flatten();
        let times = points().map(|p| p.0).chain(self.fan.iter().map(|f| f.0));
        let (mut from, mut to) = series::extent(times)?;
        let values = points().filter_map(|p| p.1).chain(self.fan.iter().flat_map(|f| [f.1, f.2, f.3]));
        let (low, high) = series::extent(values)?;
        let high = self.near_limits(high).fold(high, |high, limit| high.max(limit.1)).clamp(0.0, 1e300);
        if to - from < 1.0 {
            (from, to) = (from - 1800.0, to + 1800.0);
        }
        if self.lines.iter().any(|line| line.style == Style::Bars) {
            // Half a bar more at both ends.
            let bars = measures.iter().map(Vec::len).max().unwrap_or(0).max(12);
            let half = (to - from) / bars as f64 / 2.0;
            (from, to) = (from - half, to + half);
        }
        let y = format::ticks(low.clamp(-1e300, 0.0), high, screen.y_ticks, Unit::of(&self.unit));
        let (bottom, top) = (y.first()?.0, y.last()?.0);
        (top > bottom).then_some(())?;
        let x = time::ticks(from, to, screen.x_ticks);
        Some((Axis { range: from..to, ticks: x }, Axis { range: bottom..top, ticks: y }))
    }

    fn draw(&self, out: &mut String, screen: Screen) -> Result<(), Box<dyn std::error::Error>> {
        let measures: Vec<Vec<Point>> = self
            .lines
            .iter()
            .map(|line| match line.style {
                Style::Bars => series::highest(&line.points, screen.bars),
                _ => line.points.clone(),
            })
            .collect();
        let Some((x, y)) = self.axes(&measures, screen) else { return Ok(()) };
        let (x_range, y_range) = (x.range.clone(), y.range.clone());
        let (x_labels, y_labels) = (Axis { range: x_range.clone(), ticks: x.ticks.clone() }, y.ticks.clone());
        let y_labels = Axis { range: y_range.clone(), ticks: y_labels };
        // A label is drawn around its tick: the widest decides how much room the left has.
        let widest = y_labels.ticks.iter().map(|(_, label)| label.chars().count()).max().unwrap_or(0) as u32;
        let area = SVGBackend::with_string(out, (screen.width * SUB, screen.height * SUB)).into_drawing_area();
        let mut chart = ChartBuilder::on(&area)
            .margin_top(10 * SUB)
            .margin_right(26 * SUB)
            .x_label_area_size(24 * SUB)
            .y_label_area_size((14 + widest * screen.font * 3 / 5) * SUB)
            .build_cartesian_2d(x, y)?;
        let text = |class_number: u8, size: u32| {
            // The backend divides the size of a font by 1.24.
            let mut style = TextStyle::from(("sans-serif", f64::from(size * SUB) * 1.24).into_font());
            style.color = class(class_number).to_backend_color();
            style
        };
        chart
            .configure_mesh()
            .disable_x_mesh()
            .bold_line_style(class(GRID).stroke_width(SUB))
            .light_line_style(TRANSPARENT)
            .axis_style(class(GRID).stroke_width(SUB))
            .set_all_tick_mark_size(4 * SUB)
            .label_style(text(LABEL, screen.font))
            .x_labels(x_labels.ticks.len())
            .y_labels(y_labels.ticks.len())
            .x_label_formatter(&|at| x_labels.label(*at))
            .y_label_formatter(&|value| y_labels.label(*value))
            .draw()?;
        if !self.fan.is_empty() {
            let upper = self.fan.iter().map(|f| (f.0, f.3));
            let lower = self.fan.iter().rev().map(|f| (f.0, f.1));
            chart.draw_series([Polygon::new(upper.chain(lower).collect::<Vec<_>>(), class(FAN))])?;
        }
        for (index, (line, points)) in self.lines.iter().zip(&measures).enumerate() {
            let color = class(line_class(index));
            if line.style == Style::Bars {
                let half = (x_range.end - x_range.start) / points.len().max(12) as f64 * 0.38;
                chart.draw_series(points.iter().filter_map(|(at, value)| {
                    let value = (*value).filter(|v| *v != 0.0)?;
                    Some(Rectangle::new([(at - half, 0.0), (at + half, value)], color.filled()))
                }))?;
                continue;
            }
            if points.len() > LINE_POINTS {
                for run in series::bands(points, LINE_POINTS / 4) {
                    let upper = run.iter().map(|b| (b.at, b.high));
                    let lower = run.iter().rev().map(|b| (b.at, b.low));
                    let outline: Vec<_> = upper.chain(lower).collect();
                    chart.draw_series([Polygon::new(outline, class(10 + line_class(index)))])?;
                    let means = run.iter().map(|b| (b.at, b.mean));
                    match run.as_slice() {
                        [alone] => {
                            let dot = Circle::new((alone.at, alone.mean), 2 * SUB + SUB / 2, color.filled());
                            chart.draw_series([dot])?;
                        }
                        _ => {
                            chart.draw_series(LineSeries::new(means, color.stroke_width(SUB + SUB / 2)))?;
                        }
                    }
                }
                continue;
            }
            for run in series::runs(points) {
                match run.as_slice() {
                    [alone] => {
                        chart.draw_series([Circle::new(*alone, 2 * SUB + SUB / 2, color.filled())])?;
                    }
                    _ => {
                        if line.style == Style::Area {
                            // Another class than the line's: it is drawn fainter.
                            let below = class(10 + line_class(index));
                            chart.draw_series(AreaSeries::new(run.iter().copied(), 0.0, below))?;
                        }
                        chart.draw_series(LineSeries::new(run, color.stroke_width(SUB + SUB / 2)))?;
                    }
                }
            }
        }
        if !self.fan.is_empty() {
            let middle = self.fan.iter().map(|f| (f.0, f.2));
            match self.fan.as_slice() {
                [(at, _, alone, _)] => {
                    chart.draw_series([Circle::new((*at, *alone), 2 * SUB + SUB / 2, class(FAN).filled())])?;
                }
                _ => {
                    chart.draw_series(LineSeries::new(middle, class(FAN).stroke_width(SUB + SUB / 2)))?;
                }
            }
        }
        let mut last = f64::NEG_INFINITY;
        let mut limits: Vec<_> = self.near_limits(y_range.end).filter(|(_, value)| *value <= y_range.end).collect();
        limits.sort_by(|a, b| a.1.total_cmp(&b.1));
        for (name, value) in limits {
            let ends = [(x_range.start, *value), (x_range.end, *value)];
            chart.draw_series(LineSeries::new(ends, class(LIMIT).stroke_width(SUB)))?;
            // Names of limits that lie close together would cover each other; the table below the chart has them all.
            if value - last > (y_range.end - y_range.start) / 14.0 {
                let style = text(LIMIT, screen.font - 1).pos(Pos::new(HPos::Left, VPos::Bottom));
                let name = clean::line(name, 30);
                chart.draw_series([Text::new(
                    name,
                    (x_range.start + (x_range.end - x_range.start) * 0.01, *value),
                    style,
                )])?;
                last = *value;
            }
        }
        area.present()?;
        Ok(())
    }
}

/// A line for a cell of a table: no axes, from zero to its highest value; of a long series the means. Empty where
/// there is nothing to draw.
pub(crate) fn spark(points: &[Point]) -> String {
    let points: Vec<Point> = if points.len() > 120 {
        let means = |run: Vec<series::Band>| run.into_iter().map(|b| (b.at, Some(b.mean))).collect::<Vec<_>>();
        series::bands(points, 48).into_iter().map(means).collect::<Vec<_>>().join(&(0.0, None))
    } else {
        points.to_vec()
    };
    let times = points.iter().filter(|p| p.1.is_some()).map(|p| p.0);
    let values = points.iter().filter_map(|p| p.1);
    let (Some((from, to)), Some((low, high))) = (series::extent(times), series::extent(values)) else {
        return String::new();
    };
    let low = low.clamp(-1e300, 0.0);
    let high = high.clamp(low, 1e300);
    let x = Axis { range: from..if to > from { to } else { from + 1.0 }, ticks: Vec::new() };
    let y = Axis { range: low..if high > low { high } else { low + 1.0 }, ticks: Vec::new() };
    let mut out = String::new();
    let drawn = (|| -> Result<(), Box<dyn std::error::Error>> {
        let area = SVGBackend::with_string(&mut out, (SPARK.0 * SUB, SPARK.1 * SUB)).into_drawing_area();
        let mut chart = ChartBuilder::on(&area).margin(3 * SUB).build_cartesian_2d(x, y)?;
        let runs = series::runs(&points);
        for run in &runs {
            if run.len() > 1 {
                chart.draw_series(LineSeries::new(run.iter().copied(), class(1).stroke_width(SUB + SUB / 2)))?;
            }
        }
        let alone = runs.iter().filter(|run| run.len() == 1).flatten();
        let end = runs.last().and_then(|run| run.last());
        chart.draw_series(alone.chain(end).map(|at| Circle::new(*at, 2 * SUB, class(1).filled())))?;
        area.present()?;
        Ok(())
    })();
    if drawn.is_err() {
        return String::new();
    }
    themed(&out)
}

/// Width and height of a [`spark`].
const SPARK: (u32, u32) = (96, 24);

/// The box that a [`spark`] fills.
pub(crate) fn spark_box() -> String {
    format!("0 0 {} {}", SPARK.0 * SUB, SPARK.1 * SUB)
}

/// What plotters drew, without its outer element, with classes in place of colours: `s1` to draw a line, `f1` to fill.
fn themed(svg: &str) -> String {
    let body = svg.split_once(">\n").map_or("", |(_, body)| body);
    let body = body.rsplit_once("</svg>").map_or(body, |(body, _)| body);
    let mut out = String::with_capacity(body.len());
    let mut rest = body;
    // Of a fill and a stroke one is a colour: plotters' elements have either.
    while let Some(at) = rest.find("=\"#0102") {
        let (before, after) = rest.split_at(at);
        let (attribute, letter) = match before.strip_suffix("fill") {
            Some(before) => (before, 'f'),
            None => (before.strip_suffix("stroke").unwrap_or(before), 's'),
        };
        out.push_str(attribute);
        let number = after.get(7..9).and_then(|hex| u8::from_str_radix(hex, 16).ok()).unwrap_or(LABEL);
        out.push_str(&format!("class=\"{letter}{number}\""));
        rest = after.get(10..).unwrap_or("");
    }
    out.push_str(rest);
    for noise in [" opacity=\"1\"", " stroke=\"none\"", " font-family=\"sans-serif\"", " stroke-width=\"1\""] {
        out = out.replace(noise, "");
    }
    out.replace(" \"", "\"").replace("\n", "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn chart(values: &[Option<f64>], style: Style) -> Chart {
        let points = values.iter().enumerate().map(|(at, v)| (at as f64 * 60.0 + 1.7e9, *v)).collect();
        let lines = vec![Line { name: "<b>".into(), points, style }];
        Chart { title: "t".into(), unit: "ms".into(), lines, ..Chart::default() }
    }

    #[test]
    fn one_sample_has_a_mark() {
        for style in [Style::Line, Style::Area] {
            assert!(chart(&[Some(1.0)], style).svg(WIDE).contains("<circle"));
        }
        assert!(chart(&[Some(1.0)], Style::Bars).svg(WIDE).contains("<rect"));
        assert!(spark(&[(0.0, Some(1.0))]).contains("<circle"));
    }

    #[test]
    fn a_gap_splits_the_line() {
        let whole = chart(&[Some(1.0), Some(2.0), Some(1.0), Some(3.0)], Style::Line).svg(WIDE);
        let split = chart(&[Some(1.0), Some(2.0), None, Some(1.0), Some(3.0)], Style::Line).svg(WIDE);
        let lines = |svg: &str| svg.matches("<polyline class=\"s1\"").count() + svg.matches("class=\"s1\"").count();
        assert!(lines(&split) > lines(&whole));
    }

    #[test]
    fn colours_are_the_pages() {
        let mut chart = chart(&[Some(1.0), Some(2.0)], Style::Area);
        chart.fan = vec![(1.7e9 + 60.0, 2.0, 2.0, 2.0), (1.7e9 + 600.0, 2.0, 3.0, 4.0)];
        chart.limits = vec![("<script>".into(), 3.5)];
        let svg = chart.svg(NARROW);
        assert!(!svg.contains('#') && !svg.contains("<script>") && svg.contains("&lt;script&gt;"), "{svg}");
        for class in ["s1", "f11", "f5", "s5", "s8", "f9"] {
            assert!(svg.contains(&format!("class=\"{class}\"")), "{class} in {svg}");
        }
    }

    #[test]
    fn nothing_is_drawn_of_nothing() {
        assert_eq!(chart(&[], Style::Line).svg(WIDE), "");
        assert_eq!(chart(&[None, None], Style::Line).svg(WIDE), "");
        assert_eq!(spark(&[]), "");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_numbers_are_drawn_and_bounded(
            values in proptest::collection::vec(proptest::option::of(-1e290..1e290_f64), 1..700),
            bars: bool,
        ) {
            let chart = chart(&values, if bars { Style::Bars } else { Style::Area });
            let svg = chart.svg(WIDE);
            prop_assert_eq!(svg.is_empty(), chart.is_empty());
            prop_assert!(svg.len() < 60_000, "{}", svg.len());
            prop_assert!(!svg.contains("NaN") && !svg.contains("inf"));
        }
    }
}

//! Curves as a picture: small charts side by side, with a logarithmic horizontal axis.
//!
//! The colours follow the reader's light or dark background.

use std::fmt::{self, Write as _};

/// One chart.
#[derive(Debug, Clone)]
pub(super) struct Chart {
    /// The quantity on the horizontal axis, with its unit.
    pub(super) across: &'static str,
    /// The quantity on the vertical axis, with its unit.
    pub(super) up: &'static str,
    pub(super) series: Vec<Series>,
}

/// One curve.
#[derive(Debug, Clone)]
pub(super) struct Series {
    pub(super) name: &'static str,
    /// The points, from left to right.
    pub(super) points: Vec<(f64, f64)>,
}

const COLUMNS: usize = 3;
const WIDTH: f64 = 320.0;
const HEIGHT: f64 = 230.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 44.0;
/// Height of the legend.
const HEAD: f64 = 28.0;
const LINES: u32 = 4;
const STYLE: &str = "\
.back{fill:#ffffff}.text{fill:#24292f}.grid{stroke:#d0d7de}.s0{stroke:#0550ae;fill:#0550ae}\
.s1{stroke:#bc4c00;fill:#bc4c00}.s2{stroke:#54aeff;fill:#54aeff}.s3{stroke:#fb8f44;fill:#fb8f44}text{font:11px sans-serif}.curve{fill:none;stroke-width:2}\
@media (prefers-color-scheme:dark){.back{fill:#0d1117}.text{fill:#e6edf3}.grid{stroke:#30363d}\
.s0{stroke:#79c0ff;fill:#79c0ff}.s1{stroke:#ffa657;fill:#ffa657}.s2{stroke:#1158c7;fill:#1158c7}\
.s3{stroke:#9e4c13;fill:#9e4c13}}.curve.s0,.curve.s1,.curve.s2,.curve.s3{fill:none}\
.curve.s2,.curve.s3{stroke-dasharray:4 3}";

/// Draws the charts, three to a row.
pub(super) fn draw(charts: &[Chart]) -> Result<String, fmt::Error> {
    let rows = charts.len().div_ceil(COLUMNS);
    let (width, height) = (WIDTH * COLUMNS as f64, HEAD + HEIGHT * rows as f64);
    let mut out = String::new();
    writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         width=\"{width}\" height=\"{height}\" role=\"img\"><title>Speed and memory as the work \
         grows</title><style>{STYLE}</style><rect class=\"back\" width=\"100%\" height=\"100%\"/>"
    )?;
    legend(charts, &mut out)?;
    for (number, chart) in charts.iter().enumerate() {
        let x = WIDTH * (number % COLUMNS) as f64;
        let y = HEAD + HEIGHT * (number / COLUMNS) as f64;
        writeln!(out, "<g transform=\"translate({x} {y})\">")?;
        Frame::of(chart).draw(chart, &mut out)?;
        writeln!(out, "</g>")?;
    }
    writeln!(out, "</svg>")?;
    Ok(out)
}

fn legend(charts: &[Chart], out: &mut String) -> fmt::Result {
    let series = charts.first().map_or(&[][..], |chart| &chart.series);
    for (number, series) in series.iter().enumerate() {
        let x = LEFT + 110.0 * number as f64;
        writeln!(
            out,
            "<circle class=\"s{number}\" cx=\"{x}\" cy=\"16\" r=\"4\"/>\
             <text class=\"text\" x=\"{}\" y=\"20\">{}</text>",
            x + 10.0,
            series.name
        )?;
    }
    Ok(())
}

/// The ranges of a chart's axes, which place values in its drawing area.
struct Frame {
    /// The smallest value on the horizontal axis.
    least: f64,
    /// The largest value on the horizontal axis.
    most: f64,
    /// The value at the top of the vertical axis, which begins at zero.
    top: f64,
}

impl Frame {
    fn of(chart: &Chart) -> Frame {
        let points = || chart.series.iter().flat_map(|series| &series.points);
        let highest = points().map(|(_, y)| *y).fold(0.0, f64::max);
        Frame {
            least: points().map(|(x, _)| *x).fold(f64::INFINITY, f64::min),
            most: points().map(|(x, _)| *x).fold(0.0, f64::max),
            top: round_up(highest),
        }
    }

    fn x(&self, value: f64) -> f64 {
        let span = (self.most / self.least).ln();
        let share = if span > 0.0 {
            (value / self.least).ln() / span
        } else {
            0.5
        };
        LEFT + share * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - value / self.top * (HEIGHT - TOP - BOTTOM)
    }

    fn draw(&self, chart: &Chart, out: &mut String) -> fmt::Result {
        let (end, middle) = (WIDTH - RIGHT, f64::midpoint(LEFT, WIDTH - RIGHT));
        writeln!(
            out,
            "<text class=\"text\" x=\"{LEFT}\" y=\"22\">{}</text>",
            chart.up
        )?;
        for line in 0..=LINES {
            let value = self.top * f64::from(line) / f64::from(LINES);
            let y = self.y(value);
            writeln!(
                out,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{end}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
                 <text class=\"text\" text-anchor=\"end\" x=\"{}\" y=\"{:.1}\">{}</text>",
                LEFT - 6.0,
                y + 4.0,
                short(value)
            )?;
        }
        let first = chart
            .series
            .first()
            .map_or(&[][..], |series| &series.points);
        for (value, _) in first {
            writeln!(
                out,
                "<text class=\"text\" text-anchor=\"middle\" x=\"{:.1}\" y=\"{}\">{}</text>",
                self.x(*value),
                HEIGHT - BOTTOM + 16.0,
                short(*value)
            )?;
        }
        writeln!(
            out,
            "<text class=\"text\" text-anchor=\"middle\" x=\"{middle}\" y=\"{}\">{}</text>",
            HEIGHT - BOTTOM + 34.0,
            chart.across
        )?;
        for (number, series) in chart.series.iter().enumerate() {
            self.curve(number, series, out)?;
        }
        Ok(())
    }

    fn curve(&self, number: usize, series: &Series, out: &mut String) -> fmt::Result {
        write!(out, "<polyline class=\"curve s{number}\" points=\"")?;
        for (x, y) in &series.points {
            write!(out, "{:.1},{:.1} ", self.x(*x), self.y(*y))?;
        }
        writeln!(out, "\"/>")?;
        for (x, y) in &series.points {
            let (x, y) = (self.x(*x), self.y(*y));
            writeln!(
                out,
                "<circle class=\"s{number}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\"/>"
            )?;
        }
        Ok(())
    }
}

/// Rounds a number up to 1, 2, 4 or 8 times a power of ten. Returns 1 if it is not positive.
fn round_up(value: f64) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let decade = 10_f64.powf(value.log10().floor());
    let steps = [1.0, 2.0, 4.0, 8.0, 10.0];
    let fits = steps.iter().find(|step| **step * decade >= value);
    fits.unwrap_or(&10.0) * decade
}

/// Formats a number in few characters.
fn short(value: f64) -> String {
    let text = match value {
        1e6.. => format!("{:.1}M", value / 1e6),
        1e3.. => format!("{:.1}k", value / 1e3),
        _ => format!("{value:.1}"),
    };
    text.replacen(".0", "", 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_axes_end_at_round_ones() {
        let texts = [0.0, 2.5, 64.0, 1500.0, 100_000.0, 10_000_000.0].map(short);
        assert_eq!(texts, ["0", "2.5", "64", "1.5k", "100k", "10M"]);
        let ends = [0.0, 3.0, 81.0, 523_000.0].map(round_up);
        assert_eq!(ends.map(short), ["1", "4", "100", "800k"]);
    }

    #[test]
    fn every_point_of_every_curve_is_drawn_inside_its_chart() -> fmt::Result {
        let series = |name, factor: f64| Series {
            name,
            points: vec![(1.0, 10.0 * factor), (64.0, 40.0 * factor)],
        };
        let chart = Chart {
            across: "partitions",
            up: "entries/s",
            series: vec![series("producer", 1.0), series("consumer", 2.0)],
        };
        let frame = Frame::of(&chart);
        assert!((frame.y(80.0) - TOP).abs() < 0.1 && (frame.x(64.0) - (WIDTH - RIGHT)).abs() < 0.1);
        let text = draw(&[chart.clone(), chart])?;
        assert_eq!(text.matches("r=\"3\"").count(), 8);
        assert_eq!(text.matches("<g ").count(), text.matches("</g>").count());
        assert!(text.contains(">consumer</text>") && text.ends_with("</svg>\n"));
        Ok(())
    }
}

//! Curves as SVG, readable on light and on dark ground: lines and text take their colours from the reader's scheme.
use std::fmt::Write as _;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 78.0;
const RIGHT: f64 = 170.0;
const TOP: f64 = 44.0;
const BOTTOM: f64 = 52.0;

/// Colours of the series, on light and on dark ground, distinguishable by colour-blind readers.
const COLOURS: &[(&str, &str)] = &[
    ("#0072b2", "#56b4e9"),
    ("#d55e00", "#ff8c42"),
    ("#007a5a", "#2ed9a5"),
    ("#aa3377", "#ee77bb"),
    ("#7a6a00", "#f0e442"),
    ("#555555", "#bbbbbb"),
];

/// How an axis counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scale {
    Linear,
    Logarithmic,
}

/// A measured point and its spread.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Point {
    pub(crate) x: f64,
    pub(crate) y: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

/// One system's points.
#[derive(Clone, Debug, Default)]
pub(crate) struct Curve {
    pub(crate) name: String,
    pub(crate) points: Vec<Point>,
}

/// A picture of some curves.
#[derive(Clone, Debug)]
pub(crate) struct Plot {
    /// Of the file, without extension.
    pub(crate) name: String,
    pub(crate) title: String,
    pub(crate) x: (String, Scale),
    pub(crate) y: (String, Scale),
    pub(crate) curves: Vec<Curve>,
}

/// The range of an axis.
#[derive(Clone, Copy, Debug)]
struct Axis {
    scale: Scale,
    from: f64,
    to: f64,
}

impl Axis {
    fn over(scale: Scale, values: impl Iterator<Item = f64>) -> Self {
        let usable = |value: &f64| value.is_finite() && (scale == Scale::Linear || *value > 0.0);
        let (least, most) =
            values.filter(usable).fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), value| {
                (least.min(value), most.max(value))
            });
        if least > most {
            return Self { scale, from: 0.5, to: 1.5 };
        }
        match scale {
            Scale::Linear => Self { scale, from: 0.0, to: if most > 0.0 { most * 1.08 } else { 1.0 } },
            Scale::Logarithmic => {
                let (from, to) = (10f64.powf(least.log10().floor()), 10f64.powf(most.log10().ceil()));
                Self { scale, from, to: if to > from { to } else { from * 10.0 } }
            }
        }
    }

    /// Where a value is, from 0 to 1.
    fn at(self, value: f64) -> f64 {
        match self.scale {
            Scale::Linear => (value - self.from) / (self.to - self.from),
            Scale::Logarithmic => (value.max(self.from) / self.from).log10() / (self.to / self.from).log10(),
        }
    }

    fn ticks(self) -> Vec<f64> {
        match self.scale {
            Scale::Linear => {
                let rough = (self.to - self.from) / 5.0;
                let power = 10f64.powf(rough.log10().floor());
                let step = [1.0, 2.0, 5.0, 10.0].map(|n| n * power).into_iter().find(|step| *step >= rough);
                let step = step.unwrap_or(rough);
                let tick = |n: i32| self.from + f64::from(n) * step;
                (0..12).map(tick).take_while(|tick| *tick <= self.to).collect()
            }
            Scale::Logarithmic => {
                let tick = |n: i32| self.from * 10f64.powi(n);
                (0..12).map(tick).take_while(|tick| *tick <= self.to * 1.001).collect()
            }
        }
    }
}

/// The picture as a document of its own.
pub(super) fn draw(plot: &Plot) -> String {
    let points = || plot.curves.iter().flat_map(|curve| &curve.points);
    let x_axis = Axis::over(plot.x.1, points().map(|point| point.x));
    let y_axis = Axis::over(plot.y.1, points().flat_map(|point| [point.y, point.low, point.high]));
    let x = |value: f64| LEFT + x_axis.at(value) * (WIDTH - LEFT - RIGHT);
    let y = |value: f64| HEIGHT - BOTTOM - y_axis.at(value) * (HEIGHT - TOP - BOTTOM);
    let mut svg = head(plot);
    // Writing to a string cannot fail.
    for tick in x_axis.ticks() {
        let (at, top, bottom) = (x(tick), TOP, HEIGHT - BOTTOM);
        let _ = writeln!(svg, r#"<line class="grid" x1="{at:.1}" y1="{top}" x2="{at:.1}" y2="{bottom}"/>"#);
        let _ = writeln!(
            svg,
            r#"<text x="{at:.1}" y="{:.1}" text-anchor="middle">{}</text>"#,
            bottom + 18.0,
            number(tick)
        );
    }
    for tick in y_axis.ticks() {
        let (at, left, right) = (y(tick), LEFT, WIDTH - RIGHT);
        let _ = writeln!(svg, r#"<line class="grid" x1="{left}" y1="{at:.1}" x2="{right}" y2="{at:.1}"/>"#);
        let _ = writeln!(
            svg,
            r#"<text x="{:.1}" y="{:.1}" text-anchor="end">{}</text>"#,
            left - 8.0,
            at + 4.0,
            number(tick)
        );
    }
    for (index, curve) in plot.curves.iter().enumerate() {
        let class = index % COLOURS.len();
        let path: Vec<String> =
            curve.points.iter().map(|point| format!("{:.1},{:.1}", x(point.x), y(point.y))).collect();
        let _ = writeln!(svg, r#"<polyline class="line c{class}" points="{}"/>"#, path.join(" "));
        for point in &curve.points {
            let (px, low, high) = (x(point.x), y(point.low), y(point.high));
            let _ = writeln!(
                svg,
                r#"<line class="c{class}" x1="{px:.1}" y1="{low:.1}" x2="{px:.1}" y2="{high:.1}"/>"#
            );
            let _ = writeln!(svg, r#"<circle class="f{class}" cx="{px:.1}" cy="{:.1}" r="3"/>"#, y(point.y));
        }
        let row = TOP + 16.0 + 20.0 * f64::from(u16::try_from(index).unwrap_or(u16::MAX));
        let legend = WIDTH - RIGHT + 14.0;
        let _ = writeln!(
            svg,
            r#"<line class="line c{class}" x1="{legend}" y1="{:.1}" x2="{:.1}" y2="{:.1}"/>"#,
            row - 4.0,
            legend + 18.0,
            row - 4.0
        );
        let _ =
            writeln!(svg, r#"<text x="{:.1}" y="{row:.1}">{}</text>"#, legend + 24.0, escaped(&curve.name));
    }
    svg.push_str("</svg>\n");
    svg
}

fn head(plot: &Plot) -> String {
    let mut style = String::from(
        "svg { color: #1a1a1a; font: 12px system-ui, sans-serif; }\ntext { fill: currentColor; }\n\
         .grid { stroke: currentColor; stroke-opacity: 0.15; }\n.line { fill: none; stroke-width: 2; }\n",
    );
    let mut dark = String::from("svg { color: #e6e6e6; }\n");
    for (index, (on_light, on_dark)) in COLOURS.iter().enumerate() {
        let _ = writeln!(style, ".c{index} {{ stroke: {on_light}; }} .f{index} {{ fill: {on_light}; }}");
        let _ = writeln!(dark, ".c{index} {{ stroke: {on_dark}; }} .f{index} {{ fill: {on_dark}; }}");
    }
    let (middle, bottom) = (LEFT + (WIDTH - LEFT - RIGHT) / 2.0, HEIGHT - 12.0);
    let upright = (TOP + HEIGHT - BOTTOM) / 2.0;
    format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">
<style>
{style}@media (prefers-color-scheme: dark) {{
{dark}}}
</style>
<text x="{LEFT}" y="24" font-size="15" font-weight="600">{title}</text>
<text x="{middle}" y="{bottom}" text-anchor="middle">{x}</text>
<text x="16" y="{upright}" text-anchor="middle" transform="rotate(-90 16 {upright})">{y}</text>
"#,
        title = escaped(&plot.title),
        x = escaped(&plot.x.0),
        y = escaped(&plot.y.0),
    )
}

fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size >= 1e6 => format!("{}M", value / 1e6),
        size if size >= 1e4 => format!("{}k", value / 1e3),
        size if size >= 1.0 => format!("{}", (value * 100.0).round() / 100.0),
        _ => format!("{value:.3}").trim_end_matches('0').to_owned(),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot() -> Plot {
        let point = |x, y| Point { x, y, low: y * 0.9, high: y * 1.1 };
        Plot {
            name: "first-packet".to_owned(),
            title: "First packet <one way>".to_owned(),
            x: ("services".to_owned(), Scale::Logarithmic),
            y: ("µs".to_owned(), Scale::Logarithmic),
            curves: vec![
                Curve { name: "millrace".to_owned(), points: vec![point(10.0, 1.5), point(50_000.0, 1.6)] },
                Curve { name: "iptables".to_owned(), points: vec![point(10.0, 6.0), point(50_000.0, 162.0)] },
            ],
        }
    }

    #[test]
    fn a_plot_has_a_line_for_each_curve_and_colours_for_both_grounds() {
        let svg = draw(&plot());
        assert_eq!(svg.matches("<polyline").count(), 2, "{svg}");
        assert_eq!(svg.matches("<circle").count(), 4, "{svg}");
        assert!(svg.contains("prefers-color-scheme: dark") && svg.contains("currentColor"), "{svg}");
        assert!(svg.contains("First packet &lt;one way&gt;") && !svg.contains("<one way>"), "{svg}");
    }

    #[test]
    fn every_point_is_inside_of_the_picture() {
        let axis = Axis::over(Scale::Logarithmic, [10.0, 50_000.0].into_iter());
        for value in [10.0, 1_000.0, 50_000.0] {
            assert!((0.0..=1.0).contains(&axis.at(value)), "{value}: {}", axis.at(value));
        }
        assert_eq!(axis.ticks().len(), 5, "{:?}", axis.ticks());
        let flat = Axis::over(Scale::Linear, [0.0].into_iter());
        assert!(flat.at(0.0).is_finite());
    }
}

//! Reading pages of metrics, more strictly than any scraper does.
#![expect(clippy::float_cmp, reason = "counts are whole numbers, which floats hold exactly")]
use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, bail, ensure};

/// The labels of a series.
pub(crate) type Labels = BTreeMap<String, String>;

/// A metric, as a page has it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Family {
    pub(crate) kind: String,
    pub(crate) help: String,
    /// By the name of the sample and its labels.
    pub(crate) samples: BTreeMap<(String, Labels), f64>,
}

/// The families of a page, by the name of their `TYPE` line.
pub(crate) type Page = BTreeMap<String, Family>;

/// The two formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Prometheus,
    OpenMetrics,
}

/// Reads a page; every deviation from its format is an error.
pub(crate) fn parse(text: &str, format: Format) -> Result<Page> {
    let body = match format {
        Format::Prometheus => text.strip_suffix('\n').context("the last line has no end")?,
        Format::OpenMetrics => text.strip_suffix("\n# EOF\n").context("no # EOF at the end")?,
    };
    let mut page = Page::new();
    let mut current: Option<String> = None;
    for line in body.split('\n') {
        let read = read_line(line, format, &mut page, &mut current);
        read.with_context(|| format!("line {line:?}"))?;
    }
    for (name, family) in &page {
        ensure!(!family.kind.is_empty(), "{name} has no TYPE");
        ensure!(!family.samples.is_empty(), "{name} has no sample");
        if family.kind == "histogram" {
            check_histogram(name, family)?;
        }
    }
    Ok(page)
}

fn read_line(line: &str, format: Format, page: &mut Page, current: &mut Option<String>) -> Result<()> {
    if let Some(rest) = line.strip_prefix("# HELP ") {
        let (name, help) = rest.split_once(' ').context("no help")?;
        ensure!(is_name(name) && !help.is_empty() && help.ends_with('.'), "no name, or no sentence");
        let family = Family { help: help.to_owned(), ..Family::default() };
        ensure!(page.insert(name.to_owned(), family).is_none(), "a second HELP of one name");
        *current = Some(name.to_owned());
        return Ok(());
    }
    let name = current.clone().context("nothing is described yet")?;
    let family = page.get_mut(&name).context("a family")?;
    if let Some(rest) = line.strip_prefix("# TYPE ") {
        let kind = rest.strip_prefix(&name).and_then(|rest| rest.strip_prefix(' '));
        let kind = kind.with_context(|| format!("TYPE is not of {name}"))?;
        ensure!(["counter", "gauge", "histogram"].contains(&kind), "no known type");
        ensure!(family.kind.is_empty() && family.samples.is_empty(), "a second TYPE, or one behind samples");
        kind.clone_into(&mut family.kind);
        return Ok(());
    }
    ensure!(!line.starts_with('#'), "neither HELP nor TYPE");
    let (sample, labels, value) = sample(line)?;
    let suffixes: &[&str] = match (family.kind.as_str(), format) {
        ("histogram", _) => &["_bucket", "_sum", "_count"],
        ("counter", Format::OpenMetrics) => &["_total"],
        ("counter" | "gauge", _) => &[""],
        (kind, _) => bail!("a sample of type {kind:?}"),
    };
    let fits = suffixes.iter().any(|suffix| sample == format!("{name}{suffix}"));
    ensure!(fits, "it is not of {name}, which is a {}", family.kind);
    let is_count = family.kind == "counter" || sample.ends_with("_bucket") || sample.ends_with("_count");
    ensure!(!value.is_nan() && (!is_count || value >= 0.0), "the value");
    ensure!(family.samples.insert((sample, labels), value).is_none(), "a second series of the same labels");
    Ok(())
}

/// `name{label="value",…} 1.5`
fn sample(line: &str) -> Result<(String, Labels, f64)> {
    let (series, value) = line.rsplit_once(' ').context("no value")?;
    let value: f64 = value.parse().context("no number")?;
    let Some((name, rest)) = series.split_once('{') else {
        ensure!(is_name(series), "no name");
        return Ok((series.to_owned(), Labels::new(), value));
    };
    ensure!(is_name(name), "no name");
    let mut rest = rest.strip_suffix('}').context("no }")?;
    ensure!(!rest.is_empty(), "empty braces");
    let mut labels = Labels::new();
    while !rest.is_empty() {
        let (label, text) = rest.split_once("=\"").context("no label")?;
        ensure!(is_name(label) && !label.contains(':'), "no name of a label");
        let (value, end) = quoted(text)?;
        ensure!(labels.insert(label.to_owned(), value).is_none(), "a label that comes twice");
        rest = match text[end..].strip_prefix(',') {
            Some("") => bail!("a comma at the end"),
            Some(rest) => rest,
            None => {
                ensure!(text[end..].is_empty(), "something behind a label");
                ""
            }
        };
    }
    Ok((name.to_owned(), labels, value))
}

/// A value up to its quote, without its escapes, and where what follows begins.
fn quoted(text: &str) -> Result<(String, usize)> {
    let mut value = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Ok((value, at + 1)),
            '\\' => match letters.next().map(|(_, letter)| letter) {
                Some('n') => value.push('\n'),
                Some(letter @ ('\\' | '"')) => value.push(letter),
                other => bail!("the escape {other:?}"),
            },
            letter => value.push(letter),
        }
    }
    bail!("no quote at the end")
}

fn is_name(text: &str) -> bool {
    let is_first = |letter: char| letter.is_ascii_alphabetic() || letter == '_' || letter == ':';
    text.starts_with(is_first) && text.chars().all(|letter| is_first(letter) || letter.is_ascii_digit())
}

/// Buckets grow to the one without a bound, which holds all.
fn check_histogram(name: &str, family: &Family) -> Result<()> {
    let mut buckets: BTreeMap<Labels, Vec<(f64, f64)>> = BTreeMap::new();
    for ((sample, labels), value) in &family.samples {
        if *sample == format!("{name}_bucket") {
            let mut of = labels.clone();
            let bound = of.remove("le").context("a bucket without le")?;
            let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse()? };
            buckets.entry(of).or_default().push((bound, *value));
        }
    }
    for (labels, mut buckets) in buckets {
        buckets.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        ensure!(
            buckets.is_sorted_by_key(|(_, count)| *count),
            "{name} {labels:?} does not grow: {buckets:?}"
        );
        let (bound, all) = *buckets.last().context("a bucket")?;
        let count = family.samples.get(&(format!("{name}_count"), labels.clone()));
        ensure!(bound.is_infinite() && count == Some(&all), "{name} {labels:?}: {count:?} of {all}");
        ensure!(family.samples.contains_key(&(format!("{name}_sum"), labels)), "{name} has no sum");
    }
    Ok(())
}

/// The number of series.
pub(crate) fn series(page: &Page) -> usize {
    page.values().map(|family| family.samples.len()).sum()
}

/// The sum of all series of a family that have these labels; a family that is not there has none.
pub(crate) fn total(page: &Page, name: &str, labels: &[(&str, &str)]) -> f64 {
    let fits = |of: &Labels| labels.iter().all(|(label, value)| of.get(*label).is_some_and(|of| of == value));
    let samples = page.get(name).into_iter().flat_map(|family| &family.samples);
    samples.filter(|((_, of), _)| fits(of)).map(|(_, value)| value).sum()
}

/// The names of the labels of a family, `le` of buckets apart.
pub(crate) fn labels_of(family: &Family) -> BTreeSet<&str> {
    family
        .samples
        .keys()
        .flat_map(|(_, labels)| labels.keys())
        .map(String::as_str)
        .filter(|label| *label != "le")
        .collect()
}

#[test]
fn pages_that_break_their_format_are_found() {
    let good = "# HELP a_total Counts.\n# TYPE a_total counter\na_total{b=\"c\\\"d\"} 1\n";
    let page = parse(good, Format::Prometheus).unwrap();
    assert_eq!(total(&page, "a_total", &[("b", "c\"d")]), 1.0);
    let head = "# HELP a_total Counts.\n# TYPE a_total counter\n";
    for bad in [
        String::new(),
        "a_total 1\n".to_owned(),
        head.to_owned(),
        format!("{head}a_total 1"),
        format!("{head}a_total x\n"),
        format!("{head}a_total -1\n"),
        format!("{head}a 1\n"),
        format!("{head}a_total{{}} 1\n"),
        format!("{head}a_total{{b=\"c\",}} 1\n"),
        format!("{head}a_total{{b=\"c\",b=\"d\"}} 1\n"),
        format!("{head}a_total 1\na_total 2\n"),
        format!("{head}a_total 1\n{head}a_total{{b=\"c\"}} 1\n"),
        format!("{head}# TYPE a_total counter\na_total 1\n"),
        "# HELP h Is.\n# TYPE h histogram\nh_bucket{le=\"1.0\"} 2\nh_bucket{le=\"+Inf\"} 1\nh_sum 1\nh_count 1\n".to_owned(),
        "# HELP h Is.\n# TYPE h histogram\nh_bucket{le=\"+Inf\"} 1\nh_sum 1\nh_count 2\n".to_owned(),
    ] {
        assert!(parse(&bad, Format::Prometheus).is_err(), "{bad}");
    }
    assert!(parse(good, Format::OpenMetrics).is_err());
    let open = "# HELP a Counts.\n# TYPE a counter\na_total 1\n# EOF\n";
    assert_eq!(parse(open, Format::OpenMetrics).map(|page| series(&page)).unwrap(), 1);
}

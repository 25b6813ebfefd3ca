//! Writes the text exposition format, version 0.0.4: families of samples with their help and type.

use std::fmt::{self, Display, Write};

/// What a family's samples are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// They only grow.
    Counter,
    /// They go up and down.
    Gauge,
    /// Counts of observations up to a bound each.
    Histogram,
}

/// A label and its value.
pub(super) type Label<'a> = (&'a str, &'a dyn Display);

/// An exposition in the making.
#[derive(Debug, Default)]
pub(super) struct Text(String);

impl Text {
    /// Begins a family. All its samples must follow before another begins.
    pub(super) fn family(&mut self, name: &str, kind: Kind, help: &str) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {kind}"));
    }

    /// Adds a sample.
    pub(super) fn sample(&mut self, name: &str, labels: &[Label<'_>], value: impl Display) {
        self.line(format_args!("{name}{} {value}", Labels(labels)));
    }

    /// What was written.
    pub(super) fn finish(self) -> String {
        self.0
    }

    fn line(&mut self, line: fmt::Arguments<'_>) {
        // A String takes everything.
        let _ = writeln!(self.0, "{line}");
    }
}

struct Labels<'a>(&'a [Label<'a>]);

impl Display for Labels<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (name, value)) in self.0.iter().enumerate() {
            let value = value.to_string().replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            write!(f, "{}{name}=\"{value}\"", if n == 0 { "{" } else { "," })?;
        }
        f.write_str(if self.0.is_empty() { "" } else { "}" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_end_a_label_or_line_is_escaped() {
        let mut text = Text::default();
        text.family("a_total", Kind::Counter, "one\\two\nthree");
        text.sample("a_total", &[], 1);
        text.sample("a_total", &[("x", &"\\ \" \n"), ("y", &2)], 0.5);
        let expected = "# HELP a_total one\\\\two\\nthree\n# TYPE a_total counter\na_total 1\n\
                        a_total{x=\"\\\\ \\\" \\n\",y=\"2\"} 0.5\n";
        assert_eq!(text.finish(), expected);
    }
}

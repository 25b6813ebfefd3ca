//! Links from document to document.

use std::fs;

use super::{Document, repository};

/// Links of a document that lead nowhere, each with its line.
#[must_use]
pub fn dead_links(document: &Document) -> Vec<String> {
    let mut dead = Vec::new();
    for (at, line) in document.text.lines().enumerate() {
        for link in line.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if !link.contains("://") && !leads_somewhere(document, link) {
                dead.push(format!("{}:{}: {link} leads nowhere", document.path, at + 1));
            }
        }
    }
    dead
}

fn leads_somewhere(from: &Document, link: &str) -> bool {
    let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
    let is_there = |text: &str| anchors(text).any(|there| there == anchor);
    if file.is_empty() {
        return is_there(&from.text);
    }
    let target = repository().join(&from.path).with_file_name(file);
    if anchor.is_empty() { target.exists() } else { fs::read_to_string(target).is_ok_and(|text| is_there(&text)) }
}

/// What headings are linked by, as GitHub makes it of them.
fn anchors(text: &str) -> impl Iterator<Item = String> {
    let headings = text.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    headings.map(|heading| {
        let kept = heading.to_lowercase().replace(' ', "-");
        kept.chars().filter(|c| c.is_alphanumeric() || *c == '-' || *c == '_').collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_needs_its_file_and_its_heading() {
        let text = "# The CPUs' distance\n[a](docs/control.md) [b](docs/nowhere.md)\n[c](#the-cpus-distance) [d](#x) ![e](https://x)";
        let document = Document { path: "README.md".into(), text: text.into() };
        let dead = dead_links(&document);
        assert_eq!(dead.len(), 2, "{dead:?}");
        assert!(dead[0].contains(":2: docs/nowhere.md") && dead[1].contains(":3: #x"), "{dead:?}");
    }
}

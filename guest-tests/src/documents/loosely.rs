//! Whether what a program prints is what a document shows, but for what is another one each time.

/// Of ten words of a line that is shown, so many must stand in one that was printed.
const OF_TEN: usize = 6;

/// The first line of `shown` that nothing in `printed` looks like.
#[must_use]
pub fn looks_like<'a>(shown: &'a [String], printed: &str) -> Option<&'a str> {
    let printed: Vec<Vec<String>> = printed.lines().map(words).collect();
    let is_there = |line: &&String| {
        let shown = words(line);
        let alike = |printed: &Vec<String>| shown.iter().filter(|word| printed.contains(word)).count();
        printed.iter().any(|printed| alike(printed) * 10 >= shown.len() * OF_TEN)
    };
    shown.iter().find(|line| !is_there(line)).map(String::as_str)
}

/// Words, in which numbers and what stands for more words are all alike.
fn words(line: &str) -> Vec<String> {
    let word = |word: &str| match word.trim_end_matches(',') {
        number if number.starts_with(|c: char| c.is_ascii_digit()) => "#".to_owned(),
        word => word.to_owned(),
    };
    line.trim_start_matches("^C").split_whitespace().filter(|word| *word != "…").map(word).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_may_differ_and_words_may_not() {
        let printed = "QUEUE  MODE  FOR\nvm1/0  polling  7ms\n";
        let missing = |line: &str| looks_like(&[line.to_owned()], printed).is_some();
        assert!(!missing("QUEUE MODE FOR") && !missing("vm1/0 polling 12.5ms"));
        assert!(missing("vnicctl: there is no device 'vm2'") && missing("LANE MODE REASON FOR"));
    }
}

//! Small parts of sentences: numbers with their nouns, lists that end.

/// Names given in one list; the rest are counted.
pub const NAMES_MAX: usize = 5;

/// `1 VM`, `2 VMs`.
pub fn some(count: usize, noun: &str) -> String {
    let plural = match (count, noun.ends_with("ch")) {
        (1, _) => "",
        (_, true) => "es",
        (_, false) => "s",
    };
    format!("{count} {noun}{plural}")
}

/// `a, b and c`; of a long list the first [`NAMES_MAX`] and how many more there are.
pub fn listed<T: AsRef<str>>(names: impl IntoIterator<Item = T>) -> String {
    let mut shown: Vec<String> = Vec::new();
    let mut more = 0;
    for name in names {
        match shown.len() < NAMES_MAX {
            true => shown.push(name.as_ref().to_owned()),
            false => more += 1,
        }
    }
    if more > 0 {
        shown.push(format!("{more} more"));
    }
    match shown.split_last() {
        None => String::new(),
        Some((last, [])) => last.clone(),
        Some((last, before)) => format!("{} and {last}", before.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_singular_and_long_lists_end() {
        assert_eq!(
            (some(1, "VM"), some(2, "batch")),
            ("1 VM".into(), "2 batches".into())
        );
        assert_eq!(listed(["a"]), "a");
        assert_eq!(listed(["a", "b", "c"]), "a, b and c");
        assert_eq!(
            listed((0..300).map(|i| i.to_string())),
            "0, 1, 2, 3, 4 and 295 more"
        );
    }
}

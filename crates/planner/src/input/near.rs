//! The nearest name to a mistyped one.

/// Letters that may differ for a name to be suggested.
const DISTANCE_MAX: usize = 3;
/// Longer names are not compared.
const NAME_LEN_MAX: usize = 64;

/// The candidate that differs least, when it is near enough to be meant.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if name.len() > NAME_LEN_MAX {
        return None;
    }
    let allowed = DISTANCE_MAX.min(name.len() / 2);
    candidates
        .into_iter()
        .filter(|c| c.len().abs_diff(name.len()) <= allowed)
        .map(|c| (distance(name, c), c))
        .filter(|(d, _)| *d <= allowed)
        .min_by_key(|(d, _)| *d)
        .map(|(_, c)| c)
}

/// Insertions, deletions and replacements between two texts.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_near_name_is_found_and_a_far_one_is_not() {
        assert_eq!(nearest("memroy", ["vcpus", "memory", "nic"]), Some("memory"));
        assert_eq!(nearest("gpu", ["vcpus", "memory"]), None);
        assert_eq!(nearest("h1", ["h11", "x9"]), Some("h11"));
    }
}

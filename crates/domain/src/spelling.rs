//! Suggests the nearest known name for a misspelt one, and adds suggestions to messages.

/// Longer names are not typing errors, and comparing them costs time.
const MAX_COMPARED_LEN: usize = 64;

/// The candidate that is spelled most like `name`, if one is close.
pub(crate) fn nearest<'c>(name: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    if name.len() > MAX_COMPARED_LEN {
        return None;
    }
    let lower = name.to_lowercase();
    let distance = |candidate: &str| strsim::damerau_levenshtein(&lower, &candidate.to_lowercase());
    let (distance, nearest) = candidates
        .into_iter()
        .map(|candidate| (distance(candidate), candidate))
        .min_by_key(|(distance, _)| *distance)?;
    // One wrong letter in three is a slip; more is another word.
    (distance * 3 <= nearest.chars().count().max(3)).then_some(nearest)
}

/// Suggests the candidate that is spelled most like `name`, if one is close.
pub fn did_you_mean<'c>(name: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<String> {
    nearest(name, candidates).map(|nearest| format!("did you mean `{nearest}`?"))
}

/// A message with what was probably meant: `detail (suggestion)`.
pub fn with_suggestion(detail: &str, suggestion: Option<&str>) -> String {
    match suggestion {
        Some(suggestion) => format!("{detail} ({suggestion})"),
        None => detail.to_owned(),
    }
}

//! Rows as parameters of a statement: an array for each column.

/// A column of a statement: its name and its type.
pub(super) type Column = (&'static str, &'static str);

/// `UNNEST($1::bigint[], …) WITH ORDINALITY AS u(id, …, place)` with these columns. `next` is the number of the next parameter
/// of the statement; afterwards, of the one behind these.
pub(super) fn unnest(columns: &[Column], next: &mut usize) -> String {
    let (mut parameters, mut names) = (Vec::new(), Vec::new());
    for (name, kind) in columns {
        parameters.push(format!("${next}::{kind}[]"));
        names.push(*name);
        *next += 1;
    }
    format!("UNNEST({}) WITH ORDINALITY AS u({}, place)", parameters.join(", "), names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_numbered_through() {
        let mut next = 3;
        let rows = unnest(&[("id", "bigint"), ("name", "text")], &mut next);
        assert_eq!(rows, "UNNEST($3::bigint[], $4::text[]) WITH ORDINALITY AS u(id, name, place)");
        assert_eq!(next, 5);
    }
}

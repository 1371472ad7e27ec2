//! Takes a command line apart as a shell would, without ever running one: quotes and backslashes, nothing else.

/// The words of a line, or what is wrong with it.
pub fn split(line: &str) -> Result<Vec<String>, &'static str> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = line.chars();
    while let Some(char) = chars.next() {
        match char {
            ' ' | '\t' | '\n' | '\r' => words.extend(word.take()),
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next() {
                        Some('\'') => break,
                        Some(char) => word.push(char),
                        None => return Err("a ' is never closed"),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match chars.next() {
                        Some('"') => break,
                        Some('\\') => match chars.next() {
                            Some(char @ ('"' | '\\' | '$' | '`')) => word.push(char),
                            Some(char) => word.extend(['\\', char]),
                            None => return Err("a \" is never closed"),
                        },
                        Some(char) => word.push(char),
                        None => return Err("a \" is never closed"),
                    }
                }
            }
            '\\' => match chars.next() {
                Some(char) => word.get_or_insert_default().push(char),
                None => return Err("nothing stands behind the last \\"),
            },
            char => word.get_or_insert_default().push(char),
        }
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::super::format::quoted;
    use super::*;

    #[test]
    fn lines_are_taken_apart_as_in_a_shell() {
        let split = |line| split(line).unwrap_or_default();
        assert_eq!(split("make  -j2 all"), ["make", "-j2", "all"]);
        assert_eq!(
            split(r#"sh -c 'echo "$HOME"' "a b" c\ d "" "\"\x""#),
            ["sh", "-c", "echo \"$HOME\"", "a b", "c d", "", "\"\\x"]
        );
        assert_eq!(split("a'b'\"c\""), ["abc"]);
        assert_eq!(split("  "), [""; 0]);
    }

    #[test]
    fn what_is_not_closed_is_said() {
        for line in ["'a", "\"a", "a\\", "\"a\\"] {
            assert!(split(line).is_err(), "{line}");
        }
    }

    #[test]
    fn what_is_quoted_comes_back() {
        let words = ["", "plain", "it's", "a \"b\" $c", "\\", "ä\n"];
        let line = words.map(quoted).join(" ");
        assert_eq!(split(&line), Ok(words.map(str::to_owned).to_vec()));
    }
}

//! Reads a program and its arguments.

use super::fields::Node;

/// What Linux allows for one argument or variable with the zero byte that ends it (`MAX_ARG_STRLEN`).
pub(super) const MAX_ARGUMENT_BYTES: usize = 128 * 1024;
/// All arguments of one command together, so that an environment fits beside them.
const MAX_COMMAND_BYTES: usize = MAX_ARGUMENT_BYTES;

/// A program and its arguments; `advice` is for those who write them as one string.
pub(super) fn arguments(node: &Node, noun: &str, advice: &str) -> Option<Vec<String>> {
    if node.value.is_text() {
        return node.wrong_with("expected a list of strings, found a string", || Some(advice.to_owned()));
    }
    // Collected twice, so that the mistakes in all arguments are found.
    let arguments: Vec<_> = node.list("a list of strings")?.map(|node| argument(&node)).collect();
    let arguments: Vec<String> = arguments.into_iter().collect::<Option<_>>()?;
    let bytes: usize = arguments.iter().map(|argument| argument.len() + 1).sum();
    if bytes > MAX_COMMAND_BYTES {
        return node.wrong(format!(
            "the {noun} has {bytes} bytes, more than the {MAX_COMMAND_BYTES} that are allowed"
        ));
    }
    match arguments.first() {
        None => node.wrong(format!("the {noun} is empty: it needs at least a program")),
        Some(program) if program.is_empty() => {
            node.wrong(format!("the program, the first of the {noun}, is empty"))
        }
        Some(_) => Some(arguments),
    }
}

fn argument(node: &Node) -> Option<String> {
    let argument = node.text("a string")?;
    if argument.contains('\0') {
        return node.wrong("an argument cannot have a zero byte in it");
    }
    Some(argument.to_owned())
}

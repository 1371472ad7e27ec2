//! Which arguments of a command are code.

/// Programs that take `-c` as a switch among others: the script is the first argument that is no option.
const SHELLS: [&str; 12] =
    ["sh", "bash", "dash", "ash", "zsh", "ksh", "mksh", "csh", "tcsh", "fish", "busybox", "toybox"];
/// Programs that take code after another option than `-c`: its letters.
const INTERPRETERS: [(&[&str], &str); 5] = [
    (&["perl", "ruby", "lua", "luajit", "julia", "R", "Rscript", "raku", "osascript", "groovy"], "eE"),
    (&["node", "nodejs", "bun"], "ep"),
    (&["php"], "rRBE"),
    (&["mysql", "mariadb", "rsync", "xterm"], "e"),
    (&["env"], "S"),
];
/// Programs that pass arguments to a shell, or take code as an argument like any other.
const EVALUATORS: [&str; 17] = [
    "eval", "ssh", "autossh", "rsh", "mosh", "watch", "parallel", "tmux", "make", "gmake", "awk", "gawk",
    "mawk", "nawk", "sed", "gsed", "sqlite",
];
/// Names of long options that are followed by code.
const LONG_OPTIONS: [&str; 5] = ["command", "eval", "exec", "execute", "init-command"];

/// A command as far as it is known, to judge which of the next arguments are code.
///
/// By convention, code follows `-c`, whatever the program: `sh -c`, `su USER -c`, `flock FILE -c`, `python -c`, `psql -c`. Other
/// options mean code to some programs only, wherever these are in the command: `timeout 5 perl -e`.
#[derive(Debug, Clone, Default)]
pub struct Arguments {
    is_shell: bool,
    is_evaluator: bool,
    letters: &'static str,
    /// Code follows, if no other option does.
    awaits_code: bool,
    /// The option before takes a value itself: `sh -c -o pipefail SCRIPT`.
    awaits_value: bool,
}

impl Arguments {
    /// Whether the next argument is code, or has code in it. `argument` is its text up to the first value that is put in.
    pub fn is_code(&self, argument: &str) -> bool {
        self.is_evaluator || self.awaits_code || self.has_code(argument)
    }

    /// Adds an argument as the program gets it.
    pub fn push(&mut self, argument: &str) {
        let is_option = argument.starts_with(['-', '+']);
        if !is_option {
            self.note_program(argument);
        }
        if self.awaits_code {
            let was_value = std::mem::replace(&mut self.awaits_value, is_option && takes_value(argument));
            self.awaits_code = is_option || was_value;
            return;
        }
        self.awaits_code = self.gives_code(argument);
        self.awaits_value = self.awaits_code && takes_value(argument);
    }

    fn note_program(&mut self, argument: &str) {
        let name = argument.rsplit('/').next().unwrap_or(argument);
        // `python3.12`, `lua5.4`
        let name = name.trim_end_matches(|c: char| c.is_ascii_digit() || matches!(c, '.' | '-'));
        self.is_shell |= SHELLS.contains(&name);
        self.is_evaluator |= EVALUATORS.contains(&name);
        if let Some((_, letters)) = INTERPRETERS.iter().find(|(names, _)| names.contains(&name)) {
            self.letters = letters;
        }
    }

    fn is_letter_of_code(&self, letter: char) -> bool {
        letter == 'c' || self.letters.contains(letter)
    }

    /// Whether it is an option that is followed by code. Of several letters behind one dash, the last one takes the argument that
    /// follows.
    fn gives_code(&self, argument: &str) -> bool {
        let Some(name) = argument.strip_prefix('-') else { return false };
        if is_long_option(name) {
            return true;
        }
        let are_letters = name.chars().all(|c| c.is_ascii_alphabetic());
        let has_switch = self.is_shell && name.contains('c');
        are_letters && (has_switch || name.ends_with(|letter| self.is_letter_of_code(letter)))
    }

    /// Whether it is an option with code in the same argument: `-cCODE`, `--command=CODE`.
    fn has_code(&self, argument: &str) -> bool {
        let Some(name) = argument.strip_prefix('-') else { return false };
        let end = name.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(name.len());
        let (letters, rest) = name.split_at(end);
        match name.split_once('=') {
            Some((name, _)) if is_long_option(name) || name == "c" => true,
            // `-config=FILE` is an option with a long name.
            _ if rest.starts_with('=') => false,
            _ => letters.contains(|letter| self.is_letter_of_code(letter)),
        }
    }
}

fn is_long_option(name: &str) -> bool {
    let name = name.strip_prefix('-').unwrap_or(name);
    LONG_OPTIONS.iter().any(|option| option.eq_ignore_ascii_case(name))
}

/// Whether an option of a shell takes the next argument as its value.
fn takes_value(option: &str) -> bool {
    matches!(option, "--rcfile" | "--init-file")
        || (!option.starts_with("--") && option.ends_with(['o', 'O']))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which arguments of a command are code: a mark in the place of each. Values are put in for `_`, or for all of an argument.
    fn code_in(command: &str) -> String {
        let mut arguments = Arguments::default();
        let mut marks = String::new();
        for argument in command.split(' ') {
            let (before, _) = argument.split_once('_').unwrap_or_default();
            marks.push(if arguments.is_code(before) { '^' } else { '.' });
            arguments.push(argument);
        }
        marks
    }

    #[test]
    fn code_follows_a_dash_c_whatever_the_program() {
        for (command, code) in [
            ("sh -c CODE sh a", "..^.."),
            ("/bin/bash -lc CODE", "..^"),
            ("env A=b bash -exc CODE", "....^"),
            ("su user -c CODE a", "...^."),
            ("flock /lock -c CODE", "...^"),
            ("script -qc CODE log", "..^."),
            ("python3.12 -c CODE a", "..^."),
            ("psql --command CODE", "..^"),
            ("pwsh -Command CODE", "..^"),
            ("timeout 5 anything -c CODE", "....^"),
        ] {
            assert_eq!(code_in(command), code, "{command}");
        }
    }

    #[test]
    fn options_between_a_switch_of_a_shell_and_its_script_do_not_hide_it() {
        for (command, code) in [
            ("bash -c -e CODE a", "..^^."),
            ("bash -c -o pipefail CODE a", "..^^^."),
            ("bash -ceo pipefail CODE a", "..^^."),
            ("bash -o pipefail -c CODE a", "....^."),
            ("bash -cx CODE", "..^"),
            ("sh -c -- CODE a", "..^^."),
            ("find . -exec sh -ce CODE ;", "...^.^."),
        ] {
            assert_eq!(code_in(command), code, "{command}");
        }
    }

    #[test]
    fn some_programs_take_code_in_their_own_way() {
        for (command, code) in [
            ("perl -ne CODE file", "..^."),
            ("perl script.pl a", "..."),
            ("node -p CODE", "..^"),
            ("php -r CODE", "..^"),
            ("env -S CODE", "..^"),
            ("timeout 5 ssh -p 22 host CODE", "...^^^^"),
            ("gawk CODE file", ".^^"),
            ("watch -n 1 CODE", ".^^^"),
            ("train -e a -r b", "....."),
            ("docker run -e A=_ image", "....."),
        ] {
            assert_eq!(code_in(command), code, "{command}");
        }
    }

    #[test]
    fn code_may_be_in_the_argument_of_its_option() {
        for (command, code) in [
            ("psql --command=_ a", ".^."),
            ("python -c_ a", ".^."),
            ("python -cprint(_) a", ".^."),
            ("su -lcecho_", ".^"),
            ("perl -es/_/x/", ".^"),
            ("tool -config=_ --data=_ -name_", "...."),
            ("tool --count=_ -n_", "..."),
        ] {
            assert_eq!(code_in(command), code, "{command}");
        }
    }
}

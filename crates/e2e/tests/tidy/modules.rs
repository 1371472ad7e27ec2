//! Which modules of a crate use which, as their `use` lines and paths say, and where that goes round in a circle.
//!
//! A module and those below it are one thing to those beside it. What a child takes from its parents is its own business.

use std::collections::{BTreeMap, BTreeSet};

/// A module by its names, from the root of its crate.
type Module = Vec<String>;

/// The modules of one crate.
pub struct Modules {
    /// Their texts, without comments and tests.
    texts: BTreeMap<Module, String>,
    /// What each imports: the full path by the name that it has there.
    imports: BTreeMap<Module, BTreeMap<String, Vec<String>>>,
}

impl Modules {
    /// `sources`: each file by its path below `src`, with its text.
    pub fn of<'a>(sources: impl Iterator<Item = (&'a str, &'a str)>) -> Modules {
        let without_comments = |text: &str| -> String {
            text.lines()
                .filter(|line| !line.trim_start().starts_with("//"))
                .flat_map(|line| [line, "\n"])
                .collect()
        };
        let texts = sources.map(|(path, text)| (module_of(path), without_comments(text))).collect();
        let mut modules = Modules { texts, imports: BTreeMap::new() };
        for (module, text) in &modules.texts {
            let paths = used(text)
                .into_iter()
                .filter_map(|(path, name)| Some((name, modules.absolute(module, &path)?)));
            modules.imports.insert(module.clone(), paths.collect());
        }
        modules
    }

    /// Each circle among modules that have the same parent, with what ties it.
    pub fn circles(&self) -> Vec<String> {
        let edges = self.edges();
        let parents: BTreeSet<&[String]> =
            self.texts.keys().flat_map(|module| (0..module.len()).map(|depth| &module[..depth])).collect();
        let mut circles = Vec::new();
        for parent in parents {
            let child =
                |module: &Module| module.strip_prefix(parent).and_then(|below| below.first()).cloned();
            let mut uses: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
            for (from, to) in &edges {
                if let (Some(from), Some(to)) = (child(from), child(to))
                    && from != to
                {
                    uses.entry(from).or_default().insert(to);
                }
            }
            let reached: BTreeMap<&String, BTreeSet<&String>> =
                uses.keys().map(|from| (from, all_reached(&uses, from))).collect();
            let is_mutual = |one: &String, other: &String| {
                let reaches = |from, to| reached.get(from).is_some_and(|reached| reached.contains(to));
                reaches(one, other) && reaches(other, one)
            };
            let ties = edges.iter().filter(|(from, to)| match (child(from), child(to)) {
                (Some(from), Some(to)) => from != to && is_mutual(&from, &to),
                _ => false,
            });
            circles.extend(ties.map(|(from, to)| format!("{} -> {}", from.join("::"), to.join("::"))));
        }
        circles
    }

    /// Which module uses which, itself and its parents left out.
    fn edges(&self) -> BTreeSet<(Module, Module)> {
        let mut edges = BTreeSet::new();
        for (module, text) in &self.texts {
            let paths = paths(text).into_iter().filter_map(|path| self.absolute(module, &path));
            for path in self.imports[module].values().cloned().chain(paths) {
                // A module that is only named is not used yet.
                let is_used = !self.texts.contains_key(&path);
                if let Some(definer) = self.definer(&path, 0)
                    && is_used
                    && !module.starts_with(&definer)
                {
                    edges.insert((module.clone(), definer));
                }
            }
        }
        edges
    }

    /// A path as it reads from the root of the crate; none if it leads elsewhere.
    fn absolute(&self, module: &Module, path: &[String]) -> Option<Vec<String>> {
        let (first, rest) = path.split_first()?;
        let mut begin = module.clone();
        match first.as_str() {
            "crate" => begin.clear(),
            "self" => {}
            "super" => {
                begin.pop();
                if rest.first().is_some_and(|next| next == "super") {
                    return self.absolute(&begin, rest);
                }
            }
            name => {
                begin.push(name.to_owned());
                if !self.texts.contains_key(&begin) {
                    begin.clone_from(self.imports.get(module)?.get(name)?);
                }
            }
        }
        begin.extend_from_slice(rest);
        Some(begin)
    }

    /// The module that defines what a path leads to, wherever it is handed on.
    fn definer(&self, path: &[String], handed_on: usize) -> Option<Module> {
        let depth = (0..=path.len()).rev().find(|depth| self.texts.contains_key(&path[..*depth]))?;
        let (module, rest) = path.split_at(depth);
        let further = rest.first().and_then(|name| self.imports[module].get(name)).filter(|_| handed_on < 8);
        match further {
            Some(further) => self.definer(&[further, &rest[1..]].concat(), handed_on + 1),
            None => Some(module.to_vec()),
        }
    }
}

/// `hub/outbox.rs` → `hub::outbox`.
fn module_of(path: &str) -> Module {
    let mut module: Module = path.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    if module.last().is_some_and(|name| ["lib", "main", "mod"].contains(&name.as_str())) {
        module.pop();
    }
    module
}

fn all_reached<'a>(uses: &'a BTreeMap<String, BTreeSet<String>>, from: &String) -> BTreeSet<&'a String> {
    let mut reached = BTreeSet::new();
    let mut open: Vec<&String> = uses[from].iter().collect();
    while let Some(next) = open.pop() {
        if reached.insert(next) {
            open.extend(uses.get(next).into_iter().flatten());
        }
    }
    reached
}

/// The text of each `use`, without its end.
fn use_lines(text: &str) -> impl Iterator<Item = &str> {
    let ends = |c: char| c == ';';
    text.split_inclusive(ends).filter_map(|statement| {
        let begin = statement.rmatch_indices("use ").map(|(at, _)| at).find(|at| {
            let line = statement[..*at].rsplit('\n').next().unwrap_or_default().trim_start();
            line.is_empty() || line.starts_with("pub")
        })?;
        Some(statement[begin + "use ".len()..].trim_end_matches(';'))
    })
}

/// What a text imports: each path, with the name that it gets.
fn used(text: &str) -> Vec<(Vec<String>, String)> {
    use_lines(text).flat_map(|tree| expanded(tree, &[])).collect()
}

/// `a::{b, c::d as e}` → `a::b` named `b`, `a::c::d` named `e`.
fn expanded(tree: &str, before: &[String]) -> Vec<(Vec<String>, String)> {
    let segments = |path: &str| {
        path.split("::")
            .map(|part| part.trim().to_owned())
            .filter(|part| !part.is_empty())
            .collect::<Vec<_>>()
    };
    if let Some((begin, list)) = tree.split_once('{') {
        let before = [before, &segments(begin)].concat();
        let list = list.trim_end().trim_end_matches('}');
        let mut depth = 0;
        let parts = list.split(|c| {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            c == ',' && depth == 0
        });
        return parts
            .filter(|part| !part.trim().is_empty())
            .flat_map(|part| expanded(part, &before))
            .collect();
    }
    let (path, name) =
        tree.split_once(" as ").map_or((tree, None), |(path, name)| (path, Some(name.trim().to_owned())));
    let mut path = [before, &segments(path)].concat();
    path.pop_if(|last| last == "self");
    let name = name.or_else(|| path.last().cloned()).unwrap_or_default();
    vec![(path, name)]
}

/// The paths in a text that are not in its `use` lines.
fn paths(text: &str) -> Vec<Vec<String>> {
    let mut rest = text.to_owned();
    for line in use_lines(text) {
        rest = rest.replacen(line, "", 1);
    }
    rest.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'))
        .map(|word| word.trim_matches(':'))
        .filter(|word| word.contains("::"))
        .map(|word| word.split("::").map(str::to_owned).collect())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn circles(sources: &[(&str, &str)]) -> Vec<String> {
        Modules::of(sources.iter().copied()).circles()
    }

    #[test]
    fn a_circle_is_found_however_it_is_written() {
        let two = |one, other| circles(&[("lib.rs", "mod a;\nmod b;"), ("a.rs", one), ("b.rs", other)]);
        let both = ["a -> b", "b -> a"];
        assert_eq!(two("use crate::b::B;", "use super::a::A;"), both);
        assert_eq!(two("use crate::{c, b::{B, D}};", "fn f() { crate::a::f() }"), both);
        assert_eq!(two("use crate::b;\nfn f() { b::f() }", "use crate::a::A as Other;"), both);
        assert!(two("use crate::b::B;", "use std::fmt;").is_empty());
        assert!(two("use crate::b::B;", "// use crate::a::A;").is_empty());
    }

    #[test]
    fn a_circle_may_go_through_what_is_below_a_module_or_handed_on_by_it() {
        let below = [
            ("lib.rs", ""),
            ("a.rs", "mod c;"),
            ("a/c.rs", "use crate::b::B;"),
            ("b.rs", "use crate::a::A;"),
        ];
        assert_eq!(circles(&below), ["a::c -> b", "b -> a"]);
        let handed_on = [
            ("lib.rs", ""),
            ("a.rs", "mod c;\nmod d;\npub use c::C;"),
            ("a/c.rs", "use super::d::D;"),
            ("a/d.rs", "use super::C;"),
        ];
        assert_eq!(circles(&handed_on), ["a::c -> a::d", "a::d -> a::c"]);
    }

    #[test]
    fn a_child_may_use_its_parent() {
        assert!(circles(&[("a.rs", "mod b;\nuse b::B;"), ("a/b.rs", "use super::A;")]).is_empty());
    }
}

//! The items of a definition's tasks: `each`, a list, a matrix of several lists, or the workers. One task for each item.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::field::{Field, Kind};
use super::node::Node;
use crate::document::Data;
use crate::quantity::shown;
use crate::spelling::did_you_mean;

/// The most tasks that one job may have.
pub const MAX_TASKS_PER_JOB: u32 = 100_000;
/// The most bytes of one item.
pub const MAX_ITEM_BYTES: usize = 16 * 1024;
/// The most axes of a matrix.
pub const MAX_AXES: usize = 8;

/// What `each` says to have a task for each worker.
pub const WORKER: &str = "worker";

/// `each`
pub(super) const EACH: Field = Field::new("each", Kind::Items, "Items: one task for each")
    .details(
        "The task finds its item in GAFFER_ITEM. An object of lists is a matrix: one task for each combination, which finds its \
         values in GAFFER_ITEM_NAME, such as GAFFER_ITEM_OS. `worker` runs the task once on every worker that matches when the job \
         is accepted; its item is the worker's name.",
    )
    .limits("100,000 items or combinations of 16 KiB each; a matrix has up to 8 lists; `worker` not in a service, nothing else in a system job")
    .not_with(&["count"])
    .example("[a.png, b.png]")
    .flag("each", "ITEM");

/// The name of a list in a matrix.
pub(super) const AXIS: Kind =
    Kind::Name { what: "the name of a list in a matrix", max_len: 63, others: "_-" };

/// The items of a definition, in the order of its indices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Each {
    /// One item for each task. Items may be equal.
    List(Texts),
    /// A task for each combination of one text from each list; of the last list, each task has another one than the task before.
    /// The lists are in the order of their names, which JSON does not keep.
    Matrix(BTreeMap<String, Texts>),
    /// The workers that match when a batch job is accepted, or at any time for a system job, each by its name. Each task runs on its
    /// worker and on no other. The specification does not say which these are.
    Workers,
}

/// What the task with one index has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Item {
    /// An item of a list.
    One(String),
    /// A combination of a matrix: the text of each list by the list's name.
    Combination(BTreeMap<String, String>),
}

/// Many short texts in little memory.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Texts {
    all: String,
    /// Where each text ends.
    ends: Vec<u32>,
}

impl Texts {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// One of them.
    pub fn get(&self, at: usize) -> Option<&str> {
        let end = *self.ends.get(at)? as usize;
        let start = at.checked_sub(1).and_then(|before| self.ends.get(before)).map_or(0, |end| *end as usize);
        self.all.get(start..end)
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        (0..self.len()).filter_map(|at| self.get(at))
    }

    fn push(&mut self, text: &str) {
        self.all.push_str(text);
        self.ends.push(self.all.len() as u32);
    }
}

impl<T: AsRef<str>> FromIterator<T> for Texts {
    fn from_iter<I: IntoIterator<Item = T>>(texts: I) -> Texts {
        let mut all = Texts::default();
        texts.into_iter().for_each(|text| all.push(text.as_ref()));
        all
    }
}

impl Each {
    /// How many tasks there are; none if that is known only when the job is accepted.
    pub fn tasks(&self) -> Option<u64> {
        match self {
            Each::List(items) => Some(items.len() as u64),
            Each::Matrix(lists) => Some(combinations(lists)),
            Each::Workers => None,
        }
    }

    /// The item of the task at this place in the order of the indices, as far as the specification says it.
    pub fn item(&self, at: u32) -> Option<Item> {
        match self {
            Each::Workers => None,
            Each::List(items) => items.get(at as usize).map(|item| Item::One(item.to_owned())),
            Each::Matrix(lists) => {
                let mut rest = u64::from(at);
                let mut combination = BTreeMap::new();
                // Like the digits of a number: the last list is the lowest.
                for (name, texts) in lists.iter().rev() {
                    let len = (texts.len() as u64).max(1);
                    combination.insert(name.clone(), texts.get((rest % len) as usize)?.to_owned());
                    rest /= len;
                }
                (rest == 0 && !combination.is_empty()).then_some(Item::Combination(combination))
            }
        }
    }
}

fn combinations(lists: &BTreeMap<String, Texts>) -> u64 {
    lists.values().fold(1, |product: u64, texts| product.saturating_mul(texts.len() as u64))
}

impl Item {
    /// Its environment variables.
    pub fn variables(&self) -> Vec<(String, String)> {
        match self {
            Item::One(item) => vec![("GAFFER_ITEM".to_owned(), item.clone())],
            Item::Combination(texts) => {
                texts.iter().map(|(name, text)| (variable(name), text.clone())).collect()
            }
        }
    }
}

/// `GAFFER_ITEM_OS`
fn variable(list: &str) -> String {
    format!("GAFFER_ITEM_{}", list.to_ascii_uppercase().replace('-', "_"))
}

/// `a.png`, or `os=linux, python=3.12`
impl Display for Item {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Item::One(item) => f.write_str(item),
            Item::Combination(texts) => {
                let pairs: Vec<String> = texts.iter().map(|(name, text)| format!("{name}={text}")).collect();
                f.write_str(&pairs.join(", "))
            }
        }
    }
}

impl Serialize for Texts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Texts, D::Error> {
        Ok(Vec::<String>::deserialize(deserializer)?.into_iter().collect())
    }
}

impl Serialize for Each {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Each::List(items) => items.serialize(serializer),
            Each::Matrix(lists) => lists.serialize(serializer),
            Each::Workers => serializer.serialize_str(WORKER),
        }
    }
}

impl<'de> Deserialize<'de> for Each {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Each, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Stored {
            List(Texts),
            Matrix(BTreeMap<String, Texts>),
            Word(Word),
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "snake_case")]
        enum Word {
            Worker,
        }
        Ok(match Stored::deserialize(deserializer)? {
            Stored::List(items) => Each::List(items),
            Stored::Matrix(lists) => Each::Matrix(lists),
            Stored::Word(Word::Worker) => Each::Workers,
        })
    }
}

/// Reads `each`.
pub(super) fn each(node: &Node<'_>) -> Option<Each> {
    let each = match &node.value.data {
        Data::Object(_) => Each::Matrix(matrix(node)?),
        Data::Scalar(_) => each_worker(node)?,
        _ => Each::List(texts(node, "`each`")?),
    };
    match each.tasks() {
        Some(tasks) if tasks > u64::from(MAX_TASKS_PER_JOB) => {
            node.wrong(format!("{tasks} tasks are more than the {MAX_TASKS_PER_JOB} that one job may have"))
        }
        _ => Some(each),
    }
}

/// The word that stands for the workers.
fn each_worker(node: &Node<'_>) -> Option<Each> {
    match node.value.as_text() {
        Some(WORKER) => Some(Each::Workers),
        Some(text) if !node.value.is_null() => node.wrong_with(
            format!("expected {}, found {}", Kind::Items.expected(EACH.example), shown(text)),
            || did_you_mean(text, [WORKER]),
        ),
        _ => node.expected(&Kind::Items.expected(EACH.example)),
    }
}

/// A list of items; `whose` begins the sentence about an empty one.
fn texts(node: &Node<'_>, whose: &str) -> Option<Texts> {
    if !matches!(node.value.data, Data::List(_)) {
        return node.expected(&Kind::Items.expected(EACH.example));
    }
    let members = node.members()?;
    if members.len() == 0 {
        return node.wrong(format!("{whose} has no items: it needs at least one"));
    }
    // All are looked at, so that the mistakes in all of them are found.
    let (mut all, mut is_right) = (Texts::default(), true);
    for member in members {
        match text(&member) {
            Some(text) => all.push(text),
            None => is_right = false,
        }
    }
    is_right.then_some(all)
}

fn text<'a>(node: &Node<'a>) -> Option<&'a str> {
    let text = node.text("a text or a number")?;
    if text.contains('\0') {
        return node.wrong("an item cannot have a zero byte in it");
    }
    let bytes = text.len();
    match bytes <= MAX_ITEM_BYTES {
        true => Some(text),
        false => {
            node.wrong(format!("the item has {bytes} bytes, more than the {MAX_ITEM_BYTES} that are allowed"))
        }
    }
}

fn matrix(node: &Node<'_>) -> Option<BTreeMap<String, Texts>> {
    let entries = node.entries()?;
    let number = entries.len();
    if number == 0 {
        return node.wrong("the matrix is empty: it needs at least one list, such as {os: [linux, mac]}");
    }
    if number > MAX_AXES {
        return node
            .wrong(format!("the matrix has {number} lists, more than the {MAX_AXES} that are allowed"));
    }
    let (mut lists, mut is_right) = (BTreeMap::new(), true);
    let mut variables = BTreeMap::new();
    for (name, node) in entries {
        is_right &= node.check_name(name, &AXIS);
        if let Some(other) = variables.insert(variable(name), name) {
            is_right = false;
            node.wrong::<()>(format!(
                "{} and {} would both be {} in the environment",
                shown(other),
                shown(name),
                variable(name)
            ));
        }
        match texts(&node, &format!("the list {}", shown(name))) {
            Some(texts) => drop(lists.insert(name.to_owned(), texts)),
            None => is_right = false,
        }
    }
    is_right.then_some(lists)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use serde_json::json;

    use super::*;

    fn of(value: serde_json::Value) -> Each {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn items_are_found_by_their_place() {
        let list = of(json!(["a", "", "ä ö", "a"]));
        let shown: Vec<String> = (0..5).filter_map(|at| list.item(at)).map(|item| item.to_string()).collect();
        assert_eq!(
            (list.tasks(), shown),
            (Some(4), vec!["a".to_owned(), String::new(), "ä ö".to_owned(), "a".to_owned()])
        );
        assert_eq!(serde_json::to_value(&list).unwrap(), json!(["a", "", "ä ö", "a"]));
        assert_eq!(list.item(0).unwrap().variables(), [("GAFFER_ITEM".to_owned(), "a".to_owned())]);
    }

    #[test]
    fn a_matrix_has_every_combination_once_in_the_order_of_the_names_of_its_lists() {
        let matrix = of(json!({"python": ["3.11", "3.12"], "os": ["linux", "mac", "bsd"], "big-gpu": ["a"]}));
        assert_eq!(matrix.tasks(), Some(6));
        let shown: Vec<String> =
            (0..7).filter_map(|at| matrix.item(at)).map(|item| item.to_string()).collect();
        let expected = [
            "big-gpu=a, os=linux, python=3.11",
            "big-gpu=a, os=linux, python=3.12",
            "big-gpu=a, os=mac, python=3.11",
            "big-gpu=a, os=mac, python=3.12",
            "big-gpu=a, os=bsd, python=3.11",
            "big-gpu=a, os=bsd, python=3.12",
        ];
        assert_eq!(shown, expected);
        let variables: Vec<String> =
            matrix.item(3).unwrap().variables().into_iter().map(|(name, _)| name).collect();
        assert_eq!(variables, ["GAFFER_ITEM_BIG_GPU", "GAFFER_ITEM_OS", "GAFFER_ITEM_PYTHON"]);
    }
}

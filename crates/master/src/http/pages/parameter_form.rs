//! The part of a form that asks for the values of parameters.

use std::collections::BTreeMap;

use gaffer_domain::document::Value as Document;
use gaffer_domain::parameters::{ParameterType, Parameters};
use gaffer_domain::spec::Declared;
use serde_json::{Map, Value, json};

/// Names of fields begin with this, and end with the name of the parameter.
const PREFIX: &str = "parameter.";

/// A parameter as a form shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParameterControl {
    /// Of the field: `parameter.lr`.
    pub name: String,
    pub label: String,
    /// What it is for.
    pub description: String,
    /// What values it takes.
    pub expected: String,
    /// There is no value without one.
    pub is_required: bool,
    pub value: String,
    pub error: Option<String>,
    /// For the keyboard of a telephone.
    pub input_mode: &'static str,
    /// If it is one of a few: each, and whether it is chosen.
    pub choices: Vec<(String, bool)>,
    /// The value has several lines.
    pub is_long: bool,
}

/// The fields of a form, by their names.
pub type Fields = BTreeMap<String, String>;

/// The field of a parameter.
pub fn field_of(parameter: &str) -> String {
    format!("{PREFIX}{parameter}")
}

/// The field that a mistake is about, if it is about the value of one of these parameters.
pub fn field_at(pointer: &str, declared: &[Declared]) -> Option<String> {
    let name = pointer.strip_prefix("/parameters/")?;
    declared.iter().any(|parameter| parameter.name == name).then(|| field_of(name))
}

/// The parameters of a form. A field that was sent has what was sent, others the value of an earlier job, or the default.
pub fn controls(
    declared: &[Declared],
    fields: &Fields,
    earlier: Option<&Parameters>,
    errors: &Fields,
) -> Vec<ParameterControl> {
    let open = declared.iter().filter(|parameter| parameter.value.is_none());
    open.map(|Declared { name, declaration, .. }| {
        let field = field_of(name);
        let before = earlier.and_then(|earlier| earlier.get(name)).map(|parameter| &parameter.value);
        let value = fields.get(&field).or(before).or(declaration.default.as_ref()).cloned();
        let value = value.unwrap_or_default();
        let mut choices: Vec<String> = match &declaration.takes {
            ParameterType::Boolean => vec!["true".to_owned(), "false".to_owned()],
            ParameterType::Choice { values } => values.clone(),
            _ => Vec::new(),
        };
        if !choices.is_empty() && declaration.default.is_none() {
            choices.insert(0, String::new());
        }
        let input_mode = match &declaration.takes {
            ParameterType::Integer { min: Some(0..), .. } => "numeric",
            ParameterType::Number { min: Some(min), .. } if *min >= 0.0 => "decimal",
            _ => "text",
        };
        ParameterControl {
            label: name.clone(),
            description: declaration.description.clone().unwrap_or_default(),
            expected: declaration.takes.expected(),
            is_required: declaration.default.is_none(),
            error: errors.get(&field).cloned(),
            input_mode,
            choices: choices.into_iter().map(|choice| (choice.clone(), choice == value)).collect(),
            is_long: value.contains('\n'),
            name: field,
            value,
        }
    })
    .collect()
}

/// The values that a form gives. A field that is left blank gives none, except for a text that has a default: that is
/// blank then.
pub fn values(declared: &[Declared], fields: &Fields) -> Document {
    let mut values = Map::new();
    for Declared { name, declaration, .. } in declared {
        let Some(text) = fields.get(&field_of(name)) else { continue };
        // Browsers end lines like this.
        let text = text.replace("\r\n", "\n");
        let may_be_blank =
            matches!(declaration.takes, ParameterType::String { .. }) && declaration.default.is_some();
        if !text.trim().is_empty() || may_be_blank {
            let is_text =
                matches!(declaration.takes, ParameterType::String { .. } | ParameterType::Choice { .. });
            values.insert(name.clone(), json!(if is_text { text.as_str() } else { text.trim() }));
        }
    }
    Document::from(&Value::Object(values))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use gaffer_domain::document::Language;
    use gaffer_domain::spec::Unfilled;

    use super::*;

    fn declared(text: &str) -> Vec<Declared> {
        Unfilled::new(&Language::Yaml.read(text).unwrap()).declared()
    }

    fn fields(pairs: &[(&str, &str)]) -> Fields {
        pairs.iter().map(|(name, value)| (field_of(name), (*value).to_owned())).collect()
    }

    #[test]
    fn parameters_are_asked_for_in_the_order_in_which_they_are_declared() {
        let declared = declared(
            "{command: [a], parameters: {z: {}, a: {type: boolean}, m: {values: [x, y], default: y}}}",
        );
        let controls = controls(&declared, &fields(&[("z", "1")]), None, &Fields::new());
        let labels: Vec<&str> = controls.iter().map(|control| control.label.as_str()).collect();
        assert_eq!(labels, ["z", "a", "m"]);
        assert_eq!((controls[0].value.as_str(), controls[0].is_required), ("1", true));
        // Nothing is chosen for the user, unless the specification does.
        assert_eq!(controls[1].choices[0], (String::new(), true));
        assert_eq!(controls[2].choices, [("x".to_owned(), false), ("y".to_owned(), true)]);
    }

    #[test]
    fn a_blank_field_gives_no_value_unless_a_blank_text_is_one() {
        let declared =
            declared("{command: [a], parameters: {a: {}, b: {default: x}, c: {type: integer, default: 1}}}");
        let given = values(&declared, &fields(&[("a", ""), ("b", ""), ("c", " ")]));
        assert_eq!(Value::from(&given), json!({"b": ""}));
        let given = values(&declared, &fields(&[("a", "two\r\nlines "), ("c", " 7 ")]));
        assert_eq!(Value::from(&given), json!({"a": "two\nlines ", "c": "7"}));
    }

    #[test]
    fn a_mistake_is_at_the_field_of_its_value() {
        let declared = declared("{command: [a], parameters: {a: {}}}");
        assert_eq!(field_at("/parameters/a", &declared).as_deref(), Some("parameter.a"));
        assert_eq!(field_at("/parameters/a/type", &declared), None);
        assert_eq!(field_at("/parameters/b", &declared), None);
    }
}

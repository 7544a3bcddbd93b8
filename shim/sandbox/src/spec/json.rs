//! A cursor over config.json: every value knows its path, so that every refusal can name it.

use crate::spec::Notes;
use crate::spec::error::SpecError;
use serde_json::{Map, Value};
use std::cell::RefCell;

/// Bytes of a value that an error message repeats.
const MAX_SHOWN: usize = 100;

/// A value of the document with the path that leads to it.
#[derive(Clone, Debug)]
pub(super) struct Node<'v> {
    value: &'v Value,
    path: String,
}

/// An object of the document. Remembers which properties were asked for.
#[derive(Debug)]
pub(super) struct Fields<'v> {
    map: &'v Map<String, Value>,
    path: String,
    known: RefCell<Vec<&'static str>>,
}

impl<'v> Node<'v> {
    /// The whole document.
    pub(super) fn document(value: &'v Value) -> Self {
        Self { value, path: String::new() }
    }

    /// For example `linux.resources.memory.limit` or `mounts[2].source`.
    pub(super) fn path(&self) -> &str {
        if self.path.is_empty() { "the document" } else { &self.path }
    }

    /// The value is an object.
    pub(super) fn fields(&self) -> Result<Fields<'v>, SpecError> {
        match self.value {
            Value::Object(map) => {
                Ok(Fields { map, path: self.path.clone(), known: RefCell::default() })
            }
            _ => Err(self.wrong_type("an object")),
        }
    }

    /// The value is an array.
    pub(super) fn items(&self) -> Result<Vec<Self>, SpecError> {
        let Value::Array(items) = self.value else { return Err(self.wrong_type("an array")) };
        let node = |(index, value)| Self { value, path: format!("{}[{index}]", self.path) };
        Ok(items.iter().enumerate().map(node).collect())
    }

    /// The value is an array of strings.
    pub(super) fn texts(&self) -> Result<Vec<&'v str>, SpecError> {
        let Value::Array(items) = self.value else {
            return Err(self.wrong_type("an array of strings"));
        };
        items
            .iter()
            .enumerate()
            .map(|(index, value)| match value {
                Value::String(text) if !text.contains('\0') => Ok(text.as_str()),
                _ => Self { value, path: format!("{}[{index}]", self.path) }.text(),
            })
            .collect()
    }

    /// The value is an object whose values are strings.
    pub(super) fn text_map(&self) -> Result<Vec<(&'v str, &'v str)>, SpecError> {
        let Value::Object(map) = self.value else {
            return Err(self.wrong_type("an object of strings"));
        };
        map.iter()
            .map(|(name, value)| {
                let node = Self { value, path: format!("{}[{}]", self.path, quoted(name)) };
                if name.contains('\0') {
                    return Err(node.invalid("a name must not hold a NUL character"));
                }
                Ok((name.as_str(), node.text()?))
            })
            .collect()
    }

    /// The value is a string. A NUL would cut it short at the first system call.
    pub(super) fn text(&self) -> Result<&'v str, SpecError> {
        match self.value {
            Value::String(text) if text.contains('\0') => {
                Err(self.invalid("a string must not hold a NUL character"))
            }
            Value::String(text) => Ok(text),
            _ => Err(self.wrong_type("a string")),
        }
    }

    /// The value is `true` or `false`.
    pub(super) fn boolean(&self) -> Result<bool, SpecError> {
        self.value.as_bool().ok_or_else(|| self.wrong_type("true or false"))
    }

    /// The value is a whole number that `T` can hold.
    pub(super) fn integer<T: TryFrom<i128>>(&self) -> Result<T, SpecError> {
        let Value::Number(number) = self.value else {
            return Err(self.wrong_type("a whole number"));
        };
        let wide = number
            .as_i64()
            .map(i128::from)
            .or_else(|| number.as_u64().map(i128::from))
            .ok_or_else(|| self.wrong_type("a whole number"))?;
        T::try_from(wide)
            .map_err(|_| self.invalid(format!("it does not fit in {}", integer_name::<T>())))
    }

    /// What stands here cannot be meant.
    pub(super) fn invalid(&self, problem: impl Into<String>) -> SpecError {
        SpecError::Invalid {
            path: self.path().to_owned(),
            value: self.shown(),
            problem: problem.into(),
        }
    }

    /// What stands here is meant, and ringfence cannot do it.
    pub(super) fn unsupported(&self, remedy: &'static str) -> SpecError {
        SpecError::Unsupported { path: self.path().to_owned(), value: self.shown(), remedy }
    }

    /// Null, or an empty string, array or object: what serializers write for "not given".
    pub(super) fn is_blank(&self) -> bool {
        match self.value {
            Value::Null => true,
            Value::String(text) => text.is_empty(),
            Value::Array(items) => items.is_empty(),
            Value::Object(map) => map.is_empty(),
            Value::Bool(_) | Value::Number(_) => false,
        }
    }

    fn wrong_type(&self, expected: &'static str) -> SpecError {
        let kind = match self.value {
            Value::Null => "null",
            Value::Bool(_) => "the boolean",
            Value::Number(_) => "the number",
            Value::String(_) => "the string",
            Value::Array(_) => "an array:",
            Value::Object(_) => "an object:",
        };
        let found = match self.value {
            Value::Null => kind.to_owned(),
            _ => format!("{kind} {}", self.shown()),
        };
        SpecError::WrongType { path: self.path().to_owned(), expected, found }
    }

    fn shown(&self) -> String {
        shorten(&self.value.to_string())
    }
}

impl<'v> Fields<'v> {
    /// A property, unless it is missing or null.
    pub(super) fn get(&self, name: &'static str) -> Option<Node<'v>> {
        self.known.borrow_mut().push(name);
        match self.map.get(name) {
            None | Some(Value::Null) => None,
            Some(value) => Some(Node { value, path: self.path_of(name) }),
        }
    }

    /// A property that must be there; `purpose` says what it is for.
    pub(super) fn require(
        &self,
        name: &'static str,
        purpose: &'static str,
    ) -> Result<Node<'v>, SpecError> {
        self.get(name).ok_or_else(|| SpecError::Missing { path: self.path_of(name), purpose })
    }

    /// An optional string.
    pub(super) fn text(&self, name: &'static str) -> Result<Option<&'v str>, SpecError> {
        self.get(name).map(|node| node.text()).transpose()
    }

    /// An optional array of strings; empty if it is missing.
    pub(super) fn texts(&self, name: &'static str) -> Result<Vec<&'v str>, SpecError> {
        self.get(name).map_or(Ok(Vec::new()), |node| node.texts())
    }

    /// An optional array; empty if it is missing.
    pub(super) fn items(&self, name: &'static str) -> Result<Vec<Node<'v>>, SpecError> {
        self.get(name).map_or(Ok(Vec::new()), |node| node.items())
    }

    /// An optional boolean; false if it is missing.
    pub(super) fn boolean(&self, name: &'static str) -> Result<bool, SpecError> {
        self.get(name).map_or(Ok(false), |node| node.boolean())
    }

    /// An optional whole number.
    pub(super) fn integer<T: TryFrom<i128>>(
        &self,
        name: &'static str,
    ) -> Result<Option<T>, SpecError> {
        self.get(name).map(|node| node.integer()).transpose()
    }

    /// An optional object.
    pub(super) fn fields(&self, name: &'static str) -> Result<Option<Fields<'v>>, SpecError> {
        self.get(name).map(|node| node.fields()).transpose()
    }

    /// A property that must be missing or blank; `remedy` says what to do instead.
    pub(super) fn refuse(&self, name: &'static str, remedy: &'static str) -> Result<(), SpecError> {
        match self.get(name) {
            Some(node) if !node.is_blank() => Err(node.unsupported(remedy)),
            _ => Ok(()),
        }
    }

    /// A number that must be missing or zero.
    pub(super) fn refuse_number(
        &self,
        name: &'static str,
        remedy: &'static str,
    ) -> Result<(), SpecError> {
        match self.get(name) {
            Some(node) if node.integer::<i64>()? != 0 => Err(node.unsupported(remedy)),
            _ => Ok(()),
        }
    }

    /// A boolean that must be missing or false.
    pub(super) fn refuse_true(
        &self,
        name: &'static str,
        remedy: &'static str,
    ) -> Result<(), SpecError> {
        match self.get(name) {
            Some(node) if node.boolean()? => Err(node.unsupported(remedy)),
            _ => Ok(()),
        }
    }

    /// Properties that nobody has asked for must be ignored (runtime-spec config.md,
    /// Extensibility); a typing mistake is among them, so they are told.
    pub(super) fn tell_unknown(&self, notes: &mut Notes) {
        let known = self.known.borrow();
        for name in self.map.keys().filter(|name| !known.contains(&name.as_str())) {
            notes.ignored.push(format!(
                "{} is no property of the runtime specification and is ignored",
                self.path_of(&shorten(name))
            ));
        }
    }

    fn path_of(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }
}

/// `"name"` in JSON's own escaping.
fn quoted(name: &str) -> String {
    shorten(&Value::from(name).to_string())
}

/// Cut between characters, with an ellipsis.
fn shorten(text: &str) -> String {
    if text.len() <= MAX_SHOWN {
        return text.to_owned();
    }
    let end = text.floor_char_boundary(MAX_SHOWN);
    format!("{}…", text.get(..end).unwrap_or_default())
}

/// `i128` to `T` fails: say which numbers would have fitted.
fn integer_name<T>() -> String {
    let bits = size_of::<T>() * 8;
    let signed = std::any::type_name::<T>().starts_with('i');
    let (least, most) = match (signed, u32::try_from(bits)) {
        (true, Ok(bits @ 1..=64)) => {
            let half = 1_i128 << (bits - 1);
            (-half, half - 1)
        }
        (false, Ok(bits @ 1..=64)) => (0, (1_i128 << bits) - 1),
        _ => (i128::MIN, i128::MAX),
    };
    format!("the range from {least} to {most}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_the_path_and_the_value_of_a_wrong_type() {
        let value = json!({ "a": { "b": [1, "x"] } });
        let a = Node::document(&value).fields().unwrap().require("a", "a test").unwrap();
        let b = a.fields().unwrap().require("b", "a test").unwrap();
        let error = b.items().unwrap()[1].integer::<u32>().unwrap_err();
        assert_eq!(error.to_string(), "a.b[1] must be a whole number, and is the string \"x\"");
    }

    #[test]
    fn a_number_out_of_range_is_refused_with_the_range() {
        let value = json!({ "n": 70_000, "f": 1.5, "m": -1, "big": u64::MAX });
        let fields = Node::document(&value).fields().unwrap();
        let error = fields.integer::<u16>("n").unwrap_err().to_string();
        assert_eq!(error, "n is 70000: it does not fit in the range from 0 to 65535");
        assert!(fields.integer::<u32>("f").is_err());
        assert!(fields.integer::<u32>("m").is_err());
        assert_eq!(fields.integer::<i64>("m").unwrap(), Some(-1));
        assert_eq!(fields.integer::<u64>("big").unwrap(), Some(u64::MAX));
    }

    #[test]
    fn null_is_as_good_as_missing() {
        let value = json!({ "x": null });
        let fields = Node::document(&value).fields().unwrap();
        assert!(fields.get("x").is_none());
        let error = fields.require("x", "the program to run").unwrap_err().to_string();
        assert_eq!(error, "x is missing: it is the program to run");
    }

    #[test]
    fn a_long_value_is_cut_in_messages() {
        let value = json!("é".repeat(500));
        let error = Node::document(&value).boolean().unwrap_err().to_string();
        assert!(error.len() < 250, "{error}");
    }

    #[test]
    fn unknown_properties_are_told_and_nothing_else() {
        let value = json!({ "known": 1, "unknwon": 2 });
        let fields = Node::document(&value).fields().unwrap();
        drop(fields.get("known"));
        let mut notes = Notes::default();
        fields.tell_unknown(&mut notes);
        assert_eq!(notes.ignored.len(), 1);
        assert!(notes.ignored[0].starts_with("unknwon "), "{notes:?}");
    }
}

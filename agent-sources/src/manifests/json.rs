//! Manifests that are JSON: read ten times as fast as YAML, of which JSON is a part.
use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Value};

/// The value of a JSON text, unless it has an error: the reader of YAML finds it again, and says where it is.
pub(super) fn read(text: &str) -> Option<Value> {
    let is_json = text.trim_start().starts_with('{');
    is_json.then(|| serde_json::from_str(text).ok().map(|Strict(value)| value)).flatten()
}

/// A value in which no field stands twice: `Value` itself would keep the last.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Self)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut array = Vec::new();
        while let Some(Strict(item)) = items.next_element()? {
            array.push(item);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some((name, Strict(value))) = fields.next_entry::<String, _>()? {
            if object.contains_key(&name) {
                return Err(A::Error::custom(format_args!("{name:?} stands twice")));
            }
            object.insert(name, value);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::read;

    #[test]
    fn a_text_means_what_it_says() {
        let text = r#" {"a": [1, -2, 0.5, true, null, "x\n"], "b": {"c": {}}, "d": 18446744073709551615} "#;
        let expected = json!({ "a": [1, -2, 0.5, true, null, "x\n"], "b": { "c": {} }, "d": u64::MAX });
        assert_eq!(read(text), Some(expected));
    }

    #[test]
    fn what_is_no_json_or_no_object_is_left_to_the_reader_of_yaml() {
        for text in ["", "a: b", "[1]", "{a: b}", r#"{"a": 1"#, r#"{"a": 1} x"#, r#"{"a": {"b": 1, "b": 2}}"#]
        {
            assert_eq!(read(text), None, "{text}");
        }
    }
}

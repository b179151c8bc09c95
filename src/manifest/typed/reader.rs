//! serde's view of a value tree: mismatches are noted and read as zero, so that one pass finds them all.

use std::cell::RefCell;

use serde::de::{DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor};

use super::unknown::unknown;
use super::{Fail, Notes, Path, Step};
use crate::manifest::omit;
use crate::manifest::value::{Entry, Node, Number, Value, short};

/// A node, where it stands, and where to note what is wrong with it.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a> {
    pub(super) node: &'a Node,
    pub(super) path: &'a Path<'a>,
    pub(super) notes: &'a RefCell<Notes>,
}

impl Reader<'_> {
    fn error(&self, message: String) {
        self.notes.borrow_mut().error(self.node.place.finding(self.path.to_string(), message));
    }

    /// What was expected, what is there, and the mistake usually behind it.
    fn mismatch(&self, expected: &str) {
        let hint = match (&self.node.value, expected) {
            (Value::Bool(b, raw), "a string") if *b || matches!(raw.as_bytes().first(), Some(b'n' | b'N' | b'o' | b'O' | b'f' | b'F')) => {
                format!(": YAML 1.1 reads `{raw}` as {b}; write \"{raw}\" in quotes")
            }
            (Value::Number(_, raw), "a string") => format!(": write \"{}\" in quotes", short(raw)),
            (Value::Text(t), "an integer") if t.parse::<i64>().is_ok() => format!(": write {t} without quotes"),
            (Value::Text(t), "a boolean") if matches!(&**t, "true" | "false") => format!(": write {t} without quotes"),
            _ => String::new(),
        };
        self.error(format!("expected {expected}, found {}{hint}", self.node.value.described()));
    }

    /// The whole number, or a noted error and 0. Null is 0: Go leaves the field alone.
    fn integer(&self, low: i64, high: i64) -> i64 {
        match &self.node.value {
            Value::Null => 0,
            Value::Number(n, raw) => match n.whole() {
                Some(i) if (low..=high).contains(&i) => i,
                Some(_) => self.out_of_range(raw, low, high),
                None if matches!(n, Number::Uint(_)) => self.out_of_range(raw, low, high),
                None => {
                    self.mismatch("an integer");
                    0
                }
            },
            _ => {
                self.mismatch("an integer");
                0
            }
        }
    }

    fn out_of_range(&self, raw: &str, low: i64, high: i64) -> i64 {
        self.error(format!("{} does not fit: must be between {low} and {high}", short(raw)));
        0
    }
}

macro_rules! integers {
    ($($method:ident $visit:ident $type:ty),*) => { $(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fail> {
            #[expect(clippy::allow_attributes, reason = "one macro for widths some of which cast losslessly")]
            #[allow(clippy::unnecessary_fallible_conversions, reason = "the same")]
            let low = i64::try_from(<$type>::MIN).unwrap_or(i64::MIN);
            #[expect(clippy::allow_attributes, reason = "one macro for widths some of which cast losslessly")]
            #[allow(clippy::unnecessary_fallible_conversions, reason = "the same")]
            let high = i64::try_from(<$type>::MAX).unwrap_or(i64::MAX);
            visitor.$visit(<$type>::try_from(self.integer(low, high)).unwrap_or_default())
        }
    )* };
}

impl<'de> Deserializer<'de> for Reader<'_> {
    type Error = Fail;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fail> {
        match &self.node.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(b, _) => visitor.visit_bool(*b),
            Value::Number(n, _) => match (n.whole(), n) {
                (Some(i), _) => visitor.visit_i64(i),
                (None, Number::Uint(u)) => visitor.visit_u64(*u),
                (None, Number::Float(f)) => visitor.visit_f64(*f),
                (None, Number::Int(i)) => visitor.visit_i64(*i),
            },
            Value::Text(t) => visitor.visit_str(t),
            Value::List(_) => self.deserialize_seq(visitor),
            Value::Map(_) => self.deserialize_map(visitor),
        }
    }

    integers! {
        deserialize_i8 visit_i8 i8, deserialize_i16 visit_i16 i16, deserialize_i32 visit_i32 i32, deserialize_i64 visit_i64 i64,
        deserialize_u8 visit_u8 u8, deserialize_u16 visit_u16 u16, deserialize_u32 visit_u32 u32, deserialize_u64 visit_u64 u64
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fail> {
        visitor.visit_bool(match &self.node.value {
            Value::Null => false,
            Value::Bool(b, _) => *b,
            _ => {
                self.mismatch("a boolean");
                false
            }
        })
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fail> {
        visitor.visit_f64(match &self.node.value {
            Value::Null => 0.0,
            Value::Number(n, _) => n.to_string().parse().unwrap_or(0.0),
            _ => {
                self.mismatch("a number");
                0.0
            }
        })
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fail> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fail> {
        visitor.visit_str(match &self.node.value {
            Value::Null => "",
            Value::Text(t) => t,
            _ => {
                self.mismatch("a string");
                ""
            }
        })
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fail> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fail> {
        match self.node.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fail> {
        visitor.visit_unit()
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Fail> {
        match &self.node.value {
            Value::Text(_) | Value::Number(..) => {}
            other if name == "Quantity" => {
                if *other != Value::Null {
                    self.mismatch("a quantity such as 100m or 1Gi");
                }
                return visitor.visit_newtype_struct("0".into_deserializer());
            }
            _ => {}
        }
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fail> {
        let items = match &self.node.value {
            Value::Null => [].as_slice(),
            Value::List(items) => items,
            _ => {
                self.mismatch("a list");
                &[]
            }
        };
        visitor.visit_seq(Items { items: items.iter().enumerate(), at: self })
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fail> {
        let entries = match &self.node.value {
            Value::Null => [].as_slice(),
            Value::Map(entries) => entries,
            _ => {
                self.mismatch("a mapping");
                &[]
            }
        };
        visitor.visit_map(Entries { entries: entries.iter(), fields: None, value: None, at: self })
    }

    fn deserialize_struct<V: Visitor<'de>>(self, _: &'static str, fields: &'static [&'static str], visitor: V) -> Result<V::Value, Fail> {
        let entries = match &self.node.value {
            Value::Null => [].as_slice(),
            Value::Map(entries) => entries,
            _ => {
                self.mismatch("a mapping");
                &[]
            }
        };
        visitor.visit_map(Entries { entries: entries.iter(), fields: Some(fields), value: None, at: self })
    }

    serde::forward_to_deserialize_any! { i128 u128 char bytes byte_buf unit_struct tuple tuple_struct enum identifier ignored_any }
}

struct Items<'a> {
    items: std::iter::Enumerate<std::slice::Iter<'a, Node>>,
    at: Reader<'a>,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Fail;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Fail> {
        let Some((i, node)) = self.items.next() else { return Ok(None) };
        descend(self.at, Step::Index(i), node, seed).map(Some)
    }
}

struct Entries<'a> {
    entries: std::slice::Iter<'a, Entry>,
    /// The type's fields; `None` for a free mapping such as labels.
    fields: Option<&'static [&'static str]>,
    value: Option<&'a Entry>,
    at: Reader<'a>,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Fail;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Fail> {
        while let Some(entry) = self.entries.next() {
            if let Some(fields) = self.fields {
                if !fields.contains(&&*entry.key) {
                    self.at.notes.borrow_mut().warning(unknown(self.at.path, entry, fields));
                    continue;
                }
                // Null is silence to Go, whatever the type.
                if entry.node.value == Value::Null || self.skips_zero(entry) {
                    continue;
                }
            }
            self.value = Some(entry);
            return seed.deserialize((&*entry.key).into_deserializer()).map(Some);
        }
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fail> {
        let entry = self.value.take().ok_or(Fail(Some("value asked for before its key".into())))?;
        let step = if self.fields.is_some() { Step::Field(&entry.key) } else { Step::Key(&entry.key) };
        descend(self.at, step, &entry.node, seed)
    }
}

impl Entries<'_> {
    fn skips_zero(&self, entry: &Entry) -> bool {
        if !omit::is_zero(&entry.key, &entry.node.value) {
            return false;
        }
        let mut notes = self.at.notes.borrow_mut();
        notes.zeros = true;
        notes.omit
    }
}

/// Reads a part; a complaint of its type is noted where it arose, once.
fn descend<'de, T: DeserializeSeed<'de>>(at: Reader<'_>, step: Step<'_>, node: &Node, seed: T) -> Result<T::Value, Fail> {
    let path = Path { parent: Some(at.path), step };
    let reader = Reader { node, path: &path, notes: at.notes };
    seed.deserialize(reader).map_err(|Fail(message)| {
        if let Some(message) = message {
            reader.error(message);
        }
        Fail(None)
    })
}

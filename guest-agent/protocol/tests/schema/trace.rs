//! Finds out what a type is made of by letting it deserialize itself: the deserializer says yes to
//! everything, notes what was asked for, and comes back for each variant of each enum.

use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, IntoDeserializer, MapAccess,
    SeqAccess, VariantAccess, Visitor,
};
use std::collections::BTreeMap;
use std::fmt::Write;

type Error = serde::de::value::Error;

/// A struct's fields with their types, or an enum's variants with their content.
enum Known {
    Struct(Vec<(String, String)>),
    Enum(Vec<(String, Option<String>)>),
}

/// All named types, in the order of their names.
#[derive(Default)]
pub(crate) struct Registry {
    known: BTreeMap<&'static str, Known>,
    pass: usize,
}

/// Far more than the number of variants of all enums.
const MAX_PASSES: usize = 10_000;

impl Registry {
    /// Adds a type and all that it holds.
    pub(crate) fn add<T: DeserializeOwned>(&mut self) {
        // Each pass sees one variant of each enum that it meets.
        for _ in 0..MAX_PASSES {
            self.pass += 1;
            let mut name = String::new();
            drop(T::deserialize(Tracer { registry: self, name: &mut name }));
            if self.is_complete() {
                return;
            }
        }
        panic!("the types never end");
    }

    fn is_complete(&self) -> bool {
        self.known.values().all(|known| match known {
            Known::Struct(_) => true,
            Known::Enum(variants) => variants.iter().all(|(_, content)| content.is_some()),
        })
    }

    pub(crate) fn variants(&self, name: &str) -> Vec<String> {
        match self.known.get(name) {
            Some(Known::Enum(variants)) => variants.iter().map(|(name, _)| name.clone()).collect(),
            _ => panic!("{name} is no enum"),
        }
    }

    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        for (name, known) in &self.known {
            match known {
                Known::Struct(fields) => {
                    writeln!(text, "struct {name}").unwrap();
                    for (field, kind) in fields {
                        writeln!(text, "    {field}: {kind}").unwrap();
                    }
                }
                Known::Enum(variants) => {
                    writeln!(text, "enum {name}").unwrap();
                    for (index, (variant, content)) in variants.iter().enumerate() {
                        let content = content.as_deref().unwrap_or("?");
                        writeln!(text, "    {index} {variant}{content}").unwrap();
                    }
                }
            }
        }
        text
    }
}

struct Tracer<'a> {
    registry: &'a mut Registry,
    /// Where the name of what was asked for goes.
    name: &'a mut String,
}

macro_rules! plain {
    ($($method:ident $visit:ident $name:literal $value:expr;)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            self.name.push_str($name);
            visitor.$visit($value)
        })*
    };
}

impl<'de> Deserializer<'de> for Tracer<'_> {
    type Error = Error;

    plain! {
        deserialize_bool visit_bool "bool" false;
        deserialize_u8 visit_u8 "u8" 0;
        deserialize_u16 visit_u16 "u16" 0;
        deserialize_u32 visit_u32 "u32" 0;
        deserialize_u64 visit_u64 "u64" 0;
        deserialize_i8 visit_i8 "i8" 0;
        deserialize_i16 visit_i16 "i16" 0;
        deserialize_i32 visit_i32 "i32" 0;
        deserialize_i64 visit_i64 "i64" 0;
        deserialize_str visit_str "string" "";
        deserialize_string visit_str "string" "";
        deserialize_bytes visit_bytes "bytes" &[];
        deserialize_byte_buf visit_bytes "bytes" &[];
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.name.push_str("optional ");
        visitor.visit_some(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.name.push_str("list of ");
        visitor.visit_seq(Items {
            registry: self.registry,
            names: vec![],
            left: 1,
            name: self.name,
        })
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        let mut inner = String::new();
        let items =
            Items { registry: self.registry, names: vec![], left: length, name: &mut inner };
        let value = visitor.visit_seq(items);
        // An array asks for its element once for each place.
        let element = inner.get(..inner.len() / length.max(1)).unwrap_or_default();
        write!(self.name, "{length} times {element}").unwrap();
        value
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.name.push_str(name);
        let mut found = Vec::new();
        let value = visitor.visit_map(Fields {
            registry: self.registry,
            fields: fields.iter(),
            found: &mut found,
        });
        self.registry.known.insert(name, Known::Struct(found));
        value
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.name.push_str(name);
        let pass = self.registry.pass;
        let known = self.registry.known.entry(name).or_insert_with(|| {
            Known::Enum(variants.iter().map(|variant| ((*variant).to_owned(), None)).collect())
        });
        let Known::Enum(known) = known else { panic!("{name} is an enum") };
        let index = known
            .iter()
            .position(|(_, content)| content.is_none())
            // What it holds may have variants that are still to be seen.
            .unwrap_or(pass % variants.len());
        let mut content = String::new();
        let value = visitor.visit_enum(Variant {
            registry: self.registry,
            index: u32::try_from(index).unwrap(),
            content: &mut content,
        });
        if let Some(Known::Enum(known)) = self.registry.known.get_mut(name)
            && let Some((_, place)) = known.get_mut(index)
        {
            *place = Some(content);
        }
        value
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        panic!("a type that has no schema of its own")
    }

    serde::forward_to_deserialize_any! {
        i128 u128 f32 f64 char unit unit_struct tuple_struct map identifier ignored_any
    }
}

struct Items<'a> {
    registry: &'a mut Registry,
    names: Vec<String>,
    left: usize,
    name: &'a mut String,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Error> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        let mut name = String::new();
        let value = seed.deserialize(Tracer { registry: self.registry, name: &mut name })?;
        self.name.push_str(&name);
        self.names.push(name);
        Ok(Some(value))
    }
}

struct Fields<'a> {
    registry: &'a mut Registry,
    fields: std::slice::Iter<'static, &'static str>,
    found: &'a mut Vec<(String, String)>,
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        let Some(field) = self.fields.next() else { return Ok(None) };
        self.found.push(((*field).to_owned(), String::new()));
        seed.deserialize(IntoDeserializer::<Error>::into_deserializer(*field)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let mut name = String::new();
        let value = seed.deserialize(Tracer { registry: self.registry, name: &mut name });
        if let Some((_, kind)) = self.found.last_mut() {
            *kind = name;
        }
        value
    }
}

struct Variant<'a> {
    registry: &'a mut Registry,
    index: u32,
    content: &'a mut String,
}

impl<'a, 'de> EnumAccess<'de> for Variant<'a> {
    type Error = Error;
    type Variant = Content<'a>;

    fn variant_seed<V: DeserializeSeed<'de>>(
        self,
        seed: V,
    ) -> Result<(V::Value, Content<'a>), Error> {
        let index = seed.deserialize(IntoDeserializer::<Error>::into_deserializer(self.index))?;
        Ok((index, Content { registry: self.registry, content: self.content }))
    }
}

struct Content<'a> {
    registry: &'a mut Registry,
    content: &'a mut String,
}

impl<'de> VariantAccess<'de> for Content<'_> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Error> {
        let mut name = String::new();
        let value = seed.deserialize(Tracer { registry: self.registry, name: &mut name });
        write!(self.content, "({name})").unwrap();
        value
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, Error> {
        panic!("no variant has several values without names")
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let mut found = Vec::new();
        let value = visitor.visit_map(Fields {
            registry: self.registry,
            fields: fields.iter(),
            found: &mut found,
        });
        let fields: Vec<String> =
            found.iter().map(|(field, kind)| format!("{field}: {kind}")).collect();
        write!(self.content, " {{ {} }}", fields.join(", ")).unwrap();
        value
    }
}

//! How the value of a row is written to a field, and how the default of a field becomes a text.
//!
//! A group is a struct of settings, and its `Default` is the only place for their defaults. Groups are kept by type, so
//! a gateway of another program can have groups of its own.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;

use super::kind::Value;
use super::secret::{SecretText, SecretUrl};
use weirgate_wire::admission::TrustedProxies;

/// A struct of settings. The defaults of the settings are in its `Default`.
pub trait Group: Any + Clone + Default + Send + Sync {}

impl<G: Any + Clone + Default + Send + Sync> Group for G {}

/// `group! { struct NAME { FIELD: TYPE = DEFAULT, … } }` declares a struct of settings with their defaults.
#[macro_export]
macro_rules! group {
    (
        $(#[$of_struct:meta])*
        $pub_struct:vis struct $name:ident {
            $($(#[$of_field:meta])* $pub_field:vis $field:ident: $type:ty = $default:expr,)*
        }
    ) => {
        $(#[$of_struct])*
        $pub_struct struct $name {
            $($(#[$of_field])* $pub_field $field: $type,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self {
                    $($field: $default,)*
                }
            }
        }
    };
}

/// The groups of a gateway, by their types.
#[derive(Default)]
pub struct Groups(HashMap<TypeId, Box<dyn Any + Send + Sync>>);

impl Groups {
    /// Returns a group to write to. Until something is written, it has its defaults.
    pub fn get_mut<G: Group>(&mut self) -> &mut G {
        let group = self.0.entry(TypeId::of::<G>());
        match group
            .or_insert_with(|| Box::new(G::default()))
            .downcast_mut()
        {
            Some(group) => group,
            None => unreachable!("a group is kept by its type"),
        }
    }

    /// Returns a copy of a group. If nothing was written, it has its defaults.
    pub fn get<G: Group>(&self) -> G {
        let group = self.0.get(&TypeId::of::<G>());
        let group = group.and_then(|group| group.downcast_ref::<G>());
        group.cloned().unwrap_or_default()
    }
}

impl fmt::Debug for Groups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Groups({})", self.0.len())
    }
}

/// The field of a struct of settings that a row of the table writes.
pub trait Field: Sync {
    /// Writes a value of the row's kind.
    fn write(&self, groups: &mut Groups, value: &Value);

    /// Returns the value of the field as a person types it on the command line.
    fn text(&self, groups: &mut Groups) -> String;
}

/// Nothing: [`super::Setting::is_same`] compares what is shown of rows, and a field is not shown.
impl fmt::Debug for dyn Field {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }
}

/// A field with the type of the value.
pub struct At<G, T>(pub fn(&mut G) -> &mut T);

impl<G: Group, T: FieldValue> Field for At<G, T> {
    fn write(&self, groups: &mut Groups, value: &Value) {
        *self.0(groups.get_mut()) = T::of(value);
    }

    fn text(&self, groups: &mut Groups) -> String {
        self.0(groups.get_mut()).text()
    }
}

/// A field whose type or unit differs from that of the value.
pub struct With<G, T> {
    /// Writes the value.
    pub set: fn(&mut G, T),
    /// Returns what was written.
    pub get: fn(&G) -> T,
}

impl<G: Group, T: FieldValue> Field for With<G, T> {
    fn write(&self, groups: &mut Groups, value: &Value) {
        (self.set)(groups.get_mut(), T::of(value));
    }

    fn text(&self, groups: &mut Groups) -> String {
        (self.get)(groups.get_mut()).text()
    }
}

/// `field!(GROUP, PATH)` is the field at this path of a group; its type is that of the row's value.
/// `field!(us GROUP, PATH)` is a field in microseconds, for a row in milliseconds.
#[macro_export]
macro_rules! field {
    (us $group:ty, $($path:tt)+) => {
        &$crate::settings::With::<$group, u64> {
            set: |group, ms| group.$($path)+ = 1_000 * ms,
            get: |group| group.$($path)+ / 1_000,
        }
    };
    ($group:ty, $($path:tt)+) => {
        &$crate::settings::At::<$group, _>(|group| &mut group.$($path)+)
    };
}

/// The type of a value.
pub(crate) trait FieldValue: Sized + 'static {
    /// Converts a value. Panics if the row's kind or range does not fit this type; a test converts both ends of every
    /// range.
    fn of(value: &Value) -> Self;

    /// The value as a person types it on the command line.
    fn text(&self) -> String;
}

fn not_of_its_type(value: &Value) -> ! {
    unreachable!("the kind of the row does not fit its field: {value:?}")
}

macro_rules! number {
    ($($type:ty),+) => {$(
        impl FieldValue for $type {
            fn of(value: &Value) -> Self {
                match value {
                    Value::Number(n) => Self::try_from(*n).unwrap_or_else(|_| not_of_its_type(value)),
                    other => not_of_its_type(other),
                }
            }

            fn text(&self) -> String {
                self.to_string()
            }
        }
    )+};
}
number!(u16, u32, u64, usize, i64);

/// 0 is the number for none.
macro_rules! number_or_none {
    ($($type:ty),+) => {$(
        impl FieldValue for Option<$type> {
            fn of(value: &Value) -> Self {
                Some(<$type>::of(value)).filter(|n| *n > 0)
            }

            fn text(&self) -> String {
                self.unwrap_or(0).to_string()
            }
        }
    )+};
}
number_or_none!(u32, u64, usize);

/// A port, or `off`.
impl FieldValue for Option<u16> {
    fn of(value: &Value) -> Self {
        match value {
            Value::Choice(_) => None,
            port => Some(u16::of(port)),
        }
    }

    fn text(&self) -> String {
        self.map_or_else(|| "off".to_owned(), |port| port.to_string())
    }
}

/// Thousandths of a number with a fraction.
#[derive(Clone, Copy)]
pub struct Milli(pub i64);

impl FieldValue for Milli {
    fn of(value: &Value) -> Self {
        match value {
            &Value::Milli(milli) => Self(milli),
            other => not_of_its_type(other),
        }
    }

    fn text(&self) -> String {
        Value::Milli(self.0).to_string()
    }
}

impl FieldValue for bool {
    fn of(value: &Value) -> Self {
        match value {
            &Value::Switch(on) => on,
            other => not_of_its_type(other),
        }
    }

    fn text(&self) -> String {
        self.to_string()
    }
}

/// From a text, a word of a choice, or the text of a form.
impl FieldValue for String {
    fn of(value: &Value) -> Self {
        match value {
            Value::Text(text) | Value::List(text) => text.clone(),
            Value::Choice(word) => (*word).to_owned(),
            Value::Urls(url) => url.expose().to_string(),
            other => not_of_its_type(other),
        }
    }

    fn text(&self) -> String {
        self.clone()
    }
}

/// `None` for an empty text.
impl FieldValue for Option<String> {
    fn of(value: &Value) -> Self {
        Some(String::of(value)).filter(|text| !text.is_empty())
    }

    fn text(&self) -> String {
        self.clone().unwrap_or_default()
    }
}

/// `None` for an empty text.
impl FieldValue for Option<PathBuf> {
    fn of(value: &Value) -> Self {
        Option::<String>::of(value).map(PathBuf::from)
    }

    fn text(&self) -> String {
        let path = self.as_ref();
        path.map_or_else(String::new, |path| path.display().to_string())
    }
}

/// Origins, or the entries of a text between commas.
impl FieldValue for Vec<String> {
    fn of(value: &Value) -> Self {
        match value {
            Value::Origins(origins) => origins.clone(),
            text => {
                let text = String::of(text);
                let entries = text.split(',').map(|entry| entry.trim().to_owned());
                entries.filter(|entry| !entry.is_empty()).collect()
            }
        }
    }

    fn text(&self) -> String {
        self.join(",")
    }
}

/// The entries of a text between commas.
impl FieldValue for Vec<PathBuf> {
    fn of(value: &Value) -> Self {
        let entries = Vec::<String>::of(value).into_iter();
        entries.map(PathBuf::from).collect()
    }

    fn text(&self) -> String {
        let paths = self.iter().map(|path| path.display().to_string());
        paths.collect::<Vec<_>>().join(",")
    }
}

impl FieldValue for SecretUrl {
    fn of(value: &Value) -> Self {
        match value {
            Value::Urls(urls) => urls.clone(),
            other => not_of_its_type(other),
        }
    }

    fn text(&self) -> String {
        self.expose().to_string()
    }
}

/// `None` for an empty secret. The text is always empty, because no row has a secret as its default.
impl FieldValue for Option<SecretText> {
    fn of(value: &Value) -> Self {
        match value {
            Value::Secret(text) => Some(text.clone()).filter(|text| !text.expose().is_empty()),
            other => not_of_its_type(other),
        }
    }

    fn text(&self) -> String {
        String::new()
    }
}

impl FieldValue for TrustedProxies {
    fn of(value: &Value) -> Self {
        match value {
            Value::Networks(networks) => networks.clone(),
            other => not_of_its_type(other),
        }
    }

    fn text(&self) -> String {
        match self {
            Self::None => String::new(),
            networks => Value::Networks(networks.clone()).to_string(),
        }
    }
}
